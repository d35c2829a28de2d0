"""The one definition of tables and columns, and what `headatlas schema` makes of it."""

from __future__ import annotations

import argparse
import json

import pytest

from store.commands import schema as command
from store.schema import (
    ABLATIONS,
    CLEAN_PASS,
    IMPORTANCE,
    OUTCOMES,
    RANKED,
    SUMMARISED,
    TABLES,
    direction,
    measure,
)
from store.writer import to_table

PROMISED = {  # names that scripts rely on (measures.md)
    "models": "spec family layers heads grid_h grid_w patch image_h image_w prefix_tokens "
              "class_token registers parameters classifier accuracy weights_sha256 preprocessing "
              "versions",
    "images": "path label width height sha256 thumbnail",
    "predictions": "predicted probability true_probability margin top5 x y",
    "head_scores": "probability probability_drop true_probability_drop loss_increase margin_drop "
                   "js_divergence flip embedding_cosine embedding_l2 layer_cls_l2 layer_patch_l2 "
                   "confidence direct_logit",
    "head_strength": "hop_strength hop_mass hop_entropy row_entropy distance "
                     "distance_renormalised cls_to_patch cls_self patch_to_cls patch_self "
                     "prefix_share nmi sink",
    "heads": "normalised_depth probability_drop_mean probability_drop_median "
             "probability_drop_low probability_drop_high",
}
GRAIN = {"models": ("model",), "images": ("image",), "predictions": ("model", "image"),
         "head_scores": ("model", "image", "layer", "head", "ablation"),
         "head_strength": ("model", "image", "layer", "head"),
         "heads": ("model", "layer", "head")}


@pytest.mark.parametrize("table", PROMISED)
def test_the_promised_names_and_grains_are_there(table: str) -> None:
    assert set(PROMISED[table].split()) <= {c.name for c in TABLES[table].columns}
    assert TABLES[table].keys == GRAIN[table]


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_every_column_has_one_name_and_a_meaning(table) -> None:
    names = [c.name for c in table.columns]
    assert len(names) == len(set(names))
    assert all(c.text for c in table.columns)
    assert set(table.keys) <= set(names)


def test_every_measure_has_a_label_and_a_range() -> None:
    assert all(m.label and m.range for m in SUMMARISED)
    assert all(m.important for m in IMPORTANCE)


def test_every_ranked_measure_has_its_ranks_and_every_outcome_its_means() -> None:
    heads = {c.name for c in TABLES["heads"].columns}
    assert {f"{m.name}_rank{end}" for m in RANKED for end in ("", "_low", "_high")} <= heads
    assert {c.name for c in TABLES["head_ablations"].columns} >= {
        f"{m.name}_mean" for m in OUTCOMES}
    assert {m.name for m in OUTCOMES} | CLEAN_PASS == {m.name for m in IMPORTANCE}


def test_a_large_change_speaks_against_a_head_that_is_left_alone() -> None:
    for m in RANKED:
        assert [direction(m, a) * m.important for a in ABLATIONS] == [1, 1, 1, -1]
        assert direction(m) == m.important


def test_an_unknown_measure_is_named_with_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"no measure 'entropy'; one of probability, "):
        measure("entropy")


@pytest.mark.parametrize("form", ["text", "markdown", "json"])
def test_schema_lists_every_table_and_column(form: str, capsys: pytest.CaptureFixture) -> None:
    command.run(argparse.Namespace(format=form))
    said = capsys.readouterr().out
    for table in TABLES.values():
        assert table.name in said
        assert all(c.name in said for c in table.columns)
    if form == "json":
        assert set(json.loads(said)["tables"]) == set(TABLES)


def test_rows_must_have_the_schema_s_columns() -> None:
    row = {c.name: [None] for c in TABLES["models"].columns}
    assert to_table("models", row).num_rows == 1
    with pytest.raises(ValueError, match="missing or unknown columns spec$"):
        to_table("models", {k: v for k, v in row.items() if k != "spec"})
    with pytest.raises(ValueError, match="missing or unknown columns extra$"):
        to_table("models", row | {"extra": [1]})


def test_what_is_undefined_is_null() -> None:
    columns = {c.name: [None] for c in TABLES["heads"].columns}
    table = to_table("heads", columns | {"nmi_mean": [float("nan")], "sink_mean": [1.5]})
    assert table["nmi_mean"].to_pylist() == [None]
    assert table["sink_mean"].to_pylist() == [1.5]
