"""Who does the work makes no difference to the rows, and a worker that is lost costs its shard."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from precompute.batches import unit_sizes
from precompute.processes import Processes
from precompute.progress import Progress
from precompute.shards import DEATHS, Alone, Terms, hire
from precompute.workers import Task
from store import places
from store.errors import AtlasError, ModelError
from store.reader import open_store
from tests.precompute.kills import command, finished
from tests.precompute.world import NONE, all_rows, make_checkpoint, make_labels, make_pictures, run

NAME = "bare"
FEW = NONE | {"resample": 3, "layer": 6, "curves": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, labels, a checkpoint, and the store that one process makes of them."""
    home = tmp_path_factory.mktemp("shards")
    make_pictures(home / "images", 40)
    make_labels(home / "images", home / "labels.csv")
    make_checkpoint(home / "b.safetensors")
    again(home, home / "alone")
    return home


def again(world: Path, store: Path, **options: object) -> dict[str, list[dict]]:
    options = {"samples": FEW, "names": [NAME], "labels": world / "labels.csv", **options}
    return all_rows(run(store, world / "images",
                        f"vit_tiny_patch16_224@{world / 'b.safetensors'}", **options))


def tasks(world: Path, store: Path, stage: str = "heads") -> list[Task]:
    """The units of a stage, of a copy of the store in which none of them is done."""
    shutil.copytree(world / "alone", store)
    shutil.rmtree(places.model_folder(store, NAME) / stage)
    return [Task(store, world / "images", NAME, stage, unit, count, "cpu")
            for unit, count in unit_sizes(store, NAME, stage).items()]


class Heard(Progress):
    """Progress that calls back once, the first time that something is done."""

    def __init__(self, total: int, then) -> None:
        super().__init__("test", total)
        self.then = then

    def advance(self, images: int) -> None:
        super().advance(images)
        then, self.then = self.then, lambda: None
        then()


class Deadly(Task):
    """A task that kills its worker."""

    @property
    def place(self) -> Path:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().place


class Sleepy(Task):
    """A task that says who works on it, and takes long."""

    @property
    def place(self) -> Path:
        (self.store / str(os.getpid())).touch()
        time.sleep(60)
        return super().place


def test_processes_make_the_rows_that_one_makes(world: Path, tmp_path: Path) -> None:
    assert again(world, tmp_path / "store", workers=2) == all_rows(open_store(world / "alone"))


def test_a_ray_cluster_makes_the_rows_that_one_process_makes(world: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    found = again(world, tmp_path / "store", workers=2, engine="ray")
    assert found == all_rows(open_store(world / "alone"))


def test_a_lost_worker_costs_its_shard(world: Path, tmp_path: Path) -> None:
    todo = tasks(world, tmp_path / "store")
    assert len(todo) == 3
    total = sum(task.images for task in todo)
    crew = Processes(Terms(workers=2))
    lost: list[int] = []

    def kill() -> None:
        lost.append(crew.workers[0].process.pid or 0)
        os.kill(lost[0], signal.SIGKILL)

    progress = Heard(total, kill)
    try:
        crew.run(todo, progress)
    finally:
        crew.dismiss()
    assert lost and progress.done == total == 40
    assert again(world, tmp_path / "store")["head_scores"] == \
        all_rows(open_store(world / "alone"))["head_scores"]


def test_a_task_that_keeps_killing_its_workers_is_given_up(world: Path, tmp_path: Path) -> None:
    (first, second, *_) = tasks(world, tmp_path / "store")
    deadly = Deadly(**vars(first))
    with hire(Terms(workers=2)) as crew, pytest.raises(
            AtlasError, match=f"bare, heads 00000: {DEATHS} workers died over it"):
        crew.run([deadly, second], Progress("test", 32))


def test_an_error_of_a_worker_arrives_as_itself(world: Path, tmp_path: Path) -> None:
    todo = [replace(task, model="nobody") for task in tasks(world, tmp_path / "store")]
    with hire(Terms(workers=2)) as crew, pytest.raises(ModelError, match="no row of the model"):
        crew.run(todo, Progress("test", 40))


def test_an_image_that_is_gone_is_one_line(world: Path, tmp_path: Path) -> None:
    todo = tasks(world, tmp_path / "store")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "000.jpg").write_bytes(b"something else")
    with pytest.raises(AtlasError, match="000.jpg is no longer the image"):
        Alone().run([replace(todo[0], folder=tmp_path / "other")], Progress("test", 40))


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script = ("from pathlib import Path; from precompute.processes import *; "
              "from tests.precompute.test_shards import Sleepy; from precompute.shards import *; "
              f"Processes(Terms(workers=2)).run([Sleepy(Path({str(tmp_path)!r}), Path(), 'm', "
              "'heads', str(i), 1, 'cpu') for i in (0, 1)], Progress('test', 2))")
    parent = subprocess.Popen([sys.executable, "-c", script])
    workers = _wait_for(lambda: len(list(tmp_path.iterdir())) == 2 and list(tmp_path.iterdir()))
    parent.kill()
    parent.wait()
    _wait_for(lambda: not any(Path("/proc", pid.name).exists() for pid in workers))


def _wait_for(condition, seconds: float = 120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Also where the tests run in the background of a shell, whose children are deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_leaves_a_store_that_is_resumed(world: Path, tmp_path: Path, heeds_ctrl_c: None,
                                               ) -> None:
    asked = command(tmp_path / "store", world / "images", world / "labels.csv",
                    f"vit_tiny_patch16_224@{world / 'b.safetensors'}", names=[NAME], workers=2,
                    samples=FEW)
    process = subprocess.Popen(asked, stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: list((tmp_path / "store").glob("models/*/clean/*")))
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert finished(tmp_path / "store") < finished(world / "alone"), "it went on to its end"
    assert "interrupted" in said and "Traceback" not in said
    assert again(world, tmp_path / "store") == all_rows(open_store(world / "alone"))


def test_an_engine_that_is_not_installed_says_what_to_install(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "precompute.cluster", raising=False)
    with pytest.raises(AtlasError, match=r"pip install 'headatlas\[ray\]'"):
        hire(Terms(engine="ray"))
