"""Writing a store so that a crash at any moment leaves one that opens.

Everything is written under `tmp/`, flushed to the disk and renamed into place, with its checksum
(see `store.sums`). A unit of work is a folder that appears whole; whoever comes second with the
same unit throws its own copy away.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from store import places, sums
from store.errors import StoreError
from store.schema import FORMAT, TABLES
from store.table import Table


def to_table(name: str, columns: dict[str, object]) -> pa.Table:
    """Columns (lists or 1-D arrays) as an Arrow table of the schema's types.

    Raises ValueError where a column is missing or unknown. NaN becomes NULL: a value that is
    undefined is NULL.
    """
    table = TABLES[name]
    wanted = [c.name for c in table.columns]
    if set(columns) != set(wanted):
        wrong = sorted(set(columns) ^ set(wanted))
        raise ValueError(f"table {name}: missing or unknown columns {', '.join(wrong)}")
    return pa.table([_array(columns[c.name], c.type) for c in table.columns], schema=table.arrow)


def _array(values: object, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values.cast(kind)
    return pa.array(values, type=kind, from_pandas=True)


class StoreWriter:
    """Creates or extends the store at `path`.

    Raises StoreError where `path` is something else, or a store of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(f"{self.path} is a file, not a folder for a store")
        if self.path.is_dir() and not (self.path / places.MARKER).exists():
            strangers = sorted(p.name for p in self.path.iterdir() if p.name != "tmp")
            if strangers:
                raise StoreError(f"{self.path} is no store and not empty "
                                 f"(it holds {strangers[0]}): name a new folder")
        (self.path / "tmp").mkdir(parents=True, exist_ok=True)
        if not (self.path / places.MARKER).exists():
            self._place(self.path / places.MARKER, lambda file: file.write_text(
                json.dumps({"format": FORMAT, "made_by": "Head Atlas"}) + "\n"))
        places.check_store(self.path)
        self._sweep_leftovers()

    def write_file(self, relative: str | Path, table: pa.Table, kind: Table | None = None) -> None:
        """Put a Parquet file in its place, whole, over an older one if there is one, laid out as
        tables of this kind are. The table's own metadata go with it."""
        self._place_file(relative, lambda file: _write_parquet(table, file, kind))

    def write_bytes(self, relative: str | Path, content: bytes) -> None:
        """Put any other file in its place, whole."""
        self._place_file(relative, lambda file: file.write_bytes(content))

    def write_with(self, relative: str | Path, write: Callable[[Path], object]) -> None:
        """Put a file in its place, whole, that something else writes to the path it is given."""
        self._place_file(relative, write)

    def write_unit(self, relative: str | Path, tables: dict[str, pa.Table]) -> None:
        """Make a folder of Parquet files appear whole; if it is there already, it stays."""
        with self._scratch() as scratch:
            folder = scratch / "unit"
            folder.mkdir()
            for name, table in tables.items():
                _write_parquet(table, folder / f"{name}.parquet", TABLES[name])
            listing = folder / sums.SUMS
            listing.write_text("".join(sums.line(folder / f"{name}.parquet") for name in tables))
            _flush(listing)
            _flush(folder)
            target = self.path / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                _rename_folder(folder, target)
            _flush(target.parent)

    def set_aside(self, place: Path) -> Path:
        """Move a damaged unit or file (with its checksum) to `damaged/`; returns where it is."""
        relative = place.relative_to(self.path)
        aside = self.path / "damaged" / uuid.uuid4().hex[:8] / relative
        aside.parent.mkdir(parents=True, exist_ok=True)
        for old, new in ((place, aside), (sums.beside(place), sums.beside(aside))):
            with contextlib.suppress(FileNotFoundError):  # no checksum, or another run was quicker
                old.rename(new)
        _flush(place.parent)
        return aside

    def remove(self, relative: str | Path) -> None:
        """Take away a file that can be made again, and its checksum; fine if it is gone."""
        file = self.path / relative
        for old in (file, sums.beside(file)):
            old.unlink(missing_ok=True)
        _flush(file.parent)

    @contextlib.contextmanager
    def lock(self, what: str = "lock") -> Iterator[None]:
        """Held while images or models are registered, so that two runs agree on numbers; `what`
        names another lock, for other work that only one run should do."""
        with (self.path / "tmp" / what).open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _place_file(self, relative: str | Path, write: Callable[[Path], object]) -> None:
        """A file with its checksum beside it, which first names the old content too."""
        target = self.path / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._scratch() as scratch:
            file = scratch / target.name
            write(file)
            _flush(file)
            old = _sound_line(target)
            new = sums.line(file)
            self._place(sums.beside(target), lambda listing: listing.write_text(new + old))
            file.replace(target)
        _flush(target.parent)
        if old:
            self._place(sums.beside(target), lambda listing: listing.write_text(new))

    def _place(self, target: Path, write: Callable[[Path], object]) -> None:
        with self._scratch() as scratch:
            file = scratch / target.name
            write(file)
            _flush(file)
            file.replace(target)
        _flush(target.parent)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        name = f"{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex[:8]}"
        folder = self.path / "tmp" / name
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _sweep_leftovers(self) -> None:
        """Remove what runs on this machine that are gone left half-written."""
        for folder in (self.path / "tmp").glob(f"{socket.gethostname()}~*"):
            pid = int(folder.name.split("~")[1])
            if not _alive(pid):
                shutil.rmtree(folder, ignore_errors=True)


def _sound_line(file: Path) -> str:
    """The checksum of a file that is there and as it was written; else nothing."""
    allowed = sums.read_sums(sums.beside(file)).get(file.name, set())
    return sums.line(file) if file.is_file() and sums.digest(file) in allowed else ""


def _write_parquet(table: pa.Table, file: Path, kind: Table | None = None) -> None:
    """Floats and bytes seldom repeat: floats by their bytes instead of in a dictionary take a third
    less, and the least and largest of binary values, which nobody asks for, would be kept thrice.
    """
    leaves = [leaf for field in table.schema for leaf in _leaves(field.name, field.type)]
    floats = [path for path, kind in leaves if pa.types.is_floating(kind)]
    binary = [path for path, kind in leaves if pa.types.is_binary(kind)]
    others = [path for path, _ in leaves if path not in (*floats, *binary)]
    pq.write_table(table, file, compression="zstd",
                   row_group_size=kind.rows_at_once if kind else None,
                   use_dictionary=others, use_byte_stream_split=floats,
                   write_statistics=[*others, *floats])
    _flush(file)


def _leaves(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """The columns of a Parquet file that hold a column of ours."""
    if pa.types.is_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    else:
        yield path, kind


def _rename_folder(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        if target.is_dir():
            raise FileExistsError(target) from error
        raise


def _flush(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
