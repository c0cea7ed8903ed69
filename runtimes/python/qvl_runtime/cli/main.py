"""The commands of the runtime as one group; `qvl-export` has the same commands."""

from __future__ import annotations

import click

from .. import __version__
from . import bench as _bench
from . import inspect as _inspect
from . import read as _read
from . import run as _run
from . import serve as _serve
from .command import Group
from .options import verbose

EXAMPLES = (_run.EXAMPLES[0], _inspect.EXAMPLES[0], _bench.EXAMPLES[0], _serve.EXAMPLES[0], _read.EXAMPLES[0])


@click.group(
    cls=Group, examples=EXAMPLES, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="qvl-runtime", message="%(prog)s %(version)s")
@verbose
def cli() -> None:
    """Run, inspect and serve Qwen-VL bundles."""


for _command in (_run.run, _inspect.inspect, _bench.bench, _serve.serve, _read.read):
    cli.add_command(_command)
