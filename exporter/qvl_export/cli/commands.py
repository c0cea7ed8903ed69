"""The command group `qvl-export`. Bad input gives one line on standard error and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from qvl_runtime.cli.command import Group
from qvl_runtime.cli.entry_point import fail
from qvl_runtime.cli.entry_point import run as run_command
from qvl_runtime.cli.main import cli as runtime
from qvl_runtime.cli.verbose import verbose_option

from .._version import __version__
from ..common.signals import Terminated, terminable
from .calib import calib
from .evaluate import register
from .export import export
from .sensitivity import sensitivity

EXAMPLES = (
    "export Qwen/Qwen2.5-VL-3B-Instruct bundle",
    "export my_checkpoint/ small --precision int4 --calib my_scans/",
    'run bundle --image page.png "What is the total?"',
    "inspect bundle --verify",
    "eval build my_scans/ truth.csv my_set",
    "compare bundle small --data my_set --out report",
)
verbose = verbose_option("qvl_export", "qvl_runtime")


@click.group("qvl-export", cls=Group, examples=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qvl-export")
@verbose
def cli() -> None:
    """Turn Qwen-VL checkpoints into bundles that run without PyTorch, and measure what quantization costs."""


def _make_verbose(group: click.Group) -> None:
    """Adds `--verbose` to every command and group of a group."""
    for command in group.commands.values():
        verbose(command)
        if isinstance(command, click.Group):
            _make_verbose(command)


cli.add_command(export)
cli.add_command(calib)
cli.add_command(sensitivity)
register(cli)
_make_verbose(cli)
for _command in runtime.commands.values():  # they have it already
    cli.add_command(_command)


def run(command: click.Command, arguments: Sequence[str], program: str | None = None) -> None:
    """Runs a command as `program`, and exits unless it succeeds.

    Errors are those of `qvl_runtime.cli.entry_point.run`; a termination signal ends the command as Ctrl-C does.
    """
    try:
        with terminable():
            code = run_command(command, arguments, program)
    except Terminated as error:
        code = fail("terminated", error, int(error.code or 0))
    if code:
        sys.exit(code)
