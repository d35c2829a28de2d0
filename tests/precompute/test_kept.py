"""Kept attention: what comes back is what the model computed, to within what each row says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from precompute.anatomy import Geometry
from precompute.clean import clean_pass
from precompute.kept import attention_rows, compress, keep_attention
from precompute.register import layer_rows
from store.kept import STEPS, decode, whole
from store.places import files_of
from store.schema import TABLES
from store.writer import StoreWriter
from tests.precompute.test_strength import ALL, CLASS_ASKS, _attention, _places
from tests.precompute.vits import as_subject, batch_of, build


@pytest.mark.parametrize("geometry", [*ALL, CLASS_ASKS], ids=str)
def test_weights_come_back_to_within_their_error(geometry: Geometry) -> None:
    attention = _attention(geometry).float()
    rows = attention_rows("m", [5, 9], [compress(attention), compress(attention[:, :, :1])])
    assert rows.schema == TABLES["attention"].arrow
    order = [(image, layer, head) for image in (5, 9) for layer, heads in ((0, 3), (1, 1))
             for head in range(heads)]
    assert [(r["image"], r["layer"], r["head"]) for r in rows.to_pylist()] == order
    for row in rows.to_pylist():
        wanted = attention[(5, 9).index(row["image"]), :, row["head"]].numpy()
        worst = np.abs(decode(row) - wanted)
        assert decode(row).shape == wanted.shape == geometry.attention_shape
        assert worst.max() == pytest.approx(row["error"], abs=1e-7)
        assert (worst <= wanted.max(-1, keepdims=True) / STEPS + 1e-7).all()


def test_small_weights_keep_their_digits() -> None:
    row = torch.tensor([0.9] + [0.1 / 64] * 64)
    kept = compress(row.expand(1, 1, 1, 65, 65))
    (found, *_) = attention_rows("m", [0], [kept]).to_pylist()
    assert np.abs(decode(found) / row.numpy() - 1).max() < 0.1


@pytest.mark.parametrize("geometry", [*ALL, CLASS_ASKS], ids=str)
def test_windows_make_one_matrix_of_the_grid(geometry: Geometry) -> None:
    weights = _attention(geometry)[0, :, 1].numpy()
    places = _places(geometry)
    row = {"grid_h": geometry.grid_h, "grid_w": geometry.grid_w,
           "places": None if geometry.windows is None else [p for w in places for p in w]}
    found = whole(weights.astype(np.float32), row)
    if geometry.windows is None:
        assert found.shape == geometry.attention_shape[1:]
        np.testing.assert_array_equal(found, weights[0].astype(np.float32))
        return
    wanted = np.full((geometry.patches,) * 2, np.nan, np.float32)
    for w, patches in enumerate(places):
        for i, query in enumerate(patches):
            for j, key in enumerate(patches):
                if min(query, key) >= 0:
                    wanted[query, key] = weights[w, i, j]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("family", ["Swin, padded", "CaiT", "DeiT distilled"])
def test_a_model_s_attention_is_kept(family: str, tmp_path: Path) -> None:
    model = build(family)
    subject, batch = as_subject(model), batch_of(model, 2)
    anatomy, seen = subject.vit.anatomy, []
    clean_pass(model, anatomy, batch.pixels, lambda _layer, a: seen.append(a.clone()))
    rows = keep_attention(subject, batch)["attention"]
    assert rows.num_rows == 2 * sum(anatomy.heads)
    for row in rows.to_pylist():
        wanted = seen[row["layer"]][batch.images.index(row["image"]), :, row["head"]].numpy()
        assert np.abs(decode(row) - wanted).max() <= row["error"] + 1e-7 <= 1 / STEPS
    for layer, numbers in zip(anatomy.layers, layer_rows("m", subject.vit)["places"], strict=True):
        assert numbers == (None if layer.geometry.windows is None else [
            place for window in _places(layer.geometry) for place in window])
    StoreWriter(tmp_path / "s").write_unit("models/m/attention/00000", {"attention": rows})
    (file,) = files_of(tmp_path / "s", "attention")
    groups = pq.ParquetFile(file)
    assert groups.num_row_groups == rows.num_rows
    assert groups.read_row_group(1).to_pylist() == rows.slice(1, 1).to_pylist()
