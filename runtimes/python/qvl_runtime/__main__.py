"""`python -m qvl_runtime run|inspect|bench BUNDLE`: a bundle on a device that has only the runtime."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from .cli.arguments import BAD_INPUT, make_parser, parse
from .cli.commands import COMMANDS
from .common.standard_streams import OutputError, open_streams, say, told
from .errors import QvlError


def main(arguments: Sequence[str] | None = None, program: str = "python -m qvl_runtime") -> int:
    """Run one command; returns the exit code: 0, 1 where `inspect --verify` finds damage, 2 for bad input."""
    open_streams()
    try:
        options = parse(make_parser(program, COMMANDS), arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.filterwarnings("ignore", module=r"PIL\.")  # thousands of remarks on damaged metadata
            warnings.showwarning = _one_line_warning
            code: int = options.command(options)
    except QvlError as error:
        say(f"error: {error}")
        return BAD_INPUT
    except MemoryError:
        say("error: not enough memory (fewer or smaller images, or a smaller bundle)")
        return BAD_INPUT
    except OutputError as error:
        return told(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"error: {where}{error.strerror or error}")
        return BAD_INPUT
    except KeyboardInterrupt:
        say("")
        say("interrupted")
        return 130
    return code


def _one_line_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"note: {message}")


if __name__ == "__main__":
    sys.exit(main())
