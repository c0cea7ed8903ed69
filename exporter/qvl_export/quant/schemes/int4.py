"""`int4`: 4-bit weights by GPTQ, in blocks of columns; activations stay float."""

from __future__ import annotations

from dataclasses import dataclass

from ...common.arrays import Floats
from ...qtensor import QTensor, QuantFormat
from ..gptq.solver import gptq
from ..statistics import Statistics
from . import Options

READS = frozenset({"block_size", "gptq_experts"})


@dataclass(frozen=True)
class Int4:
    """Symmetric 4-bit codes, one scale per `block_size` columns."""

    block_size: int
    hessian: bool = True

    def format(self, columns: int) -> QuantFormat:
        return QuantFormat(4, self.block_size)

    def quantize(self, weight: Floats, statistics: Statistics) -> QTensor:
        assert statistics.hessian is not None
        return gptq(weight, statistics.hessian, self.format(weight.shape[1]))


def make(options: Options) -> Int4:
    return Int4(options.block_size)
