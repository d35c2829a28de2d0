"""The page as a browser uses it, without a browser: layout, dependencies, then callbacks.

What is an input of what is read from the running app, so that this follows the page as it changes.
Callbacks that run in the browser are left out, and the others are asked one after the other.
"""

from __future__ import annotations

import gzip
import http.client
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import brotli

UPDATE = "/_dash-update-component"
FAILED = b"Something went wrong"
"""What a page says where a view failed; it answers all the same."""

_HELD = re.compile(r"\\u0001(?:keep|held) ([0-9a-f]{16})")
MOST_HELD = 60

Property = tuple[str, str]
"""The id of an element, as text, and the name of one of its properties."""


@dataclass(frozen=True)
class Reply:
    """`sent`: the body as it travelled."""

    status: int
    sent: bytes
    coding: str | None

    @property
    def body(self) -> bytes:
        return CODINGS[self.coding](self.sent) if self.coding else self.sent


CODINGS = {"br": brotli.decompress, "gzip": gzip.decompress}
"""How to read a body, by its content coding."""


class Server(Protocol):
    """Somewhere that answers requests."""

    def ask(self, path: str, body: bytes | None = None) -> Reply:
        """POST where there is a body, else GET."""


HEADERS = {"Accept-Encoding": ", ".join(CODINGS), "Content-Type": "application/json"}
"""Browsers accept br from this machine and over https, else gzip only; new ones also zstd, which is
as fast as br."""


class InProcess:
    """A WSGI application in this process."""

    def __init__(self, application: Any) -> None:
        self._client = application.test_client()

    def ask(self, path: str, body: bytes | None = None) -> Reply:
        answer = self._client.open(path, method="POST" if body else "GET", data=body,
                                   headers=HEADERS)
        return Reply(answer.status_code, answer.data, answer.content_encoding)


STALE = (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected)
"""What a connection says that the server has closed since the last answer."""


class OverHttp:
    """A server on this machine, over one connection, opened again where it was closed."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, path: str, body: bytes | None = None) -> Reply:
        """Raises OSError where nobody answers."""
        try:
            return self._ask(path, body)
        except STALE:
            self.close()
            return self._ask(path, body)

    def _ask(self, path: str, body: bytes | None) -> Reply:
        try:
            self._connection.request("POST" if body else "GET", path, body, HEADERS)
            answer = self._connection.getresponse()
            return Reply(answer.status, answer.read(), answer.headers["Content-Encoding"])
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()


@dataclass(frozen=True)
class Answer:
    """What one callback took and sent. `sent`, `raw`: bytes, compressed and not."""

    output: str
    seconds: float
    sent: int
    raw: int
    failed: bool


@dataclass(frozen=True)
class Gesture:
    """What the server did for one gesture: the answers of every callback that it set off."""

    answers: tuple[Answer, ...]

    @property
    def seconds(self) -> float:
        return sum(a.seconds for a in self.answers)

    @property
    def sent(self) -> int:
        return sum(a.sent for a in self.answers)

    @property
    def raw(self) -> int:
        return sum(a.raw for a in self.answers)

    @property
    def largest(self) -> Answer:
        return max(self.answers, key=lambda a: a.sent)

    @property
    def failed(self) -> bool:
        return any(a.failed for a in self.answers)


class Page:
    """An open page: the values of its elements, as the server last said or a hand last set."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.values: dict[Property, Any] = {}
        self._learn(json.loads(server.ask("/_dash-layout").body))
        self.callbacks = [c for c in json.loads(server.ask("/_dash-dependencies").body)
                          if not c["clientside_function"]]

    def open(self) -> Iterator[Answer]:
        """The callbacks of a page that is opened, as they answer."""
        yield from self._waves([(c, []) for c in self.callbacks if not c["prevent_initial_call"]])

    def do(self, element: str, prop: str, value: object) -> Gesture:
        """Set a property as a hand does, and let everything follow."""
        changed = (element, prop)
        self.values[changed] = value
        return Gesture(tuple(self._waves(self._listening([changed]))))

    def _listening(self, changed: Iterable[Property]) -> list[tuple[dict, list[Property]]]:
        """The callbacks that listen to any of these, and to which."""
        hit = set(changed)
        each = [(c, [p for p in map(_property, c["inputs"]) if p in hit]) for c in self.callbacks]
        return [(callback, heard) for callback, heard in each if heard]

    def _waves(self, due: list[tuple[dict, list[Property]]]) -> Iterator[Answer]:
        """Ask the callbacks, then those that listen to what they changed, and so on; none is set
        off by what it changed itself."""
        while due:
            following: list[tuple[dict, list[Property]]] = []
            for callback, heard in due:
                answer, changed = self._call(callback, heard)
                yield answer
                following += [(c, h) for c, h in self._listening(changed) if c is not callback]
            due = following

    def _call(self, callback: dict, heard: list[Property]) -> tuple[Answer, list[Property]]:
        body = json.dumps(self._request(callback, heard)).encode()
        start = time.perf_counter()
        reply = self._server.ask(UPDATE, body)
        seconds = time.perf_counter() - start
        if reply.status not in (200, 204):
            raise RuntimeError(f"{callback['output'][:60]} answered {reply.status}")
        raw = reply.body
        answer = Answer(callback["output"], seconds, len(reply.sent), len(raw), FAILED in raw)
        return answer, self._take(json.loads(raw)["response"]) if raw else []

    def _request(self, callback: dict, heard: list[Property]) -> dict:
        output = callback["output"]
        outputs = [dict(zip(("id", "property"), one.rsplit(".", 1), strict=True))
                   for one in output.strip(".").split("...")]
        return {
            "output": output, "outputs": outputs if output.startswith("..") else outputs[0],
            "inputs": [self._valued(one) for one in callback["inputs"]],
            "state": [self._valued(one) for one in callback["state"]],
            "changedPropIds": [f"{element}.{prop}" for element, prop in heard]}

    def _valued(self, wanted: dict) -> dict | list[dict]:
        """An input or state with its value; of a pattern of ids, all that match."""
        if '["ALL"]' not in wanted["id"]:
            return {**wanted, "value": self.values.get(_property(wanted))}
        fixed = {k: v for k, v in json.loads(wanted["id"]).items() if v != ["ALL"]}
        return [{"id": json.loads(element), "property": prop, "value": value}
                for (element, prop), value in self.values.items()
                if prop == wanted["property"] and element.startswith("{")
                and fixed.items() <= json.loads(element).items()]

    def _take(self, response: dict) -> list[Property]:
        changed = [(element, prop) for element, props in response.items() for prop in props]
        for element, prop in changed:
            self.values[element, prop] = response[element][prop]
            self._learn(response[element][prop])
            if element.startswith("plot-data-"):
                self._hold(element.removeprefix("plot-data-"), response[element][prop])
        return changed

    def _hold(self, view: str, figure: object) -> None:
        """What `assets/held.js` says afterwards: the texts of this figure that the page holds."""
        names = _HELD.findall(str(figure))
        held = [name for name in self.values.get((f"held-{view}", "data")) or []
                if name not in names]
        self.values[f"held-{view}", "data"] = (held + names)[-MOST_HELD:]

    def _learn(self, tree: Any) -> None:
        """The properties of every element in a tree that has an id."""
        if isinstance(tree, list):
            for one in tree:
                self._learn(one)
        elif isinstance(tree, dict) and isinstance(props := tree.get("props"), dict):
            if (name := props.get("id")) is not None:
                element = name if isinstance(name, str) else json.dumps(
                    name, sort_keys=True, separators=(",", ":"))
                self.values |= {(element, prop): value for prop, value in props.items()
                                if prop not in ("id", "children")}
            self._learn(props.get("children"))


def _property(one: dict) -> Property:
    return one["id"], one["property"]
