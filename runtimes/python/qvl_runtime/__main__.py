"""`python -m qvl_runtime run|inspect|bench BUNDLE`: uses a bundle on a device with only the runtime installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .cli.entry_point import run
from .cli.main import cli


def main(arguments: Sequence[str] | None = None, program: str = "python -m qvl_runtime") -> int:
    """Runs one command; returns its exit code: 0; 1 for damage (`inspect --verify`); 2 for errors; 130 on Ctrl-C."""
    return run(cli, arguments, program)


if __name__ == "__main__":
    sys.exit(main())
