"""What heads put out on other images: the mean that the mean ablation puts in their place, and
the donors of the resample ablation.

The mean is over a fixed set of images and made once per model; the donors are a few images whose
head outputs every process works out for itself.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from precompute.batches import Batch
from precompute.clean import HeadOutputs, clean_pass
from precompute.models import Vit

SEED = 0


@dataclass(frozen=True)
class Reference:
    """`mean[layer]`: mean head outputs per token position, over `images`. `donated[layer][i]`:
    those of image `donors[i]`."""

    images: tuple[int, ...]
    mean: tuple[Float[Tensor, "_token _heads_dim"], ...]
    donors: tuple[int, ...] = ()
    donated: tuple[Float[Tensor, "_donor _token _heads_dim"], ...] = ()
    draws: int = 1

    def instead_of(self, layer: int, images: Sequence[int], draw: int) -> HeadOutputs:
        """A donor's head outputs for each image; never the image's own."""
        chosen = [self._donor(image, draw) for image in images]
        return self.donated[layer][chosen]

    def _donor(self, image: int, draw: int) -> int:
        others = [i for i, donor in enumerate(self.donors) if donor != image]
        if not others:
            raise ValueError(f"image {image} has no other image to take head outputs from")
        shuffled = np.random.default_rng((SEED, image)).permutation(others)
        return int(shuffled[draw % len(shuffled)])


@torch.no_grad()
def build(vit: Vit, batches: Iterable[Batch]) -> Reference:
    """The mean head outputs over these images."""
    sums: list[Tensor] = []
    images: list[int] = []
    for batch in batches:
        found = [call.heads.double().sum(0)
                 for call in clean_pass(vit.model, vit.anatomy, batch.pixels).calls]
        sums = found if not sums else [s + f for s, f in zip(sums, found, strict=True)]
        images += batch.images
    if not images:
        raise ValueError("a mean needs at least one image")
    return Reference(tuple(images), tuple((s / len(images)).float() for s in sums))


@torch.no_grad()
def with_donors(reference: Reference, vit: Vit, batches: Iterable[Batch], draws: int = 1,
                ) -> Reference:
    """The same with these images as donors, `draws` of them for each image."""
    donors: list[int] = []
    parts: list[list[Tensor]] = []
    for batch in batches:
        donors += batch.images
        parts.append([c.heads for c in clean_pass(vit.model, vit.anatomy, batch.pixels).calls])
    donated = tuple(torch.cat(layer) for layer in zip(*parts, strict=True))
    return replace(reference, donors=tuple(donors), donated=donated, draws=draws)


def to_bytes(reference: Reference) -> bytes:
    """The mean as an .npz file; donors are not kept, they can be worked out again."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"images": np.array(reference.images)}
    arrays |= {f"layer{i:03d}": mean.cpu().numpy() for i, mean in enumerate(reference.mean)}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def from_bytes(content: bytes, device: torch.device) -> Reference:
    """Read what `to_bytes` wrote. Raises ValueError or OSError where it is something else."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as saved:
            layers = sorted(name for name in saved.files if name.startswith("layer"))
            return Reference(tuple(saved["images"].tolist()),
                             tuple(torch.tensor(saved[name], device=device) for name in layers))
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise ValueError(f"no mean of head outputs: {error}") from error
