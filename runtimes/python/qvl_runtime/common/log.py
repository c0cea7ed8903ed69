"""The logger `qvl_runtime`, which is silent until the application or `--verbose` configures it.

Messages hold paths, sizes, options and times; never prompts, answers or `data:` URLs.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

log = logging.getLogger("qvl_runtime")
log.addHandler(logging.NullHandler())  # otherwise Python would print warnings of a logger that nobody configured


@contextlib.contextmanager
def timed(logger: logging.Logger, message: str, *values: object) -> Iterator[None]:
    """Logs the message when the block has ended without an error, with the seconds that it took."""
    began = time.perf_counter()
    yield
    logger.debug(f"{message}, %.3f s", *values, time.perf_counter() - began)
