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


def zeros(size: int) -> Floats:
    """An empty sum over tokens of `size` channels: its blocks one after another, flat, in one piece of memory."""
    return np.zeros(sum(rows * (size - first) for first, rows in _places(size)), np.float32)


def add(total: Floats, x: Floats, counts: Floats | None = None) -> None:
    """Add the tokens of a page [T, K], each counting 1 or its part of `counts` [T], in place."""
    import torch  # adds a product to what is there; NumPy would need room for it first

    left = torch.from_numpy(np.asarray(x, np.float32))
    right = left if counts is None else left * torch.from_numpy(counts)[:, None]

    def one(place: tuple[int, Floats]) -> None:
        first, block = place
        torch.from_numpy(block).addmm_(left[:, first : first + len(block)].T, right[:, first:])

    with _one_thread_each() as pool:
        list(pool.map(one, _blocks(total, x.shape[1])))


@contextlib.contextmanager
def _one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """As many threads as PyTorch has, each of which multiplies alone.

    OpenMP keeps the number for every thread that sets it: what this one says does not hold in others.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def whole(total: Floats, size: int) -> Floats:
    """The matrix [K, K] of a sum over tokens of `size` channels."""
    found = np.empty((size, size), np.float32)
    for first, block in _blocks(total, size):
        found[first:, first : first + len(block)] = block.T
        found[first : first + len(block), first:] = block
    return found


def _places(size: int) -> list[tuple[int, int]]:
    """The first row of each block, and how many it has."""
    return [(first, min(ROWS, size - first)) for first in range(0, size, ROWS)]


def _blocks(total: Floats, size: int) -> Iterator[tuple[int, Floats]]:
    """The first row of each block and the block [rows, K − first]."""
    start = 0
    for first, rows in _places(size):
        end = start + rows * (size - first)
        yield first, total[start:end].reshape(rows, size - first)
        start = end
