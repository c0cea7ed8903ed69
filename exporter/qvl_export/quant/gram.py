"""Σ xᵀ diag(counts) x of the tokens x [T, K] of many pages, as its blocks of rows from the diagonal on.

It is symmetric: these are half the memory and half the work. A block is multiplied by one thread, however many there
are, so that a sum has the same bits on any number of cores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
ROWS = 256
"""Of a block; at 8,960 columns 35 blocks are enough for as many cores."""


def count(size: int) -> int:
    """How many blocks a matrix [size, size] has."""
    return -(-size // ROWS)


def zeros(size: int) -> list[Floats]:
    """The blocks [up to ROWS, size − first] of an empty sum."""
    return [np.zeros((min(ROWS, size - first), size - first), np.float32) for first in range(0, size, ROWS)]


def add(blocks: list[Floats], x: Floats, counts: Floats | None = None) -> None:
    """Add the tokens of a page [T, K], each counting 1 or its part of `counts` [T], in place."""
    import torch  # adds a product to what is there; NumPy would need room for it first

    left = torch.from_numpy(np.asarray(x, np.float32))
    right = left if counts is None else left * torch.from_numpy(counts)[:, None]

    def one(block: Floats) -> None:
        first = x.shape[1] - block.shape[1]
        torch.from_numpy(block).addmm_(left[:, first : first + len(block)].T, right[:, first:])

    with _one_thread_each() as threads, ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, blocks))


@contextlib.contextmanager
def _one_thread_each() -> Iterator[int]:
    """PyTorch multiplies with a single thread; yields with how many it did."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def whole(blocks: list[Floats]) -> Floats:
    """The matrix [K, K]; `blocks` are used up, or both would be in memory."""
    size = blocks[0].shape[1]
    found = np.empty((size, size), np.float32)
    while blocks:
        block = blocks.pop()
        first = size - block.shape[1]
        found[first:, first : first + len(block)] = block.T
        found[first : first + len(block), first:] = block
    return found
