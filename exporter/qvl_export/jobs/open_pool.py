"""Opens the pool that runs jobs: this machine, or a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .pool import Pool, ThisMachine


def check_pool(ray: str | None) -> None:
    """Raises ExportError if `open_pool` could not reach a Ray cluster at the address `ray`."""
    if ray is not None:
        from .ray_cluster import check

        check(ray)


@contextlib.contextmanager
def open_pool(ray: str | None) -> Iterator[Pool]:
    """Yields this machine, or the Ray cluster at the address `ray`; raises ExportError if there is none."""
    if ray is None:
        yield ThisMachine()
        return
    from .ray_cluster import cluster

    with cluster(ray) as pool:
        yield pool
