"""The patterns of a store: its spaces are fitted once, then every pattern is placed in them.

    pattern_inputs -> pattern_spaces -> head_patterns, of every image
             heads -> pattern_spaces -> head_places, of every head's mean; pattern_clusters
                      pattern_spaces -> pattern_evidence

What is fitted is in `pattern_spaces` alone. Everything else follows from it, says from what it was
made and is made again when that has changed. So a run that is killed is finished by the next, and
heads of a model that is added are placed among the others without moving them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from precompute.freshness import digest, read_note
from precompute.progress import Progress, say
from precompute.space import inputs
from precompute.space.atlas import Atlas, write_rows
from precompute.space.evidence import Trial
from precompute.space.fitting import fit_kind
from precompute.space.placing import place_heads, place_images, write_clusters
from precompute.space.space import Space
from precompute.space.verdicts import TESTS, Test, rows
from store.canon import KINDS
from store.writer import StoreWriter

LATENT, MOST_LATENT = 16, 64
"""Numbers of a latent unless asked otherwise, and the most that may be asked for."""


def lay_out(writer: StoreWriter, latent: int | None = None, refit: bool = False) -> None:
    """Fit the spaces that the store lacks (all of them, to `refit`), place every pattern that is
    not placed, and test the spaces. Does nothing where nothing is left to do.

    Raises StoreError where the store's files cannot be read.
    """
    with writer.lock("patterns"):
        known = {} if refit else Atlas(writer).rows
        for kind in KINDS.values():
            if kind.name not in known:
                fit_kind(Atlas(writer), kind, latent or LATENT)
        atlas = Atlas(writer)
        tell_known(known, atlas, latent)
        if atlas.spaces:
            for model in atlas.models:
                place_images(atlas, model)
                place_heads(atlas, model)
            write_clusters(atlas)
            for space in atlas.spaces.values():
                put_to_the_test(atlas, space)


def tell_known(known: Mapping[str, dict], atlas: Atlas, latent: int | None) -> None:
    """Say what stays as it was fitted, where that could surprise."""
    for kind, row in known.items():
        heads = inputs.means(atlas.store("heads"), KINDS[kind])
        added = [model for model in heads.models if model not in row["models"]
                 and not atlas.file("head_places", model).exists()]
        if added:
            say(f"patterns: placing {', '.join(added)} in the {kind} space that was fitted on "
                f"{', '.join(row['models'])} (--refit-patterns fits it on all)")
        if latent not in (None, row["latent"]):
            say(f"patterns: the {kind} space has latents of {row['latent']} numbers; "
                f"--refit-patterns makes them {latent}")


def put_to_the_test(atlas: Atlas, space: Space) -> None:
    """`pattern_evidence`: a file for each test, of those that are not there."""
    stale = {one: made_from for one in TESTS
             if read_note(_file(atlas, space, one)) != (made_from := _made_from(atlas, space, one))}
    if not stale:
        return
    trial = trial_of(atlas, space)
    task = f"patterns: testing the {space.kind.name} space"
    with Progress(task, len(stale), "tests") as progress:
        for one, made_from in stale.items():
            write_rows(atlas, "pattern_evidence", _file(atlas, space, one), rows(one, trial),
                       made_from)
            progress.advance(1)


def trial_of(atlas: Atlas, space: Space) -> Trial:
    heads = inputs.means(atlas.store("heads"), space.kind)
    sample = inputs.sample(atlas.store("images"), space.kind,
                           atlas.rows[space.kind.name]["models"])
    weights = atlas.store("models").query(
        "SELECT model, weights_sha256 FROM models ORDER BY image_h::INT * image_w, model"
    ).to_pylist()
    twins = tuple((one["model"], other["model"])
                  for one, other in itertools.combinations(weights, 2)
                  if one["weights_sha256"] == other["weights_sha256"]
                  and {one["model"], other["model"]} <= set(heads.models))
    return Trial(space, sample, heads, twins)


def _file(atlas: Atlas, space: Space, test: Test) -> Path:
    return atlas.path / "patterns" / (
        f"pattern_evidence-{space.kind.name}-{test.name.replace(' ', '-')}.parquet")


def _made_from(atlas: Atlas, space: Space, test: Test) -> bytes:
    return digest([space.space_id, *(atlas.models if test.of_heads else ())])
