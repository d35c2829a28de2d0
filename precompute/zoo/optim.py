"""Muon (Jordan et al. 2024) for the block matrices, batched by shape; AdamW takes the rest."""

from collections import defaultdict

import torch
from jaxtyping import Float
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients: singular values end near 1
STEPS = 5


Matrix = Float[Tensor, "row column"]
Matrices = Float[Tensor, "matrix row column"]


def orthogonalise(matrices: Matrices) -> Matrices:
    """Newton-Schulz towards U Vᵀ of each matrix's singular value decomposition."""
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose direction is orthogonalised; query, key and value count apart."""

    def __init__(
        self, matrices: list[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.0
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            stacks: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for matrix in group["params"]:
                matrix.mul_(1 - group["lr"] * group["decay"])
                average = self.state[matrix].setdefault("average", torch.zeros_like(matrix))
                average.lerp_(matrix.grad, 1 - group["momentum"])
                direction = matrix.grad.lerp(average, group["momentum"])
                for part, towards in zip(_parts(matrix), _parts(direction), strict=True):
                    stacks[part.shape].append((part, towards))
            for (rows, columns), pairs in stacks.items():
                updates = orthogonalise(torch.stack([towards for _, towards in pairs]))
                scale = max(1.0, rows / columns) ** 0.5
                for (part, _), update in zip(pairs, updates, strict=True):
                    part.add_(update, alpha=-group["lr"] * scale)


def _parts(matrix: Matrix) -> tuple[Tensor, ...]:
    """Views: timm's fused qkv (three times as many rows as columns) is three matrices."""
    rows, columns = matrix.shape
    return matrix.chunk(3) if rows == 3 * columns else (matrix,)


def optimisers(
    model: nn.Module, muon_lr: float, adam_lr: float, decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """Muon on the matrices inside the blocks; AdamW on embeddings, norms, biases and the head."""
    matrices = [p for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2]
    taken = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in taken]
    adam = torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.01)
    return [Muon(matrices, lr=muon_lr, decay=decay), adam]
