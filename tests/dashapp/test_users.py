"""Several users of one server, and its life: right answers under load, long links, a calm end.

The server has two workers and lies under a base path, as it would behind a proxy.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from dashapp.app import create_app
from dashapp.cli import LONGEST_LINE
from dashapp.state import MAX_URL
from tests.synthetic import LABELS

ROOT = Path(__file__).parents[2]
BASE = "/atlas/"
USERS, WISHES = 20, 5
WAIT = 120


class Server:
    """`headatlas serve` with two workers."""

    def __init__(self, store: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "headatlas.py"), "serve", "--store", str(store), "--port",
             "0", "--workers", "2", "--base-path", BASE],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.url = next(word for word in line.split() if word.startswith("http://"))
        self.port = urlsplit(self.url).port

    def wait_for(self, are_so: Callable[[list[int]], bool]) -> list[int]:
        """The process ids of the workers, as soon as they are so."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        until = time.monotonic() + WAIT
        while not are_so(workers := [int(pid) for pid in task.read_text().split()]):
            assert time.monotonic() < until, workers
            time.sleep(0.05)
        return workers

    def get(self, path: str) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)) as there:
            there.request("GET", path)
            answer = there.getresponse()
            return answer.status, answer.read()

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=WAIT)
        return self.process.returncode, said


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[Server]:
    server = Server(path)
    yield server
    if server.process.poll() is None:
        server.stop()


class User:
    """One browser: a connection that stays open, and the state that its page holds."""

    def __init__(self, port: int, dependencies: list[dict], page: dict[str, dict]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
        self._page = page
        self._state = next(d for d in dependencies if "state.data" in d["output"])
        self.tab = next(d for d in dependencies if "plot-data-matrix.data" in d["output"])

    def close(self) -> None:
        self._connection.close()

    def brush(self, search: str, gesture: dict) -> tuple[str, dict]:
        """The state after a gesture on the page at a link, and what the tab then shows."""
        state = self.call(self._state, {}, {"url.search": search}, "url.search")
        before = state["state"]["data"]
        state = self.call(self._state, state, {
            "state.data": before, "gesture.data": [{**gesture, "n": 1}], "url.search": search},
            "gesture.data")
        now = state["state"]["data"]
        return now, self.call(self.tab, {}, {"state.data": now}, "state.data")

    def call(self, dependency: dict, shown: dict, given: dict, changed: str) -> dict:
        body = json.dumps(asked(dependency, self._page, shown, given, changed))
        self._connection.request("POST", f"{BASE}_dash-update-component", body, {
            "Content-Type": "application/json", "Accept-Encoding": "gzip"})
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content[:500]
        assert b"Something went wrong" not in content
        if answer.headers["Content-Encoding"] == "gzip":
            content = gzip.decompress(content)
        return json.loads(content)["response"]


def asked(dependency: dict, page: dict, shown: dict, given: dict, changed: str) -> dict:
    """The body of a callback's request: what was given, else shown, else on the fresh page."""
    def values(parts: list[dict]) -> list[dict]:
        return [{**part, "value": given.get(f"{part['id']}.{part['property']}", {
            **page.get(part["id"], {}), **shown.get(part["id"], {})}.get(part["property"]))}
            for part in ({"id": p["id"], "property": p["property"]} for p in parts)]

    outputs = [dict(zip(("id", "property"), o.rsplit(".", 1), strict=True))
               for o in dependency["output"].strip(".").split("...")]
    return {"output": dependency["output"], "outputs": outputs, "changedPropIds": [changed],
            "inputs": values(dependency["inputs"]), "state": values(dependency["state"])}


def properties(node: object) -> dict[str, dict]:
    """The properties of every element of a page that has an id, by it."""
    if isinstance(node, list):
        return {key: found for child in node for key, found in properties(child).items()}
    if not isinstance(node, dict):
        return {}
    found = properties(list(node.values()))
    if isinstance(node.get("props", {}).get("id"), str):
        found[node["props"]["id"]] = node["props"]
    return found


def wish(user: int) -> tuple[str, list]:
    """What a user looks at and then chooses: a label, a head. Four users do the same."""
    number = user % WISHES
    return LABELS[number % len(LABELS)], [("alpha", "beta")[number % 2], number, number % 3]


def test_twenty_users_brush_at_once(server: Server, path: Path) -> None:
    """Each gets its own state, and what one user alone is shown for that state."""
    client = create_app(path, BASE).server.test_client()
    dependencies = client.get(f"{BASE}_dash-dependencies").json
    page = properties(client.get(f"{BASE}_dash-layout").json)
    users = [User(server.port, dependencies, page) for _ in range(USERS)]

    def work(number: int) -> tuple[str, dict]:
        label, head = wish(number)
        with closing(users[number]) as user:
            return user.brush(f"?model=alpha&model=beta&label={label}",
                              {"kind": "heads", "op": "set", "heads": [head]})

    with ThreadPoolExecutor(USERS) as threads:
        answers = list(threads.map(work, range(USERS)))
    alone: dict[str, dict] = {}
    for number, (now, shown) in enumerate(answers):
        label, (model, layer, head) = wish(number)
        told = parse_qs(now.removeprefix("?"))
        assert told["label"] == [label]
        assert told["heads"] == [f"{layer}.{head}@{model}"]
        if now not in alone:
            body = asked(users[0].tab, page, {}, {"state.data": now}, "state.data")
            alone[now] = client.post(f"{BASE}_dash-update-component", json=body).json["response"]
        assert shown == alone[now]
    assert len({json.dumps(shown) for shown in alone.values()}) == WISHES


@pytest.mark.parametrize("url", ["/healthz", f"{BASE}healthz", BASE, f"{BASE}thumbnail/3",
                                 f"{BASE}pictures/heads.png?model=alpha&kind=patch",
                                 f"{BASE}rows/layers.csv?model=alpha"])
def test_everything_lies_under_the_base_path(server, url) -> None:
    assert server.get(url)[0] == 200


def long_link(length: int) -> str:
    """A link that chooses a label under thousands of names that no label has."""
    names = "&label=" + "x" * 992
    fill = names * (length // len(names) + 1)
    return ("?model=alpha&label=cat" + fill)[:length]


def test_links_may_be_as_long_as_the_page_makes_them(server) -> None:
    whole = server.get(f"{BASE}rows/layers.csv?model=alpha&label=cat")
    assert whole[0] == 200 and len(whole[1].splitlines()) == 1 + 24
    assert server.get(f"{BASE}rows/layers.csv{long_link(MAX_URL)}") == whole
    assert server.get(f"{BASE}{long_link(MAX_URL)}")[0] == 200
    status, said = server.get(f"{BASE}{long_link(LONGEST_LINE + 1)}")
    assert status == 414 and b"Traceback" not in said


def test_no_callback_is_offered_as_a_tool_whatever_the_environment_says(path, monkeypatch) -> None:
    monkeypatch.setenv("DASH_MCP_ENABLED", "true")
    answer = create_app(path, BASE).server.test_client().post(
        f"{BASE}_mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert answer.status_code in (404, 405)


def test_requests_do_not_name_the_page_they_come_from(server) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT)) as there:
        there.request("GET", BASE)
        assert there.getresponse().headers["Referrer-Policy"] == "strict-origin"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_that_is_killed_is_replaced(server: Server) -> None:
    before = server.wait_for(lambda workers: len(workers) == 2)
    os.kill(before[0], signal.SIGKILL)
    after = server.wait_for(lambda workers: len(set(workers) - {before[0]}) == 2)
    assert before[1] in after
    assert server.get(f"{BASE}rows/layers.csv?model=alpha")[0] == 200


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_told_to_stop_it_answers_what_it_has_begun(path: Path) -> None:
    """A request whose body is still on its way is begun; it ends after the signal."""
    server = Server(path)
    workers = server.wait_for(lambda workers: len(workers) == 2)
    assert server.get(f"{BASE}healthz")[0] == 200
    client = create_app(path, BASE).server.test_client()
    tab = next(d for d in client.get(f"{BASE}_dash-dependencies").json
               if "plot-data-matrix.data" in d["output"])
    body = json.dumps(asked(tab, {}, {}, {"state.data": "?model=alpha"}, "state.data")).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT) as there:
        there.sendall(f"POST {BASE}_dash-update-component HTTP/1.1\r\nHost: here\r\n"
                      f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                      "Connection: close\r\nExpect: 100-continue\r\n\r\n".encode() + body[:10])
        begun = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert there.recv(len(begun), socket.MSG_WAITALL) == begun
        server.process.send_signal(signal.SIGTERM)
        server.wait_for(lambda left: len(left) == 1)  # who has nothing to answer is gone
        there.sendall(body[10:])
        answer = b"".join(iter(lambda: there.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 200") and b'"response"' in answer
    out, err = server.process.communicate(timeout=WAIT)
    assert (server.process.returncode, out, err) == (0, "", "")
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
