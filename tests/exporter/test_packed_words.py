"""Codes packed in words, and the parts of a quantized linear, as GPTQ and AWQ checkpoints store them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from qvl_export.checkpoint.quantized.packed_words import block_of, convert, finite_scales, pack_words, parts_of, unpack
from qvl_export.checkpoint.safetensors_reader import StoredTensor
from qvl_export.errors import CheckpointError, ConfigError

HERE = Path("model.safetensors")


def stored(name: str, dtype: Any, shape: tuple[int, ...]) -> StoredTensor:
    return StoredTensor(name, HERE, np.dtype(dtype), shape, 0)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("axis", [0, 1])
def test_unpack_undoes_pack(bits: int, axis: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (16, 24), dtype=np.uint8)
    words = pack_words(codes, bits, axis)
    assert words.shape[axis] == codes.shape[axis] * bits // 32
    assert np.array_equal(unpack(words, bits, axis), codes)


def test_the_first_code_has_the_lowest_bits() -> None:
    words = np.array([[0x87654321 - (1 << 32)]], np.int32)
    assert unpack(words, 4, 1).tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert pack_words(np.arange(1, 9, dtype=np.uint8)[None], 4, 1).tolist() == words.tolist()


def test_missing_parts_and_wrong_types_are_named() -> None:
    tensors = {"l.qweight": stored("l.qweight", np.int32, (8, 8)), "l.scales": stored("l.scales", np.int32, (1, 8))}
    assert list(parts_of("l", tensors, ("qweight",), ("g_idx",))) == ["qweight"]
    with pytest.raises(CheckpointError, match="l lacks qzeros, g_idx"):
        parts_of("l", tensors, ("qweight", "qzeros", "g_idx"))
    with pytest.raises(CheckpointError, match=r"l\.scales is int32 of 2 dimensions, not float16 or bfloat16"):
        parts_of("l", tensors, ("qweight", "scales"))


@pytest.mark.parametrize(("columns", "block"), [(256, 128), (192, 64), (96, 32), (48, 16)])
def test_a_group_of_all_columns_takes_the_largest_block(columns: int, block: int) -> None:
    assert block_of("l", -1, columns, HERE) == block and block_of("l", 64, columns, HERE) == 64
    with pytest.raises(CheckpointError, match="l has 40 columns"):
        block_of("l", -1, 40, HERE)


def test_scales_beyond_float16_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(np.array([[1.0, 7e4]], np.float32).tobytes())
    tensor = StoredTensor("l.scales", tmp_path / "data", np.dtype(np.float32), (1, 2), 0)
    with pytest.raises(CheckpointError, match=r"l\.scales are not finite in float16"):
        finite_scales("l", tensor)
    assert finite_scales("l", StoredTensor("x", tmp_path / "data", np.dtype(np.float32), (1, 1), 0)) == 1


def test_a_wrong_field_of_a_configuration_is_named() -> None:
    class Kind(msgspec.Struct):
        bits: int = 4

    assert convert({"bits": None}, Kind, HERE).bits == 4
    with pytest.raises(ConfigError, match=r"quantization_config: .*\$\.bits"):
        convert({"bits": "four"}, Kind, HERE)
