"""A model tried out on the store's first images, before it is on the books."""

from __future__ import annotations

import json
from dataclasses import asdict

from precompute.hooked import Pixels
from precompute.models import Vit
from precompute.progress import say
from precompute.selftest import examine, failures, rounding_error
from precompute.subject import BFLOAT16
from store.errors import ModelError


def try_out(name: str, vit: Vit, pixels: Pixels, precision: str, despite_selftest: bool,
            ) -> dict[str, object]:
    """What the model's row says of how it is analysed: engine, precision and proofs.

    Raises ModelError if it cannot be analysed, or fails its self-test and that is to count.
    """
    verdict = examine(vit, pixels)
    failed = failures(verdict.checks)
    if failed and not despite_selftest:
        raise ModelError(f"{name} fails its self-test: {failed}; --despite-selftest goes on "
                         "regardless")
    if failed:
        say(f"{name} fails its self-test and is analysed all the same: {failed}")
    if verdict.engine == "hooks":
        say(f"{name}: {'; '.join(verdict.passed_over)}; using a full forward pass per head, "
            "exact but slow")
    rounded = precision == BFLOAT16
    return {"engine": verdict.engine, "precision": precision,
            "precision_error": rounding_error(vit, verdict.engine, pixels) if rounded else None,
            "selftest": json.dumps([asdict(check) for check in verdict.checks])}
