"""Entry point of `qvl-export`. It imports the commands late, so that a Ctrl-C during their import is one line too."""

from __future__ import annotations

import sys

from qvl_runtime.common.exit_codes import INTERRUPTED
from qvl_runtime.common.standard_streams import open_streams, say


def main() -> None:
    """Runs the command line; exits unless the command succeeds."""
    try:
        from .commands import cli, run

        run(cli, sys.argv[1:], cli.name)
    except KeyboardInterrupt:
        open_streams()
        say("interrupted")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
