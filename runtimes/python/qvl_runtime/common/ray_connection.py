"""Connects to a Ray cluster."""

from __future__ import annotations

import logging
import re
import signal
import socket
import threading
from typing import Any

from ..errors import EngineError, InstallError
from .extras import install_fix

KNOCK_SECONDS = 10
"""The time that a cluster has to take a connection."""


def connected(address: str) -> Any:
    """Connects to the cluster at `HOST:PORT` or `auto` and returns the module `ray`; our handler of SIGTERM stays.

    Raises InstallError without Ray, EngineError if no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise InstallError("--ray needs ray", fix=install_fix("ray")) from error
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise EngineError(f"no Ray cluster answers: {said}", where=address, fix="start one with `ray start`") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    return ray


def _knock(address: str) -> None:
    """Raises OSError if nothing listens at `HOST:PORT`: Ray itself would retry for minutes."""
    if found := re.fullmatch(r"(.+):(\d+)", address):
        socket.create_connection((found[1], int(found[2])), KNOCK_SECONDS).close()
