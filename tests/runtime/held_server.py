"""The command line of the runtime, whose answers pause before every token while a file exists.

`python -m tests.runtime.held_server FILE serve BUNDLE …`: a test decides when an answer goes on, however quick or slow
the machine is.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from qvl_runtime import __main__ as cli
from qvl_runtime.common.arrays import Floats
from qvl_runtime.sessions.cpu import CpuLlm
from qvl_runtime.sessions.engine import LlmInputs

PAUSE = 0.1
"""Seconds: an answer of hundreds of tokens does not end before the file is removed."""


def main(file: Path, arguments: list[str]) -> int:
    """Runs a command of the runtime; returns its exit code."""
    forward = CpuLlm.forward

    def held(llm: CpuLlm, inputs: LlmInputs) -> Floats:
        if inputs.answer and file.exists():
            time.sleep(PAUSE)
        return forward(llm, inputs)

    CpuLlm.forward = held  # type: ignore[method-assign]
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
