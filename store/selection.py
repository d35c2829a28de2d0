"""Cross-filtering as a value: a frozen set of clauses, at most one per source.

A newer clause replaces the one of its source, an empty one removes it. A selection turns into
`(where, params)` for any table, by the table's keys, and into URL text and back. Values never enter
SQL as text. The idea is Mosaic's (Heer and Moritz 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from store.polygon import Point

HeadKey = tuple[str, int, int]

MAX_HEADS = 5000
MODELS = "model IN (SELECT unnest($models::VARCHAR[]))"
OUTCOMES = {
    "all_correct": "every model is correct",
    "any_wrong": "at least one model is wrong",
    "all_wrong": "every model is wrong",
    "disagree": "models disagree",
}
_OUTCOME_SQL = {
    "all_correct": "bool_and(correct)",
    "any_wrong": "bool_or(NOT correct)",
    "all_wrong": "bool_and(NOT correct)",
    "disagree": "count(DISTINCT predicted) > 1",
}


@dataclass(frozen=True)
class Predicate:
    """A condition and the values of its named parameters; `sql` is empty where all rows pass."""

    sql: str = ""
    params: Mapping[str, object] = field(default_factory=dict)

    def and_(self, *others: Predicate) -> Predicate:
        parts = [p for p in (self, *others) if p.sql]
        merged: dict[str, object] = {}
        for part in parts:
            merged |= dict(part.params)
        return Predicate(" AND ".join(p.sql for p in parts), merged)

    @property
    def where(self) -> str:
        return f"WHERE {self.sql}" if self.sql else ""

    @property
    def expression(self) -> str:
        return f"({self.sql})" if self.sql else "true"


@dataclass(frozen=True)
class Scope:
    """What a clause needs to become SQL: the models on show, and who lies inside a polygon."""

    models: tuple[str, ...]
    inside: Callable[[Region], list[int]]


class Clause(Protocol):
    """One filter. `keys` are the columns a table must have for it to apply."""

    keys: ClassVar[frozenset[str]]

    @property
    def source(self) -> str: ...

    @property
    def empty(self) -> bool: ...

    def where(self, name: str, scope: Scope) -> Predicate: ...

    def to_url(self) -> list[tuple[str, str]]: ...


@dataclass(frozen=True)
class Region:
    """Images inside a polygon drawn in the overview of `model`."""

    model: str
    points: tuple[Point, ...]
    keys: ClassVar[frozenset[str]] = frozenset({"image"})

    @property
    def source(self) -> str:
        return f"region:{self.model}"

    @property
    def empty(self) -> bool:
        return not self.points

    def where(self, name: str, scope: Scope) -> Predicate:
        return Predicate(f"image IN (SELECT unnest(${name}::INTEGER[]))",
                         {name: scope.inside(self)})

    def to_url(self) -> list[tuple[str, str]]:
        numbers = ",".join(f"{v:.6g}" for point in self.points for v in point)
        return [("lasso", f"{numbers}@{self.model}")]

    @staticmethod
    def from_url(text: str) -> Region:
        numbers, _, model = text.partition("@")
        try:
            flat = [float(v) for v in numbers.split(",")]
        except ValueError as error:
            raise ValueError(f"lasso: no numbers in {text[:40]!r}") from error
        if not all(map(math.isfinite, flat)) or len(flat) % 2 or not 6 <= len(flat) <= 400:
            raise ValueError(f"lasso: 3 to 200 finite points, not {text[:40]!r}")
        return Region(model, tuple(zip(flat[::2], flat[1::2], strict=True)))


@dataclass(frozen=True)
class Labels:
    """Images with one of these labels."""

    labels: tuple[str, ...]
    keys: ClassVar[frozenset[str]] = frozenset({"image"})
    source: ClassVar[str] = "labels"

    @property
    def empty(self) -> bool:
        return not self.labels

    def where(self, name: str, scope: Scope) -> Predicate:
        return Predicate(f"image IN (SELECT image FROM images WHERE label IN "
                         f"(SELECT unnest(${name}::VARCHAR[])))", {name: list(self.labels)})

    def to_url(self) -> list[tuple[str, str]]:
        return [("label", label) for label in self.labels]


@dataclass(frozen=True)
class Outcome:
    """Images by what the models on show that have a classifier predict."""

    outcome: str
    keys: ClassVar[frozenset[str]] = frozenset({"image"})
    source: ClassVar[str] = "outcome"

    def __post_init__(self) -> None:
        if self.outcome and self.outcome not in OUTCOMES:
            raise ValueError(f"no outcome {self.outcome[:40]!r}; one of {', '.join(OUTCOMES)}")

    @property
    def empty(self) -> bool:
        return not self.outcome

    def where(self, name: str, scope: Scope) -> Predicate:
        return Predicate(
            f"image IN (SELECT image FROM predictions WHERE model IN (SELECT unnest("
            f"${name}::VARCHAR[])) GROUP BY image HAVING {_OUTCOME_SQL[self.outcome]})",
            {name: list(scope.models)})

    def to_url(self) -> list[tuple[str, str]]:
        return [("outcome", self.outcome)]


@dataclass(frozen=True)
class Heads:
    """A set of heads, each a (model, layer, head)."""

    heads: tuple[HeadKey, ...]
    keys: ClassVar[frozenset[str]] = frozenset({"model", "layer", "head"})
    source: ClassVar[str] = "heads"

    @property
    def empty(self) -> bool:
        return not self.heads

    def where(self, name: str, scope: Scope) -> Predicate:
        models, layers, numbers = zip(*self.heads, strict=True)
        return Predicate(
            f"(model, layer, head) IN (SELECT unnest(${name}_model::VARCHAR[]), "
            f"unnest(${name}_layer::INTEGER[]), unnest(${name}_head::INTEGER[]))",
            {f"{name}_model": list(models), f"{name}_layer": list(layers),
             f"{name}_head": list(numbers)})

    def to_url(self) -> list[tuple[str, str]]:
        by_model: dict[str, list[str]] = {}
        for model, layer, head in self.heads:
            by_model.setdefault(model, []).append(f"{layer}.{head}")
        return [("heads", ",".join(keys) + f"@{model}") for model, keys in by_model.items()]

    @staticmethod
    def from_url(texts: Sequence[str]) -> Heads:
        heads: list[HeadKey] = []
        for text in texts:
            keys, _, model = text.partition("@")
            for key in keys.split(","):
                layer, dot, head = key.partition(".")
                if not (dot and _is_small(layer) and _is_small(head)):
                    raise ValueError(f"heads: LAYER.HEAD,...@MODEL, not {text[:40]!r}")
                heads.append((model, int(layer), int(head)))
        if len(heads) > MAX_HEADS:
            raise ValueError(f"heads: at most {MAX_HEADS}, not {len(heads)}")
        return Heads(tuple(dict.fromkeys(heads)))


@dataclass(frozen=True)
class Selection:
    """Clauses in the order of their sources, so that equal selections are equal."""

    clauses: tuple[Clause, ...] = ()

    def with_(self, clause: Clause) -> Selection:
        """The clause takes the place of the one of its source; an empty one removes it."""
        kept = [c for c in self.clauses if c.source != clause.source]
        if not clause.empty:
            kept.append(clause)
        return Selection(tuple(sorted(kept, key=lambda c: c.source)))

    def without(self, source: str) -> Selection:
        return Selection(tuple(c for c in self.clauses if c.source != source))

    @property
    def regions(self) -> tuple[Region, ...]:
        return tuple(c for c in self.clauses if isinstance(c, Region))

    @property
    def labels(self) -> tuple[str, ...]:
        return next((c.labels for c in self.clauses if isinstance(c, Labels)), ())

    @property
    def outcome(self) -> str:
        return next((c.outcome for c in self.clauses if isinstance(c, Outcome)), "")

    @property
    def heads(self) -> tuple[HeadKey, ...]:
        return next((c.heads for c in self.clauses if isinstance(c, Heads)), ())

    @property
    def images(self) -> Selection:
        """The clauses that filter images."""
        return Selection(tuple(c for c in self.clauses if c.keys == {"image"}))

    def where(self, keys: Iterable[str], scope: Scope, skip: Iterable[str] = ()) -> Predicate:
        """The condition on a table with these keys, leaving out the sources in `skip`."""
        columns, left_out = set(keys), set(skip)
        applying = [c for c in self.clauses if c.keys <= columns and c.source not in left_out]
        names = [c.source.partition(":")[0] for c in applying]
        return Predicate().and_(*(
            clause.where(f"{name}{i}" if names.count(name) > 1 else name, scope)
            for i, (name, clause) in enumerate(zip(names, applying, strict=True))))

    def to_url(self) -> list[tuple[str, str]]:
        return [pair for clause in self.clauses for pair in clause.to_url()]

    @staticmethod
    def from_url(values: Mapping[str, Sequence[str]]) -> tuple[Selection, list[str]]:
        """The selection in a parsed query string, and what in it could not be read."""
        readers: list[Callable[[], Clause]] = [
            lambda: Labels(tuple(dict.fromkeys(values.get("label", ())))),
            lambda: Outcome(values.get("outcome", [""])[0]),
            lambda: Heads.from_url([t for t in values.get("heads", ()) if t]),
            *((lambda t=text: Region.from_url(t)) for text in values.get("lasso", ())[:16]),
        ]
        selection, problems = Selection(), []
        for read in readers:
            try:
                selection = selection.with_(read())
            except ValueError as error:
                problems.append(str(error))
        return selection, problems


def _is_small(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4
