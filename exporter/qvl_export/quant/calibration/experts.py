"""Quantizes experts by GPTQ, each on the tokens that the router sends it.

A fused operator does not expose the inputs of its second matrix. They are computed here, as the gated product of the
float gate and up rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...common.arrays import Floats, Ints
from ...graph.experts import EXPERT_PARTS, ExpertWeight
from ...graph.layer_graphs import Stage
from ...graph.weights import WeightSource
from ...qtensor import QTensor, QuantFormat
from ..gptq.solver import gptq, round_to_nearest
from ..schemes import Scheme
from .expert_tokens import Routed
from .rtn_tables import quantize_rows
from .tower import Tower
from .work_dir import LinearRecord, Work

INTEGER_EXPERTS = QuantFormat(8, 32)
"""Format under W8A8: experts have no integer kernel, so their weights are 8 bits in blocks of 32."""
LEAST_TOKENS = 1 / 16
"""Tokens per column of a matrix below which it is rounded to nearest: the fewest measured (docs/benchmarks.md)."""


def gated(y: Floats, rows: Ints | None) -> Floats:
    """silu(gate) · up of y [T, 2 · inner]; `rows` is the order of its columns (None: all of gate, then all of up)."""
    stored = y if rows is None else y[:, np.argsort(rows)]
    gate, up = np.split(stored, 2, axis=1)
    with np.errstate(over="ignore"):  # exp overflows for a gate far below zero, whose output is zero
        return np.asarray(gate / (1 + np.exp(-gate)) * up)


def hessians(routed: Sequence[Routed], expert: int, gate_up: Floats, rows: Ints | None) -> tuple[Floats, Floats, int]:
    """Σ x xᵀ over an expert's tokens for the inputs of both its matrices, and the number of tokens.

    Each input is scaled by its share, as a token's share scales the expert's output and thus its error. `gate_up` is
    [2 · inner, K].
    """
    first, second = (np.zeros((size, size), np.float32) for size in (gate_up.shape[1], len(gate_up) // 2))
    count = 0
    for x, share in (pair for part in routed for pair in part.tokens(expert, gate_up.shape[1])):
        hidden = gated(x @ gate_up.T, rows) * share
        x = x * share
        first += x.T @ x
        second += hidden.T @ hidden
        count += len(x)
    return first, second, count


@dataclass
class _Matrices:
    """The quantized matrices of all experts, filled one expert at a time."""

    format: QuantFormat
    shape: tuple[int, ...]
    rounded: int = 0

    def __post_init__(self) -> None:
        count, outputs, inputs = self.shape
        self.tensor = QTensor.empty(self.format, count * outputs, inputs)

    def quantize(self, expert: int, weight: Floats, hessian: Floats, tokens: int) -> None:
        """Quantizes one matrix [out, in]: by GPTQ if it saw enough tokens, else to nearest."""
        enough = tokens >= LEAST_TOKENS * weight.shape[1]
        # refinement on so few tokens would lose accuracy on others: docs/decisions.md
        found = gptq(weight, hessian, self.format, rounds=0) if enough else round_to_nearest(weight, self.format)
        self.tensor.fill(expert * len(weight), found)
        self.rounded += not enough


def gptq_experts(
    weights: tuple[ExpertWeight, ExpertWeight],
    sources: tuple[WeightSource, WeightSource],
    routed: Sequence[Routed],
    format: QuantFormat,
) -> tuple[QTensor, QTensor, int]:
    """Quantizes gate-up and down of all experts, each [experts · out, in]; also returns how many saw too few tokens.

    Raises ExportError if weights or activations are not finite.
    """
    gate_up, down = (_Matrices(format, weight.source_shape) for weight in weights)
    pairs = zip(*(source.chunks() for source in sources), strict=True)
    for expert, pair in enumerate(pairs):
        first, second = (
            chunk.astype(np.float32).reshape(weight.source_shape[1:])
            for chunk, weight in zip(pair, weights, strict=True)
        )
        outer, inner, tokens = hessians(routed, expert, first, weights[0].rows)
        gate_up.quantize(expert, first, outer, tokens)
        down.quantize(expert, second, inner, tokens)
    return gate_up.tensor, down.tensor, gate_up.rounded + down.rounded


def routed_outputs(tower: Tower, stage: Stage) -> tuple[str, str] | None:
    """The stage's outputs with the inputs and the router's scores of its experts, if GPTQ quantizes these."""
    schemes = [tower.scheme(name) for name in stage.experts]
    if stage.routed is None or not tower.experts_per_token or not all(scheme and scheme.hessian for scheme in schemes):
        return None
    return stage.routed


def quantize_experts(
    tower: Tower, stage: Stage, routed: Sequence[Routed], work: Work
) -> tuple[dict[str, LinearRecord], int]:
    """Quantizes and saves a stage's experts; also returns how many matrices saw too few tokens for GPTQ.

    Without `routed`, experts are rounded to nearest.
    """
    sources = tower.sources(stage.graph)
    if not routed:
        return {name: _round(tower, stage.experts[name], name, sources[name], work) for name in stage.experts}, 0
    first, second = (next(name for name in stage.experts if name.endswith(part)) for part in EXPERT_PARTS)
    scheme = tower.scheme(first)
    assert scheme is not None
    weights, format = (stage.experts[first], stage.experts[second]), scheme.format(stage.experts[first].source_shape[2])
    gate_up, down, rounded = gptq_experts(weights, (sources[first], sources[second]), routed, format)
    records = {}
    for name, tensor in ((first, gate_up), (second, down)):
        work.save(name, tensor)
        records[name] = LinearRecord(format, (tensor.codes.shape[0], tensor.codes.shape[1]), None)
    return records, rounded


def _round(tower: Tower, weight: ExpertWeight, name: str, source: WeightSource, work: Work) -> LinearRecord:
    """Rounds one projection of all experts to nearest, or keeps it in float if it has no scheme."""
    count, outputs, inputs = weight.source_shape
    scheme = tower.scheme(name)
    if scheme is None:
        return LinearRecord(None, (count * outputs, inputs), None)
    format = expert_format(scheme, inputs)
    quantize_rows(name, source, (count * outputs, inputs), format, work.directory)
    return LinearRecord(format, (count * outputs, inputs), None)


def expert_format(scheme: Scheme, columns: int) -> QuantFormat:
    """The format of experts of `columns` inputs under a scheme."""
    format = scheme.format(columns)
    return INTEGER_EXPERTS if format.integer else format
