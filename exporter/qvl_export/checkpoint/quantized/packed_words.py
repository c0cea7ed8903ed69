"""Code shared by GPTQ and AWQ checkpoints: the parts of a linear beside its `qweight`, and codes packed in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from ...errors import CheckpointError, ConfigError
from ..safetensors_reader import StoredTensor

BLOCKS = (128, 64, 32, 16)
"""Block sizes that kernels support, largest first."""
FORMS = {
    "qweight": (("int32",), 2),
    "qzeros": (("int32",), 2),
    "scales": (("float16", "bfloat16", "float32"), 2),
    "g_idx": (("int32",), 1),
}
"""Element types and number of dimensions of each part."""
Codes = npt.NDArray[np.uint8]
Config = TypeVar("Config")


def convert(raw: Mapping[str, Any], kind: type[Config], where: Path) -> Config:
    """Converts a `quantization_config`, ignoring null values; raises ConfigError that names the field."""
    try:
        return msgspec.convert({key: value for key, value in raw.items() if value is not None}, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"quantization_config: {error}", where=where) from error


def names(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Returns the names of the quantized linears among stored tensors."""
    return [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]


def parts_of(
    name: str, tensors: Mapping[str, StoredTensor], needed: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, StoredTensor]:
    """Returns a linear's stored parts; raises CheckpointError for missing ones and wrong types or dimensions."""
    found = {part: tensors[f"{name}.{part}"] for part in (*needed, *optional) if f"{name}.{part}" in tensors}
    if missing := [part for part in needed if part not in found]:
        raise CheckpointError(f"{name} lacks {', '.join(missing)}", where=tensors[f"{name}.qweight"].file)
    for part, tensor in found.items():
        types, dimensions = FORMS[part]
        if tensor.dtype.name not in types or len(tensor.shape) != dimensions:
            actual = f"{tensor.dtype} of {len(tensor.shape)} dimensions"
            wanted = f"{' or '.join(types)} of {dimensions}"
            raise CheckpointError(f"{name}.{part} is {actual}, not {wanted}", where=tensor.file)
    return found


def block_of(name: str, group_size: int, columns: int, where: Path) -> int:
    """Returns the columns per block; group size −1 uses the largest block size that divides the columns."""
    if group_size != -1:
        return group_size
    fitting = [block for block in BLOCKS if columns % block == 0]
    if not fitting:
        raise CheckpointError(f"{name} has {columns} columns, not a multiple of 16", where=where)
    return fitting[0]


def finite_scales(name: str, tensor: StoredTensor) -> npt.NDArray[np.float16]:
    """Returns stored scales rounded to float16, as kernels need; raises CheckpointError if one is not finite."""
    with np.errstate(over="ignore"):
        scales = whole(tensor).astype(np.float16)
    if not np.isfinite(scales).all():
        raise CheckpointError(f"{name}.scales are not finite in float16", where=tensor.file)
    return np.asarray(scales)


def whole(tensor: StoredTensor) -> npt.NDArray[Any]:
    """Reads a stored tensor into memory."""
    return np.concatenate(list(tensor.chunks())).reshape(tensor.shape)


def unpack(words: npt.NDArray[np.int32], bits: int, axis: int) -> Codes:
    """Unpacks int32 words to codes along `axis`, lowest bits first."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    unsigned = np.moveaxis(words.view(np.uint32), axis, -1)
    codes = (unsigned[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    return np.moveaxis(codes.reshape(*unsigned.shape[:-1], -1).astype(np.uint8), -1, axis)


def pack_words(codes: Codes, bits: int, axis: int) -> npt.NDArray[np.int32]:
    """Packs codes into int32 words along `axis`, lowest bits first; the inverse of `unpack`."""
    per_word, moved = 32 // bits, np.moveaxis(codes, axis, 0)
    words = np.zeros((len(moved) // per_word, *moved.shape[1:]), np.uint32)
    for place in range(per_word):
        words |= moved[place::per_word].astype(np.uint32) << np.uint32(bits * place)
    return np.moveaxis(words.view(np.int32), 0, axis)
