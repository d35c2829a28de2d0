"""A clean installation without torch serves a store; what it lacks, it says."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tests.synthetic import make_store

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.install


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(out / "source")], check=True)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir",
                    str(out), str(out / "source")], check=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_carries_the_page_and_the_zoo(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for part in ("headatlas.py", "store/schema.py", "dashapp/app.py",
                 "dashapp/assets/bootstrap.min.css", "precompute/zoo/labels.csv"):
        assert part in names
    assert sum(n.startswith("precompute/zoo/images/") and n.endswith(".png") for n in names) == 400
    assert sum(n.endswith(".safetensors") for n in names) >= 4
    assert not any(n.startswith("tests/") for n in names)


def test_a_clean_installation_serves_without_torch(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--constraint",
                    str(ROOT / "constraints.txt"), str(wheel)], check=True)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode != 0
    headatlas = environment / "bin" / "headatlas"
    store = make_store(tmp_path / "store", images=8)
    asked = subprocess.run([headatlas, "precompute", "--model", "x"], capture_output=True,
                           text=True, cwd=tmp_path)
    assert asked.returncode == 2 and "headatlas[precompute]" in asked.stderr
    told = subprocess.run([headatlas, "info", "--store", store], capture_output=True, text=True,
                          cwd=tmp_path)
    assert told.returncode == 0 and "alpha" in told.stdout
    server = subprocess.Popen([headatlas, "serve", "--store", store, "--port", "0"], cwd=tmp_path,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        line = server.stdout.readline()
        url = next(word for word in line.split() if word.startswith("http://"))
        assert "ok" in _get(f"{url}healthz").lower()
        assert "Head Atlas" in _get(url)
    finally:
        server.terminate()
        server.communicate(timeout=120)
    assert server.returncode == 0


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=120) as answer:
        return answer.read().decode()
