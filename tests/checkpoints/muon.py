"""Muon for a data-parallel run on CPUs: momentum made orthogonal by Newton-Schulz iterations, shared out by rank.

Source: Jordan et al., https://kellerjordan.github.io/posts/muon/; update size matched to Adam's as in
arXiv 2502.16982. Iterations run in float32 over stacks of matrices of one shape.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

STEPS = 5
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: [count, rows, columns] with all singular values near one."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.transpose(1, 2)
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x if wide else x.transpose(1, 2)


class Muon(torch.optim.Optimizer):
    """Each rank orthogonalises its share of the matrices; an all-reduce adds the shares up."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            directions = [self._direction(p, group["momentum"]) for p in trained]
            updates = self._orthogonalise(directions)
            for p, update in zip(trained, updates, strict=True):
                size = 0.2 * max(update.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["decay"]).add_(update.view_as(p), alpha=-group["lr"] * size)

    def _direction(self, p: Tensor, momentum: float) -> Tensor:
        state = self.state[p]
        buffer = state.setdefault("momentum", torch.zeros_like(p))
        buffer.lerp_(p.grad, 1 - momentum)
        return torch.lerp(p.grad, buffer, momentum).flatten(1)

    @staticmethod
    def _orthogonalise(directions: list[Tensor]) -> list[Tensor]:
        groups: dict[torch.Size, list[int]] = {}
        for index, direction in enumerate(directions):
            groups.setdefault(direction.shape, []).append(index)
        results = [torch.zeros_like(direction) for direction in directions]
        rank, world = dist.get_rank(), dist.get_world_size()
        for indices in groups.values():
            mine = indices[rank::world]
            if mine:
                for index, result in zip(mine, orthogonal(torch.stack([directions[i] for i in mine])), strict=True):
                    results[index] = result
        flat = torch.cat([result.flatten() for result in results])
        dist.all_reduce(flat)
        pieces = flat.split([result.numel() for result in results])
        return [piece.view_as(result) for piece, result in zip(pieces, results, strict=True)]
