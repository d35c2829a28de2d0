"""`headatlas serve`: the page over a store, behind gunicorn."""

from __future__ import annotations

import argparse
import atexit
import gc
import re
import socket

import gunicorn.http.message
from gunicorn.app.base import BaseApplication

from dashapp.app import create_app
from dashapp.memory import give_back
from dashapp.state import MAX_URL
from store import places
from store.errors import AtlasError

THREADS = 8

GRACE_SECONDS = 10
"""How long a request that is being answered may go on when the server is told to stop."""

LONGEST_LINE = MAX_URL + 4_096
"""Bytes of a request's first line: the longest link that the page makes, and where it leads."""


class ServeError(AtlasError):
    """An address that cannot be served on, or a path that cannot be served under."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", required=True, help="the store's folder or URL")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8050, help="port to listen on (8050)")
    parser.add_argument("--workers", type=int, default=1,
                        help=f"processes, each with {THREADS} threads (1)")
    parser.add_argument("--base-path", default="/", metavar="/PATH/",
                        help="where the page lies behind a proxy, which must leave it in the "
                             "requests it hands on (/)")


def run(args: argparse.Namespace) -> None:
    """Serve until interrupted. Raises StoreError or ServeError before anything is started."""
    places.check_store(places.at(args.store))
    if args.workers < 1:
        raise ServeError(f"--workers {args.workers}: at least 1")
    base = base_path(args.base_path)
    Server(args.store, listen(args.host, args.port), args.workers, args.host, base).run()


def base_path(text: str) -> str:
    """With a slash at both ends. Raises ServeError for anything that would not be a plain path."""
    names = text.strip("/").split("/") if text.strip("/") else []
    if not text.startswith("/") or not all(re.fullmatch(r"[\w.~-]+", name, re.ASCII)
                                           and name.strip(".") for name in names):
        raise ServeError(f"--base-path {text!r}: a path such as /atlas/, of letters, digits and "
                         "._~- between slashes")
    return "/" + "".join(f"{name}/" for name in names)


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket. Raises ServeError if the address is bad or taken.

    Who connects before gunicorn has it would else wait 40 ms for the second half of many answers
    (Nagle's algorithm and delayed acknowledgements).
    """
    if not 0 <= port < 65536:
        raise ServeError(f"--port {port}: 0 to 65535")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise ServeError(f"--host {host}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ServeError(f"cannot listen on {host} port {port}: {error.strerror}; "
                         "choose another with --port") from error
    return listener


class Server(BaseApplication):
    """gunicorn with threads, on a socket that already listens. A worker opens its own store."""

    def __init__(self, store: str, listener: socket.socket, workers: int, host: str, base: str
                 ) -> None:
        self._store, self._workers, self._base = store, workers, base
        shown = f"[{host}]" if ":" in host else host
        self._url = f"http://{shown}:{listener.getsockname()[1]}{base}"
        self._descriptor = listener.detach()  # gunicorn owns and closes it
        super().__init__()

    def load_config(self) -> None:
        settings = {
            "bind": f"fd://{self._descriptor}", "workers": self._workers,
            "worker_class": "gthread", "threads": THREADS, "loglevel": "warning",
            "graceful_timeout": GRACE_SECONDS, "timeout": 120, "when_ready": self._ready,
            "limit_request_line": LONGEST_LINE,
        }
        # it takes 8,190 for the most that anyone wants, or else sets no bound at all
        gunicorn.http.message.MAX_REQUEST_LINE = LONGEST_LINE
        for name, value in settings.items():
            self.cfg.set(name, value)

    def _ready(self, server: object) -> None:
        print(f"Head Atlas of {self._store}: {self._url}  (Ctrl-C to stop)", flush=True)

    def load(self):
        """The WSGI application, made in each worker. What it consists of stays: the garbage
        collector is spared it, or would stop a gesture now and then for 60 ms."""
        give_back()
        application = create_app(self._store, self._base).server
        gc.freeze()
        atexit.register(gc.unfreeze)
        return application
