"""`headatlas info`: models, images, tables, rows, bytes, provenance, and what is missing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa

from store import places, sums
from store.commands.sql import as_table
from store.errors import StoreError
from store.reader import Store, open_store
from store.schema import TABLES

READ_UNASKED = 2e9
"""Bytes up to which every file is read and compared with its checksum without being asked to."""

AGAIN = "run precompute again with the same --store to"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=places.at, required=True,
                        help="the store's folder or URL")
    parser.add_argument("--verify", action="store_true",
                        help="read every file and compare it with its checksum "
                             f"(up to {READ_UNASKED / 1e9:.0f} GB in a folder that is done "
                             "unasked)")


def run(args: argparse.Namespace) -> None:
    store = open_store(args.store)
    print(f"{args.store}\n")
    for section in (_models, _missing, partial(_damaged, verify=args.verify), _images, _tables,
                    _provenance):
        if text := _said(section, store):
            print(text + "\n")


def _said(section: Callable[[Store], str], store: Store) -> str:
    """A section's text; where a damaged file keeps it from being read, why, and the others say
    what they can."""
    try:
        return section(store)
    except (StoreError, ValueError) as error:
        return f"not shown: {error}"


def _models(store: Store) -> str:
    return as_table(store.query(
        "SELECT m.model, family, layers, heads, grid_h || 'x' || grid_w AS grid, "
        "image_h || 'x' || image_w AS pixels, prefix_tokens AS prefix, classifier, accuracy, "
        "engine, parameters, coalesce(done, 0) AS images_done FROM models m LEFT JOIN "
        "(SELECT model, count(DISTINCT image) AS done FROM head_scores GROUP BY model) "
        "USING (model) ORDER BY model"))


def _missing(store: Store) -> str:
    """What is registered and not there, model by model and stage by stage."""
    return "\n".join(f"incomplete: {model} lacks {', '.join(lacks)}; {AGAIN} finish"
                     for model in places.models_of(store.path)
                     if (lacks := places.lacks(store.path, model)
                         + places.lacks_patterns(store.path, model)))


def _damaged(store: Store, verify: bool) -> str:
    """Files that cannot be read or differ from their checksums, and whether all were compared."""
    found = dict.fromkeys(store.damaged, "is no Parquet file")
    size = sums.size_of(store.path)
    verify = verify or (size <= READ_UNASKED and isinstance(store.path, Path))
    if verify:
        found |= {damage.file: damage.why for damage in sums.find_damage(store.path)}
    lines = [f"damaged: {places.within(file, store.path)} {why}; {AGAIN} make it again"
             for file, why in sorted(found.items())]
    if not verify:
        lines.append(f"checksums: {size / 1e9:.3g} GB were not compared; --verify reads them")
    return "\n".join(lines)


def _images(store: Store) -> str:
    (row,) = store.query("SELECT count(*) AS images, count(label) AS labelled, "
                         "count(DISTINCT label) AS labels FROM images").to_pylist()
    return f"{row['images']} images, {row['labelled']} labelled with {row['labels']} labels"


def _tables(store: Store) -> str:
    rows = []
    for name, files in store.files.items():
        (count,) = store.query(f"SELECT count(*) AS n FROM {name}")["n"].to_pylist()
        rows.append({"table": name, "rows": count, "files": len(files),
                     "bytes": sum(f.stat().st_size for f in files), "grain": TABLES[name].text})
    return as_table(pa.Table.from_pylist(rows))


def _provenance(store: Store) -> str:
    rows = store.query("SELECT model, spec, weights_sha256, preprocessing, versions FROM models "
                       "ORDER BY model").to_pylist()
    return "\n".join(
        f"{r['model']}: {r['spec']}\n  weights sha256 {r['weights_sha256']}\n"
        f"  preprocessing {json.dumps(json.loads(r['preprocessing']))}\n"
        f"  made with {json.dumps(json.loads(r['versions']))}" for r in rows)
