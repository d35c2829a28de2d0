"""What a view is: a question, a picture and a sentence. Views never open a connection."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dashapp.facts import Facts, Model
from dashapp.state import State
from store.queries import Ask, Query

Rows = Mapping[str, pa.Table]


@dataclass(frozen=True)
class Drawn:
    """What a view shows: a figure, or elements of the page."""

    content: Any
    caption: str


@dataclass(frozen=True)
class View:
    """One chart, or one panel of words and pictures. `reads` are the fields of the state that it
    depends on: it is redrawn when one changes. `brush` is what a lasso or click in it sets: images,
    heads, a token, weights, a mode or nothing. `form`: plot, or panel. While the fields in `zoom`
    stay, a new figure keeps the ranges that a person has zoomed to. `tab`: where on the page it is.
    """

    id: str
    title: str
    help: str
    brush: str
    reads: tuple[str, ...]
    controls: tuple[str, ...]
    ask: Callable[[Ask, State, Facts], dict[str, Query]]
    draw: Callable[[Rows, State, Facts], Drawn]
    form: str = "plot"
    zoom: tuple[str, ...] = ("models", "importance", "strength", "axis", "hops")
    tab: str = "heads"

    def key(self, state: State) -> str:
        """Equal where the picture would be equal, and short: it travels with each gesture."""
        text = repr([getattr(state, name) for name in self.reads])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def shown(state: State, facts: Facts) -> list[Model]:
    return [facts.model(name) for name in state.models]


def heads_on_show(state: State) -> tuple:
    """The chosen heads of the models on show."""
    return tuple(h for h in state.selection.heads if h[0] in state.models)


def over_images(state: State) -> str:
    return "the filtered images" if state.selection.images.clauses else "all images"


def interval_note(state: State) -> str:
    return ("Whiskers: mean ± 1.96 standard errors over the filtered images"
            if state.selection.images.clauses else "Whiskers: 95 % bootstrap interval over images")
