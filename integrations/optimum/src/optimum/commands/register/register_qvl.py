"""`optimum-cli export qvl …`: `qvl-export export …` as a command of Optimum.

Optimum finds this file by its path (no folder here may have an `__init__.py`) and imports it whenever its command
line starts, so the exporter is imported only when the command runs.
"""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class QvlExportCommand(BaseOptimumCLICommand):
    """Passes all arguments after its name unchanged to the exporter's own command."""

    COMMAND = CommandInfo(name="qvl", help="Export a Qwen-VL checkpoint to ONNX graphs for the qvl runtime.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.prefix_chars = "\0"  # no argument is an option of this parser, not even --help
        parser.add_argument("arguments", nargs=REMAINDER)

    def run(self) -> None:
        from qvl_export.cli.commands import export, run

        run(export, self.args.arguments, "optimum-cli export qvl")


REGISTER_COMMANDS = [(QvlExportCommand, ExportCommand)]
