"""Canonical patterns against loops over pairs of patches, and what must hold without them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch

from precompute.anatomy import Geometry, Windows
from precompute.canonical import SHRINKAGE, SINKS, canonical, uniform_masses
from precompute.strength import look
from store.canon import CLASS, NEAR_SIDE, PATCH
from tests.precompute.patterns_world import attention_of, every
from tests.precompute.test_strength import (
    ALL,
    CLASS_ASKS,
    GRIDS,
    _attention,
    _hop_inside,
    _places,
)

SOME = [g for g in ALL if g.patches > 1]
LONG = [Geometry(15, 14, 1, True), Geometry(1, 30, 0, False)]
"""Wide enough that near is two patches, and lines are three patches broad."""


def _side(geometry: Geometry) -> tuple[int, int]:
    windows = geometry.windows or Windows(geometry.grid_h, geometry.grid_w)
    return windows.height, windows.width


def _pairs(geometry: Geometry) -> list[tuple[int, int, int, int, int]]:
    """(window, query, key, dy, dx) of all pairs of places that have an offset, padding aside."""
    _, width = _side(geometry)
    return [(w, i, j, j // width - i // width, j % width - i % width)
            for w, patches in enumerate(_places(geometry))
            for i, j in product(range(len(patches)), repeat=2)
            if -1 not in (patches[i], patches[j])
            and _hop_inside(geometry, w, i, j) is not None]


def _rows(attention: np.ndarray, geometry: Geometry) -> np.ndarray:
    """window x query x key: weights between patches, each row scaled to sum to 1."""
    first = geometry.prefix
    out = np.zeros_like(attention[:, first:, first:])
    for w, patches in enumerate(_places(geometry)):
        real = [place for place, patch in enumerate(patches) if patch >= 0]
        for i in real:
            total = sum(attention[w, first + i, first + j] for j in real)
            for j in real:
                out[w, i, j] = attention[w, first + i, first + j] / total
    return out


def _loops(attention: np.ndarray, geometry: Geometry) -> dict[str, object]:
    """One head's patch columns of `pattern_inputs`, a pair at a time."""
    pairs, (height, width) = _pairs(geometry), _side(geometry)
    rows, patches = _rows(attention, geometry), geometry.patches
    sums, counts = {}, {}
    for w, i, j, dy, dx in pairs:
        sums[dy, dx] = sums.get((dy, dx), 0.0) + rows[w, i, j]
        counts[dy, dx] = counts.get((dy, dx), 0) + 1
    lent, uniform = SHRINKAGE * patches, patches / len(pairs)

    def mean(dy: int, dx: int) -> float:
        there = abs(dy) < height and abs(dx) < width
        return (sums.get((dy, dx), 0) + lent * uniform) / (counts.get((dy, dx), 0) + lent) \
            if there else 0.0

    reach = NEAR_SIDE // 2
    return {"kernel": _resampled(mean, height, width),
            "near": [mean(dy, dx) for dy, dx in product(range(-reach, reach + 1), repeat=2)],
            "even": _evenness(rows, geometry, pairs), **_masses(sums, height, width, patches),
            "sink_mass": _sinks(rows, geometry)}


def _resampled(mean: Callable[[int, int], float], height: int, width: int) -> list[float]:
    """Mean over every cell of what is at the nearest offset; each axis goes from -1 to 1."""
    cells = [sum(mean(dy, dx) * _nearest(y, dy, height) * _nearest(x, dx, width)
                 for dy in range(1 - height, height) for dx in range(1 - width, width))
             for y, x in product(range(PATCH.side), repeat=2)]
    return [cell / sum(cells) for cell in cells]


def _nearest(cell: int, offset: int, side: int) -> float:
    """The length of a cell to whose points no other offset of the grid is nearer."""
    low = -1.0 if offset == 1 - side else (offset - 0.5) / side
    high = 1.0 if offset == side - 1 else (offset + 0.5) / side
    start, end = (2 * (cell + k) / PATCH.side - 1 for k in (0, 1))
    return max(0.0, min(high, end) - max(low, start))


def _evenness(rows: np.ndarray, geometry: Geometry, pairs: list) -> float:
    seen: dict[tuple[int, int], int] = {}
    for w, i, *_ in pairs:
        seen[w, i] = seen.get((w, i), 0) + 1
    found = [-sum(p * math.log(p) for p in rows[w, i] if p > 0) / math.log(count)
             for (w, i), count in seen.items() if count > 1]
    return min(1.0, sum(found) / len(found)) if found else math.nan


def _masses(sums: dict, height: int, width: int, patches: int) -> dict[str, float]:
    near = (max(1, height // 7), max(1, width // 7))
    thin = (height // 14, width // 14)

    def mass(counts: Callable[[int, int], bool]) -> float:
        return sum(weight for (dy, dx), weight in sums.items()
                   if counts(abs(dy), abs(dx))) / patches

    def far(dy: int, dx: int) -> bool:
        return dy > near[0] or dx > near[1]

    return {"self_mass": mass(lambda dy, dx: dy == dx == 0),
            "local_mass": mass(lambda dy, dx: not far(dy, dx)),
            "row_mass": mass(lambda dy, dx: far(dy, dx) and dy <= thin[0]),
            "column_mass": mass(lambda dy, dx: far(dy, dx) and dx <= thin[1]),
            "diagonal_mass": mass(lambda dy, dx: far(dy, dx) and abs(dy - dx) <= min(thin))}


def _sinks(rows: np.ndarray, geometry: Geometry) -> float:
    total = 0.0
    for w, patches in enumerate(_places(geometry)):
        left = max(1.0, SINKS * sum(patch >= 0 for patch in patches))
        for key in sorted(rows[w].sum(0), reverse=True):
            total += min(1.0, left) * key
            left = max(0.0, left - 1)
    return total / geometry.patches


@pytest.mark.parametrize("geometry", [*SOME, *LONG], ids=str)
def test_patch_columns_agree_with_loops_over_pairs(geometry: Geometry) -> None:
    attention = _attention(geometry)
    found = {name: values[1, 2] for name, values in canonical(look(attention, geometry)).items()}
    wanted = _loops(attention[1, :, 2].numpy(), geometry)
    assert found["patch"][:PATCH.cells].tolist() == pytest.approx(wanted.pop("kernel"))
    assert found["patch"][PATCH.cells].item() == pytest.approx(wanted.pop("even"), nan_ok=True)
    for name, value in wanted.items():
        assert found[name].tolist() == pytest.approx(value, rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("geometry", [g for g in [*GRIDS, *LONG, CLASS_ASKS] if g.class_token],
                         ids=str)
def test_the_class_row_is_pooled_by_area(geometry: Geometry) -> None:
    attention = _attention(geometry)
    found = canonical(look(attention, geometry))["class"][0, 1]
    row = attention[0, 0, 1, 0]
    patches = row[geometry.prefix:] / row[geometry.prefix:].sum()
    wanted = torch.zeros(CLASS.side, CLASS.side, dtype=torch.double)
    for patch, weight in enumerate(patches.tolist()):
        for y, x in product(range(CLASS.side), repeat=2):
            wanted[y, x] += weight * _covered(patch // geometry.grid_w, geometry.grid_h, y) \
                * _covered(patch % geometry.grid_w, geometry.grid_w, x)
    torch.testing.assert_close(found[:CLASS.cells], wanted.flatten())
    assert found[CLASS.cells:].tolist() == pytest.approx([
        row[geometry.prefix:].sum().item(), row[0].item(), row[1:geometry.prefix].sum().item()])


def _covered(patch: int, side: int, cell: int) -> float:
    """The share of a patch's side that lies in a cell."""
    low, high = max(patch / side, cell / CLASS.side), min((patch + 1) / side,
                                                          (cell + 1) / CLASS.side)
    return max(0.0, high - low) * side


@pytest.mark.parametrize("geometry", SOME, ids=str)
def test_groups_sum_to_one(geometry: Geometry) -> None:
    found = canonical(look(_attention(geometry), geometry))
    for kind in (PATCH, CLASS):
        for group in kind.groups:
            total = found[kind.name][..., group].sum(-1)
            known = total[~total.isnan()]
            torch.testing.assert_close(known, torch.ones_like(known))


@pytest.mark.parametrize("geometry", [*SOME, *LONG], ids=str)
def test_a_uniform_head_is_flat_and_even_and_as_expected(geometry: Geometry) -> None:
    rows = torch.zeros(geometry.attention_shape, dtype=torch.double)
    for w, i, j, *_ in _pairs(geometry):
        rows[w, geometry.prefix + i, geometry.prefix + j] = 1
    rows[rows.sum(-1) == 0] = 1
    attention = (rows / rows.sum(-1, keepdim=True))[None, :, None]
    found = {name: values[0, 0] for name, values in canonical(look(attention, geometry)).items()}
    if any(n > 1 for n in geometry.attention_shape[1:]) and not found["patch"].isnan().any():
        assert found["patch"][PATCH.cells].item() == pytest.approx(1)
    for name, mass in uniform_masses(geometry).items():
        assert found[name].item() == pytest.approx(mass), name
    if geometry.windows is None:
        torch.testing.assert_close(found["patch"][:PATCH.cells], torch.full(
            (PATCH.cells,), 1 / PATCH.cells, dtype=torch.double))


def test_what_the_prefix_gets_changes_nothing() -> None:
    bare, dressed = Geometry(4, 5, 0, False), Geometry(4, 5, 3, True)
    attention = _attention(bare)
    more = torch.zeros(2, 1, 3, 23, 23, dtype=torch.double)
    more[..., 3:, 3:] = attention * 0.1
    more[..., 3:, 0] = 0.9
    more[..., :3, :] = 1 / 23
    one, other = (canonical(look(a, g)) for a, g in ((attention, bare), (more, dressed)))
    for name in set(one) - {"class"}:
        torch.testing.assert_close(one[name], other[name])


@pytest.mark.parametrize(("pattern", "grid"), every((7, 7), (6, 8)))
def test_a_transposed_head_has_a_transposed_pattern(pattern: str, grid: tuple[int, int]) -> None:
    height, width = grid
    attention = attention_of(pattern, grid, prefix=0)
    turned = attention.unflatten(-1, grid).unflatten(-3, grid).transpose(-1, -2) \
        .transpose(-3, -4).flatten(-4, -3).flatten(-2)
    one = canonical(look(attention, Geometry(height, width, 0, False)))
    other = canonical(look(turned, Geometry(width, height, 0, False)))
    kernels = [found["patch"][..., :PATCH.cells].unflatten(-1, (PATCH.side,) * 2)
               for found in (one, other)]
    torch.testing.assert_close(kernels[0], kernels[1].transpose(-1, -2))
    torch.testing.assert_close(one["row_mass"], other["column_mass"])
    torch.testing.assert_close(one["sink_mass"], other["sink_mass"])


def test_where_no_patch_asks_only_the_class_pattern_is_known() -> None:
    found = canonical(look(_attention(CLASS_ASKS), CLASS_ASKS))
    assert not found.pop("class").isnan().any()
    assert all(values.isnan().all() for values in found.values())
    assert found["patch"].shape[-1] == PATCH.size


def test_without_a_class_token_there_is_no_class_pattern() -> None:
    for geometry in (Geometry(3, 3, 0, False), Geometry(3, 3, 2, False)):
        found = canonical(look(_attention(geometry), geometry))
        assert found["class"].isnan().all() and found["class"].shape[-1] == CLASS.size
        assert not found["patch"].isnan().any()


def test_a_query_with_no_weight_on_patches_leaves_the_head_undefined() -> None:
    geometry = Geometry(2, 3, 1, True)
    attention = _attention(geometry)
    attention[0, 0, 1, 3] = torch.eye(7, dtype=torch.double)[0]
    found = canonical(look(attention, geometry))
    assert found["patch"][0, 1].isnan().any()
    assert not found["patch"][0, 0].isnan().any() and not found["patch"][1, 1].isnan().any()


def test_a_single_patch_has_no_evenness() -> None:
    geometry = Geometry(1, 1, 1, True)
    found = canonical(look(_attention(geometry), geometry))["patch"]
    assert found[..., PATCH.cells:].isnan().all()
    torch.testing.assert_close(found[..., :PATCH.cells],
                               torch.full_like(found[..., :PATCH.cells], 1 / PATCH.cells))
