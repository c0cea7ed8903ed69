"""Searches scales and zero points of blocks over clipped ranges (torch)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...qtensor import QuantFormat

SHRINKS = 32
LEAST_SHRINK = 0.6
"""The narrowest range tried, as a fraction of the full range."""
AT_ONCE = 1 << 17
"""Weights searched together: as many as fit in a core's cache beside as many results."""


class BlockGrid(NamedTuple):
    """`scale` and `zero` of every block, [N, blocks]; scales are float16 values stored as float32."""

    scale: Tensor
    zero: Tensor


def quantize(weight: Tensor, scale: Tensor, zero: Tensor, format: QuantFormat) -> Tensor:
    """Returns the codes of `weight` with broadcastable scales and zeros, as floats in [0, 2^bits)."""
    return torch.clamp(torch.round(weight / scale) + zero, 0, (1 << format.bits) - 1)


def split_blocks(weight: Tensor, format: QuantFormat) -> Tensor:
    """[N, K] → [N, blocks, block]; a partial last block is padded with zeros, which have no quantization error."""
    rows, columns = weight.shape
    padding = format.blocks(columns) * format.block - columns
    return torch.nn.functional.pad(weight, (0, padding)).view(rows, -1, format.block)


def expand_blocks(part: Tensor, format: QuantFormat, columns: int) -> Tensor:
    """Repeats the values of blocks [N, blocks] for each of their `columns`: [N, K]."""
    return part.repeat_interleave(format.block, dim=1)[:, :columns]


def search(weight: Tensor, importance: Tensor | None, format: QuantFormat) -> BlockGrid:
    """Finds the range of each block with the least loss Σ importance[k] · (weight − dequantized)² of SHRINKS ranges.

    `importance` [K] is the cost of an error in each column (None: 1). The unclipped range is one of them, so the loss
    is never above that of round-to-nearest.
    """
    rows = max(1, AT_ONCE // weight.shape[1])
    weigh = None if importance is None else split_blocks(importance[None], format).permute(2, 0, 1).contiguous()
    parts = [
        _search(split_blocks(part, format).permute(2, 0, 1).contiguous(), weigh, format)
        for part in torch.split(weight, rows)
    ]
    return BlockGrid(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _search(blocks: Tensor, weigh: Tensor | None, format: QuantFormat) -> BlockGrid:
    """`search` on `blocks` [block, rows, blocks], laid out so that inner loops run over scales."""
    shrinks = torch.linspace(1.0, LEAST_SHRINK, SHRINKS)[:, None, None]
    scales, zeros = _candidates([shrinks * end for end in _span(blocks, format)], format)
    losses, scratch = torch.empty_like(scales), torch.empty_like(blocks)
    for loss, scale, zero in zip(losses, scales, zeros, strict=True):
        loss.copy_(_loss(blocks, BlockGrid(scale, zero), weigh, format, scratch))
    best = losses.argmin(0, keepdim=True)
    return BlockGrid(scales.gather(0, best)[0], zeros.gather(0, best)[0])


def _loss(blocks: Tensor, candidate: BlockGrid, weigh: Tensor | None, format: QuantFormat, scratch: Tensor) -> Tensor:
    """The loss of each block, [rows, blocks]: quantizes and dequantizes in place in `scratch`, without copies."""
    scale, zero = candidate
    torch.div(blocks, scale, out=scratch).round_()
    top = (1 << format.bits) - 1
    if format.asymmetric:
        scratch.clamp_(-zero, top - zero)
    else:
        scratch.clamp_(-format.default_zero_point, top - format.default_zero_point)
    scratch.mul_(scale).sub_(blocks).square_()
    return (scratch if weigh is None else scratch.mul_(weigh)).sum(0)


def _span(blocks: Tensor, format: QuantFormat) -> list[Tensor]:
    """The range of blocks [block, …]: minimum and maximum if asymmetric, else the value of largest magnitude."""
    if format.asymmetric:
        return [blocks.amin(0).clamp(max=0), blocks.amax(0).clamp(min=0)]
    return [blocks.gather(0, blocks.abs().argmax(0, keepdim=True))[0]]


def _candidates(span: list[Tensor], format: QuantFormat) -> BlockGrid:
    """Grids for spans [shrinks, …]: from minimum to maximum if asymmetric, else around zero.

    With signed scales, grids that put the extreme value on the longer side are tried too.
    """
    top = (1 << format.bits) - 1
    if format.asymmetric:
        low, high = span
        scale = to_float16((high - low) / top)
        return BlockGrid(scale, torch.clamp(torch.round(-low / scale), 0, top))
    (extreme,) = span
    scale = to_float16(extreme.abs() * 2 / top)
    if format.signed_scales:
        scale = torch.cat((scale, to_float16(-extreme / format.default_zero_point, signed=True)))
    return BlockGrid(scale, torch.full_like(scale, format.default_zero_point))


def to_float16(scale: Tensor, signed: bool = False) -> Tensor:
    """Rounds scales to float16, and to at least the smallest normal value, so that none is zero."""
    rounded = scale.to(torch.float16).to(torch.float32)
    smallest = torch.finfo(torch.float16).tiny
    kept = rounded.abs() >= smallest
    return torch.where(kept, rounded, torch.full_like(rounded, smallest)) if signed else rounded.clamp(min=smallest)
