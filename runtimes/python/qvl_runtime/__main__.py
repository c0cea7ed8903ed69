"""`python -m qvl_runtime run|inspect|bench BUNDLE`: a bundle on a device that has only the runtime."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from .arguments import BAD_INPUT, make_parser, parse
from .commands import COMMANDS
from .errors import QvlError


def main(arguments: Sequence[str] | None = None, program: str = "python -m qvl_runtime") -> int:
    """Run one command; returns the exit code: 0, 1 where `inspect --verify` finds damage, 2 for bad input."""
    options = parse(make_parser(program, COMMANDS), arguments)
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an answer may hold what the terminal cannot show
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.filterwarnings("ignore", module=r"PIL\.")  # thousands of remarks on damaged metadata
            warnings.showwarning = _one_line_warning
            code: int = options.command(options)
            sys.stdout.flush()  # here, where a reader that went away is caught
    except QvlError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        print("error: not enough memory (fewer or smaller images, or a smaller bundle)", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return code


def _one_line_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"note: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
