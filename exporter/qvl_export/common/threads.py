"""The number of threads that quantization may use on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_threads: ContextVar[int | None] = ContextVar("threads", default=None)


@contextlib.contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Limits PyTorch and the sessions opened in the block to `threads` threads; None changes neither."""
    if threads is None:
        yield
        return
    import torch  # noqa: TID251 - its threads multiply the Hessians

    before, token = torch.get_num_threads(), _threads.set(threads)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _threads.reset(token)


def thread_limit() -> int | None:
    """Returns the number of threads for a session opened now; None for all cores."""
    return _threads.get()
