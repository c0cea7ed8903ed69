"""Where jobs run: on this machine, or on the Ray cluster at an address."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .pool import Pool, ThisMachine


@contextlib.contextmanager
def open_pool(ray: str | None) -> Iterator[Pool]:
    """This machine, or the Ray cluster at an address; raises ExportError where there is none."""
    if ray is None:
        yield ThisMachine()
        return
    from .ray_cluster import cluster

    with cluster(ray) as pool:
        yield pool
