"""Shared fixtures. In the tests every function of `precompute` checks its tensors' named axes.

Models are small and tests run beside each other: a thread is quicker than threads that wait for
each other, here and in what the tests start.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, which is below
install_import_hook("precompute", "beartype.beartype")


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder with the real ViT and photographs; skips where it is missing."""
    default = Path(__file__).parents[2] / "shared" / "real"
    folder = Path(os.environ.get("HEADATLAS_REAL", default))
    if not (folder / "vits14_imgfocus.safetensors").exists():
        pytest.skip(f"no real ViT and photographs at {folder} (set HEADATLAS_REAL)")
    return folder
