"""Linears of AWQ checkpoints as AutoAWQ writes them in its GEMM form, read bit for bit.

Format: `qweight` int32 [K, N/8] and `qzeros` int32 [groups, N/8], both packed along N: from the lowest bits up a word
holds the columns 0, 2, 4, 6, 1, 3, 5, 7 of its eight. `scales` float16 [groups, N]; zero points as they are. Source:
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
from ...qtensor import Layout, QTensor
from ..safetensors_reader import StoredTensor
from .packed_words import BLOCKS, Codes, block_of, convert, finite_scales, parts_of, unpack, whole

BITS, PER_WORD = 4, 8
PLACES = np.argsort((0, 2, 4, 6, 1, 3, 5, 7))
"""Where in a word, counted from the lowest bits, each of its eight columns is."""


class AwqConfig(msgspec.Struct):
    """`quantization_config` of `config.json`; transformers 5 says `format` for `version`."""

    bits: int = BITS
    group_size: int = 128
    zero_point: bool = True
    version: str | None = None
    format: str | None = None

    @property
    def form(self) -> str:
        """The order of the packed codes; AutoAWQ's default where it is not said."""
        return (self.version or self.format or "gemm").lower()

    def linear(self, name: str, tensors: Mapping[str, StoredTensor]) -> AwqLinear:
        """A linear's parts; raises CheckpointError for those that are missing or of the wrong shape."""
        return AwqLinear(name, self, **parts_of(name, tensors, ("qweight", "qzeros", "scales")))


def read_config(raw: Mapping[str, Any], where: Path) -> AwqConfig:
    """The configuration; raises ConfigError for forms and sizes that cannot be used as they are."""
    named = {"w_bit": "bits", "q_group_size": "group_size"}  # as AutoAWQ's own quant_config.json has them
    config = convert({named.get(key, key): value for key, value in raw.items()}, AwqConfig, where)
    if config.form != "gemm" or not config.zero_point:
        raise ConfigError(
            f"AWQ of version {config.form!r} with zero_point {str(config.zero_point).lower()} is not supported",
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
    """The stored tensors of one linear; raises CheckpointError where they do not fit each other."""

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

    def layout(self) -> Layout:
        """The form it takes in a graph."""
        block = block_of(self.name, self.config.group_size, self.columns, self.file)
        return Layout(BITS, block, asymmetric=True)

    def read(self) -> QTensor:
        """Codes, scales and zero points, none of them changed; a group of −1 repeats its scale over its blocks."""
        layout, scales = self.layout(), finite_scales(self.name, self.scales)
        blocks = np.arange(0, self.columns, layout.block) // self.group
        return QTensor(
            layout,
            np.ascontiguousarray(_columns(whole(self.qweight)).T),
            np.ascontiguousarray(scales[blocks].T),
            np.ascontiguousarray(_columns(whole(self.qzeros))[blocks].T),
        )


def _columns(words: npt.NDArray[np.int32]) -> Codes:
    """int32 words [groups or K, N/8] → codes [groups or K, N] in the order of columns."""
    placed = unpack(words, BITS, axis=1).reshape(len(words), -1, PER_WORD)
    return np.asarray(placed[..., PLACES].reshape(len(words), -1))
