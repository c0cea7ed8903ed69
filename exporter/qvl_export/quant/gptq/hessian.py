"""Σ xᵀx over the tokens x [T, K] of many pages, stored as blocks of rows from the diagonal on.

The matrix is symmetric, so this takes half the memory and half the work. Each block is multiplied by a single thread,
so that a sum has the same bits on any number of cores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...common.arrays import Floats

ROWS = 256
"""Rows per block; 8,960 columns give 35 blocks, enough for as many cores."""


def zeros(size: int) -> Floats:
    """Returns a zero sum for `size` channels: all blocks one after another in one flat array."""
    return np.zeros(sum(rows * (size - first) for first, rows in _block_rows(size)), np.float32)


def add(total: Floats, x: Floats) -> None:
    """Adds the tokens x [T, K] of a page in place."""
    import torch  # adds a product in place; NumPy would allocate the product first

    tokens = torch.from_numpy(np.asarray(x, np.float32))

    def add_block(entry: tuple[int, Floats]) -> None:
        first, block = entry
        torch.from_numpy(block).addmm_(tokens[:, first : first + len(block)].T, tokens[:, first:])

    with _one_thread_each() as pool:
        list(pool.map(add_block, _blocks(total, x.shape[1])))


@contextlib.contextmanager
def _one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """Yields a pool with as many threads as PyTorch uses; each multiplies on its own, single-threaded.

    OpenMP keeps the number of threads per calling thread, so every thread of the pool sets it to 1.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def full_matrix(total: Floats, size: int) -> Floats:
    """Returns the full matrix [K, K] of a sum over `size` channels."""
    found = np.empty((size, size), np.float32)
    for first, block in _blocks(total, size):
        found[first:, first : first + len(block)] = block.T
        found[first : first + len(block), first:] = block
    return found


def _block_rows(size: int) -> list[tuple[int, int]]:
    """The first row of each block and its number of rows."""
    return [(first, min(ROWS, size - first)) for first in range(0, size, ROWS)]


def _blocks(total: Floats, size: int) -> Iterator[tuple[int, Floats]]:
    """Yields the first row of each block, and the block as a view [rows, K − first]."""
    start = 0
    for first, rows in _block_rows(size):
        end = start + rows * (size - first)
        yield first, total[start:end].reshape(rows, size - first)
        start = end
