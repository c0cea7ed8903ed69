"""Reads linears of AWQ checkpoints, in AutoAWQ's GEMM form, bit for bit.

Format: `qweight` int32 [K, N/8] and `qzeros` int32 [groups, N/8], both packed along N: from the lowest bits up, a word
holds the columns 0, 2, 4, 6, 1, 3, 5, 7 of its eight. `scales` float16 [groups, N]; zero points without offset. Source:
https://github.com/casper-hansen/AutoAWQ `awq/utils/packing_utils.py`, GPTQModel `nn_modules/qlinear/gemm_awq.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ...errors import CheckpointError, ConfigError
from ...qtensor import QTensor, QuantFormat
from ..safetensors_reader import StoredTensor
from .packed_words import BLOCKS, Codes, block_of, convert, finite_scales, parts_of, unpack, whole

BITS, PER_WORD = 4, 8
PLACES = np.argsort((0, 2, 4, 6, 1, 3, 5, 7))
"""Position in a word, counted from the lowest bits, of each of its eight columns."""


class AwqConfig(msgspec.Struct):
    """`quantization_config` of `config.json`; transformers 5 calls `version` `format`."""

    bits: int = BITS
    group_size: int = 128
    zero_point: bool = True
    version: str | None = None
    format: str | None = None

    @property
    def packing(self) -> str:
        """The order of the packed codes; AutoAWQ's default if not given."""
        return (self.version or self.format or "gemm").lower()

    def linear(self, name: str, tensors: Mapping[str, StoredTensor]) -> AwqLinear:
        """Returns a linear's parts; raises CheckpointError if one is missing or has the wrong shape."""
        return AwqLinear(name, self, **parts_of(name, tensors, ("qweight", "qzeros", "scales")))


def read_config(raw: Mapping[str, Any], where: Path) -> AwqConfig:
    """Reads the configuration; raises ConfigError for unsupported packings and sizes."""
    named = {"w_bit": "bits", "q_group_size": "group_size"}  # names in AutoAWQ's own quant_config.json
    config = convert({named.get(key, key): value for key, value in raw.items()}, AwqConfig, where)
    if config.packing != "gemm" or not config.zero_point:
        raise ConfigError(
            f"AWQ of version {config.packing!r} with zero_point {str(config.zero_point).lower()} is not supported",
            where=where,
            fix="version gemm with zero points is",
        )
    if config.bits != BITS or not (config.group_size == -1 or config.group_size in BLOCKS):
        raise ConfigError(
            f"{config.bits} bits in groups of {config.group_size} are not supported",
            where=where,
            fix=f"AWQ: bits {BITS}, group_size -1 or one of {BLOCKS}",
        )
    return config


@dataclass(frozen=True)
class AwqLinear:
    """The stored tensors of one linear; raises CheckpointError if their shapes do not match."""

    name: str
    config: AwqConfig
    qweight: StoredTensor
    qzeros: StoredTensor
    scales: StoredTensor

    def __post_init__(self) -> None:
        groups, packed = self.columns // self.group, self.rows // PER_WORD
        shapes = self.scales.shape, self.qzeros.shape
        if self.columns % self.group or shapes != ((groups, self.rows), (groups, packed)):
            raise CheckpointError(
                f"{self.name}: scales {list(shapes[0])} and qzeros {list(shapes[1])} do not fit qweight "
                f"{list(self.qweight.shape)} in groups of {self.config.group_size}",
                where=self.file,
            )

    @property
    def file(self) -> Path:
        return self.qweight.file

    @property
    def columns(self) -> int:
        """Input features, K."""
        return self.qweight.shape[0]

    @property
    def rows(self) -> int:
        """Output features, N."""
        return self.qweight.shape[1] * PER_WORD

    @property
    def group(self) -> int:
        """Columns that share a scale and a zero point."""
        return self.columns if self.config.group_size == -1 else self.config.group_size

    def format(self) -> QuantFormat:
        """Returns the linear's format in a graph."""
        block = block_of(self.name, self.config.group_size, self.columns, self.file)
        return QuantFormat(BITS, block, asymmetric=True)

    def read(self) -> QTensor:
        """Reads codes, scales and zero points unchanged; for group size −1 the scale is repeated for every block."""
        format, scales = self.format(), finite_scales(self.name, self.scales)
        blocks = np.arange(0, self.columns, format.block) // self.group
        return QTensor(
            format,
            np.ascontiguousarray(_columns(whole(self.qweight)).T),
            np.ascontiguousarray(scales[blocks].T),
            np.ascontiguousarray(_columns(whole(self.qzeros))[blocks].T),
        )


def _columns(words: npt.NDArray[np.int32]) -> Codes:
    """Unpacks int32 words [groups or K, N/8] to codes [groups or K, N] in column order."""
    placed = unpack(words, BITS, axis=1).reshape(len(words), -1, PER_WORD)
    return np.asarray(placed[..., PLACES].reshape(len(words), -1))
