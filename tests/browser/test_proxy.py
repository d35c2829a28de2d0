"""The page behind a reverse proxy that knows one path only: nothing asks for anything beside it."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tests.browser.conftest import PATIENCE
from tests.synthetic import make_store

ROOT = Path(__file__).parents[2]
BASE = "/some/atlas/"
HANDED_ON = ("Content-Type", "Content-Encoding", "Content-Disposition", "ETag", "Cache-Control")


def forwarder(target: str) -> type[BaseHTTPRequestHandler]:
    """Hands on what lies under BASE; everything else is not here."""
    class Forwarder(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(None)

        def do_POST(self) -> None:
            self.answer(self.rfile.read(int(self.headers["Content-Length"])))

        def answer(self, body: bytes | None) -> None:
            if not self.path.startswith(BASE):
                self.send_error(404)
                return
            kept = {k: v for k, v in self.headers.items() if k in ("Content-Type", "Accept")}
            asked = urllib.request.Request(target + self.path, body, kept)
            try:
                with urllib.request.urlopen(asked, timeout=PATIENCE) as found:
                    status, headers, content = found.status, found.headers, found.read()
            except HTTPError as error:
                status, headers, content = error.code, error.headers, error.read()
            self.send_response(status)
            for name in HANDED_ON:
                if name in headers:
                    self.send_header(name, headers[name])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Forwarder


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page's address at the proxy."""
    store = make_store(tmp_path_factory.mktemp("proxied") / "atlas")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "headatlas.py"), "serve", "--store", str(store), "--port", "0",
         "--base-path", BASE], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    url = next(word for word in process.stdout.readline().split() if word.startswith("http://"))
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), forwarder(url.removesuffix(BASE)))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{proxy.server_port}{BASE}"
    proxy.shutdown()
    proxy.server_close()
    process.terminate()
    process.communicate(timeout=PATIENCE)


@pytest.mark.browser
def test_the_page_works_under_its_path(address, page) -> None:
    answers: list[tuple[int, str]] = []
    page.tab.on("response", lambda found: answers.append((found.status, found.url)))
    page.open(f"{address}?focus=3&heads=0.1@alpha")
    loaded = page.tab.evaluate("[...document.querySelectorAll('#focus img')].map(i => "
                               "i.complete && i.naturalWidth)")
    assert loaded and all(loaded)
    rows = page.tab.evaluate(
        "fetch('rows/layers.csv' + location.search).then(r => r.text())")
    assert rows.splitlines()[0].startswith('"model","layer","head"')
    assert any("thumbnail/3" in url for _, url in answers)
    assert [found for found in answers if found[0] >= 400] == []
    assert [url for url in page.requests if not url.startswith((address, "data:", "blob:"))] == []
    assert page.complaints == []
