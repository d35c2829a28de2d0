"""Strength measures against loops over patches, and the invariants that need no reference."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from timm.models.cait import Cait
from timm.models.swin_transformer import (
    SwinTransformer,
    SwinTransformerBlock,
    window_partition,
)
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer_sam import VisionTransformerSAM

from precompute.anatomy import Geometry, Windows
from precompute.clean import clean_pass
from precompute.families import dissect
from precompute.strength import STRENGTH, Looking, confidence, look, offset_sums
from store.schema import PROFILES
from store.schema import STRENGTH as COLUMNS

GRIDS = [Geometry(4, 4, 1, True), Geometry(3, 5, 0, False), Geometry(5, 2, 3, True),
         Geometry(2, 3, 2, False), Geometry(1, 1, 1, True)]
WHOLE_WINDOWS = [Geometry(*grid, 0, False, Windows(*windows)) for grid, windows in (
    ((8, 8), (4, 4)), ((8, 8), (4, 4, 2, 2)), ((4, 8), (4, 4, 0, 2)), ((8, 4), (4, 4, 2, 0)),
    ((6, 8), (3, 4, 1, 2)), ((4, 4), (4, 4, 2, 2)), ((2, 6), (1, 3, 0, 1)), ((2, 3), (1, 1)))]
PADDED_WINDOWS = [Geometry(*grid, 0, False, Windows(*windows)) for grid, windows in (
    ((5, 6), (4, 4)), ((5, 5), (4, 4)), ((3, 3), (4, 4)), ((7, 9), (4, 4, 2, 2)),
    ((5, 5), (4, 4, 2, 2)), ((7, 4), (3, 2, 1, 1)), ((3, 7), (4, 3, 2, 1)))]
CLASS_ASKS = Geometry(3, 4, 1, True, class_query=True)
ALL = [*GRIDS, *WHOLE_WINDOWS, *PADDED_WINDOWS]
OF_THE_CLASS = {"cls_to_patch", "cls_self", "patch_to_cls", "register_share"}


@lru_cache
def _timm_mask(geometry: Geometry) -> torch.Tensor:
    """What timm adds to the logits of every window: window x query x key."""
    windows = geometry.windows
    mask = None if windows is None else SwinTransformerBlock(
        dim=4, num_heads=1, input_resolution=(geometry.grid_h, geometry.grid_w),
        window_size=(windows.height, windows.width), always_partition=True,
        shift_size=(windows.shift_h, windows.shift_w)).get_attn_mask()
    return torch.zeros(geometry.attention_shape) if mask is None else mask


def _attention(geometry: Geometry, seed: int = 0) -> torch.Tensor:
    """Two images, three heads, at random, hidden where timm hides it."""
    windows, queries, keys = geometry.attention_shape
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, windows, 3, queries, keys, generator=generator,
                             dtype=torch.float64)
    return (logits + _timm_mask(geometry)[:, None]).softmax(-1)


@lru_cache
def _places(geometry: Geometry) -> list[list[int]]:
    """The number of the patch at every place of every window, -1 for padding, by timm's steps."""
    patches = torch.arange(geometry.patches).reshape(geometry.grid_h, geometry.grid_w)
    windows = geometry.windows
    if windows is None:
        return [patches.flatten().tolist()]
    rolled = patches.roll((-windows.shift_h, -windows.shift_w), (0, 1))
    padding = (0, -geometry.grid_w % windows.width, 0, -geometry.grid_h % windows.height)
    padded = torch.nn.functional.pad(rolled, padding, value=-1)
    inside = window_partition(padded[None, :, :, None], (windows.height, windows.width))
    return inside.flatten(1).tolist()


def _hop_inside(geometry: Geometry, window: int, query: int, key: int) -> int | None:
    """Chebyshev distance of two places of a window that hold patches as far apart in the image,
    and see each other; None where they do not."""
    if _timm_mask(geometry)[window, query, key] != 0:
        return None
    side = geometry.windows or Windows(geometry.grid_h, geometry.grid_w)
    patches = _places(geometry)[window]
    there = [divmod(patches[place], geometry.grid_w) for place in (query, key)]
    here = [divmod(place, side.width) for place in (query, key)]
    offset = [(b[0] - a[0], b[1] - a[1]) for a, b in (there, here)]
    return max(map(abs, offset[1])) if offset[0] == offset[1] else None


def _hops(attention: list, geometry: Geometry) -> tuple[list[float], list[int]]:
    """Summed weights and number of pairs, by hop."""
    side = geometry.windows or Windows(geometry.grid_h, geometry.grid_w)
    mass, pairs = [0.0] * max(side.height, side.width), [0] * max(side.height, side.width)
    for w, patches in enumerate(_places(geometry)):
        for i, query in enumerate(patches):
            for j, key in enumerate(patches):
                hop = None if -1 in (query, key) else _hop_inside(geometry, w, i, j)
                if hop is not None:
                    mass[hop] += attention[w][geometry.prefix + i][geometry.prefix + j]
                    pairs[hop] += 1
    return mass, pairs


def _nmi(joint: list[list[float]]) -> float:
    """Of a joint distribution of query and key, queries equally likely."""
    queries = len(joint)
    key = [sum(row[j] for row in joint) for j in range(queries)]
    information = sum(p * math.log(p / (key[j] / queries))
                      for row in joint for j, p in enumerate(row) if p > 0)
    of_keys = -sum(k * math.log(k) for k in key)
    norm = math.sqrt(math.log(queries) * max(of_keys, 0))
    return information / norm if norm > 1e-6 else math.nan


def _loops(attention: torch.Tensor, geometry: Geometry) -> dict[str, object]:
    """One head's measures by the definitions, a weight at a time."""
    first, patches, weights = geometry.prefix, geometry.patches, attention.tolist()
    far, renormalised, rows, itself, sure, sink, nmi = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, []
    for w, places in enumerate(_places(geometry)):
        real = [place for place, patch in enumerate(places) if patch >= 0]
        weight = [[weights[w][first + i][first + j] for j in real] for i in real]
        for i, here in enumerate(real):
            row = weights[w][first + here]
            reach = sum(weight[i][j] * _distance(places[here], places[there], geometry)
                        for j, there in enumerate(real))
            far += reach / patches
            renormalised += reach / sum(weight[i]) / patches
            rows -= sum(p * math.log(p) for p in row if p > 0) / patches
            itself += weight[i][i] / patches
            sure += max(row) / patches
        column = [sum(row[j] for row in weight) / len(real) for j in range(len(real))]
        sink += len(real) / patches * len(real) * max(column)
        nmi.append((_nmi([[p / sum(row) / len(real) for p in row] for row in weight]), len(real)))
    mass, pairs = _hops(weights, geometry)
    strength = [m / n if n else math.nan for m, n in zip(mass, pairs, strict=True)]
    defined = [s for s in strength if not math.isnan(s)]
    known = [(value, n) for value, n in nmi if not math.isnan(value)]
    return {
        "hop_strength": strength, "hop_mass": [m / patches for m in mass],
        "hop_entropy": -sum(s / sum(defined) * math.log(s / sum(defined)) for s in defined),
        "row_entropy": rows, "distance": far, "distance_renormalised": renormalised,
        "patch_self": itself, "sink": sink,
        "nmi": sum(value * n for value, n in known) / sum(n for _, n in known)
        if known else math.nan,
        **({} if first else {"confidence": sure})}


def _distance(patch: int, other: int, geometry: Geometry) -> float:
    (r, c), (s, d) = divmod(patch, geometry.grid_w), divmod(other, geometry.grid_w)
    return math.hypot((r - s) / geometry.grid_h, (c - d) / geometry.grid_w)


def _measures(looking: Looking) -> dict[str, torch.Tensor]:
    return {name: measure(looking)
            for name, measure in {**STRENGTH, "confidence": confidence}.items()}


@pytest.mark.parametrize("geometry", ALL, ids=str)
def test_measures_agree_with_loops_over_patches(geometry: Geometry) -> None:
    attention = _attention(geometry)
    found = _measures(look(attention, geometry))
    for image, head in ((0, 0), (1, 2)):
        for name, wanted in _loops(attention[image, :, head], geometry).items():
            assert found[name][image, head].tolist() == pytest.approx(
                wanted, rel=1e-9, abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("geometry", [*GRIDS, *WHOLE_WINDOWS], ids=str)
def test_hop_mass_and_prefix_share_make_one(geometry: Geometry) -> None:
    looking = look(_attention(geometry), geometry)
    total = STRENGTH["hop_mass"](looking).sum(-1) + STRENGTH["prefix_share"](looking)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("geometry", PADDED_WINDOWS, ids=str)
def test_weight_on_padding_is_in_no_hop(geometry: Geometry) -> None:
    mass = STRENGTH["hop_mass"](look(_attention(geometry), geometry)).sum(-1)
    assert (mass < 1).all()


@pytest.mark.parametrize("geometry", PADDED_WINDOWS, ids=str)
def test_what_padding_asks_changes_nothing(geometry: Geometry) -> None:
    attention = _attention(geometry)
    real = (torch.tensor(_places(geometry)) >= 0)[:, None, :, None]
    other = torch.where(real, attention, attention.roll(1, -1))
    assert not torch.equal(other, attention)
    torch.testing.assert_close(_measures(look(other, geometry)),
                               _measures(look(attention, geometry)), rtol=0, atol=0,
                               equal_nan=True)


@pytest.mark.parametrize("grid", [(4, 6), (1, 5)])
def test_one_window_over_the_grid_is_attention_to_everything(grid: tuple[int, int]) -> None:
    everything, window = Geometry(*grid, 0, False), Geometry(*grid, 0, False, Windows(*grid))
    attention = _attention(everything)
    torch.testing.assert_close(_measures(look(attention, window)),
                               _measures(look(attention, everything)), equal_nan=True)


def test_a_uniform_head_has_its_known_values() -> None:
    geometry = Geometry(14, 14, 0, False)
    looking = look(torch.full((1, 1, 1, 196, 196), 1 / 196, dtype=torch.float64), geometry)
    found = {name: measure(looking)[0, 0] for name, measure in STRENGTH.items()}
    assert found["hop_entropy"] == pytest.approx(math.log(14))
    assert found["row_entropy"] == pytest.approx(math.log(196))
    assert found["distance"] == pytest.approx(0.520, abs=5e-4)
    assert found["sink"] == pytest.approx(1)
    assert found["nmi"] == pytest.approx(0, abs=1e-9)


def test_a_uniform_head_in_windows_has_its_known_values() -> None:
    geometry = Geometry(28, 14, 0, False, Windows(7, 7))
    looking = look(torch.full((1, 8, 1, 49, 49), 1 / 49, dtype=torch.float64), geometry)
    found = {name: measure(looking)[0, 0] for name, measure in STRENGTH.items()}
    assert found["hop_strength"].tolist() == pytest.approx([1 / 49] * 7)
    assert found["hop_entropy"] == pytest.approx(math.log(7))
    assert found["row_entropy"] == pytest.approx(math.log(49))
    assert found["sink"] == pytest.approx(1)
    assert found["nmi"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("geometry", "hops"), [
    (Geometry(4, 6, 0, False), 6), (Geometry(4, 6, 0, False, Windows(2, 3, 1, 1)), 3)], ids=str)
def test_a_head_that_looks_at_its_own_patch(geometry: Geometry, hops: int) -> None:
    windows, tokens, _ = geometry.attention_shape
    looking = look(torch.eye(tokens, dtype=torch.float64).expand(1, windows, 1, -1, -1), geometry)
    found = {name: measure(looking)[0, 0] for name, measure in STRENGTH.items()}
    assert found["hop_mass"].tolist() == [1] + [0] * (hops - 1)
    assert found["patch_self"] == 1
    assert found["distance"] == 0
    assert found["nmi"] == pytest.approx(1)
    assert confidence(looking).item() == 1


def test_a_hop_without_pairs_is_undefined_and_not_in_the_entropy() -> None:
    geometry = Geometry(4, 4, 0, False, Windows(4, 4, 2, 2))
    uniform = (torch.zeros(1, 1, 1, 16, 16, dtype=torch.float64)
               + _timm_mask(geometry)).softmax(-1)
    found = {name: measure(look(uniform, geometry))[0, 0] for name, measure in STRENGTH.items()}
    assert found["hop_strength"].tolist() == pytest.approx(
        [1 / 4, 1 / 4, math.nan, math.nan], nan_ok=True)
    assert found["hop_entropy"] == pytest.approx(math.log(2))
    assert found["hop_mass"].tolist() == pytest.approx([1 / 4, 3 / 4, 0, 0])


@pytest.mark.parametrize(("geometry", "undefined"), [
    (Geometry(3, 3, 0, False), OF_THE_CLASS),
    (Geometry(3, 3, 1, True), {"register_share"}),
    (Geometry(3, 3, 5, True), set()),
    (Geometry(3, 3, 2, False), {"cls_to_patch", "cls_self", "patch_to_cls"}),
    (Geometry(4, 4, 0, False, Windows(2, 2, 1, 1)), OF_THE_CLASS),
    (CLASS_ASKS, set(STRENGTH) - {"cls_to_patch", "cls_self"})],
    ids=lambda given: str(given) if isinstance(given, Geometry) else None)
def test_what_a_model_lacks_is_undefined_not_zero(geometry: Geometry, undefined: set) -> None:
    looking = look(_attention(geometry), geometry)
    found = {name for name, measure in STRENGTH.items() if measure(looking).isnan().all()}
    assert found == undefined
    assert found == {name for name, measure in STRENGTH.items() if measure(looking).isnan().any()}


def test_without_prefix_the_share_of_the_prefix_is_zero() -> None:
    for geometry in (GRIDS[1], WHOLE_WINDOWS[1], PADDED_WINDOWS[0]):
        assert (STRENGTH["prefix_share"](look(_attention(geometry), geometry)) == 0).all()


def test_where_the_class_token_alone_asks_its_row_is_measured() -> None:
    attention = _attention(CLASS_ASKS)
    found = _measures(look(attention, CLASS_ASKS))
    row = attention[:, 0, :, 0]
    assert torch.equal(found["cls_self"], row[..., 0])
    torch.testing.assert_close(found["cls_to_patch"], 1 - row[..., 0])
    assert torch.equal(found["confidence"], row.amax(-1))
    assert found["hop_strength"].shape == found["hop_mass"].shape == (2, 3, 4)


def test_prefix_keys_are_shared_out_between_class_and_registers() -> None:
    looking = look(_attention(Geometry(3, 3, 5, True)), Geometry(3, 3, 5, True))
    parts = STRENGTH["patch_to_cls"](looking) + STRENGTH["register_share"](looking)
    torch.testing.assert_close(parts, STRENGTH["prefix_share"](looking))


@pytest.mark.parametrize("geometry", GRIDS, ids=str)
def test_offset_sums_agree_with_loops(geometry: Geometry) -> None:
    patches = _attention(geometry)[:, 0, :, geometry.prefix:, geometry.prefix:]
    height, width = geometry.grid_h, geometry.grid_w
    wanted = torch.zeros(2, 3, 2 * height - 1, 2 * width - 1, dtype=torch.float64)
    for i in range(geometry.patches):
        for j in range(geometry.patches):
            (r, c), (s, d) = divmod(i, width), divmod(j, width)
            wanted[:, :, s - r + height - 1, d - c + width - 1] += patches[..., i, j]
    torch.testing.assert_close(offset_sums(patches, height, width), wanted)


def test_a_head_that_sees_prefix_alone_has_no_pattern_over_patches() -> None:
    attention = torch.zeros(1, 1, 1, 10, 10)
    attention[..., 0] = 1
    found = _measures(look(attention, Geometry(3, 3, 1, True)))
    undefined = {name for name, values in found.items() if values.isnan().any()}
    assert undefined == {"hop_entropy", "distance_renormalised", "nmi", "register_share"}
    assert found["prefix_share"].item() == found["patch_to_cls"].item() == 1


MODELS = {
    "swin": lambda: SwinTransformer(img_size=64, patch_size=4, window_size=4, embed_dim=24,
                                    depths=(2, 2, 2), num_heads=(2, 3, 4), num_classes=3),
    "swin v2": lambda: SwinTransformerV2(img_size=(64, 96), patch_size=4, window_size=4,
                                         embed_dim=24, depths=(2, 2), num_heads=(2, 3),
                                         num_classes=3),
    "swin, padded": lambda: SwinTransformer(img_size=(72, 40), patch_size=4, window_size=4,
                                            embed_dim=24, depths=(2, 2), num_heads=(2, 3),
                                            num_classes=3),
    "sam": lambda: VisionTransformerSAM(img_size=64, patch_size=16, embed_dim=24, depth=2,
                                        num_heads=2, window_size=3, global_attn_indexes=(1,),
                                        neck_chans=8, num_classes=3),
    "cait": lambda: Cait(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2,
                         depth_token_only=1, num_classes=3),
}


@pytest.mark.parametrize("name", MODELS)
def test_attention_of_real_blocks(name: str) -> None:
    """Unpadded, all its weights, as timm lays them out, lie on pairs that have a hop or on prefix.

    A layout other than timm's would have hops of weights that timm sets to e^-100."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    size = model.patch_embed.img_size
    anatomy = dissect(model, name, (3, *size))
    seen: dict[int, Looking] = {}
    clean_pass(model, anatomy, torch.randn(2, 3, *size),
               lambda layer, weights: seen.update(
                   {layer: look(weights, anatomy.layers[layer].geometry)}))
    assert len(seen) == anatomy.depth
    for layer, looking in seen.items():
        found, geometry = _measures(looking), looking.geometry
        if geometry.class_query:
            torch.testing.assert_close(found["cls_to_patch"] + found["cls_self"],
                                       torch.ones(2, anatomy.heads[layer]))
            continue
        if not any(-1 in places for places in _places(geometry)):
            total = found["hop_mass"].sum(-1) + found["prefix_share"]
            assert total.allclose(torch.ones(()), atol=1e-5)
        for measure, wanted in _loops(looking.attention[1, :, -1].double(), geometry).items():
            assert found[measure][1, -1].tolist() == pytest.approx(
                wanted, rel=1e-3, abs=1e-5, nan_ok=True), (layer, measure)


def test_every_strength_column_has_its_function() -> None:
    assert set(STRENGTH) == {c.name for c in COLUMNS} | {c.name for c in PROFILES}
