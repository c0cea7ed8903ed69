"""`int4`: 4-bit weights by GPTQ, in blocks of columns; activations stay float.

Keys and values may get 8 bits: they are a few percent of the weights, and a third to a half of the damage.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ...common.arrays import Floats
from ...qtensor import QTensor, QuantFormat
from ..gptq.solver import gptq
from ..statistics import Statistics
from . import Options

READS = frozenset({"block_size", "gptq_experts", "kv_bits"})
SMALL_BLOCK, LARGE_BLOCK = 32, 128
"""Default sizes of blocks. A block costs eight bytes that every token reads. Large ones are for the linears of decoder
layers whose keys and values have 8 bits: together they are more accurate than small blocks."""
DECODER_LINEAR = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.[a-z]+_proj")
KEYS_OR_VALUES = ("k_proj", "v_proj")


@dataclass(frozen=True)
class Int4:
    """Symmetric codes, one scale per `block_size` columns (None: the default); `kv_bits` for keys and values."""

    block_size: int | None = None
    kv_bits: int = 4
    bits: int = 4
    hessian: bool = True

    def of_linear(self, name: str) -> Int4:
        """Returns this scheme for a linear of the checkpoint: decoder layers have larger blocks if `kv_bits` is 8."""
        if self.kv_bits == self.bits or not DECODER_LINEAR.fullmatch(name):
            return self
        bits = self.kv_bits if name.endswith(KEYS_OR_VALUES) else self.bits
        return replace(self, bits=bits, block_size=self.block_size or LARGE_BLOCK)

    def format(self, columns: int) -> QuantFormat:
        return QuantFormat(self.bits, self.block_size or SMALL_BLOCK)

    def quantize(self, weight: Floats, statistics: Statistics) -> QTensor:
        assert statistics.hessian is not None
        return gptq(weight, statistics.hessian, self.format(weight.shape[1]))


def make(options: Options) -> Int4:
    return Int4(options.block_size, options.kv_bits)
