"""Linears of GPTQ checkpoints as auto-gptq and GPTQModel write them, read bit for bit.

Format: `qweight` int32 [K·bits/32, N] packed along K, `qzeros` int32 [groups, N·bits/32] packed along N, `scales`
float16 [groups, N], `g_idx` int32 [K], the group of each column; lowest bits first. Method "gptq" stores zero points
minus one, "gptq_v2" as they are. Source: https://github.com/AutoGPTQ/AutoGPTQ `qlinear_cuda_old.py`, GPTQModel
`nn_modules/qlinear`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError, ConfigError
from ..safetensors_file import StoredTensor
from .qtensor import Layout, QTensor

BITS = (4, 8)
BLOCKS = (128, 64, 32, 16)
"""Block sizes that kernels take, largest first."""
FORMS = {"qweight": ("int32", 2), "qzeros": ("int32", 2), "scales": ("float16", 2), "g_idx": ("int32", 1)}
"""Element type and dimensions of each part."""
Codes = npt.NDArray[np.uint8]


class GptqConfig(msgspec.Struct):
    """`quantization_config` of `config.json`, or `quantize_config.json`."""

    bits: int
    group_size: int
    checkpoint_format: str = "gptq"
    sym: bool = True
    desc_act: bool = False


def read_config(raw: Mapping[str, Any], where: Path) -> GptqConfig:
    """The configuration; raises ConfigError for formats and sizes that cannot be used as they are."""
    try:
        config = msgspec.convert(raw, GptqConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"quantization_config: {error}", where=where) from error
    if config.checkpoint_format not in ("gptq", "gptq_v2"):
        raise ConfigError(f"checkpoint_format {config.checkpoint_format!r} is not gptq or gptq_v2", where=where)
    if config.bits not in BITS or not (config.group_size == -1 or config.group_size in BLOCKS):
        raise ConfigError(
            f"{config.bits} bits in groups of {config.group_size} are not supported",
            where=where,
            fix=f"bits {BITS}, group_size -1 or one of {BLOCKS}",
        )
    return config


@dataclass(frozen=True)
class GptqLinear:
    """The stored tensors of one linear."""

    name: str
    config: GptqConfig
    qweight: StoredTensor
    qzeros: StoredTensor
    scales: StoredTensor
    g_idx: StoredTensor | None

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

    def groups(self) -> npt.NDArray[np.int64]:
        """The group of every column; raises CheckpointError when groups are not whole."""
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

    def layout(self) -> Layout:
        """The form it takes in a graph; reads only `g_idx`."""
        index = self.groups()
        permuted = bool((np.diff(index) < 0).any())
        block = block_of(self.name, self.config.group_size, self.columns, self.file)
        return Layout(self.config.bits, block, asymmetric=not self.config.sym, permuted=permuted)

    def read(self) -> QTensor:
        """Codes, scales and zero points, none of them changed; a group of −1 repeats its scale over its blocks."""
        layout, index, bits = self.layout(), self.groups(), self.config.bits
        codes = unpack(whole(self.qweight), bits, axis=0).T
        zeros = unpack(whole(self.qzeros), bits, axis=1)[:, : self.rows].astype(np.int64)
        zeros += self.config.checkpoint_format == "gptq"
        if zeros.max(initial=0) >= 1 << bits:
            raise CheckpointError(f"{self.name}.qzeros has zero points beyond {bits} bits", where=self.qzeros.file)
        if not layout.asymmetric and (zeros != layout.middle).any():
            raise CheckpointError(f"{self.name} says sym but its zero points differ", where=self.qzeros.file)
        scales = finite_scales(self.name, self.scales)
        order = np.argsort(index, kind="stable")
        block_group = index[order][:: layout.block]
        return QTensor(
            layout,
            np.ascontiguousarray(codes[:, order]),
            np.ascontiguousarray(scales[block_group].T),
            np.ascontiguousarray(zeros[block_group].T.astype(np.uint8)) if layout.asymmetric else None,
            order if layout.permuted else None,
        )


def find(tensors: Mapping[str, StoredTensor], config: GptqConfig) -> dict[str, GptqLinear]:
    """Every quantized linear by name; raises CheckpointError for parts that are missing or of the wrong shape."""
    names = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    return {name: _linear(name, tensors, config) for name in names}


def parts_of(
    name: str, tensors: Mapping[str, StoredTensor], needed: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, StoredTensor]:
    """The parts of a linear that there are; raises CheckpointError for missing ones and other element types."""
    found = {part: tensors[f"{name}.{part}"] for part in (*needed, *optional) if f"{name}.{part}" in tensors}
    if missing := [part for part in needed if part not in found]:
        raise CheckpointError(f"{name} lacks {', '.join(missing)}", where=tensors[f"{name}.qweight"].file)
    for part, tensor in found.items():
        if tensor.dtype != FORMS[part][0] or len(tensor.shape) != FORMS[part][1]:
            form = f"{tensor.dtype} of {len(tensor.shape)} dimensions"
            raise CheckpointError(f"{name}.{part} is {form}, not {FORMS[part]}", where=tensor.file)
    return found


def _linear(name: str, tensors: Mapping[str, StoredTensor], config: GptqConfig) -> GptqLinear:
    parts = parts_of(name, tensors, ("qweight", "qzeros", "scales"), ("g_idx",))
    qweight, qzeros, scales = parts["qweight"], parts["qzeros"], parts["scales"]
    linear = GptqLinear(name, config, qweight, qzeros, scales, parts.get("g_idx"))
    groups = 1 if config.group_size == -1 else -(-linear.columns // config.group_size)
    packed = -(-linear.rows * config.bits // 32)
    indexed = linear.g_idx is None or linear.g_idx.shape == (linear.columns,)
    if scales.shape != (groups, linear.rows) or qzeros.shape != (groups, packed) or not indexed:
        raise CheckpointError(
            f"{name}: scales {list(scales.shape)} and qzeros {list(qzeros.shape)} do not fit qweight "
            f"{list(qweight.shape)} at {config.bits} bits in groups of {config.group_size}",
            where=qweight.file,
        )
    return linear


def block_of(name: str, group_size: int, columns: int, where: Path) -> int:
    """Columns a block; a group of −1 is made of the largest blocks that divide its columns."""
    if group_size != -1:
        return group_size
    fitting = [block for block in BLOCKS if columns % block == 0]
    if not fitting:
        raise CheckpointError(f"{name} has {columns} columns, not a multiple of 16", where=where)
    return fitting[0]


def finite_scales(name: str, tensor: StoredTensor) -> npt.NDArray[np.float16]:
    """Stored scales; raises CheckpointError where they are not finite."""
    scales = whole(tensor)
    if not np.isfinite(scales).all():
        raise CheckpointError(f"{name}.scales are not finite", where=tensor.file)
    return scales


def whole(tensor: StoredTensor) -> npt.NDArray[Any]:
    """A stored tensor in memory."""
    return np.concatenate(list(tensor.chunks())).reshape(tensor.shape)


def unpack(words: npt.NDArray[np.int32], bits: int, axis: int) -> Codes:
    """int32 words → codes along `axis`, lowest bits first."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    unsigned = np.moveaxis(words.view(np.uint32), axis, -1)
    codes = (unsigned[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    return np.moveaxis(codes.reshape(*unsigned.shape[:-1], -1).astype(np.uint8), -1, axis)


def pack_words(codes: Codes, bits: int, axis: int) -> npt.NDArray[np.int32]:
    """Codes → int32 words along `axis`, lowest bits first: what `unpack` undoes."""
    per_word, moved = 32 // bits, np.moveaxis(codes, axis, 0)
    words = np.zeros((len(moved) // per_word, *moved.shape[1:]), np.uint32)
    for place in range(per_word):
        words |= moved[place::per_word].astype(np.uint32) << np.uint32(bits * place)
    return np.moveaxis(words.view(np.int32), 0, axis)
