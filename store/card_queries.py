"""What the panel of the focused image asks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from store.lists import Lists, dense
from store.query import Ask, Query, quickly
from store.reader import Store
from store.schema import TABLES
from store.selection import MODELS

MOST_KEPT = 200_000
"""Predictions of images by models on show up to which they are kept, 60 bytes each."""

_SAID = ("predicted", "correct", "probability")
_IMAGE = ("image", "path", "label", "width", "height")
_SCHEMA = pa.schema([TABLES["images"].arrow.field(name) for name in _IMAGE] + [
    TABLES["predictions"].arrow.field(name) for name in ("model", *_SAID, "top5")])


def image_card(ask: Ask, image: int) -> Query:
    """A row per model on show: what it predicts for one image, and the image's own facts."""
    few = ask.count * len(ask.models) <= MOST_KEPT
    return Query(f"""
SELECT i.image, i.path, i.label, i.width, i.height, p.model, p.predicted, p.correct, p.probability,
       p.top5
FROM images i LEFT JOIN (SELECT * FROM predictions WHERE {MODELS}) p USING (image)
WHERE i.image = $image ORDER BY p.model""".strip(),
                 {**ask.models_only.params, "image": image},
                 quick=quickly(_card, ask, image) if few else None)


@dataclass(frozen=True)
class Predicted:
    """What one model predicts, in order of image: `said` by image, and the lists of classes."""

    said: pa.Table
    lists: Lists

    @property
    def nbytes(self) -> int:
        return self.said.nbytes + self.lists.nbytes


def _predicted(store: Store, model: str) -> Predicted:
    rows = store.query(f"SELECT image, {', '.join(_SAID)}, top5 FROM "
                       f"{store.part('predictions', model)} ORDER BY image")
    count = rows.num_rows
    named = rows["predicted"].dictionary_encode()
    said = rows.drop_columns(["top5"]).set_column(1, "predicted", named)
    return Predicted(said, dense(rows["top5"], (np.arange(count),), (count,)))


def _card(ask: Ask, image: int) -> pa.Table:
    own = image_facts(ask.store, image).to_pylist()
    if not own:
        return _SCHEMA.empty_table()
    return pa.Table.from_pylist([own[0] | said for said in _answers(ask, image)] or own,
                                schema=_SCHEMA)


def image_facts(store: Store, image: int) -> pa.Table:
    """What is known of an image, in a row, or in none: number, path, label, width and height."""
    images = store.kept("SELECT image, path, label FROM images ORDER BY image")
    sizes = store.kept("SELECT width, height FROM images ORDER BY image")
    place = _place(images, image)
    own = slice(0, 0) if place is None else slice(place, place + 1)
    return pa.table([*images[own].columns, *sizes[own].columns], names=_IMAGE)


def _answers(ask: Ask, image: int) -> list[dict]:
    """What each model on show that has seen the image predicts for it, by name."""
    found = []
    for model in sorted(set(ask.models)):
        own = ask.store.memo.keep(("predicted", model), partial(_predicted, ask.store, model))
        if (place := _place(own.said, image)) is not None:
            (said,) = own.said.slice(place, 1).to_pylist()
            found.append(said | {"model": model, "top5": own.lists.at(place)})
    return found


def _place(rows: pa.Table, image: int) -> int | None:
    """The row of an image, where rows are in its order."""
    numbers = rows["image"].to_numpy()
    place = int(np.searchsorted(numbers, image))
    return place if place < len(numbers) and numbers[place] == image else None
