"""A folder of images and a CSV of labels → checked images in a deterministic order."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from store.errors import ImagesError

THUMBNAIL = 96
EXTENSIONS = frozenset(Image.registered_extensions()) - {".pdf", ".eps", ".ps", ".mpg", ".mpeg"}


@dataclass(frozen=True)
class Picture:
    """One readable image: its path in the folder, its size, and what is stored of it."""

    path: str
    width: int
    height: int
    sha256: str
    thumbnail: bytes


def list_images(folder: Path) -> list[str]:
    """Paths, relative to the folder, of everything that is named like an image, by path.

    Raises ImagesError if there is no such folder, or nothing like an image in it.
    """
    if not folder.exists():
        raise ImagesError(f"no images folder at {folder}")
    if not folder.is_dir():
        raise ImagesError(f"{folder} is a file, not a folder of images")
    found = sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*")
        if file.suffix.lower() in EXTENSIONS and (file.is_file() or _dangling(file))
        and not any(part.startswith(".") for part in file.relative_to(folder).parts))
    if not found:
        raise ImagesError(f"no images in {folder} (looked for {_some(sorted(EXTENSIONS))})")
    return found


def _dangling(file: Path) -> bool:
    """A link to nothing, which is to be reported, not overlooked."""
    return file.is_symlink() and not file.exists()


def read_picture(folder: Path, path: str) -> Picture:
    """Decode one image whole. Raises ImagesError, saying why, if that cannot be done."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ImagesError(f"{path!a}: its name is not UTF-8") from error
    content = read_bytes(folder, path)
    with warnings.catch_warnings():  # here and not in `decode`: filters are not thread-safe
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = decode(content, "RGB", path)
    width, height = image.size
    return Picture(path, width, height, hashlib.sha256(content).hexdigest(), _thumbnail(image))


def read_bytes(folder: Path, path: str) -> bytes:
    """The file's bytes; ImagesError if it cannot be read."""
    try:
        return (folder / path).read_bytes()
    except OSError as error:
        raise ImagesError(f"{path}: {error.strerror or error}") from error


def decode(content: bytes, mode: str, path: str) -> Image.Image:
    """Pixels as the model's mode ("RGB" or "L"), as stored in the file (EXIF is not applied, as
    in timm's own evaluation). Raises ImagesError for anything that is no image."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return _eight_bits(image).convert(mode)
    except Exception as error:  # decoders raise whatever they like
        said = re.sub(r" *<_io[^>]*>", "", " ".join(str(error).split()))
        raise ImagesError(f"{path}: {said[:160] or type(error).__name__}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel: Pillow would clip deeper grey values to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype("uint8"))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range")
    return image


def _thumbnail(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80, lossless=max(image.size) <= THUMBNAIL)
    return buffer.getvalue()


def read_labels(file: Path) -> dict[str, str]:
    """Labels by image path, from a CSV with columns `image` and `label` (others are ignored).

    Raises ImagesError for a file that is not that, or that labels an image in two ways.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            rows = csv.DictReader(handle, skipinitialspace=True, strict=True)
            return dict(_labels(rows, file))
    except OSError as error:
        raise ImagesError(f"no labels at {file}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImagesError(f"{file} is no CSV file: {' '.join(str(error).split())}") from error


def _labels(rows: csv.DictReader, file: Path) -> Iterator[tuple[str, str]]:
    missing = {"image", "label"} - set(rows.fieldnames or ())
    if missing:
        raise ImagesError(f"{file} has no column {' or '.join(sorted(missing))}; labels are a CSV "
                          f"with the columns image,label (found: {_some(rows.fieldnames or ())})")
    seen: dict[str, str] = {}
    for row in rows:
        image, label = (row["image"] or "").strip(), (row["label"] or "").strip()
        if not image or not label:
            continue
        if any(character < " " for character in image + label):
            raise ImagesError(f"{file}, line {rows.line_num}: {ascii(label)[:60]} is no label "
                              "(is a quote left open?)")
        path = str(PurePosixPath(image))
        if seen.setdefault(path, label) != label:
            raise ImagesError(f"{file} labels {path} both {seen[path]!r} and {label!r}")
        yield path, label


def match_labels(labels: dict[str, str], paths: list[str], file: Path, folder: Path,
                 ) -> dict[str, str]:
    """The labels of these paths. Raises ImagesError if the CSV names images that are not there:
    such a file belongs to another folder."""
    strangers = sorted(set(labels) - set(paths))
    if strangers:
        raise ImagesError(f"{file} does not match {folder}: {len(strangers)} of its {len(labels)} "
                          f"images are not there ({_some(strangers)})")
    if not labels:
        raise ImagesError(f"{file} labels no image")
    return labels


def _some(names) -> str:
    names = list(names)
    shown = ", ".join(str(n) for n in names[:4])
    return shown + (", ..." if len(names) > 4 else "")
