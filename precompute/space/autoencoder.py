"""The autoencoder of patterns: a small network whose decoder ends in one softmax a group.

It is trained with the sum of the groups' cross-entropies, so what it gets wrong is counted in nats,
as for any distribution; squared errors of the shares would see peaked heads only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from precompute.space.coders import Latents, Shares, normalised
from store.canon import Kind

HIDDEN = (256, 128)
BATCH = 256
PASSES, STEPS = 65, 3000
"""Of a fit: so many passes over the patterns, but no more steps than that."""
RATE, DECAY = 2e-3, 1e-2
ROWS = 8192
"""Patterns encoded at once."""


class Network(nn.Module):
    """size-256-128-latent and back, GELU between.

    The encoder sees the roots of the shares (`coders.roots`) less their mean; the decoder starts
    from the mean pattern.
    """

    mean: Tensor

    def __init__(self, kind: Kind, latent: int) -> None:
        super().__init__()
        self.kind = kind
        widths = (kind.size, *HIDDEN, latent)
        self.encoder, self.decoder = _layers(widths), _layers(widths[::-1])
        self.register_buffer("mean", torch.zeros(kind.size))

    def begin(self, shares: Float[Tensor, "pattern share"]) -> None:
        """Take the mean of the patterns as what is known before training."""
        self.mean.copy_(self._roots(shares).mean(0))
        with torch.no_grad():
            self.decoder[-1].get_parameter("bias").copy_(shares.mean(0).clamp(min=1e-6).log())

    def encode(self, shares: Float[Tensor, "pattern share"]) -> Float[Tensor, "pattern latent"]:
        return self.encoder(self._roots(shares) - self.mean)

    def decode(self, latents: Float[Tensor, "pattern latent"]) -> Float[Tensor, "pattern share"]:
        """Logarithms of the shares."""
        logits = self.decoder(latents)
        return torch.cat([logits[:, group].log_softmax(1) for group in self.kind.groups], 1)

    def loss(self, shares: Float[Tensor, "pattern share"]) -> Float[Tensor, ""]:
        """Cross-entropy of the reconstructions in nats, summed over groups, mean over patterns."""
        return -(shares * self.decode(self.encode(shares))).sum(1).mean()

    def _roots(self, shares: Float[Tensor, "pattern share"]) -> Float[Tensor, "pattern share"]:
        return torch.cat([(shares[:, group] * (group.stop - group.start)).sqrt()
                          for group in self.kind.groups], 1)


def _layers(widths: tuple[int, ...]) -> nn.Sequential:
    found: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        found += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*found[:-1])


@dataclass(frozen=True)
class Autoencoder:
    """A trained network as a coder."""

    network: Network

    @torch.no_grad()
    def encode(self, shares: Shares) -> Latents:
        return _by_rows(self.network.encode, shares)

    @torch.no_grad()
    def decode(self, latents: Latents) -> Shares:
        found = _by_rows(lambda rows: self.network.decode(rows).exp(), latents)
        return normalised(self.network.kind, found)


def _by_rows(function: Callable[[Tensor], Tensor], values: np.ndarray) -> np.ndarray:
    """In memory of torch's own: where rows begin would show in the last bits of a product."""
    rows = torch.tensor(values, dtype=torch.float32)
    return torch.cat([function(part) for part in rows.split(ROWS)]).numpy()


def epochs(patterns: int, steps: int = STEPS) -> int:
    """Passes over so many patterns in a fit of at most so many steps."""
    return max(1, min(PASSES, steps // math.ceil(patterns / BATCH)))


def fit_autoencoder(kind: Kind, shares: Shares, latent: int, seed: int = 0,
                    steps: int = STEPS, tell: Callable[[int], object] = lambda _n: None,
                    ) -> Autoencoder:
    """Train on these patterns; seeded. `tell` is called with 1 after every pass over them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(kind, latent)
        rows = torch.tensor(shares)
        network.begin(rows)
        passes = epochs(len(rows), steps)
        batches = math.ceil(len(rows) / BATCH)
        optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE,
                                                       total_steps=passes * batches + 1)
        for _ in range(passes):
            for batch in torch.randperm(len(rows)).split(BATCH):
                optimizer.zero_grad()
                network.loss(rows[batch]).backward()
                optimizer.step()
                schedule.step()
            tell(1)
    return Autoencoder(network.eval())


def to_arrays(coder: Autoencoder) -> dict[str, np.ndarray]:
    """The network's numbers by name."""
    return {name: value.numpy() for name, value in coder.network.state_dict().items()}


def from_arrays(kind: Kind, latent: int, arrays: Mapping[str, np.ndarray]) -> Autoencoder:
    network = Network(kind, latent)
    network.load_state_dict({name: torch.as_tensor(value) for name, value in arrays.items()})
    return Autoencoder(network.eval())
