"""Strength measures against loops over patches, and the invariants that need no reference."""

from __future__ import annotations

import math

import pytest
import torch

from precompute.anatomy import Geometry
from precompute.strength import STRENGTH, confidence, look
from store.schema import PROFILES
from store.schema import STRENGTH as COLUMNS

GRIDS = [Geometry(4, 4, 1, True), Geometry(3, 5, 0, False), Geometry(5, 2, 3, True),
         Geometry(2, 3, 2, False), Geometry(1, 1, 1, True)]


def _attention(geometry: Geometry, seed: int = 0) -> torch.Tensor:
    tokens = geometry.prefix + geometry.patches
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(2, 3, tokens, tokens, generator=generator, dtype=torch.float64)
            ).softmax(-1)


def _loops(attention: torch.Tensor, geometry: Geometry) -> dict[str, object]:
    """One head's measures by the definitions, a weight at a time."""
    first, patches = geometry.prefix, geometry.patches
    where = [(i // geometry.grid_w, i % geometry.grid_w) for i in range(patches)]
    weight = attention[first:, first:].tolist()
    hops = max(geometry.grid_h, geometry.grid_w)
    mass, pairs, far, renormalised, rows = [0.0] * hops, [0] * hops, 0.0, 0.0, 0.0
    for i, (r, c) in enumerate(where):
        here = 0.0
        for j, (s, d) in enumerate(where):
            hop = max(abs(r - s), abs(c - d))
            mass[hop] += weight[i][j]
            pairs[hop] += 1
            here += weight[i][j] * math.hypot((r - s) / geometry.grid_h, (c - d) / geometry.grid_w)
        far += here / patches
        renormalised += here / sum(weight[i]) / patches
        rows -= sum(w * math.log(w) for w in attention[first + i].tolist()) / patches
    strength = [m / n for m, n in zip(mass, pairs, strict=True)]
    share = [s / sum(strength) for s in strength]
    joint = [[w / sum(row) / patches for w in row] for row in weight]
    key = [sum(joint[i][j] for i in range(patches)) for j in range(patches)]
    information = sum(p * math.log(p / (key[j] / patches))
                      for row in joint for j, p in enumerate(row))
    of_keys = -sum(k * math.log(k) for k in key)
    norm = math.sqrt(math.log(patches) * of_keys)
    return {
        "hop_strength": strength, "hop_mass": [m / patches for m in mass],
        "hop_entropy": -sum(p * math.log(p) for p in share),
        "row_entropy": rows, "distance": far, "distance_renormalised": renormalised,
        "patch_self": sum(weight[i][i] for i in range(patches)) / patches,
        "nmi": information / norm if norm > 1e-6 else math.nan,
        "sink": patches * max(sum(weight[i][j] for i in range(patches)) / patches
                              for j in range(patches)),
    }


@pytest.mark.parametrize("geometry", GRIDS, ids=str)
def test_measures_agree_with_loops_over_patches(geometry: Geometry) -> None:
    attention = _attention(geometry)
    found = {name: measure(look(attention, geometry)) for name, measure in STRENGTH.items()}
    for image, head in ((0, 0), (1, 2)):
        for name, wanted in _loops(attention[image, head], geometry).items():
            assert found[name][image, head].tolist() == pytest.approx(
                wanted, rel=1e-9, abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("geometry", GRIDS, ids=str)
def test_hop_mass_and_prefix_share_make_one(geometry: Geometry) -> None:
    looking = look(_attention(geometry), geometry)
    total = STRENGTH["hop_mass"](looking).sum(-1) + STRENGTH["prefix_share"](looking)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_a_uniform_head_has_its_known_values() -> None:
    geometry = Geometry(14, 14, 0, False)
    looking = look(torch.full((1, 1, 196, 196), 1 / 196, dtype=torch.float64), geometry)
    found = {name: measure(looking)[0, 0] for name, measure in STRENGTH.items()}
    assert found["hop_entropy"] == pytest.approx(math.log(14))
    assert found["row_entropy"] == pytest.approx(math.log(196))
    assert found["distance"] == pytest.approx(0.520, abs=5e-4)
    assert found["sink"] == pytest.approx(1)
    assert found["nmi"] == pytest.approx(0, abs=1e-9)


def test_a_head_that_looks_at_its_own_patch() -> None:
    geometry = Geometry(4, 6, 0, False)
    looking = look(torch.eye(24, dtype=torch.float64)[None, None], geometry)
    found = {name: measure(looking)[0, 0] for name, measure in STRENGTH.items()}
    assert found["hop_mass"].tolist() == [1, 0, 0, 0, 0, 0]
    assert found["patch_self"] == 1
    assert found["distance"] == 0
    assert found["nmi"] == pytest.approx(1)
    assert confidence(looking).item() == 1


@pytest.mark.parametrize(("geometry", "undefined"), [
    (Geometry(3, 3, 0, False), {"cls_to_patch", "cls_self", "patch_to_cls", "register_share"}),
    (Geometry(3, 3, 1, True), {"register_share"}),
    (Geometry(3, 3, 5, True), set()),
    (Geometry(3, 3, 2, False), {"cls_to_patch", "cls_self", "patch_to_cls"})])
def test_what_a_model_lacks_is_undefined_not_zero(geometry: Geometry, undefined: set) -> None:
    looking = look(_attention(geometry), geometry)
    found = {name for name, measure in STRENGTH.items() if measure(looking).isnan().any()}
    assert found == undefined


def test_prefix_keys_are_shared_out_between_class_and_registers() -> None:
    looking = look(_attention(Geometry(3, 3, 5, True)), Geometry(3, 3, 5, True))
    parts = STRENGTH["patch_to_cls"](looking) + STRENGTH["register_share"](looking)
    torch.testing.assert_close(parts, STRENGTH["prefix_share"](looking))


def test_every_strength_column_has_its_function() -> None:
    assert set(STRENGTH) == {c.name for c in COLUMNS} | {c.name for c in PROFILES}
