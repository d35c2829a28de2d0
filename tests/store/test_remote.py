"""Stores on object storage: the same answers as from a folder, through fsspec, and only read."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import headatlas
from store import places, remote, similar
from store.errors import StoreError
from store.queries import Ask, head_values
from store.reader import Store, open_store
from store.schema import TABLES
from store.selection import Labels, Selection
from tests.synthetic import make_store

ROOT = Path(__file__).parents[2]
fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("remote") / "atlas", images=6)


@pytest.fixture(scope="module")
def memory(folder: Path) -> Iterator[str]:
    """The URL of a copy in fsspec's own memory."""
    system = fsspec.filesystem("memory")
    system.put(f"{folder}/", "/test_remote/atlas/", recursive=True)
    yield "memory://test_remote/atlas"
    system.rm("/test_remote", recursive=True)


@pytest.fixture(scope="module")
def bucket(folder: Path) -> Iterator[str]:
    """The URL of a copy in a bucket of a local server that speaks S3."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
                            "AWS_DEFAULT_REGION": "us-east-1",
                            "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.mkdir("a-bucket")
        system.put(f"{folder}/", "a-bucket/some/atlas/", recursive=True)
        yield "s3://a-bucket/some/atlas"
    server.stop()


@pytest.fixture(params=["memory", "bucket"])
def url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


def test_every_table_holds_the_same_rows(folder, url) -> None:
    with_folder, elsewhere = open_store(folder), open_store(url)
    for name, table in TABLES.items():
        sql = f"SELECT * FROM {name} ORDER BY " + ", ".join(f'"{key}"' for key in table.keys)
        here, there = (repr(store.query(sql).to_pylist()) for store in (with_folder, elsewhere))
        assert there == here, name  # as text, for NaN is not equal to itself
    assert elsewhere.damaged == []


def test_questions_have_the_same_answers(folder, url) -> None:
    def asked(store: Store) -> list:
        ask = Ask(store, ("alpha", "beta"), Selection((Labels(("cat", "dog")),)))
        return [head_values(ask, "probability_drop").rows(store).to_pylist(),
                similar.alike(store, "alpha", 0, 1).to_pylist()]

    assert asked(open_store(url)) == asked(open_store(folder))


def test_places_are_found_as_in_a_folder(folder, url) -> None:
    there = places.at(url)
    for pattern in ("*", "images/*.json", "models/*/*/", "models/*/*/*/*.parquet", "none/*",
                    "models/alpha/heads/*/", "atlas.json"):
        wanted = [str(f.relative_to(folder)) for f in sorted(folder.glob(pattern))
                  if f.is_file() or pattern.endswith("/")]
        assert [str(f.relative_to(there)) for f in there.glob(pattern)] == wanted, pattern
    assert places.models_of(there) == places.models_of(folder)
    assert [places.lacks(there, m) for m in places.models_of(there)] \
        == [places.lacks(folder, m) for m in places.models_of(folder)]


def test_what_is_read_again_is_not_asked_for_again(memory, monkeypatch) -> None:
    store = open_store(memory)
    sql = "SELECT layer, head, avg(probability_drop) FROM head_scores GROUP BY ALL"
    first = store.query(sql)

    def asked(*_args: object, **_options: object) -> bytes:
        raise AssertionError("the storage was asked")

    monkeypatch.setattr(type(store.path.listing.system), "cat_file", asked)
    assert store.query(sql).num_rows == first.num_rows


def _refresh(store: Store) -> bool:
    """As when the listing has become too old."""
    store.path.listing._listed = -remote.LIST_SECONDS
    return store.refresh()


def test_a_store_that_grows_is_seen(memory) -> None:
    system = fsspec.filesystem("memory")
    heads = "/test_remote/atlas/models/beta/heads.parquet"
    kept = system.cat_file(heads)
    store = open_store(memory)
    before = store.query("SELECT count(*) AS n FROM heads")["n"][0].as_py()
    system.rm(heads)
    assert not store.refresh(), "the listing is not too old yet"
    assert _refresh(store)
    assert store.query("SELECT count(*) AS n FROM heads")["n"][0].as_py() == before - 24
    system.pipe_file(heads, kept)
    assert _refresh(store) and not _refresh(store)
    assert store.query("SELECT count(*) AS n FROM heads")["n"][0].as_py() == before


def test_a_damaged_file_is_left_out(memory) -> None:
    system = fsspec.filesystem("memory")
    heads = "/test_remote/atlas/models/beta/heads.parquet"
    kept = system.cat_file(heads)
    system.pipe_file(heads, kept[:100])
    try:
        assert [str(file) for file in open_store(memory).damaged] \
            == [f"{memory}/models/beta/heads.parquet"]
    finally:
        system.pipe_file(heads, kept)


WRITES = ("COPY (SELECT 1) TO '{url}/new.csv'", "COPY (SELECT 1 AS a) TO '{file}'",
          "COPY images TO '{url}/models'", "EXPORT DATABASE '{url}/all'")


@pytest.mark.parametrize("statement", WRITES)
def test_nothing_is_written_even_by_our_own_statements(memory, statement) -> None:
    store = open_store(memory)
    before = _sums(store)
    file = store.files["heads"][0]
    with pytest.raises(StoreError):
        store.query(statement.format(url=memory, file=file))
    assert _sums(store) == before


def _sums(store: Store) -> dict[str, str]:
    listing = store.path.listing
    return {path: hashlib.sha256(listing.system.cat_file(path)).hexdigest()
            for path in listing.system.find(listing.root)}


def test_files_outside_the_store_are_not_read(url) -> None:
    store = open_store(url)
    outside = url.replace("atlas", "other") + "/secret.csv"
    store.path.listing.system.pipe_file(
        store.path.listing.root.replace("atlas", "other") + "/secret.csv", b"a\n1\n")
    with pytest.raises(StoreError):
        store.query(f"SELECT * FROM '{outside}'")


COMMANDS = (["info"], ["info", "--verify"], ["similar", "alpha", "0", "1"],
            ["sql", "SELECT model, layer, head, avg(sink) FROM head_strength GROUP BY ALL "
                    "ORDER BY ALL"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_say_the_same(folder, url, command, capsys) -> None:
    said = []
    for place in (str(folder), url):
        argv = [command[0], "--store", place, *command[1:]]
        assert headatlas.main(argv) == 0
        said.append(re.sub(r"checksums: .*", "", capsys.readouterr().out).replace(place, "HERE"))
    assert said[0].split() == said[1].split()


HOSTILE = ("SELECT * FROM '{other}/secret.csv'", "SELECT * FROM read_csv('{other}/secret.csv')",
           "COPY images TO '{url}/new.csv'", "WITH x AS (COPY images TO '{url}/a.csv') FROM x",
           "SELECT * FROM glob('{other}/*')", "SELECT * FROM read_text('file:///etc/passwd')")


@pytest.mark.parametrize("statement", HOSTILE)
def test_the_door_opens_the_stores_own_files_only(memory, statement, capsys) -> None:
    other = memory.replace("atlas", "other")
    fsspec.filesystem("memory").pipe_file("/test_remote/other/secret.csv", b"a\n1\n")
    before = _sums(open_store(memory))
    assert headatlas.main(["sql", "--store", memory,
                           statement.format(url=memory, other=other)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    assert _sums(open_store(memory)) == before


REFUSED = {
    "nothing there": ("memory://test_remote/nothing", "no store at memory://test_remote/nothing"),
    "no such protocol": ("gopher://a/b", "gopher"),
    "no such bucket": ("s3://no-such-bucket/atlas", "s3://no-such-bucket/atlas"),
    "no such folder": ("file:///no/such/folder", "no store at /no/such/folder"),
    "a file": ("memory://test_remote/atlas/atlas.json", "no store at"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_no_store_is_one_line(memory, bucket, case, capsys) -> None:
    url, says = REFUSED[case]
    for argv in (["info"], ["similar", "alpha", "0", "1"], ["serve"], ["sql", "SELECT 1"]):
        assert headatlas.main([argv[0], "--store", url, *argv[1:]]) == 2
        said = capsys.readouterr().err
        assert says in said and len(said.splitlines()) == 1


def test_without_fsspec_the_message_says_what_to_install(monkeypatch, capsys) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'fsspec'", name="fsspec")

    monkeypatch.setattr(places.importlib, "import_module", missing)
    with pytest.raises(StoreError, match=re.escape("pip install 'headatlas[remote]'")):
        open_store("s3://bucket/atlas")


def test_a_file_url_is_a_folder(folder) -> None:
    assert places.at(folder.as_uri()) == folder
    assert open_store(folder.as_uri()).path == folder


def test_precompute_writes_into_folders_only(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["precompute", "--model", "zoo:fashion_cls7", "--images", "x",
            "--store", "s3://bucket/atlas"]
    assert headatlas.main(argv) == 2
    said = capsys.readouterr().err
    assert "upload" in said and len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_workers_of_a_server_read_it(bucket) -> None:
    """The parent looks at the store before it forks; its connections must not go along."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "headatlas.py"), "serve", "--store", bucket, "--port", "0",
         "--workers", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    url = next(word for word in process.stdout.readline().split() if word.startswith("http://"))
    try:
        with urllib.request.urlopen(f"{url}rows/layers.csv?model=alpha", timeout=120) as answer:
            assert len(answer.read().splitlines()) == 1 + 24
        with urllib.request.urlopen(f"{url}thumbnail/3", timeout=120) as answer:
            assert answer.headers["Content-Type"] == "image/webp"
    finally:
        process.terminate()
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_command_ends_without_a_word_too_many(bucket) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "headatlas.py"), "sql", "--store", bucket, "--format", "csv",
         "SELECT count(*) AS n FROM models"], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "n\n3\n", "")
