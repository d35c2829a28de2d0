"""Pictures of patterns: the right cell of the right sheet, as dark as it should be."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dashapp import pictures
from dashapp.app import create_app
from store.canon import KINDS, decode


@pytest.fixture(scope="module")
def client(path):
    return create_app(path).server.test_client()


def sheet(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.verify()
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image", [None, 2])
def test_each_cell_is_its_heads_pattern(store, facts, kind, image):
    side = KINDS[kind].side
    made = sheet(pictures.head_sheet(store, facts.model("gamma"), kind, image))
    assert made.size == (6 * side, 4 * side)
    levels = np.asarray(made)[3 * side:4 * side, 5 * side:]
    if image is None:
        (row,) = store.query(f"SELECT {kind}_pattern AS p FROM heads WHERE model = 'gamma' AND "
                             "layer = 3 AND head = 5").to_pylist()
        shares = np.array(row["p"])
    else:
        (row,) = store.query(f"SELECT \"{kind}\" AS p FROM pattern_inputs WHERE model = 'gamma' "
                             "AND layer = 3 AND head = 5 AND image = 2").to_pylist()
        shares = decode(KINDS[kind], np.array(row["p"], np.uint8))
    for cell in range(side * side):
        ratio = shares[cell] * side * side
        expected = min(np.sqrt(ratio), pictures.DARKEST) / pictures.DARKEST
        assert levels[divmod(cell, side)] == pytest.approx(254 * expected, abs=1)


def test_darker_means_more():
    image = sheet(pictures.png(np.arange(256, dtype=np.uint8)[None])).convert("RGBA")
    shades = np.asarray(image)[0].astype(int)
    assert (np.diff(shades[:255, :3].sum(-1)) <= 0).all()
    assert shades[0].tolist() == [255, 255, 255, 255]
    assert shades[255, 3] == 0


@pytest.mark.parametrize("url", [
    "/pictures/heads.png?model=alpha&kind=patch",
    "/pictures/heads.png?model=beta&kind=patch&image=1", "/pictures/prototypes.png?kind=class"])
def test_pictures_are_served_and_kept_by_the_browser(client, url):
    answer = client.get(url)
    assert (answer.status_code, answer.content_type) == (200, "image/png")
    again = client.get(url, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize("url", [
    "/pictures/heads.png", "/pictures/heads.png?model=nope&kind=patch",
    "/pictures/heads.png?model=beta&kind=class", "/pictures/heads.png?model=alpha&kind=x",
    "/pictures/heads.png?model=alpha&kind=patch&image=999", "/pictures/prototypes.png?kind=x"])
def test_pictures_that_are_not_there(client, url):
    assert client.get(url).status_code == 404


def test_a_model_name_is_never_markup():
    url = pictures.head_url("a'b\"c)d&e<f>", "patch", 3)
    assert not set("'\"()<> ") & set(url)
    shown = pictures.picture(url, (1, 2), 3, "class", 5)
    assert shown["props"]["style"]["backgroundPosition"] == "-140px -70px"
    assert shown["props"]["style"]["backgroundSize"] == "auto 210px"
