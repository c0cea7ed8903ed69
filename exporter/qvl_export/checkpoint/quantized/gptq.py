"""Reads linears of GPTQ checkpoints, as auto-gptq and GPTQModel write them, bit for bit.

Format: `qweight` int32 [K·bits/32, N] packed along K, `qzeros` int32 [groups, N·bits/32] packed along N, `scales`
float16 [groups, N] (bfloat16 and float32 are converted), `g_idx` int32 [K], the group of each column; lowest bits
first. Format "gptq" stores zero points minus one, "gptq_v2" stores them unchanged. Source:
https://github.com/AutoGPTQ/AutoGPTQ `qlinear_cuda_old.py`, GPTQModel `nn_modules/qlinear`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ...common.arrays import Ints
from ...errors import CheckpointError, ConfigError
from ...qtensor import QTensor, QuantFormat
from ..safetensors_reader import StoredTensor
from .packed_words import BLOCKS, block_of, convert, finite_scales, parts_of, unpack, whole

BITS = (4, 8)
FORMATS = ("gptq", "gptq_v2")
OTHER = dict(zip(FORMATS, reversed(FORMATS), strict=True))


class GptqConfig(msgspec.Struct):
    """`quantization_config` of `config.json`, or `quantize_config.json`.

    transformers and GPTQModel read the format from either key, and write both.
    """

    bits: int
    group_size: int
    checkpoint_format: str | None = None
    format: str | None = None
    sym: bool = True
    desc_act: bool = False

    @property
    def stored(self) -> str:
        """How zero points are stored; old files do not say, and mean "gptq"."""
        return (self.checkpoint_format or self.format or "gptq").lower()

    def linear(self, name: str, tensors: Mapping[str, StoredTensor]) -> GptqLinear:
        """Returns a linear's parts; raises CheckpointError if one is missing or has the wrong shape."""
        return GptqLinear(name, self, **parts_of(name, tensors, ("qweight", "qzeros", "scales"), ("g_idx",)))


def read_config(raw: Mapping[str, Any], where: Path) -> GptqConfig:
    """Reads the configuration; raises ConfigError for unsupported formats and sizes."""
    config = convert(raw, GptqConfig, where)
    said = {name: value for name in ("checkpoint_format", "format") if (value := getattr(config, name)) is not None}
    for name, value in said.items():
        if value.lower() not in FORMATS:
            raise ConfigError(f"{name} {value!r} is not gptq or gptq_v2", where=where)
    if len({value.lower() for value in said.values()}) > 1:
        raise ConfigError(
            f"checkpoint_format {config.checkpoint_format!r} is not format {config.format!r}",
            where=where,
            fix="remove the wrong one: zero points are stored minus one in gptq, as they are in gptq_v2",
        )
    if config.bits not in BITS or not (config.group_size == -1 or config.group_size in BLOCKS):
        raise ConfigError(
            f"{config.bits} bits in groups of {config.group_size} are not supported",
            where=where,
            fix=f"bits {BITS}, group_size -1 or one of {BLOCKS}",
        )
    return config


@dataclass(frozen=True)
class GptqLinear:
    """The stored tensors of one linear; raises CheckpointError if their shapes do not match."""

    name: str
    config: GptqConfig
    qweight: StoredTensor
    qzeros: StoredTensor
    scales: StoredTensor
    g_idx: StoredTensor | None = None

    def __post_init__(self) -> None:
        bits, group_size = self.config.bits, self.config.group_size
        groups = 1 if group_size == -1 else -(-self.columns // group_size)
        packed = -(-self.rows * bits // 32)
        shapes = self.scales.shape, self.qzeros.shape
        indexed = self.g_idx is None or self.g_idx.shape == (self.columns,)
        if shapes != ((groups, self.rows), (groups, packed)) or not indexed:
            raise CheckpointError(
                f"{self.name}: scales {list(shapes[0])} and qzeros {list(shapes[1])} do not fit qweight "
                f"{list(self.qweight.shape)} at {bits} bits in groups of {group_size}",
                where=self.file,
            )

    @property
    def file(self) -> Path:
        return self.qweight.file

    @property
    def columns(self) -> int:
        """Input features, K."""
        return self.qweight.shape[0] * 32 // self.config.bits

    @property
    def rows(self) -> int:
        """Output features, N."""
        return self.qweight.shape[1]

    def groups(self) -> Ints:
        """Returns the group of every column; raises CheckpointError if groups are incomplete."""
        size = self.columns if self.config.group_size == -1 else self.config.group_size
        if self.g_idx is None:
            return np.arange(self.columns) // size
        index = whole(self.g_idx).astype(np.int64)
        full = np.bincount(np.arange(self.columns) // size)
        if index.min(initial=0) < 0 or index.max(initial=0) >= len(full) or (np.bincount(index) != full).any():
            raise CheckpointError(
                f"{self.name}.g_idx does not sort columns into groups of {size}", where=self.g_idx.file
            )
        return index

    def format(self) -> QuantFormat:
        """Returns the linear's format in a graph; reads only `g_idx`."""
        index = self.groups()
        permuted = bool((np.diff(index) < 0).any())
        block = block_of(self.name, self.config.group_size, self.columns, self.file)
        return QuantFormat(self.config.bits, block, asymmetric=not self.config.sym, permuted=permuted)

    def read(self) -> QTensor:
        """Reads codes, scales and zero points unchanged; for group size −1 the scale is repeated for every block."""
        format, index, bits = self.format(), self.groups(), self.config.bits
        codes = unpack(whole(self.qweight), bits, axis=0).T
        zeros = unpack(whole(self.qzeros), bits, axis=1)[:, : self.rows].astype(np.int64)
        zeros += self.config.stored == "gptq"
        if zeros.max(initial=0) >= 1 << bits:
            raise CheckpointError(f"{self.name}.qzeros has zero points beyond {bits} bits", where=self.qzeros.file)
        if not format.asymmetric and (zeros != format.default_zero_point).any():
            raise CheckpointError(
                f"{self.name} says sym but its zero points differ",
                where=self.qzeros.file,
                fix=f"the configuration says sym and {self.config.stored}: is it {OTHER[self.config.stored]}?",
            )
        scales = finite_scales(self.name, self.scales)
        order = np.argsort(index, kind="stable")
        block_group = index[order][:: format.block]
        return QTensor(
            format,
            np.ascontiguousarray(codes[:, order]),
            np.ascontiguousarray(scales[block_group].T),
            np.ascontiguousarray(zeros[block_group].T.astype(np.uint8)) if format.asymmetric else None,
            order if format.permuted else None,
        )
