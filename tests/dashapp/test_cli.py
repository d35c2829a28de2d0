"""`headatlas serve`: one line when it listens, one line when it cannot, a clean end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import headatlas
from dashapp.cli import base_path, listen

ROOT = Path(__file__).parents[2]


def serve(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(ROOT / "headatlas.py"), "serve", *arguments],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_who_connects_before_the_server_runs_is_answered_at_once_too():
    """Without Nagle's delay, which costs 40 ms where an answer comes in two parts."""
    with listen("127.0.0.1", 0) as listener, \
            socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_serves_until_it_is_told_to_stop(path, end):
    process = serve("--store", str(path), "--port", "0", "--workers", "2")
    assert process.stdout is not None
    line = process.stdout.readline()
    url = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
    with urllib.request.urlopen(url + "healthz") as answer:
        assert answer.status == 200
    process.send_signal(end)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize(("arguments", "says"), [
    (["--store", "/nowhere/at/all"], "/nowhere/at/all"),
    (["--port", "99999"], "--port 99999"),
    (["--workers", "0"], "--workers 0"),
    (["--workers", "two"], "--workers"),
    (["--host", "no-such-host.invalid"], "no-such-host.invalid"),
    (["--base-path", "atlas/"], "--base-path 'atlas/'"),
    (["--base-path", ""], "--base-path ''"),
    (["--base-path", "/a b/"], "--base-path '/a b/'"),
    (["--base-path", "/a/../b/"], "--base-path '/a/../b/'"),
    (["--base-path", "/a//b/"], "--base-path '/a//b/'"),
    (["--base-path", "/<int:x>/"], "--base-path '/<int:x>/'"),
    (["--base-path", "http://a.invalid/"], "--base-path 'http://a.invalid/'"),
    (["--store", "gopher://a/b"], "gopher"),
])
def test_bad_input_is_one_line(path, arguments, says, capsys):
    given = arguments if "--store" in arguments else ["--store", str(path), *arguments]
    assert headatlas.main(["serve", *given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(("given", "taken"), [
    ("/", "/"), ("/atlas", "/atlas/"), ("/atlas/", "/atlas/"), ("/a/b-2/c.d~", "/a/b-2/c.d~/")])
def test_a_base_path_ends_in_a_slash(given, taken):
    assert base_path(given) == taken


def test_a_port_in_use_is_said_before_anything_starts(path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        _, err = serve("--store", str(path), "--port", port).communicate(timeout=120)
    assert f"port {port}" in err
    assert len(err.strip().splitlines()) == 1
