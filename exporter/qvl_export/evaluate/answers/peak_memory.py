"""Measures the peak resident memory of a process while it answers."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path


class PeakMemory:
    """Peak resident memory while answering, in MB; teacher-forced runs of a comparison are not counted.

    Linux resets its high-water mark when 5 is written to clear_refs; on other systems all runs are counted.
    """

    def __init__(self) -> None:
        self._peak = 0.0

    @property
    def megabytes(self) -> float:
        return round(max(self._peak, 0.0), 1)

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Counts the memory that the block uses."""
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        yield
        self.update()

    def update(self) -> None:
        """Updates the peak from the process's high-water mark."""
        self._peak = max(self._peak, _high_water_mark())


def _high_water_mark() -> float:
    """Returns the process's peak resident memory in MB; 0 if the system does not report it."""
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
