"""`qvl-export calib`: builds calibration sets from a user's own pages."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from qvl_runtime.cli.number_types import WholeRange
from qvl_runtime.common.counted import counted
from qvl_runtime.common.standard_streams import show
from qvl_runtime.pdf import PDF_DPI

from .options import any_path, counts_json_option, only_errors_option, samples_option
from .progress import RichProgress

EXAMPLES = """\b
Examples:
  qvl-export calib build my_scans/ invoices.pdf my_set
  qvl-export export CHECKPOINT bundle --precision int4 --calib my_set"""
DPI = WholeRange(36, 1200)


@click.group()
def calib() -> None:
    """Build calibration sets from your own pages."""


@calib.command(epilog=EXAMPLES, short_help="Build a set from images and PDFs.")
@click.argument("sources", nargs=-1, required=True, type=any_path)
@click.argument("out_set", type=any_path)
@samples_option(None)
@click.option("--dpi", type=DPI, metavar="N", default=PDF_DPI, show_default=True, help="Resolution of PDF pages.")
@click.option("--force", is_flag=True, help="Replace an existing set.")
@only_errors_option
@counts_json_option
def build(
    sources: tuple[Path, ...],
    out_set: Path,
    samples: int | None,
    dpi: int,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Build the calibration set OUT_SET from SOURCES, for `export --calib OUT_SET`.

    SOURCES are images, PDFs, directories of these, and other sets. PDF pages are rendered, and their text layer becomes
    the answer; review OUT_SET/labels.jsonl and correct or complete it.
    """
    from ..quant.calibration_data.build_set import SetPlan
    from ..quant.calibration_data.build_set import build as run

    plan = SetPlan(sources, out_set, samples, dpi, force)
    built = run(plan, RichProgress(quiet).stage)
    if as_json:
        show(asdict(built))
    elif not quiet:
        answered = f"{built.answered:,} of {counted(built.questions, 'question')} with an answer"
        show(f"{out_set}: {counted(built.pages, 'page')}, {answered}")
