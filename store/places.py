"""Where things lie in a store.

    STORE/
      atlas.json                              the store's format; written first
      images/00000.parquet ...                parts of the images table; a part is a unit of work
      models/NAME/model.parquet               the model's row; replaced when more is known
      models/NAME/probe.npz                   its linear probe, if it needed one
      models/NAME/clean/PART/embeddings.parquet
      models/NAME/heads/PART/{head_scores,head_strength}.parquet
      models/NAME/{predictions,heads}.parquet derived from the above, can be made again
      tmp/                                    what is being written; never read

A folder `clean/PART` or `heads/PART` appears whole, by one rename: work is done or not begun.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote, unquote

from store.errors import StoreError
from store.schema import FORMAT, TABLES

MARKER = "atlas.json"


def slug(model: str) -> str:
    """The folder name of a model: its name, percent-encoded, so that any name is a safe path."""
    encoded = quote(model, safe=" ()+,=@")
    return encoded.replace(".", "%2E", 1) if encoded.startswith(".") else encoded


def name_of(folder: Path) -> str:
    """The model name that `slug` made this folder from."""
    return unquote(folder.name)


def check_store(path: Path) -> None:
    """Raise StoreError unless `path` is a store of this format."""
    marker = path / MARKER
    if not path.is_dir():
        what = "it is a file" if path.exists() else "there is no such folder"
        raise StoreError(f"no store at {path}: {what}")
    if not marker.is_file():
        raise StoreError(f"no store at {path}: {MARKER} is missing")
    try:
        found = json.loads(marker.read_text())["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"the store at {path} is damaged: {MARKER} cannot be read") from error
    if found != FORMAT:
        raise StoreError(f"the store at {path} has format {found}; this Head Atlas reads format "
                         f"{FORMAT}: make it again, or use the version that made it")


def files_of(path: Path, table: str) -> list[Path]:
    """The Parquet files that hold a table now, in a stable order."""
    return sorted(path.glob(TABLES[table].files))


def model_folder(path: Path, model: str) -> Path:
    return path / "models" / slug(model)


def models_of(path: Path) -> list[str]:
    """The models registered in a store, by name."""
    return sorted(name_of(row.parent) for row in path.glob("models/*/model.parquet"))


def parts_of(path: Path) -> list[str]:
    """The parts of the images table; each is one unit of work per model and stage."""
    return [file.stem for file in files_of(path, "images")]


def missing_parts(path: Path, model: str, stage: str) -> list[str]:
    """The parts whose `stage` ("clean" or "heads") is still to be done for a model."""
    folder = model_folder(path, model) / stage
    return [part for part in parts_of(path) if not (folder / part).is_dir()]
