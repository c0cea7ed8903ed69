"""`qvl-export`: parses arguments, calls, prints. Bad input gives one line on standard error and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from qvl_runtime.__main__ import main as runtime_main
from qvl_runtime.cli.arguments import BAD_INPUT
from qvl_runtime.common.standard_streams import OutputError, open_streams, say, told
from qvl_runtime.errors import QvlError

from .._version import __version__
from ..common.signals import Terminated, terminable
from .calib import calib
from .evaluate import register
from .export import export
from .sensitivity import sensitivity

INTERRUPTED = 130
EXAMPLES = (
    "export Qwen/Qwen2.5-VL-3B-Instruct bundle",
    "export my_checkpoint/ small --precision int4 --calib my_scans/",
    'run bundle --image page.png "What is the total?"',
    "inspect bundle --verify",
    "eval build my_scans/ truth.csv my_set",
    "compare bundle small --data my_set --out report",
)
_EPILOG = "\b\nExamples:\n" + "\n".join(f"  qvl-export {example}" for example in EXAMPLES)
PASS_THROUGH = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, prog_name="qvl-export")
def cli() -> None:
    """Turn a Qwen-VL checkpoint into a bundle that runs where no PyTorch belongs."""


cli.add_command(export)
cli.add_command(calib)
cli.add_command(sensitivity)


def _delegate(name: str, summary: str) -> None:
    """Adds a command of the runtime under the same name, which gets its arguments unchanged."""

    @cli.command(name, context_settings=PASS_THROUGH, help=summary, add_help_option=False)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        sys.exit(runtime_main([name, *arguments], program="qvl-export"))


DELEGATED = {
    "run": "Answer a prompt about images, streaming the answer.",
    "inspect": "What is inside a bundle; --verify checks every file.",
    "bench": "Time a bundle: loading, images, prompt, generation.",
}
for _name, _summary in DELEGATED.items():
    _delegate(_name, _summary)
register(cli)


def main() -> None:
    """Entry point of the console script."""
    if sys.argv[1:2] and sys.argv[1] in DELEGATED:  # before click, which would drop a `--`
        sys.exit(runtime_main(sys.argv[1:], program="qvl-export"))
    run(cli, sys.argv[1:])


def run(command: click.Command, arguments: Sequence[str], program: str | None = None) -> None:
    """Runs a command as `program`; errors, including usage errors, become one line and an exit code."""
    open_streams()
    try:
        with terminable():
            command.main(arguments, program, standalone_mode=False)
    except QvlError as error:
        _end(f"error: {error}", error, BAD_INPUT)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(BAD_INPUT)
    except click.ClickException as error:
        _end(f"error: {error.format_message()}", error, BAD_INPUT)
    except OutputError as error:
        sys.exit(told(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _end(f"error: {where}{error.strerror or error}", error, BAD_INPUT)
    except MemoryError as error:
        _end("error: not enough memory", error, BAD_INPUT)
    except (click.Abort, KeyboardInterrupt) as error:
        _end("interrupted", error.__cause__ or error, INTERRUPTED)
    except Terminated as error:
        _end("terminated", error, error.code)


def _end(said: str, error: BaseException, code: int | str | None) -> NoReturn:
    """Prints one line with the notes of an error to standard error, and exits with a code."""
    say("; ".join([said, *getattr(error, "__notes__", [])]))
    sys.exit(code)


if __name__ == "__main__":
    main()
