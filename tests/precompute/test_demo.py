"""`headatlas demo`: the bundled models on (some of) the bundled images, then the page apart."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import pytest

import headatlas
from precompute import zoo
from store.reader import open_store

EACH = 2


@pytest.fixture
def few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The zoo with the first images of every label only."""
    with zoo.LABELS.open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == len(list(zoo.IMAGES.glob("*.png"))) == 400
    chosen = [r for label in sorted({r["label"] for r in rows})
              for r in [q for q in rows if q["label"] == label][:EACH]]
    (tmp_path / "images").mkdir()
    with (tmp_path / "labels.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, ["image", "label"])
        writer.writeheader()
        writer.writerows(chosen)
    for row in chosen:
        shutil.copy(zoo.IMAGES / row["image"], tmp_path / "images")
    monkeypatch.setattr(zoo, "IMAGES", tmp_path / "images")
    monkeypatch.setattr(zoo, "LABELS", tmp_path / "labels.csv")
    return chosen


def test_the_demo_makes_a_store_and_then_serves_it(
        few_images: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _program, argv: started.append(argv))
    store = tmp_path / "atlas"
    assert headatlas.main(["demo", "--store", str(store), "--no-serve"]) == 0
    assert not started
    models = open_store(store).query("SELECT * FROM models ORDER BY model").to_pylist()
    assert [m["model"] for m in models] == zoo.names()
    assert len(models) >= 4
    assert all(m["accuracy"] > 0.6 and m["classifier"] == "native" for m in models)
    assert {(m["class_token"], m["registers"] > 0, m["grid_h"]) for m in models} >= {
        (True, False, 7), (True, False, 14), (True, True, 7), (False, False, 7)}
    (rows,) = open_store(store).query("SELECT count(*) AS n FROM head_scores "
                                     "WHERE ablation = 'zero'")["n"].to_pylist()
    assert rows == sum(m["layers"] * m["heads"] for m in models) * len(few_images)
    assert headatlas.main(["demo", "--store", str(store), "--port", "8123"]) == 0
    assert started[0][1:] == ["-m", "headatlas", "serve", "--store", str(store), "--host",
                              "127.0.0.1", "--port", "8123"]


@pytest.mark.parametrize("name", zoo.names())
def test_the_cards_say_what_was_asked_of_the_zoo(name: str) -> None:
    card = zoo.card(name)
    assert card["accuracy_test"] >= 0.90
    assert card["architecture"]["depth"] >= 6 and card["architecture"]["num_heads"] >= 4
    hop_0 = [head["hop0_mass"] for head in card["heads"]]
    assert max(hop_0) > 2 * min(hop_0), "all heads are alike"


def test_the_weights_are_small() -> None:
    weights = Path(zoo.__file__).parent / "weights"
    assert sum(f.stat().st_size for f in weights.glob("*.safetensors")) < 12e6
