"""`qvl-export export`: its options, and what it prints."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import click

from qvl_runtime import sessions
from qvl_runtime.cli.describe import describe
from qvl_runtime.cli.number_types import Number, Whole, WholeRange
from qvl_runtime.common.standard_streams import show
from qvl_runtime.manifest import ANY, CACHE_FORMS, CPUS

from ..engines import PROFILES
from ..engines.tensorrt_releases import JETPACKS, RELEASES
from .options import (
    any_path,
    max_pixels_option,
    only_errors_option,
    positive,
    ray_option,
    revision_option,
    rule_option,
    samples_option,
    threads_option,
)
from .progress import RichProgress

EXAMPLES = """\b
Examples:
  qvl-export export Qwen/Qwen2.5-VL-3B-Instruct bundle
  qvl-export export CHECKPOINT bundle --precision int4 --calib my_scans/ --samples 64
  qvl-export export CHECKPOINT bundle --max-size 2.1GB
  qvl-export export CHECKPOINT bundle --prune scan
  qvl-export export CHECKPOINT bundle --target tensorrt-rtx --compute-capability 89"""


def _refuse_reduce_range(context: click.Context, _: click.Parameter, given: bool) -> None:
    """Refuses an option of earlier versions."""
    if given:
        raise click.UsageError("--reduce-range is gone: --cpu any, the default, is as fast and more accurate", context)


@click.command(epilog=EXAMPLES)
@click.argument("checkpoint")
@click.argument("out", type=any_path)
@click.option(
    "--target",
    default="cpu",
    show_default=True,
    help=f"Engine to export for: {', '.join(sessions.available()).replace('_', '-')}. cpu and cuda are ONNX Runtime, "
    "portable is plain ONNX for any engine, tensorrt-rtx is for GPUs in PCs, web for WebGPU in browsers.",
)
@click.option(
    "--layout",
    default="qvl",
    show_default=True,
    help="Layout of OUT: qvl (a bundle) or genai (a directory for ONNX Runtime GenAI).",
)
@click.option(
    "--precision",
    default="fp16",
    show_default=True,
    help="fp32, fp16, int8 (both towers W8A8), int4 (LLM int4, vision int8) or hybrid (LLM int8 for prefill, int4 for "
    "decode).",
)
@click.option(
    "--min-pixels", type=positive, metavar="N", help="Smallest image after resizing (default: the checkpoint's)."
)
@max_pixels_option
@click.option(
    "--max-length",
    type=WholeRange(2),
    metavar="N",
    help="Maximum number of tokens of prompt and answer together (default: 8192, or "
    "the model's limit if that is lower).",
)
@rule_option(
    "--prune",
    "Leave out blank paper, unless `run` says otherwise: off (default), exact, scan, or a tolerance from 0 to "
    "255; scan if no RULE follows.",
)
@click.option(
    "--accuracy-level",
    type=click.Choice(["0", "4"]),
    default="4",
    show_default=True,
    help="Activations that 4- and 8-bit weights are multiplied with: int8 (4) or float32 (0: slower, more accurate).",
)
@click.option("--vision-precision", help="Precision of the vision tower (default: that of --precision).")
@click.option("--llm-precision", help="Precision of the language model (default: that of --precision).")
@click.option(
    "--cpu",
    type=click.Choice(CPUS),
    default=ANY,
    show_default=True,
    help="Processors that int8 codes are for: any and avx2 are fast on all; vnni, amx and arm are slightly more "
    "accurate, and slow on x86 without VNNI.",
)
@click.option("--reduce-range", is_flag=True, hidden=True, expose_value=False, callback=_refuse_reduce_range)
@click.option(
    "--int8-attention",
    is_flag=True,
    help="Attention of an int8 vision tower in int8 too: faster for large pages on most processors, less accurate.",
)
@click.option(
    "--max-kl", type=Number(), help="Choose precisions by a limit on the mean KL of answers, in nats per token."
)
@click.option("--max-size", help="Choose precisions by a limit on the size of the bundle, such as 1.5GB.")
@click.option(
    "--block-size",
    type=Whole(),
    metavar="N",
    help="Columns that share a scale in int4 linears (default: 128 in decoder layers for cpu, cuda and web, else 32).",
)
@click.option(
    "--calib",
    multiple=True,
    type=any_path,
    help="Pages to calibrate on: an image, a PDF, a directory of these, or a set of `calib build`; may be repeated "
    "(default: the built-in set).",
)
@samples_option(128)
@rule_option(
    "--calib-prune",
    "Leave out blank paper of the calibration pages too, with a rule as that of --prune (default: off).",
)
@click.option(
    "--save-gptq",
    type=any_path,
    help="Also write the int4 LLM as a GPTQ checkpoint to this directory.",
)
@click.option(
    "--rotate/--no-rotate",
    help="Experimental: fold a rotation into the language model's weights; helps if a few channels are far larger "
    "than the others.",
)
@click.option(
    "--gptq-experts/--no-gptq-experts",
    default=True,
    show_default=True,
    help="Quantize int4 experts by GPTQ; rounding them to nearest is several times faster.",
)
@click.option(
    "--opset",
    type=Whole(),
    metavar="N",
    help="portable: operator set of the graphs, 17 to 27 (default: 24; 27 with linear attention).",
)
@click.option(
    "--cache",
    type=click.Choice(CACHE_FORMS),
    help="portable: write new tokens into the KV cache (scatter), or append them (concat) (default: scatter from opset "
    "24 on, else concat).",
)
@click.option(
    "--tensorrt-version",
    metavar=f"[{'|'.join(RELEASES)}]",
    help="tensorrt: oldest TensorRT that is to read the graphs (default: 10.15); engines are then built on the device.",
)
@click.option(
    "--jetpack",
    metavar=f"[{'|'.join(JETPACKS)}]",
    help="tensorrt: the same by JetPack: 6 is TensorRT "
    f"{JETPACKS['6']} (JetPack 6.1 and later have 10.3), 7 is {JETPACKS['7']}.",
)
@click.option("--compute-capability", help="tensorrt-rtx: GPUs to build engines for (default: 86,89,120).")
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    default=PROFILES[0],
    show_default=True,
    help="Inputs of the engines: single images, or videos too.",
)
@threads_option
@ray_option
@revision_option
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@only_errors_option
@click.pass_context
def export(
    context: click.Context,
    /,
    checkpoint: str,
    out: Path,
    accuracy_level: str,
    max_size: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Export CHECKPOINT, a directory or a Hugging Face id, to the bundle directory OUT."""
    from ..exporting.pipeline import export as run
    from ..exporting.plan import ExportPlan, grouped

    options |= {"accuracy_level": int(accuracy_level), "max_size": _nbytes(max_size)}
    plan = ExportPlan(checkpoint, out, **grouped(options), given=_given(context))
    progress, began = RichProgress(quiet), time.perf_counter()
    try:
        manifest = run(plan, progress)
    finally:
        progress.stop()
    if not quiet:
        show(describe(manifest, ports=False, bundle=out))
        show(f"{out}: done in {time.perf_counter() - began:.1f} s")


def _given(context: click.Context) -> frozenset[str]:
    """Returns the names of the options given on the command line."""
    source = click.core.ParameterSource.COMMANDLINE
    return frozenset(name for name in context.params if context.get_parameter_source(name) is source)


def _nbytes(size: str | None) -> int | None:
    """Parses a size such as `800MB`, `1.5 GB` or a number of bytes."""
    if size is None:
        return None
    found = re.fullmatch(r"([0-9.]+) ?([kMG]?)B?", size, re.IGNORECASE)
    try:
        assert found
        return int(float(found[1]) * 1000 ** " kmg".index(found[2].lower() or " "))
    except (AssertionError, ValueError, OverflowError):
        raise click.BadParameter(f"{size!r} is not a size such as 800MB or 1.5GB", param_hint="--max-size") from None
