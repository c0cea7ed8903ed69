"""`qvl-runtime run|inspect|bench|serve|read BUNDLE`: uses a bundle on a device with only the runtime installed.

`python -m qvl_runtime` is the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .cli.entry_point import run
from .cli.main import cli


def main(arguments: Sequence[str] | None = None, program: str = "python -m qvl_runtime") -> int:
    """Runs one command; returns its exit code.

    It is 0; 1 for damage (`inspect --verify`) and pages that failed (`read`); 2 for errors; 130 on Ctrl-C.
    """
    return run(cli, arguments, program)


def console() -> None:
    """Runs the command line of the script `qvl-runtime`."""
    sys.exit(main(program="qvl-runtime"))


if __name__ == "__main__":
    sys.exit(main())
