"""The tests of a pattern space as rows of `pattern_evidence`, with what they mean in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from precompute.space import evidence
from precompute.space.evidence import Result, Trial
from store.pattern_tables import AE_BETTER, AS_GOOD, PCA_BETTER


@dataclass(frozen=True)
class Test:
    """`better`: 1 where more is better, -1 where less; `says` what is compared. `same`: a
    difference that means nothing, where there are no intervals. `of_heads`: it looks at heads that
    the space was not fitted on too, so it is made again when models are added."""

    name: str
    results: Callable[[Trial], Iterator[Result]]
    better: int
    says: str
    unit: str = ""
    same: float = 0.0
    of_heads: bool = False


TESTS: tuple[Test, ...] = (
    Test("held-out images", evidence.held_out_images, -1,
         "KL of reconstructions of images that were not fitted on", " nats"),
    Test("model held out", evidence.held_out_model, -1,
         "KL of reconstructions of a model, fitted on the others in fewer passes", " nats"),
    Test("same head on another image", evidence.same_head, 1,
         "Share of patterns whose nearest on another image is of the same head"),
    Test("same head at another size", evidence.other_size, 1,
         "Share of heads nearest to themselves at another image size", of_heads=True),
    Test("stability of clusters", evidence.stability, 1,
         "Adjusted Rand index of clusterings of the same heads", same=0.05, of_heads=True),
    Test("trustworthiness of the map", evidence.trustworthy, 1,
         "How far neighbours on the map are neighbours by pattern", same=0.01, of_heads=True),
)

NAMES = {"autoencoder": "the autoencoder", "pca": "PCA", "mean": "the mean pattern"}


def rows(test: Test, trial: Trial) -> list[dict[str, object]]:
    """A test's rows of `pattern_evidence`; none where it cannot be done."""
    found = list(test.results(trial))
    return [{"kind": trial.space.kind.name, "space": result.space, "test": test.name,
             "detail": result.detail, "value": result.value, "chance": result.chance,
             "low": result.low, "high": result.high, "better": test.better,
             "text": sentence(test, [r for r in found if r.detail == result.detail])}
            for result in found]


def sentence(test: Test, results: Sequence[Result]) -> str:
    """What the results on one thing mean, and whether the autoencoder is better than PCA at it."""
    detail = f" ({results[0].detail})" if results[0].detail else ""
    values = ", ".join(f"{NAMES[r.space]} {r.value:.3g}{test.unit}" for r in results)
    chance = next((f" (chance {r.chance:.2g})" for r in results if not math.isnan(r.chance)), "")
    by_space = {result.space: result for result in results}
    verdict = f": {judge(test, **by_space)}" if {"autoencoder", "pca"} <= set(by_space) else ""
    return f"{test.says}{detail}: {values}{chance}{verdict}."


def judge(test: Test, autoencoder: Result, pca: Result, **_others: Result) -> str:
    """Who is better. Neither is where the intervals overlap."""
    ahead = test.better * (autoencoder.value - pca.value)
    if math.isnan(autoencoder.low) or math.isnan(pca.low):
        even = abs(ahead) <= test.same
    else:
        even = autoencoder.low <= pca.high and pca.low <= autoencoder.high
    if even:
        return AS_GOOD
    return AE_BETTER if ahead > 0 else PCA_BETTER
