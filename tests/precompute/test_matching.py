"""Which head is which: by construction, on trained ViTs, and against turns drawn at random."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm
from torch import nn

from precompute import models, zoo
from precompute.canonical import canonical
from precompute.clean import clean_pass
from precompute.families import dissect
from precompute.images import decode, list_images, read_bytes
from precompute.matching import best_by_chance, by_chance, match, match_all, match_pairs
from precompute.models import Vit
from precompute.strength import look
from store import places
from store.canon import KINDS, Kind
from store.reader import open_store
from store.schema import TABLES
from store.similar import Heads, similarity
from store.writer import StoreWriter
from tests.precompute.patterns_world import OBLONG, PATTERNS, patterns_of
from tests.precompute.vits import randomise
from tests.store.test_similar import Row, as_heads, some_heads, uniform, write_heads

SPEC = "vit_small_patch14_dinov2@{}/vits14_imgfocus.safetensors"


def heads_of_model(vit: Vit, folder: Path, start: int, count: int) -> Heads:
    """A model's heads by their mean patterns over some images; not by way of a store."""
    files = list_images(folder)[start:start + count]
    pixels = torch.stack([vit.transform(decode(read_bytes(folder, file), vit.mode, file))
                          for file in files])
    found: dict[int, dict[str, torch.Tensor]] = {}
    clean_pass(vit.model, vit.anatomy, pixels, lambda layer, attention: found.update(
        {layer: canonical(look(attention, vit.anatomy.layers[layer].geometry))}))
    return as_heads([
        {"layer": layer, "head": head, "pattern": None, **{
            f"{kind}_pattern": None if mean[kind][head].isnan().any() else mean[kind][head].numpy()
            for kind in KINDS}}
        for layer, values in sorted(found.items())
        for mean in [{kind: values[kind].double().mean(0) for kind in KINDS}]
        for head in range(vit.anatomy.heads[layer])])


def _same(a: Heads, b: Heads) -> float:
    found = match(a, b)
    return float((found.own == found.other).mean())


def _matched(a: Heads, b: Heads) -> float:
    return float(match(a, b).matched.mean())


def _fresh(model: nn.Module) -> None:
    """As timm starts it."""
    torch.manual_seed(0)
    model.init_weights()


def _shuffled(model: nn.Module) -> None:
    """Every parameter's numbers in another order."""
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        order = torch.randperm(parameter.numel(), generator=draw)
        parameter.data = parameter.data.flatten()[order].view_as(parameter)


def at_random(vit: Vit) -> Iterator[Vit]:
    """The same architecture with random weights of several kinds."""
    for draw in (randomise, _fresh, _shuffled):
        model = copy.deepcopy(vit.model)
        draw(model)
        size = (1 if vit.mode == "L" else 3, *vit.anatomy.image)
        yield replace(vit, model=model, anatomy=dissect(model, draw.__name__, size))


@pytest.mark.parametrize("name", zoo.names())
def test_a_trained_model_matches_itself_on_other_images_and_no_random_one(name: str) -> None:
    vit = models.load(f"zoo:{name}")
    own = heads_of_model(vit, zoo.IMAGES, 0, 20)
    assert _same(own, own) == 1 and _matched(own, own) == 1
    again = heads_of_model(vit, zoo.IMAGES, 20, 20)
    assert _same(own, again) > 0.9 and _matched(own, again) > 0.9
    for other in at_random(vit):
        assert _matched(own, heads_of_model(other, zoo.IMAGES, 0, 20)) < 0.1


@pytest.mark.real
def test_a_real_model_matches_itself_at_another_image_size_and_no_random_one(real: Path) -> None:
    folder = real / "imagenet240"
    vit = models.load(SPEC.format(real), (224, 224))
    own = heads_of_model(vit, folder, 0, 12)
    small = heads_of_model(models.load(SPEC.format(real), (112, 112)), folder, 0, 12)
    assert _same(own, small) > 0.9 and _matched(own, small) > 0.7
    for other in at_random(vit):
        assert _matched(own, heads_of_model(other, folder, 0, 2)) < 0.1


@pytest.mark.parametrize("grid", [(14, 14), *OBLONG])
def test_known_patterns_find_each_other_on_other_grids(grid: tuple[int, int]) -> None:
    def drawn(grid: tuple[int, int], seed: int) -> Heads:
        found = [patterns_of(name, grid, seed=seed) for name in PATTERNS]
        return as_heads([{"layer": 0, "head": i, "pattern": None, "class_pattern": None,
                          "patch_pattern": values["patch"].mean(0).numpy()}
                         for i, values in enumerate(found)])

    found = match(drawn((7, 7), 0), drawn(grid, 50))
    assert found.own.tolist() == found.other.tolist()
    shaped = np.array([name != "uniform" for name in PATTERNS])
    assert found.matched[shaped].all() and not found.matched[~shaped].any()


def test_heads_in_another_order_are_found() -> None:
    rows = some_heads(0, 4, 6)
    order = np.random.default_rng(1).permutation(len(rows))
    found = match(as_heads(rows), as_heads([rows[i] for i in order]))
    assert order[found.other].tolist() == found.own.tolist() and found.matched.all()


@pytest.mark.parametrize(("heads", "different"), [(13, 2), (23, 7), (72, 11)])
def test_equal_heads_go_to_the_same_place(heads: int, different: int) -> None:
    rows = some_heads(0, 1, heads)
    which = np.random.default_rng(0).integers(different, size=heads)
    few = as_heads([{**rows[k], "head": i} for i, k in enumerate(which)])
    found = match(few, few)
    assert found.other.tolist() == found.own.tolist()


def test_uniform_heads_are_alike_and_match_nothing() -> None:
    rows = [{**row, "patch_pattern": uniform(KINDS["patch"]), "class_pattern": None}
            for row in some_heads(0, 3, 4)]
    found = match(as_heads(rows), as_heads(rows))
    assert found.similarity == pytest.approx(1) and not found.matched.any()


def test_both_models_hear_the_same() -> None:
    a, b = as_heads(some_heads(0, 2, 3)), as_heads(some_heads(1, 3, 5))
    there, back = match(a, b), match(b, a).turned()
    order = np.argsort(back.own)
    assert there.other.tolist() == back.other[order].tolist()
    assert there.p_value == pytest.approx(back.p_value[order])


def turned(heads: Heads, rng: np.random.Generator) -> Heads:
    """Every head's map with its shape turned at random within each scale, the plain way: in the
    cosine basis written out, ring by ring."""
    found = {}
    for name, kind in KINDS.items():
        basis, frequency = cosines(kind)
        rows = heads.deviations[name].copy()
        for i in np.flatnonzero(~np.isnan(rows[:, 0])):
            weights = basis @ rows[i, :kind.cells]
            for ring in range(1, round(frequency.max()) + 1):
                here = np.round(frequency) == ring
                shape = rng.normal(size=here.sum())
                weights[here] = shape / np.linalg.norm(shape) * np.linalg.norm(weights[here])
            rows[i, :kind.cells] = basis.T @ weights
        found[name] = rows
    return Heads(heads.layer, heads.head, heads.pattern, found)


@cache
def cosines(kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """The orthonormal cosine basis of a map (mode x cell), and the frequency of each mode."""
    order, place = np.arange(kind.side)[:, None], np.arange(kind.side)[None]
    axis = np.cos(np.pi * order * (2 * place + 1) / (2 * kind.side))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    return np.kron(axis, axis), np.hypot(order, order.T).ravel()


def test_the_null_is_that_of_turns_drawn_at_random() -> None:
    rng = np.random.default_rng(0)
    a, b = as_heads(some_heads(0, 1, 3)), as_heads(some_heads(1, 2, 2)[:3] + some_heads(
        2, 1, 1, class_token=False))
    values = np.stack([similarity(a, turned(b, rng)) for _ in range(600)])
    mean, spread = by_chance(a, b)
    assert mean == pytest.approx(values.mean(0), abs=4 * spread.max() / 600 ** 0.5)
    assert spread == pytest.approx(values.std(0), rel=0.15)


def test_the_best_of_many_is_counted_one_by_one() -> None:
    rng = np.random.default_rng(0)
    found, mean, spread = rng.normal(size=4), rng.normal(size=(4, 6)), rng.uniform(1, 2, (4, 6))
    expected = [1 - np.prod([norm.cdf(found[i], mean[i, j], spread[i, j]) for j in range(6)])
                for i in range(4)]
    assert best_by_chance(found, mean, spread) == pytest.approx(expected)


def test_p_values_of_unrelated_heads_are_uniform() -> None:
    rng = np.random.default_rng(0)
    own, others = as_heads(some_heads(0, 1, 1)), as_heads(some_heads(1, 3, 4))
    p_values = [match(own, turned(others, rng)).p_value.item() for _ in range(300)]
    assert kstest(p_values, "uniform").pvalue > 0.01


def test_unrelated_heads_are_hardly_ever_matched() -> None:
    rng = np.random.default_rng(0)
    own, others = as_heads(some_heads(0, 3, 4)), as_heads(some_heads(1, 3, 4))
    assert np.mean([_matched(own, turned(others, rng)) for _ in range(50)]) < 0.01


def _noisy(rows: Sequence[Row], seed: int) -> list[Row]:
    """The same heads, a little off."""
    return [{**row, **{f"{name}_pattern": None if row[f"{name}_pattern"] is None else
                       0.9 * row[f"{name}_pattern"] + 0.1 * other[f"{name}_pattern"]
                       for name in KINDS}}
            for row, other in zip(rows, some_heads(seed, 4, 4), strict=False)]


def test_models_of_other_sizes_leave_heads_over() -> None:
    large = some_heads(0, 4, 4)
    small = [{**row, "layer": i // 3, "head": i % 3, "class_pattern": None}
             for i, row in enumerate(_noisy(large, 9)[4:10])]
    tables = match_pairs({"large": as_heads(large), "small": as_heads(small)})
    mine, theirs = tables["large"].to_pylist(), tables["small"].to_pylist()
    assert len(mine) == 16 and len(theirs) == 6
    for i, row in enumerate(mine):
        if 4 <= i < 10:
            assert (row["other_layer"], row["other_head"]) == ((i - 4) // 3, (i - 4) % 3)
            assert row["matched"]
        else:
            assert [row[key] for key in ("other_layer", "other_head", "similarity", "p_value")] \
                == [None] * 4
            assert row["matched"] is False
    pairs = {(r["layer"], r["head"], r["other_layer"], r["other_head"], r["similarity"],
              r["p_value"], r["matched"]) for r in mine if r["other_layer"] is not None}
    assert pairs == {(r["other_layer"], r["other_head"], r["layer"], r["head"], r["similarity"],
                      r["p_value"], r["matched"]) for r in theirs}


def test_a_single_head_can_be_matched() -> None:
    rows = some_heads(0, 1, 1)
    tables = match_pairs({"a": as_heads(rows), "b": as_heads(_noisy(rows, 9))})
    assert [r["matched"] for r in tables["a"].to_pylist()] == [True]


def _written(path: Path) -> dict[str, tuple[int, list[Row]]]:
    return {name: ((places.model_folder(path, name) / "head_matches.parquet").stat().st_mtime_ns,
                   open_store(path).query("FROM head_matches WHERE model = ? ORDER BY ALL",
                                          [name]).to_pylist())
            for name in places.models_of(path)
            if (places.model_folder(path, name) / "head_matches.parquet").exists()}


def test_a_store_is_matched_once_and_again_when_patterns_change(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s")
    rows = some_heads(0, 2, 2)
    write_heads(writer, "one", rows)
    match_all(writer)
    assert _written(writer.path)["one"][1] == []
    write_heads(writer, "a/nother", [*_noisy(rows, 9)[:3],
                                     {**rows[3], "patch_pattern": None}])
    write_heads(writer, "bare", [{**row, "patch_pattern": None} for row in rows])
    match_all(writer)
    before = _written(writer.path)
    assert {name: len(found) for name, (_, found) in before.items()} == {"one": 4, "a/nother": 3}
    match_all(writer)
    assert _written(writer.path) == before
    write_heads(writer, "one", [{**row, "cluster": 3} for row in rows])
    match_all(writer)
    assert _written(writer.path) == before
    write_heads(writer, "one", some_heads(5, 2, 2))
    match_all(writer)
    after = _written(writer.path)
    assert all(after[name][1] != before[name][1] for name in before)
    (tmp_path / "s" / "models" / places.slug("one") / "head_matches.parquet").unlink()
    match_all(writer)
    assert {name: found for name, (_, found) in _written(writer.path).items()} \
        == {name: found for name, (_, found) in after.items()}


def test_the_table_is_the_schemas() -> None:
    tables = match_pairs({"a": as_heads(some_heads(0, 1, 2)), "b": as_heads(some_heads(1, 1, 3))})
    assert all(table.schema == TABLES["head_matches"].arrow for table in tables.values())
