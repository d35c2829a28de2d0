"""Images of every kind, and labels as people write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from precompute.images import THUMBNAIL, decode, list_images, read_labels, read_picture
from store.errors import ImagesError

RAMP = np.linspace(0, 1, 48 * 40).reshape(40, 48)


def _saved(folder: Path, image: Image.Image, name: str) -> str:
    image.save(folder / name)
    return name


KINDS = {
    "grey": ("L", "png"), "black and white": ("1", "png"), "palette": ("P", "gif"),
    "alpha": ("RGBA", "png"), "grey and alpha": ("LA", "png"), "CMYK": ("CMYK", "jpg"),
    "colour": ("RGB", "webp"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_pixels_becomes_colour_or_grey(kind: str, tmp_path: Path) -> None:
    mode, suffix = KINDS[kind]
    image = Image.fromarray((RAMP * 255).astype(np.uint8)).convert(mode)
    name = _saved(tmp_path, image, f"x.{suffix}")
    picture = read_picture(tmp_path, name)
    assert (picture.width, picture.height) == (48, 40)
    for wanted in ("RGB", "L"):
        pixels = np.asarray(decode((tmp_path / name).read_bytes(), wanted, name))
        assert pixels.shape[:2] == (40, 48) and pixels.std() > 20


def test_deep_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    _saved(tmp_path, Image.fromarray((RAMP * 65535).astype(np.uint16)), "deep.png")
    pixels = np.asarray(decode((tmp_path / "deep.png").read_bytes(), "L", "deep.png"))
    assert np.abs(pixels - RAMP * 255).max() < 1


@pytest.mark.parametrize(("content", "says"), [
    (b"", "cannot identify"), (b"text", "cannot identify image file$"), (None, "no known range")])
def test_what_is_no_image_is_refused_with_a_reason(content: bytes | None, says: str,
                                                   tmp_path: Path) -> None:
    if content is None:
        _saved(tmp_path, Image.fromarray(RAMP.astype(np.float32)), "x.tif")
    else:
        (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(ImagesError, match=says):
        read_picture(tmp_path, "x.tif")


def test_names_that_are_not_utf8_and_links_to_nothing_are_seen_and_refused(tmp_path: Path) -> None:
    odd = b"n\xff.png".decode("utf8", "surrogateescape")
    Image.new("L", (4, 4)).save(tmp_path / odd)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert list_images(tmp_path) == sorted([odd, "gone.png"])
    for name, says in ((odd, "not UTF-8"), ("gone.png", "No such file")):
        with pytest.raises(ImagesError, match=says):
            read_picture(tmp_path, name)


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/c.jpeg", ".hidden.png", ".git/d.png", "notes.txt", "LICENSE"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list_images(tmp_path) == ["a/c.jpeg", "b.PNG"]


def test_thumbnails_are_small(tmp_path: Path) -> None:
    _saved(tmp_path, Image.fromarray(np.tile((RAMP * 255).astype(np.uint8), (10, 10))), "big.png")
    (tmp_path / "t.webp").write_bytes(read_picture(tmp_path, "big.png").thumbnail)
    with Image.open(tmp_path / "t.webp") as thumbnail:
        assert max(thumbnail.size) == THUMBNAIL


@pytest.mark.parametrize("text", [
    "image,label\na.png,cat\nsub/b.png,dog\n",
    "\ufeffimage,label\r\na.png,cat\r\nsub/b.png,dog\r\n",
    "label,note,image\ncat,,a.png\ndog,x,./sub/b.png\n",
    'image, label\n"a.png", "cat"\nsub/b.png,dog',
    "image,label\na.png,cat\na.png,cat\n\nsub/b.png,dog\n,\nc.png,\n"])
def test_labels_are_read_as_people_write_them(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8", newline="")
    assert read_labels(tmp_path / "labels.csv") == {"a.png": "cat", "sub/b.png": "dog"}


@pytest.mark.parametrize("text", [
    'image,label\na.png,"cat\nb.png,dog\n', "image,label\na.png,a\x00b\n",
    'image,label\na.png,"c\nb.png,"d"\n'])
def test_an_open_quote_does_not_swallow_rows(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ImagesError):
        read_labels(tmp_path / "labels.csv")
