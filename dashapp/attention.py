"""One head's attention on one image, as a matrix over tokens, and which of its links are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dashapp.facts import Block, Facts
from dashapp.state import State


@dataclass(frozen=True)
class Matrix:
    """`weights`: float32[query, key], NaN where two tokens do not see each other. Where the class
    token alone asks there is one row, its own.
    """

    weights: np.ndarray
    block: Block

    @staticmethod
    def of(links: pa.Table, block: Block) -> Matrix:
        """From rows of `pattern_queries.attention`."""
        queries = 1 if block.class_query else block.tokens
        weights = np.full((queries, block.tokens), np.nan, np.float32)
        weights[links["query"].to_numpy(), links["key"].to_numpy()] = links["weight"].to_numpy()
        return Matrix(weights, block)

    @property
    def seen(self) -> np.ndarray:
        """float32[n]: the weights of all pairs that see each other."""
        return self.weights[np.isfinite(self.weights)]

    @property
    def top(self) -> float:
        return float(self.seen.max(initial=0.0))

    def along(self, token: int, looks: str) -> np.ndarray:
        """float32[token]: what the token gives to each other ("at"), or gets of each ("from")."""
        if looks == "from":
            out = np.full(self.block.tokens, np.nan, np.float32)
            out[:len(self.weights)] = self.weights[:, token]
            return out
        if token < len(self.weights):
            return self.weights[token]
        return np.full(self.block.tokens, np.nan, np.float32)

    def drawn(self, state: State) -> tuple[float, float]:
        """The range of weights whose links are drawn: the brushed one, else the largest few."""
        if state.weights is not None:
            return state.weights
        return largest(self.seen, float(state.links) / 100), 1.0


def largest(weights: np.ndarray, share: float) -> float:
    """The weight from which on the largest `share` of all lies; above all of them if there are
    none. Equal weights stay together, so that it may be more."""
    if not len(weights):
        return 1.0
    count = max(1, math.ceil(share * len(weights)))
    return float(np.partition(weights, len(weights) - count)[len(weights) - count])


def picked(state: State, block: Block) -> int:
    """The token that was picked; else the class token, else the patch in the middle."""
    if state.query is not None and state.query < block.tokens:
        return state.query
    if block.class_token:
        return 0
    return block.prefix + (block.grid_h // 2) * block.grid_w + block.grid_w // 2


def image_of(state: State, facts: Facts) -> int | None:
    """The image that the head page is about, if the head's attention is kept of it: the focused
    one, else the first that is kept."""
    if state.opened is None:
        return None
    kept = facts.model(state.opened[0]).kept
    if state.focus is None:
        return kept[0] if kept else None
    return state.focus if state.focus in kept else None


def missing(state: State, facts: Facts) -> str:
    """Why there is no attention to show."""
    if state.opened is None:
        return "Choose a model above."
    model = facts.model(state.opened[0])
    if not model.kept:
        return f"No attention of {model.name} is kept: run headatlas precompute with " \
               "--keep-attention."
    return f"Attention of image {state.focus} is not kept: click one of the kept images above."
