"""Connects to a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from ..errors import EngineError, InstallError
from ..printable import first_line
from .extras import install_fix

KNOCK_SECONDS = 10
"""Most time in which something must accept a connection at the address."""


def connected(address: str) -> Any:
    """Connects to the cluster at `HOST:PORT` or `auto` and returns the module `ray`; our handler of SIGTERM stays.

    Raises InstallError without Ray, EngineError if no cluster answers.
    """
    ray = check(address)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _answering(address):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    return ray


def check(address: str) -> Any:
    """Returns the module `ray`; raises InstallError without it, EngineError if nothing listens at `HOST:PORT`."""
    try:
        import ray
    except ImportError as error:
        raise InstallError("--ray needs ray", fix=install_fix("ray")) from error
    if found := re.fullmatch(r"(.+):(\d+)", address):  # Ray itself would retry for minutes
        with _answering(address):
            socket.create_connection((found[1], int(found[2])), KNOCK_SECONDS).close()
    return ray


def machine_cores(ray: Any) -> list[int]:
    """Returns the cores of each machine of the connected cluster that has any; raises EngineError if none has."""
    counts = (int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    if not (found := [count for count in counts if count]):
        raise EngineError("the Ray cluster has no cores", fix="start its nodes with --num-cpus of one or more")
    return found


@contextlib.contextmanager
def _answering(address: str) -> Iterator[None]:
    """Turns exceptions of a cluster that cannot be reached into EngineError."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, OverflowError) as error:  # the last one is that of a port above 65535
        fix = "start one with `ray start`"
        raise EngineError(f"no Ray cluster answers: {first_line(error)}", where=address, fix=fix) from error
