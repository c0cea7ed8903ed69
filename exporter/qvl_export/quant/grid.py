"""Scales and zero points of blocks, searched on a grid of clipped ranges (torch)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .qtensor import Layout

SHRINKS = 32
LEAST_SHRINK = 0.6
"""The narrowest range tried, as a part of the largest magnitude."""


class Grid(NamedTuple):
    """`scale` and `zero` of every block, [N, blocks]; scales are float16 values held in float32."""

    scale: Tensor
    zero: Tensor


def quantize(weight: Tensor, scale: Tensor, zero: Tensor, layout: Layout) -> Tensor:
    """Codes of `weight` under broadcastable scales and zeros, as floats in [0, 2^bits)."""
    return torch.clamp(torch.round(weight / scale) + zero, 0, (1 << layout.bits) - 1)


def blocked(weight: Tensor, layout: Layout) -> Tensor:
    """[N, K] → [N, blocks, block]; a partial last block is filled with zeros, which cost nothing to represent."""
    rows, columns = weight.shape
    padding = layout.blocks(columns) * layout.block - columns
    return torch.nn.functional.pad(weight, (0, padding)).view(rows, -1, layout.block)


def search(weight: Tensor, importance: Tensor, layout: Layout) -> Grid:
    """The range of each block that loses least: Σ importance[k] · (weight − dequantized)², over SHRINKS ranges.

    `importance` [K] is what an error in a column costs, or ones. The unclipped range is among those tried, so the
    result never loses more than round-to-nearest.
    """
    blocks, weigh = blocked(weight, layout), blocked(importance[None], layout)
    best = torch.full(blocks.shape[:2], torch.inf)
    chosen: Grid | None = None
    for shrink in torch.linspace(1.0, LEAST_SHRINK, SHRINKS):
        for candidate in _candidates(blocks, float(shrink), layout):
            scale, zero = (part.unsqueeze(-1) for part in candidate)
            restored = (quantize(blocks, scale, zero, layout) - zero) * scale
            loss = ((blocks - restored).square() * weigh).sum(-1)
            better = loss < best
            best = torch.where(better, loss, best)
            chosen = candidate if chosen is None else _pick(better, candidate, chosen)
    assert chosen is not None
    return chosen


def _pick(better: Tensor, new: Grid, old: Grid) -> Grid:
    return Grid(torch.where(better, new.scale, old.scale), torch.where(better, new.zero, old.zero))


def _candidates(blocks: Tensor, shrink: float, layout: Layout) -> list[Grid]:
    """Ranges shrunk by `shrink`: around zero with the extreme value on the longer side, or from least to largest."""
    top = (1 << layout.bits) - 1
    if layout.asymmetric:
        low, high = blocks.amin(-1).clamp(max=0) * shrink, blocks.amax(-1).clamp(min=0) * shrink
        scale = _half((high - low) / top)
        return [Grid(scale, torch.clamp(torch.round(-low / scale), 0, top))]
    extreme = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)).squeeze(-1) * shrink
    middle = torch.full_like(extreme, layout.middle)
    centred = Grid(_half(extreme.abs() * 2 / top), middle)
    if layout.bits == 8:  # half a step in 255 is not worth negative scales, which TensorRT takes of int4 alone
        return [centred]
    return [centred, Grid(_half(-extreme / layout.middle, signed=True), middle)]


def _half(scale: Tensor, signed: bool = False) -> Tensor:
    """Rounded to float16, and never zero: an empty block keeps the smallest normal scale."""
    rounded = scale.to(torch.float16).to(torch.float32)
    smallest = torch.finfo(torch.float16).tiny
    kept = rounded.abs() >= smallest
    return torch.where(kept, rounded, torch.full_like(rounded, smallest)) if signed else rounded.clamp(min=smallest)
