"""`python -m qvl_runtime run|inspect|bench BUNDLE`: uses a bundle on a device with only the runtime installed."""

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
    """Runs one command; returns its exit code: 0; 1 for damage (`inspect --verify`); 2 for errors; 130 on Ctrl-C."""
    open_streams()
    try:
        options = parse(make_parser(program, COMMANDS), arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.filterwarnings("ignore", module=r"PIL\.")  # thousands of warnings about damaged metadata
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
