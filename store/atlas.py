"""A store in a notebook: `open_store(PATH_OR_URL)`, and the questions that are asked most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

import numpy as np
import pyarrow as pa

from store import kept, pattern_queries, places, similar
from store.errors import QueryError, StoreError
from store.queries import Ask, head_values
from store.reader import Params, Store, first_line
from store.remote import Place
from store.sandbox import check_statement
from store.schema import IMPORTANCE, STRENGTH, TABLES, Table
from store.selection import Labels, Outcome, Selection


def open_store(path: str | Place) -> Atlas:
    """Open a store for reading: a folder, or a URL such as s3://bucket/atlas. Raises StoreError if
    there is none, or of another format.

    >>> with open_store("demo-atlas") as atlas:                               # doctest: +SKIP
    ...     atlas.sql("SELECT model, layers, heads FROM models")
    """
    return Atlas(places.at(path))


class Atlas(Store):
    """A store, and what a person asks of it by name. Answers are Arrow tables; nothing is written.

    `with` closes it at the end. Unknown names raise StoreError, which says what there is.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, in order."""
        return tuple(self.query("SELECT model FROM models ORDER BY model")["model"].to_pylist())

    @property
    def tables(self) -> Mapping[str, Table]:
        """Every table by name: its text, its key and its columns with type, unit and range."""
        return TABLES

    def sql(self, statement: str, params: Params = ()) -> pa.Table:
        """The rows of one query over `tables`; `params` are the values of its ? or $name.

        Raises QueryError for anything that is no query, or reads anything but the store's tables.
        """
        with self.cursor() as cursor:
            check_statement(cursor, statement)
        try:
            return self.query(statement, params)
        except StoreError as error:
            raise QueryError(first_line(error.__cause__ or error)) from error

    def heads(self, measure: str, models: Sequence[str] = (), labels: Sequence[str] = (),
              outcome: str = "") -> pa.Table:
        """The mean of a measure per head: model, layer, head, value, low, high, images.

        Over all images, or those with one of the `labels` and that `outcome` (as in
        `store.selection.OUTCOMES`) among the models asked for, which are all if none is named.
        `value` has the measure's unit; low and high bound its 95 % interval over images; NULL is
        undefined. Importance is that of zero ablation.
        """
        _one_of("measure", [measure], [c.name for c in (*IMPORTANCE, *STRENGTH)
                                       if not pa.types.is_list(c.type)])
        _one_of("model", models, self.models)
        _one_of("label", labels, self._labels())
        try:
            chosen = Selection().with_(Labels(tuple(labels))).with_(Outcome(outcome))
        except ValueError as error:
            raise StoreError(str(error)) from error
        return head_values(Ask(self, tuple(models) or self.models, chosen), measure).rows(self)

    def similar(self, model: str, layer: int, head: int, count: int = 10,
                models: Sequence[str] | None = None) -> pa.Table:
        """The heads most like one, the most alike first: model, layer, head, similarity (-1..1),
        p_value, matched, pattern. Of all other models, or of those named."""
        return similar.alike(self, model, layer, head, count, models=models)

    def attention(self, model: str, layer: int, head: int, image: int) -> np.ndarray:
        """float32[query, key]: what a head attends to on an image whose attention is kept.

        Tokens stand in the model's order, prefix tokens first; a row sums to 1. NaN where two
        tokens do not see each other. A layer whose class token alone asks has one row.
        """
        found = replace(pattern_queries.attention((model, layer, head), image), then=None)
        rows = found.rows(self).to_pylist()
        if rows:
            return kept.whole(kept.decode(rows[0]), rows[0])
        _one_of("model", [model], self.models)
        there = self.query("SELECT DISTINCT image FROM attention WHERE model = ? AND layer = ? "
                           "AND head = ? ORDER BY image", [model, layer, head])["image"].to_pylist()
        if not there:
            raise StoreError(f"no attention of head {head} of layer {layer} of {model!r} is kept")
        _one_of("image", [image], there)
        raise StoreError(f"layer {layer} of {model!r} has no row in the table layers")

    def _labels(self) -> list[str]:
        return self.query("SELECT DISTINCT label FROM images WHERE label IS NOT NULL "
                          "ORDER BY label")["label"].to_pylist()


def _one_of(what: str, given: Sequence[object], there: Sequence[object]) -> None:
    """Raise StoreError for a name that is not there."""
    for name in given:
        if name not in there:
            shown = ", ".join(map(repr, there[:40])) + (", ..." if len(there) > 40 else "")
            raise StoreError(f"no {what} {name!r}; there is {shown or 'none'}")
