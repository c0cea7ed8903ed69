"""`qvl-export sensitivity`: measures what each precision of each linear costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from qvl_runtime.cli.number_types import Whole
from qvl_runtime.common.standard_streams import show

from ..quant.mixed_precision.sensitivity_table import Sensitivity
from .options import any_path, max_pixels_option, no_progress_option, revision_option, samples_option, threads_option
from .progress import RichProgress

EXAMPLES = """\b
Examples:
  qvl-export sensitivity CHECKPOINT
  qvl-export sensitivity CHECKPOINT --calib my_scans/ --samples 16 --json"""


@click.command(epilog=EXAMPLES)
@click.argument("checkpoint")
@click.option(
    "--calib",
    multiple=True,
    type=any_path,
    help="Pages to measure on, as for `export`; may be repeated (default: the built-in set).",
)
@samples_option(8)
@click.option(
    "--block-size", type=Whole(), metavar="N", default=32, show_default=True, help="Columns that share an int4 scale."
)
@max_pixels_option
@threads_option
@revision_option
@no_progress_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def sensitivity(checkpoint: str, quiet: bool, as_json: bool, **options: Any) -> None:
    """Measure what int4 and int8 of each linear of CHECKPOINT cost its answers: mean KL divergence, in nats per token.

    `export --max-kl` and `--max-size` choose by these measurements. The worst linear comes first.
    """
    from ..exporting.pipeline import sensitivity as run
    from ..exporting.plan import ExportPlan, grouped

    plan = ExportPlan(checkpoint, "", **grouped(options))
    progress = RichProgress(quiet)
    try:
        rows = sorted(run(plan, progress), key=lambda row: -max(row.kl.get(name, 0.0) for name in _shown()))
    finally:
        progress.stop()
    if as_json:
        show(msgspec.to_builtins(rows))
        return
    show(_table(rows))


def _shown() -> Sequence[str]:
    """Precisions with a column; a cell is empty if the linear would stay float."""
    from ..quant.precision import MIXED, schemes_of

    return schemes_of(MIXED)


def _table(rows: Sequence[Sensitivity]) -> str:
    """Returns a table as wide as the terminal, without trailing blanks."""
    shown = _shown()
    table = Table("linear", "shape", *(f"KL {name}" for name in shown), box=None, pad_edge=False, header_style="")
    for row in rows:
        costs = (f"{row.kl[name]:.2e}" if name in row.kl else "" for name in shown)
        table.add_row(row.name, f"{row.shape[0]} × {row.shape[1]}", *costs)
    console = Console(width=None if Console().is_terminal else 120)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
