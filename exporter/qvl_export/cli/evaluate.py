"""The commands that measure accuracy: `compare`, `blame`, `sweep`, `eval build`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from qvl_runtime.common.counted import counted
from qvl_runtime.common.standard_streams import say, show

from .options import (
    any_path,
    counts_json_option,
    data_option,
    engine_option,
    evaluation_options,
    json_option,
    no_progress_option,
    report_json_option,
    template_args_option,
    threads_option,
)
from .progress import ItemProgress, RichProgress

LIMIT_EXCEEDED = 1
COMPARE_EXAMPLES = """\b
Examples:
  qvl-export compare fp16 int8 int4 --data my_set --out report
  qvl-export compare int4 int4@prune=scan --data my_set --out report
  qvl-export compare fp16 int4 --endpoint llama=http://127.0.0.1:8080/v1 --data my_set --out report
  qvl-export compare CHECKPOINT int4 --reference hf --data my_set --out report
  qvl-export compare fp16 int4 --data my_set --out report --fail-if "cer>+0.5pt" --undecided fail"""
BLAME_EXAMPLES = """\b
Examples:
  qvl-export blame fp16 int4 --image page.png "What is the total?"
  qvl-export blame fp16 int4 --image page.png --into llm.layers.2"""
SWEEP_EXAMPLES = """\b
Examples:
  qvl-export sweep CHECKPOINT --pixels 200704,501760 --precisions fp16,int4 --data my_set --out sweep
  qvl-export sweep CHECKPOINT --pixels 200704,501760 --precisions int4 --prune off,scan --data my_set --out sweep"""
EVAL_EXAMPLES = """\b
Example:
  qvl-export eval build my_scans/ truth.csv my_set
A row of truth.csv (commas, semicolons or tabs):
  image,prompt,task,answer,kind
  may/invoice.png,What is the total?,qa,12.00,invoice"""


def register(cli: click.Group) -> None:
    """Adds the commands to the program."""
    for command in (compare, blame, sweep, evaluation):
        cli.add_command(command)


@click.command(epilog=COMPARE_EXAMPLES)
@click.argument("reference", type=any_path)
@click.argument("bundles", nargs=-1, type=any_path)
@click.option("--endpoint", "endpoints", multiple=True, metavar="NAME=URL[,model=M][,key_env=VAR]",
              help="Compare a server with OpenAI's chat interface too, such as llama=http://127.0.0.1:8080/v1; may be "
              "repeated.")  # fmt: skip
@data_option
@click.option("--out", required=True, type=any_path, help="Directory for index.html, report.md and report.json.")
@evaluation_options
@engine_option
@click.option("--fail-if", "gates", multiple=True, metavar="COND",
              help='Exit with 1 if a loss exceeds this limit, such as "cer>+0.5pt"; may be repeated.')  # fmt: skip
@click.option("--undecided", type=click.Choice(["pass", "fail"]), help="Exit code of --fail-if for tasks with "
              "too few items to decide: 0 (pass, the default) or 1 (fail).")  # fmt: skip
@click.option(
    "--blame/--no-blame", "blamed", default=True, show_default=True, help="Trace the worst item layer by layer."
)
@template_args_option
@report_json_option
@no_progress_option
def compare(
    reference: Path, bundles: tuple[Path, ...], data: Path, out: Path, engine: str, gates: tuple[str, ...],
    undecided: str | None, blamed: bool, endpoints: tuple[str, ...], as_json: bool, quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Measure the accuracy that BUNDLES lose compared with REFERENCE on the documents in --data.

    BUNDLE@prune=RULE runs a bundle with that rule of leaving out blank paper. The same command resumes a killed run. If
    BUNDLES are added later, existing answers are reused.
    """
    from qvl_runtime.templates.chat import parse_arguments

    from ..evaluate.analysis.gates import parse_gate
    from ..evaluate.answers.endpoint_names import parse_endpoint
    from ..evaluate.compare import ComparePlan

    options["template_args"] = parse_arguments(options["template_args"])
    options["endpoints"] = tuple(parse_endpoint(text) for text in endpoints)
    limits = tuple(parse_gate(gate) for gate in gates)
    plan = ComparePlan(reference, bundles, data, out, hf=engine == "hf", blame=blamed, gates=limits, **options)
    if undecided and not gates:
        raise click.UsageError("--undecided requires --fail-if")
    _compare(plan, as_json, quiet, undecided == "fail")


def _compare(plan: Any, as_json: bool, quiet: bool, must_decide: bool = False) -> None:
    """Runs the comparison, writes the report, prints it, and exits with 1 if a limit is exceeded.

    With `must_decide` it also exits with 1 if there are too few items to decide.
    """
    import msgspec

    from ..evaluate.analysis.gates import exceeded, undecided
    from ..evaluate.compare import compare as run
    from ..evaluate.report.render import markdown, write

    progress = ItemProgress(quiet)
    try:
        report = run(plan, progress)
        write(report, plan.out)
    finally:
        progress.stop()
    show(msgspec.to_builtins(report) if as_json else markdown(report))
    if not as_json:
        show(f"{plan.out / 'index.html'}: the full report")
    open_gates, failed_gates = undecided(report, plan.gates), exceeded(report, plan.gates)
    for line in open_gates:
        say(f"undecided: {line}")
    for line in failed_gates:
        say(f"exceeded: {line}")
    if failed_gates or (must_decide and open_gates):
        sys.exit(LIMIT_EXCEEDED)


@click.command(epilog=BLAME_EXAMPLES)
@click.argument("reference", type=any_path)
@click.argument("bundle", type=any_path)
@click.argument("prompt", default="Read the text.")
@click.option("--image", "images", multiple=True, required=True, type=any_path, help="An image; may be repeated.")
@click.option("--into", metavar="STAGE", help="Compare the linears of this stage too, such as llm.layers.2.")
@engine_option
@threads_option
@template_args_option
@json_option
@no_progress_option
def blame(
    reference: Path, bundle: Path, prompt: str, images: tuple[Path, ...], into: str | None, engine: str,
    threads: int | None, template_args: tuple[str, ...], as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Find the stage where BUNDLE departs from REFERENCE on one input: cosine and SQNR after every stage."""
    import msgspec

    from qvl_runtime.templates.chat import parse_arguments

    from ..evaluate.trace.blame import BlamePlan, describe
    from ..evaluate.trace.blame import blame as run

    arguments = parse_arguments(template_args)
    plan = BlamePlan(reference, bundle, images, prompt, into, threads, engine == "hf", arguments)
    progress = ItemProgress(quiet or as_json)
    try:
        found = run(plan, progress)
    finally:
        progress.stop()
    show(msgspec.to_builtins(found) if as_json else describe(found))


@click.command(epilog=SWEEP_EXAMPLES)
@click.argument("checkpoint")
@click.option(
    "--pixels", required=True, metavar="A,B,C", help="Pixel bounds to compare, such as 200704,501760,1003520."
)
@click.option("--precisions", required=True, metavar="P,Q", help="Precisions to compare, such as fp16,int4.")
@click.option("--prune", metavar="R,S", help="Rules of leaving out blank paper to compare, such as off,exact,scan "
              "(default: off alone).")  # fmt: skip
@data_option
@click.option("--out", required=True, type=any_path, help="Directory for bundles and the report.")
@click.option("--calib", type=any_path, help="Pages to calibrate on, as for `export` (default: the built-in set).")
@evaluation_options
@template_args_option
@report_json_option
@no_progress_option
def sweep(
    checkpoint: str, pixels: str, precisions: str, prune: str | None, data: Path, out: Path, calib: Path | None,
    as_json: bool, quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Plot the trade-off between image size, precision, pruning and accuracy of CHECKPOINT."""
    from qvl_runtime.templates.chat import parse_arguments

    from ..evaluate.sweep import SweepPlan, export_bundles, parse_pixels, parse_prune

    options["template_args"] = parse_arguments(options["template_args"])
    wanted = tuple(part.strip() for part in precisions.split(","))
    bounds, rules = parse_pixels(pixels), parse_prune(prune)
    plan = SweepPlan(checkpoint, bounds, wanted, data, out, calib, options["ray"], options["threads"], rules)
    progress = RichProgress(quiet)  # counts bytes, like an export
    try:
        first, *others = export_bundles(plan, progress)
    finally:
        progress.stop()
    from ..evaluate.compare import ComparePlan

    _compare(ComparePlan(first, tuple(others), data, out, blame=False, **options), as_json, quiet)


@click.group("eval")
def evaluation() -> None:
    """Build evaluation sets from your own pages."""


@evaluation.command(epilog=EVAL_EXAMPLES, short_help="Build a set from page images and a table of answers.")
@click.argument("scans", type=any_path)
@click.argument("truth", type=any_path)
@click.argument("out_set", type=any_path)
@click.option("--force", is_flag=True, help="Replace an existing set.")
@counts_json_option
def build(scans: Path, truth: Path, out_set: Path, force: bool, as_json: bool) -> None:
    """Build the evaluation set OUT_SET from images in SCANS and a table TRUTH.

    TRUTH is a CSV file with the columns image,prompt,task,answer[,kind].
    """
    from ..evaluate.sets.build_set import build_set

    counts = build_set(scans, truth, out_set, force)
    if as_json:
        show(counts)
    else:
        tasks = ", ".join(f"{count} {task}" for task, count in counts["tasks"].items())
        show(f"{out_set}: {counted(counts['items'], 'item')} ({tasks}) on {counted(counts['images'], 'page')}")
