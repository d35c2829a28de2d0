"""What a hand does on the page, again and again and never quite the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.page import Gesture, Page
from store.measures import IMPORTANCE, STRENGTH
from store.reader import Store
from store.selection import OUTCOMES

CORNERS = 24
FEW, HALF, MOST = 0.02, 0.5, 0.95
"""Shares of the images that lassos are drawn around."""

Head = list


def ring(store: Store, rng: np.random.Generator, model: str, share: float) -> list[list[float]]:
    """Corners of a lasso in the overview of a model, around this share of the images: around one
    of them where it is small, else around their middle."""
    rows = store.query("SELECT x, y FROM predictions WHERE model = ? AND x IS NOT NULL", [model])
    points = np.stack([rows[axis].to_numpy().astype(float) for axis in "xy"], 1)
    middle = points[rng.integers(len(points))] if share < HALF else points.mean(0)
    middle = middle + rng.normal(0, 0.5, 2)
    radius = np.quantile(np.hypot(*(points - middle).T), share)
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    return (middle + radius * np.stack([np.cos(angle), np.sin(angle)], 1)).tolist()


@dataclass
class Hand:
    """Draws, chooses and clears on a page; what is drawn depends on `seed` and how often."""

    store: Store
    page: Page
    seed: int = 0
    count: int = 0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        blocks = self.store.query("SELECT model, layer, heads FROM layers ORDER BY ALL")
        self.blocks = [tuple(row.values()) for row in blocks.to_pylist()]
        self.models = sorted({model for model, _, _ in self.blocks})
        self.labels = self.store.query("SELECT DISTINCT label FROM images WHERE label IS NOT NULL "
                                       "ORDER BY label")["label"].to_pylist()
        (self.images,) = self.store.query("SELECT count(*) AS n FROM images")["n"].to_pylist()

    def show_all(self) -> Gesture:
        return self.page.do("models", "value", self.models)

    def lasso(self, share: float) -> Gesture:
        """Around a spot in the overview of some model, so that this share of images is inside."""
        model = self._any(self.models)
        points = ring(self.store, self.rng, model, share)
        return self._gesture(kind="region", model=model, points=points)

    def label(self) -> Gesture:
        return self.page.do("labels", "value", [self._any(self.labels)])

    def outcome(self) -> Gesture:
        return self.page.do("outcome", "value", self._other("outcome", [*OUTCOMES]))

    def heads(self, count: int) -> Gesture:
        return self._gesture(kind="heads", op="replace", heads=self.some_heads(count))

    def some_heads(self, count: int) -> list[Head]:
        everyone = [[model, layer, head] for model, layer, heads in self.blocks
                    for head in range(heads)]
        return [everyone[i] for i in self.rng.permutation(len(everyone))[:count]]

    def block(self) -> Gesture:
        """All heads of one block."""
        model, layer, heads = self.blocks[self.rng.integers(len(self.blocks))]
        return self._gesture(kind="heads", op="replace",
                             heads=[[model, layer, head] for head in range(heads)])

    def another_head(self) -> Gesture:
        ((model, layer, head),) = self.some_heads(1)
        return self._gesture(kind="open", keys=[f"{layer}.{head}@{model}"])

    def image(self) -> Gesture:
        return self._gesture(kind="focus", image=int(self.rng.integers(self.images)))

    def importance(self) -> Gesture:
        return self._measure("importance", [c.name for c in IMPORTANCE])

    def strength(self) -> Gesture:
        return self._measure("strength", [c.name for c in STRENGTH])

    def clear(self) -> Gesture:
        """Every filter, by the chip that drops them all."""
        return self._gesture(kind="drop", source="*")

    def forget_image(self) -> Gesture:
        return self._gesture(kind="drop", source="focus")

    def _measure(self, control: str, names: list[str]) -> Gesture:
        return self.page.do(control, "value", self._other(control, names))

    def _other(self, control: str, names: list[str]) -> str:
        """One that the control does not show now."""
        return self._any([name for name in names
                          if name != self.page.values.get((control, "value"))])

    def _gesture(self, **what: object) -> Gesture:
        self.count += 1
        return self.page.do("gesture", "data", [{**what, "n": self.count}])

    def _any(self, names: list[str]) -> str:
        return names[int(self.rng.integers(len(names)))]


Act = Callable[[Hand], Gesture]

ROUND: tuple[tuple[str, Act], ...] = (
    ("lasso, 2 % of the images", lambda hand: hand.lasso(FEW)),
    ("other importance, filtered", Hand.importance),
    ("clear the filters", Hand.clear),
    ("lasso, half", lambda hand: hand.lasso(HALF)),
    ("other strength, filtered", Hand.strength),
    ("8 heads, filtered", lambda hand: hand.heads(8)),
    ("clear the filters", Hand.clear),
    ("lasso, nearly all", lambda hand: hand.lasso(MOST)),
    ("clear the filters", Hand.clear),
    ("a label", Hand.label),
    ("clear the filters", Hand.clear),
    ("an outcome", Hand.outcome),
    ("clear the filters", Hand.clear),
    ("1 head", lambda hand: hand.heads(1)),
    ("8 heads", lambda hand: hand.heads(8)),
    ("the heads of a block", Hand.block),
    ("200 heads", lambda hand: hand.heads(200)),
    ("turn to another head", Hand.another_head),
    ("clear the filters", Hand.clear),
    ("focus an image", Hand.image),
    ("forget the image", Hand.forget_image),
)
"""One round of gestures, each with the name that it is reported under."""
