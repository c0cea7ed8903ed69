"""Runs a command: every error becomes one line on standard error and an exit code, here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

import click
from click.exceptions import NoArgsIsHelpError

from ..common.exit_codes import BAD_INPUT, INTERRUPTED
from ..common.standard_streams import OutputError, open_streams, report_output_error, say, show
from ..errors import QvlError

LONGEST = 1000
"""Most characters of a usage error: it quotes arguments."""


def run(command: click.Command, arguments: Sequence[str] | None, program: str | None = None) -> int:
    """Runs a command as `program` (default: as it was started) and returns its exit code.

    0 is success, 2 bad input, 130 an interrupt; a command may exit with a code of its own.
    """
    open_streams()
    try:
        return _main(command, arguments, program)
    except OutputError as error:
        return report_output_error(error)
    except (QvlError, click.ClickException, OSError, MemoryError) as error:
        return fail(f"error: {_message(error)}", error, BAD_INPUT)
    except (click.Abort, KeyboardInterrupt) as error:
        return fail("interrupted", error.__cause__ or error, INTERRUPTED)


def _main(command: click.Command, arguments: Sequence[str] | None, program: str | None) -> int:
    """Runs the command on its arguments as they are: on Windows, click would expand patterns and variables in them."""
    try:
        code = command.main(arguments, program, standalone_mode=False, windows_expand_args=False)
    except NoArgsIsHelpError as error:
        show(error.format_message())
        return BAD_INPUT
    return code if isinstance(code, int) else 0  # the code of `context.exit`, or what the command's function returned


def fail(message: str, error: BaseException, code: int) -> int:
    """Prints one line, with the notes of the error, on standard error; returns the code."""
    say("; ".join([message, *getattr(error, "__notes__", [])]))
    return code


def _message(error: BaseException) -> str:
    if isinstance(error, click.ClickException):
        return _usage(error)
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError):
        return (f"{error.filename}: " if error.filename else "") + (error.strerror or str(error))
    return str(error)


def _usage(error: click.ClickException) -> str:
    """Returns the message of a usage error, cut to LONGEST characters, with the command that explains the usage."""
    similar: Sequence[str] | None = getattr(error, "possibilities", None)
    message = (error.message if similar else error.format_message()).removesuffix(".")
    message = message if len(message) <= LONGEST else f"{message[:LONGEST]}…"
    context = error.ctx if isinstance(error, click.UsageError) else None
    hints = [f"did you mean {' or '.join(similar)}?"] if similar else []
    hints += [f"see {context.command_path} --help"] if context else []
    return f"{message} ({' '.join(hints)})" if hints else message
