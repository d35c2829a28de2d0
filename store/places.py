"""Where things lie in a store.

    STORE/
      atlas.json                              the store's format; written first
      images/00000.parquet ...                parts of the images table; a part is a unit of work
      images/00000.json ...                   which images a part holds, to make it again from
      models/NAME/model.parquet               the model's row; replaced when more is known
      models/NAME/probe.npz                   its linear probe, if it needed one
      models/NAME/samples/STAGE.json          the units of a stage that is done on some images
      models/NAME/reference.{json,npz}        images that stand in for others, and their mean heads
      models/NAME/STAGE/UNIT/*.parquet        a unit of work, with SHA256SUMS
      models/NAME/*.parquet                   derived from the above, can be made again
      patterns/pattern_spaces.parquet         the fitted pattern spaces
      models/NAME/patterns/UNIT.parquet       the patterns of a unit of `heads`, placed in them
      patterns/*.parquet                      clusters of heads, and how good the spaces are
      FILE.sha256                             beside any file that is not in a unit
      damaged/                                what was found damaged and made again; never read
      tmp/                                    what is being written; never read

A folder `STAGE/UNIT` appears whole, by one rename: work is done or not begun. The units of `clean`
and `heads` are the parts of the images table; those of every other stage are named, with their
images, in its samples file before work on them begins.
"""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from urllib.parse import quote, unquote

from store.errors import StoreError
from store.remote import AnyPlace, Place
from store.schema import FORMAT, TABLES

MARKER = "atlas.json"

OVER_ALL = ("clean", "heads")
"""Stages that are done on all images: their units are the parts of the images table."""


def slug(model: str) -> str:
    """The folder name of a model: its name, percent-encoded, so that any name is a safe path."""
    encoded = quote(model, safe=" ()+,=@")
    return encoded.replace(".", "%2E", 1) if encoded.startswith(".") else encoded


def name_of(folder: Place) -> str:
    """The model name that `slug` made this folder from."""
    return unquote(folder.name)


def is_url(text: str) -> bool:
    """Whether it says where to find a store, as in s3://bucket/atlas, and is no path."""
    return "://" in text


def at(place: str | Place) -> Place:
    """The folder, or what is at a URL: file://, s3://, gs:// or any other that fsspec knows.
    Raises StoreError where a URL needs what is not installed."""
    if not isinstance(place, str) or not is_url(place):
        return Path(place) if isinstance(place, str) else place
    if place.startswith("file://"):
        return Path(unquote(place.removeprefix("file://")))
    try:
        return importlib.import_module("store.storage").connect(place)
    except ModuleNotFoundError as error:
        raise StoreError(f"a store at {place} needs {error.name}: "
                         "pip install 'headatlas[remote]'") from error


def within(file: Place, store: Place) -> str:
    """Where a file lies in its store, in words."""
    return str(file).removeprefix(str(store)).lstrip("/")


def check_store(path: Place) -> None:
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


def files_of(path: AnyPlace, table: str, model: str | None = None) -> list[AnyPlace]:
    """The Parquet files that hold a table now, or one model's share, in a stable order."""
    shape = TABLES[table].files
    if model is not None:
        shape = shape.replace("models/*/", f"models/{slug(model)}/")
    return sorted(path.glob(shape))


SETTLED = 1.0
"""Seconds after which a folder's time says that it has not changed since: clocks of file systems
tick slowly."""


def folders(path: Place) -> dict[str, int] | None:
    """When each folder of a store that files come into was last changed; None where that is not
    known, or too recent to tell the next change from the last. Every file of a store comes by a
    rename, so that its folder's time tells."""
    if not isinstance(path, Path):
        return None
    try:
        found = {str(folder): folder.stat().st_mtime_ns
                 for shape in ("images", "patterns", "models", "models/*/", "models/*/*/")
                 for folder in path.glob(shape) if folder.is_dir()}
    except OSError:
        return None
    newest = max(found.values(), default=0)
    return found if time.time_ns() - newest > SETTLED * 1e9 else None


def model_folder(path: AnyPlace, model: str) -> AnyPlace:
    return path / "models" / slug(model)


def done_units(path: Place, model: str, stage: str) -> list[str]:
    """The units of a stage that are there."""
    return sorted(unit.name for unit in (model_folder(path, model) / stage).glob("*/"))


def models_of(path: Place) -> list[str]:
    """The models registered in a store, by name."""
    return sorted(name_of(row.parent) for row in path.glob("models/*/model.parquet"))


def parts_of(path: Place) -> list[str]:
    """The parts of the images table; each is one unit of work per model in OVER_ALL."""
    return [file.stem for file in files_of(path, "images")]


def samples_folder(path: AnyPlace, model: str) -> AnyPlace:
    return model_folder(path, model) / "samples"


def read_sample(path: Place, model: str, stage: str) -> dict:
    """What is registered of a stage that is done on some images: `units`, their images by name,
    and `fixed`, what else was settled for all of them. Nothing is registered in a damaged file."""
    try:
        found = json.loads((samples_folder(path, model) / f"{stage}.json").read_text())
        return {"units": dict(found["units"]), "fixed": dict(found["fixed"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"units": {}, "fixed": {}}


def stages_of(path: Place, model: str) -> list[str]:
    """The stages that have units for a model, done or not."""
    sampled = sorted(file.stem for file in samples_folder(path, model).glob("*.json"))
    return [*OVER_ALL, *sampled]


def units_of(path: Place, model: str, stage: str) -> list[str]:
    """All units of a stage, done or not."""
    if stage in OVER_ALL:
        return parts_of(path)
    return sorted(read_sample(path, model, stage)["units"])


def missing_units(path: Place, model: str, stage: str) -> list[str]:
    """The units of a stage that are still to be done for a model."""
    there = set(done_units(path, model, stage))
    return [unit for unit in units_of(path, model, stage) if unit not in there]


MADE = ("predictions", "heads")
"""Tables of which every model has one file, once its units are done."""


def lacks(path: Place, model: str) -> list[str]:
    """What a model still lacks, in words; nothing if it is complete."""
    left = [(stage, len(missing_units(path, model, stage)), len(units_of(path, model, stage)))
            for stage in stages_of(path, model)]
    folder = model_folder(path, model)
    return [f"{missing} of {count} parts of {stage}" for stage, missing, count in left if missing] \
        + [table for table in MADE if not (folder / f"{table}.parquet").exists()]


def lacks_patterns(path: Place, model: str) -> list[str]:
    """What of a model is not yet placed in the pattern spaces, in words."""
    done = set(done_units(path, model, "heads"))
    missing = done - {file.stem for file in files_of(path, "head_patterns", model)}
    return ([f"{len(missing)} of {len(done)} parts of patterns"] if missing else []) + [
        "head_places" for _ in done if not files_of(path, "head_places", model)][:1]
