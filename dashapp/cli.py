"""`headatlas serve`: the page over a store, behind gunicorn."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

from gunicorn.app.base import BaseApplication

from dashapp.app import create_app
from store import places
from store.errors import AtlasError

THREADS = 8


class ServeError(AtlasError):
    """An address that cannot be served on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, required=True, help="the store's folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8050, help="port to listen on (8050)")
    parser.add_argument("--workers", type=int, default=1,
                        help=f"processes, each with {THREADS} threads (1)")


def run(args: argparse.Namespace) -> None:
    """Serve until interrupted. Raises StoreError or ServeError before anything is started."""
    places.check_store(args.store)
    if args.workers < 1:
        raise ServeError(f"--workers {args.workers}: at least 1")
    Server(args.store, listen(args.host, args.port), args.workers, args.host).run()


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket. Raises ServeError if the address is bad or taken."""
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
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ServeError(f"cannot listen on {host} port {port}: {error.strerror}; "
                         "choose another with --port") from error
    return listener


class Server(BaseApplication):
    """gunicorn with threads, on a socket that already listens. A worker opens its own store."""

    def __init__(self, store: Path, listener: socket.socket, workers: int, host: str) -> None:
        self._store, self._workers = store, workers
        shown = f"[{host}]" if ":" in host else host
        self._url = f"http://{shown}:{listener.getsockname()[1]}/"
        self._descriptor = listener.detach()  # gunicorn owns and closes it
        super().__init__()

    def load_config(self) -> None:
        settings = {
            "bind": f"fd://{self._descriptor}", "workers": self._workers,
            "worker_class": "gthread", "threads": THREADS, "loglevel": "warning",
            "graceful_timeout": 5, "timeout": 120, "when_ready": self._ready,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def _ready(self, server: object) -> None:
        print(f"Head Atlas of {self._store}: {self._url}  (Ctrl-C to stop)", flush=True)

    def load(self):
        """The WSGI application, made in each worker."""
        return create_app(self._store).server
