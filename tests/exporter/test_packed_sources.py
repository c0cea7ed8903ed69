"""Parts of quantized linears: as their target packs them, one linear at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from qvl_export.graph.packed_sources import packed_parts
from qvl_export.qtensor import QTensor, QuantFormat
from qvl_export.quant.gptq.solver import round_to_nearest
from qvl_export.targets import lower

FORMAT = QuantFormat(4, 32)


@dataclass
class Linear:
    """A quantized linear that counts how often it is read."""

    seed: int
    name: str = "l"
    file: Path = Path("l.npz")
    rows: int = 16
    columns: int = 64
    reads: list[int] = field(default_factory=list)

    def format(self) -> QuantFormat:
        return FORMAT

    def read(self) -> QTensor:
        self.reads.append(self.seed)
        weight = np.random.default_rng(self.seed).standard_normal((self.rows, self.columns)).astype(np.float32)
        return round_to_nearest(weight, FORMAT)


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_parts_are_those_of_the_target(target: str) -> None:
    linears, ops = {name: Linear(seed) for seed, name in enumerate(("a", "b"))}, lower(target, "fp16")
    sources = packed_parts(linears, ops)
    assert not any(linear.reads for linear in linears.values()), "nothing is read before it is written"
    for name, linear in linears.items():
        for part, values in ops.pack(Linear(linear.seed).read()).items():
            source = sources[f"{name}.{part}"]
            assert (source.name, source.file) == (f"{name}.{part}", linear.file)
            (chunk,) = source.chunks()
            assert np.array_equal(chunk, np.ascontiguousarray(values).reshape(-1)) and chunk.nbytes == source.nbytes
        assert linear.reads == [linear.seed], "once for all parts"
