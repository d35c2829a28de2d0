"""Lassos: which points lie inside a polygon, and the same polygon with fewer corners."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]

MAX_VERTICES = 40


def contains(polygon: Sequence[Point], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which of the points (x, y) lie inside the polygon, by the even-odd rule. bool, like x."""
    inside = np.zeros(np.shape(x), bool)
    previous_x, previous_y = polygon[-1]
    for here_x, here_y in polygon:
        crosses = (here_y > y) != (previous_y > y)
        if here_y != previous_y:
            at = (previous_x - here_x) * (y - here_y) / (previous_y - here_y) + here_x
            inside ^= crosses & (x < at)
        previous_x, previous_y = here_x, here_y
    return inside


def simplify(points: Sequence[Point], vertices: int = MAX_VERTICES) -> tuple[Point, ...]:
    """The polygon with at most `vertices` corners (Visvalingam), rounded to 4 digits of its size.

    The corner that spans the smallest triangle with its neighbours goes first.
    """
    ring = [p for i, p in enumerate(points) if p != points[i - 1]]
    while len(ring) > max(vertices, 3):
        areas = [_area(ring[i - 1], ring[i], ring[(i + 1) % len(ring)]) for i in range(len(ring))]
        del ring[int(np.argmin(areas))]
    if not ring:
        return ()
    extent = max(np.ptp([p[0] for p in ring]), np.ptp([p[1] for p in ring]), 1e-9)
    digits = max(0, 4 - math.ceil(math.log10(extent)))
    return tuple((_rounded(x, digits), _rounded(y, digits)) for x, y in ring)


def _rounded(value: float, digits: int) -> float:
    """As it will come back from the URL."""
    return float(f"{round(float(value), digits):.6g}")


def _area(a: Point, b: Point, c: Point) -> float:
    return abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]))
