"""`int4`: 4-bit weights by GPTQ, in blocks of columns; activations stay float.

Where graphs cannot have 4-bit weights, 8-bit ones take their place.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...common.arrays import Floats
from ...qtensor import QTensor, QuantFormat
from ..gptq.solver import gptq
from ..statistics import Statistics
from . import Options, Scheme
from .int8 import Int8

READS = frozenset({"block_size", "gptq_experts", "int4"})


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


@dataclass(frozen=True)
class Rows:
    """8-bit codes rounded to nearest, one scale per row."""

    hessian: bool = False

    def format(self, columns: int) -> QuantFormat:
        return QuantFormat(8, columns)

    def quantize(self, weight: Floats, statistics: Statistics) -> QTensor:
        return Int8(8).quantize(weight).weight_only()


def make(options: Options) -> Scheme:
    return Int4(options.block_size) if options.int4 else Rows()
