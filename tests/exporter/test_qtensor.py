"""Quantized tensors and their formats, against a loop over the definition."""

from __future__ import annotations

import numpy as np
import pytest

from qvl_export.errors import ExportError
from qvl_export.qtensor import Activations, QTensor, QuantFormat, check_table, table_format

INT8 = QuantFormat(8, 40, activations=Activations.INT8_PER_TOKEN)


def tensor(format: QuantFormat, rows: int = 3, columns: int = 40) -> QTensor:
    rng = np.random.default_rng(format.block)
    blocks = rows, format.blocks(columns)
    return QTensor(
        format,
        rng.integers(0, 1 << format.bits, (rows, columns), dtype=np.uint8),
        rng.uniform(0.01, 0.1, blocks).astype(format.scale_type),
        rng.integers(0, 1 << format.bits, blocks, dtype=np.uint8) if format.asymmetric else None,
        rng.permutation(columns) if format.permuted else None,
    )


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize(("bits", "block"), [(4, 16), (8, 32)])
def test_dequantize_is_its_definition(bits: int, block: int, asymmetric: bool, permuted: bool) -> None:
    given = tensor(QuantFormat(bits, block, asymmetric, permuted))
    weight = given.dequantize()
    for n, row in enumerate(given.codes.tolist()):
        for k, code in enumerate(row):
            zero = 1 << (bits - 1) if given.zeros is None else int(given.zeros[n, k // block])
            place = k if given.permutation is None else given.permutation[k]
            assert weight[n, place] == np.float32(code - zero) * np.float32(given.scales[n, k // block])


def test_the_weight_alone_is_nearly_the_same() -> None:
    given = tensor(INT8)
    alone = given.weight_only()
    assert not alone.format.integer and alone.scales.dtype == np.float16 and (alone.scales >= given.scales).all()
    step = given.scales.max() * 0.51
    assert np.abs(alone.dequantize() - given.dequantize()).max() <= step


def test_rows_are_filled_part_by_part() -> None:
    format = QuantFormat(4, 16)
    given, whole = tensor(format), QTensor.empty(format, 6, 40)
    whole.fill(3, given)
    whole.fill(0, given)
    assert np.array_equal(whole.dequantize(), np.tile(given.dequantize(), (2, 1)))


def test_formats_name_themselves() -> None:
    assert str(QuantFormat(4, 32)) == "int4 in blocks of 32"
    assert str(INT8) == "int8 × int8" and str(INT8.with_inputs_per_tensor()) == "int8 × int8 per tensor"
    assert (QuantFormat(4, 32).blocks(33), QuantFormat(4, 32).default_zero_point) == (2, 8)


@pytest.mark.parametrize(
    ("columns", "block"), [(1536, 128), (896, 128), (1280, 128), (192, 64), (64, 64), (32, 32), (48, 16)]
)
def test_tables_have_the_largest_blocks_that_divide_them(columns: int, block: int) -> None:
    assert table_format(columns) == QuantFormat(8, block)


def test_tables_need_whole_blocks() -> None:
    with pytest.raises(ExportError, match="an embedding of 40 columns is not made of blocks of 16"):
        table_format(40)
    check_table(96, QuantFormat(4, 32))
    with pytest.raises(ExportError, match="an embedding of 40 columns is not made of blocks of 32"):
        check_table(40, QuantFormat(4, 32))
