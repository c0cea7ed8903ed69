"""Scales and zero points of blocks, searched on a grid of clipped ranges (torch)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...qtensor import Layout

SHRINKS = 32
LEAST_SHRINK = 0.6
"""The narrowest range tried, as a part of the largest magnitude."""
AT_ONCE = 1 << 17
"""Weights searched together: what fits into a core's cache, with room for as many results."""


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


def spread(part: Tensor, layout: Layout, columns: int) -> Tensor:
    """What blocks [N, blocks] have, for every one of their `columns`: [N, K]."""
    return part.repeat_interleave(layout.block, dim=1)[:, :columns]


def search(weight: Tensor, importance: Tensor | None, layout: Layout) -> Grid:
    """The range of each block that loses least: Σ importance[k] · (weight − dequantized)², over SHRINKS ranges.

    `importance` [K] is what an error in a column costs, one where None. The unclipped range is among those tried, so
    the result never loses more than round-to-nearest.
    """
    rows = max(1, AT_ONCE // weight.shape[1])
    weigh = None if importance is None else blocked(importance[None], layout).permute(2, 0, 1).contiguous()
    parts = [
        _search(blocked(part, layout).permute(2, 0, 1).contiguous(), weigh, layout)
        for part in torch.split(weight, rows)
    ]
    return Grid(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _search(blocks: Tensor, weigh: Tensor | None, layout: Layout) -> Grid:
    """The same for `blocks` [block, rows, blocks]: the weights of a scale lie apart, so operations run over scales."""
    shrinks = torch.linspace(1.0, LEAST_SHRINK, SHRINKS)[:, None, None]
    scales, zeros = _candidates([shrinks * end for end in _span(blocks, layout)], layout)
    losses, scratch = torch.empty_like(scales), torch.empty_like(blocks)
    for loss, scale, zero in zip(losses, scales, zeros, strict=True):
        loss.copy_(_loss(blocks, Grid(scale, zero), weigh, layout, scratch))
    best = losses.argmin(0, keepdim=True)
    return Grid(scales.gather(0, best)[0], zeros.gather(0, best)[0])


def _loss(blocks: Tensor, candidate: Grid, weigh: Tensor | None, layout: Layout, scratch: Tensor) -> Tensor:
    """What each block loses, [rows, blocks], computed in place: `quantize` and back without its copies."""
    scale, zero = candidate
    torch.div(blocks, scale, out=scratch).round_()
    top = (1 << layout.bits) - 1
    if layout.asymmetric:
        scratch.clamp_(-zero, top - zero)
    else:
        scratch.clamp_(-layout.middle, top - layout.middle)
    scratch.mul_(scale).sub_(blocks).square_()
    return (scratch if weigh is None else scratch.mul_(weigh)).sum(0)


def _span(blocks: Tensor, layout: Layout) -> list[Tensor]:
    """What blocks [block, …] span: the least and the largest value, or the one that is extreme."""
    if layout.asymmetric:
        return [blocks.amin(0).clamp(max=0), blocks.amax(0).clamp(min=0)]
    return [blocks.gather(0, blocks.abs().argmax(0, keepdim=True))[0]]


def _candidates(span: list[Tensor], layout: Layout) -> Grid:
    """Grids over spans [shrinks, …]: around zero, the extreme value on the longer side, or from least to largest."""
    top = (1 << layout.bits) - 1
    if layout.asymmetric:
        low, high = span
        scale = half((high - low) / top)
        return Grid(scale, torch.clamp(torch.round(-low / scale), 0, top))
    (extreme,) = span
    scale = half(extreme.abs() * 2 / top)
    if layout.signed_scales:
        scale = torch.cat((scale, half(-extreme / layout.middle, signed=True)))
    return Grid(scale, torch.full_like(scale, layout.middle))


def half(scale: Tensor, signed: bool = False) -> Tensor:
    """Rounded to float16, and never zero: an empty block keeps the smallest normal scale."""
    rounded = scale.to(torch.float16).to(torch.float32)
    smallest = torch.finfo(torch.float16).tiny
    kept = rounded.abs() >= smallest
    return torch.where(kept, rounded, torch.full_like(rounded, smallest)) if signed else rounded.clamp(min=smallest)
