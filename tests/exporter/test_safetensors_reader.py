"""Tensors are read in chunks of whole rows, and truncated files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qvl_export import CheckpointError
from qvl_export.checkpoint.safetensors_reader import StoredTensor


@pytest.mark.parametrize(
    ("shape", "chunk_bytes", "sizes"),
    [
        ((7, 5), 45, [10, 10, 10, 5]),
        ((7, 5), 1, [5] * 7),
        ((7, 5), 1 << 20, [35]),
        ((3, 2, 4), 70, [16, 8]),
        ((6,), 8, [2, 2, 2]),
        ((), 64, [1]),
        ((0, 5), 64, []),
    ],
)
def test_chunks_are_whole_rows(shape: tuple[int, ...], chunk_bytes: int, sizes: list[int], tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    (tmp_path / "data").write_bytes(b"head" + values.tobytes() + b"tail")
    tensor = StoredTensor("name", tmp_path / "data", np.dtype(np.float32), shape, 4)
    chunks = list(tensor.chunks(chunk_bytes))
    assert [len(chunk) for chunk in chunks] == sizes
    np.testing.assert_array_equal(np.concatenate([*chunks, []]), values.ravel())


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(30))
    tensor = StoredTensor("name", tmp_path / "data", np.dtype(np.float32), (4, 5), 0)
    with pytest.raises(CheckpointError, match="data: ends within tensor name"):
        list(tensor.chunks())
    with pytest.raises(CheckpointError, match="data: ends within tensor name"):
        tensor.rows([0, 3])
