"""Heads with known patterns get their names, on every grid; names say nothing of the grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from precompute.canonical import MASSES, uniform_masses
from precompute.names import MIXED, RULES, Named, Traits, name_heads, name_of_mean
from store.canon import NEAR_SIDE, PATCH
from tests.precompute.patterns_world import (
    GRIDS,
    OBLONG,
    PATTERNS,
    RANDOM,
    every,
    geometry_of,
    patterns_of,
)

SHIFTS = ("left", "right", "up", "down")
WORLDS = {
    "class token": dict(),
    "registers": dict(prefix=5),
    "no prefix": dict(prefix=0),
    "half of the weight": dict(strength=0.5, images=8),
    "noisy": dict(noise=0.6, strength=0.7, images=12),
    "pure": dict(strength=0.999, noise=0.0),
}


def traits_of(patterns: dict[str, torch.Tensor], grid: tuple[int, int]) -> Traits:
    """Of one head, over its images."""
    uniform = uniform_masses(geometry_of(grid))
    means = {name: values.mean(0, keepdim=True).numpy() for name, values in patterns.items()}
    return Traits({mass: (means[mass] - uniform[mass]) / (1 - uniform[mass]) for mass in MASSES},
                  means["near"].reshape(1, NEAR_SIDE, NEAR_SIDE),
                  means["patch"][:, :PATCH.cells].reshape(1, PATCH.side, PATCH.side),
                  means["patch"][:, PATCH.cells])


def named(pattern: str, grid: tuple[int, int], **options: object) -> Named:
    (found,) = name_heads(traits_of(patterns_of(pattern, grid, **options), grid))
    return found


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("pattern", "grid"), every(*GRIDS, *OBLONG))
def test_known_patterns_get_their_names(pattern: str, grid: tuple[int, int], world: str) -> None:
    found = named(pattern, grid, **WORLDS[world])
    if pattern in SHIFTS:
        assert (found.name, found.way) == ("offset", f"1 {pattern}")
    else:
        assert (found.name, found.way) == ({"random": "scattered"}.get(pattern, pattern), None)


@pytest.mark.parametrize("grid", [*GRIDS, *OBLONG])
def test_a_random_head_is_called_by_how_peaked_its_rows_are(grid: tuple[int, int]) -> None:
    assert [named("random", grid, odds=odds, images=8).name for odds in (0.3, 1.0, 4.0)] == [
        "uniform", "global", "scattered"]


@pytest.mark.parametrize("grid", [*GRIDS, *OBLONG])
def test_scores_are_those_of_the_rules_and_the_first_that_holds_names(grid: tuple[int, int],
                                                                      ) -> None:
    for pattern in (*PATTERNS, *RANDOM):
        found = named(pattern, grid)
        holds = [(rule.name, score) for rule, score in zip(RULES, found.scores, strict=True)
                 if score >= rule.needed]
        assert (found.name, found.score) == holds[0]
        assert all(-1.5 <= score <= 1 for score in found.scores)


@pytest.mark.parametrize("pattern", ["row", "column", "local", "self", "left", "sink"])
def test_scores_hardly_depend_on_the_grid(pattern: str) -> None:
    scores = [named(pattern, grid).score for grid in GRIDS]
    assert max(scores) - min(scores) < 0.12


def test_what_fits_no_rule_is_mixed() -> None:
    one, other = (patterns_of(pattern, (14, 14), strength=0.5) for pattern in ("local", "uniform"))
    (found,) = name_heads(traits_of({name: 0.3 * one[name] + 0.7 * other[name] for name in one},
                                    (14, 14)))
    assert (found.name, found.score, found.way) == (MIXED, None, None)


def test_heads_are_named_each_by_itself() -> None:
    grid = (7, 7)
    alone = [traits_of(patterns_of(pattern, grid), grid) for pattern in ("up", "row", "sink")]
    together = Traits({mass: np.concatenate([t.excess[mass] for t in alone]) for mass in MASSES},
                      *(np.concatenate([getattr(t, name) for t in alone])
                        for name in ("near", "kernel", "even")))
    for one, other in zip(name_heads(together), alone, strict=True):
        (wanted,) = name_heads(other)
        assert (one.name, one.way) == (wanted.name, wanted.way)
        assert one.scores == pytest.approx(wanted.scores)


def test_a_head_that_looks_to_one_side_is_directional() -> None:
    grid = (14, 14)
    patterns = patterns_of("uniform", grid)
    kernel = patterns["patch"][:, :PATCH.cells].unflatten(-1, (PATCH.side,) * 2)
    kernel[:, :PATCH.side // 2] *= 3
    kernel /= kernel.sum((1, 2), keepdim=True)
    (found,) = name_heads(traits_of(patterns | {
        "patch": torch.cat([kernel.flatten(1), torch.full((4, 2), 0.5).double()], dim=1)}, grid))
    assert (found.name, found.way) == ("directional", "up")
    assert found.score == pytest.approx(float(kernel.mean(0)[:6].sum() - kernel.mean(0)[7:].sum()))


def test_every_rule_has_a_name_of_its_own_and_says_what_it_means() -> None:
    assert len({rule.name for rule in RULES} | {MIXED}) == len(RULES) + 1
    assert all(rule.text and rule.needed > 0 for rule in RULES)


@pytest.mark.parametrize(("scores", "name", "holds"), [
    ({}, "mixed", True), ({"local": 0.99, "uniform": 0.8}, "local", False),
    ({"local": 1, "self": 1.5}, "self", True), ({"global": 0.84}, "mixed", True),
    ({"global": 0.86, "uniform": 0.9}, "uniform", False)])
def test_the_mean_of_heads_may_fall_a_little_short_of_a_rule(scores, name, holds) -> None:
    """`scores`: of what each rule needs."""
    told = name_of_mean(RULES, [scores.get(rule.name, 0) * rule.needed for rule in RULES])
    assert told == (name, holds)
