"""Whether processes have ended, as Linux says it."""

from __future__ import annotations

import os
import time
from pathlib import Path


def gone(pid: int, seconds: float = 30.0) -> bool:
    """Whether a process and its last thread end within `seconds`; one that nobody waits for has ended too."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1:
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False
