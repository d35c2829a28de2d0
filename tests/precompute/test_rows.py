"""Tensors into rows: their order, NULL for what is undefined, lists of each layer's length."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
import torch

from precompute.rows import HeadRows, PerLayer, layer_rows
from store.canon import CLASS, PATCH
from store.schema import IMPORTANCE, OUTCOMES, PROFILES, STRENGTH, TABLES

IMAGES, HEADS, HOPS = [7, 3], [2, 3], [4, 2]
ORDER = [(image, layer, head) for image in IMAGES for layer, heads in enumerate(HEADS)
         for head in range(heads)]


def _number(image: int, layer: int, head: int) -> float:
    """A value that tells its row."""
    return 100.0 * IMAGES.index(image) + 10 * layer + head


def _values(layer: int) -> torch.Tensor:
    return torch.tensor([[_number(image, layer, head) for head in range(HEADS[layer])]
                         for image in IMAGES])


def _scores(layer: int) -> PerLayer:
    return {c.name: _values(layer) % 2 if c.name == "flip" else _values(layer)
            for c in IMPORTANCE}


def _strength(layer: int) -> PerLayer:
    hops = torch.arange(HOPS[layer]) / 8
    return {**{c.name: _values(layer) for c in STRENGTH},
            **{c.name: _values(layer)[..., None] + hops for c in PROFILES}}


def _rows(scores: list[PerLayer], strength: list[PerLayer]) -> dict[str, pa.Table]:
    rows = HeadRows("alpha", IMAGES)
    for layer in scores:
        rows.add_scores(layer)
    for layer in strength:
        rows.add_strength(layer)
    return rows.tables("zero")


def test_rows_come_by_image_then_layer_then_head() -> None:
    tables = _rows([_scores(0), _scores(1)], [_strength(0), _strength(1)])
    assert set(tables) == {"head_scores", "head_strength"}
    for name, measure in (("head_scores", "probability"), ("head_strength", "distance")):
        table = tables[name]
        assert table.schema == TABLES[name].arrow
        assert set(table["model"].to_pylist()) == {"alpha"}
        assert list(zip(*(table[key].to_pylist() for key in ("image", "layer", "head")),
                        strict=True)) == ORDER
        assert table[measure].to_pylist() == [_number(*row) for row in ORDER]
    assert set(tables["head_scores"]["ablation"].to_pylist()) == {"zero"}
    assert tables["head_scores"]["flip"].to_pylist() == [_number(*row) % 2 == 1 for row in ORDER]


def test_profiles_have_their_own_layers_length() -> None:
    found = _rows([_scores(0), _scores(1)], [_strength(0), _strength(1)])["head_strength"]
    assert found["hop_mass"].to_pylist() == [
        [_number(*row) + hop / 8 for hop in range(HOPS[row[1]])] for row in ORDER]


def test_a_profile_undefined_throughout_is_null_and_in_part_has_nulls() -> None:
    strength = [_strength(0), _strength(1)]
    strength[0]["hop_strength"][0, 1] = math.nan
    strength[1]["hop_strength"][1, 2] = math.nan
    strength[1]["hop_strength"][1, 0, 1] = math.nan
    found = _rows([_scores(0), _scores(1)], strength)["head_strength"]["hop_strength"]
    found.validate(full=True)
    values = dict(zip(ORDER, found.to_pylist(), strict=True))
    assert values[(7, 0, 1)] is None
    assert values[(3, 1, 2)] is None
    assert values[(3, 1, 0)] == [_number(3, 1, 0), None]
    assert found.null_count == 2
    assert values[(3, 1, 1)] == [_number(3, 1, 1), _number(3, 1, 1) + 1 / 8]


def test_what_is_undefined_is_null() -> None:
    scores = [_scores(0), _scores(1)]
    scores[0]["probability_drop"][0, 0] = math.nan
    scores[0]["loss_increase"][0, 0] = math.inf
    scores[0]["flip"][0, 0] = math.nan
    found = _rows(scores, [])["head_scores"]
    for name in ("probability_drop", "loss_increase", "flip"):
        assert found[name].null_count == 1
        assert found[name][0].as_py() is None


def test_without_strength_there_is_no_table_of_it() -> None:
    tables = _rows([_scores(0), _scores(1)], [])
    assert set(tables) == {"head_scores"}
    assert tables["head_scores"]["head"].to_pylist() == [head for _, _, head in ORDER]


def test_a_layer_all_of_whose_profiles_are_undefined() -> None:
    strength = [_strength(0), _strength(1)]
    strength[1]["hop_mass"] = torch.full_like(strength[1]["hop_mass"], math.nan)
    found = _rows([_scores(0), _scores(1)], strength)["head_strength"]["hop_mass"]
    assert [value is None for value in found.to_pylist()] == [layer == 1 for _, layer, _ in ORDER]


def _patterns(layer: int) -> PerLayer:
    """`near` is 25 shares that tell their row, `class` is undefined, masses are numbers."""
    shares = _values(layer)[..., None] / 200 + torch.arange(25) / 101
    found = {c.name: _values(layer) / 100 for c in TABLES["pattern_inputs"].columns
             if c.name.endswith("_mass")}
    return found | {"near": shares, "patch": shares.repeat(1, 1, 7)[..., :PATCH.size],
                    "class": torch.full((2, HEADS[layer], CLASS.size), math.nan)}


def _with_patterns(patterns: list[PerLayer]) -> pa.Table:
    rows = HeadRows("alpha", IMAGES)
    for layer in range(2):
        rows.add_scores(_scores(layer))
        rows.add_patterns(patterns[layer])
    return rows.tables("zero")["pattern_inputs"]


def test_patterns_are_bytes_of_square_roots() -> None:
    found = _with_patterns([_patterns(0), _patterns(1)])
    assert found.schema == TABLES["pattern_inputs"].arrow
    for row, place in zip(found.to_pylist(), ORDER, strict=True):
        assert (row["image"], row["layer"], row["head"]) == place
        wanted = [_number(*place) / 200 + i / 101 for i in range(25)]
        assert row["near"] == [round(255 * math.sqrt(share)) for share in wanted]
        assert len(row["patch"]) == PATCH.size and row["class"] is None
        assert row["sink_mass"] == pytest.approx(_number(*place) / 100)


def test_a_pattern_undefined_in_part_is_null() -> None:
    patterns = [_patterns(0), _patterns(1)]
    patterns[1]["patch"][1, 2, 5] = math.nan
    found = _with_patterns(patterns)["patch"].combine_chunks()
    found.validate(full=True)
    assert [row for row, there in zip(ORDER, found.is_valid().to_pylist(), strict=True)
            if not there] == [(3, 1, 2)]


def test_a_missing_measure_is_named() -> None:
    scores = [_scores(0), _scores(1)]
    for layer in scores:
        del layer["taylor"]
    with pytest.raises(ValueError, match="taylor"):
        _rows(scores, [])


def test_scores_and_strengths_of_different_heads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\] have scores, \[2\] have strengths"):
        _rows([_scores(0), _scores(1)], [_strength(0)])


def test_layers_come_by_image_then_layer() -> None:
    flips = torch.tensor([[True, False], [False, True]])
    layers = [{c.name: flips[layer] if c.name == "flip" else _values(layer)[:, 0]
               for c in OUTCOMES} for layer in range(2)]
    layers[1]["true_probability_drop"] = torch.full((2,), math.nan)
    found = layer_rows("alpha", IMAGES, layers)
    assert found.schema == TABLES["layer_scores"].arrow
    assert found["image"].to_pylist() == [7, 7, 3, 3]
    assert found["layer"].to_pylist() == [0, 1, 0, 1]
    assert found["probability"].to_pylist() == [0, 10, 100, 110]
    assert found["flip"].to_pylist() == [True, False, False, True]
    assert found["true_probability_drop"].to_pylist() == [0, None, 100, None]
