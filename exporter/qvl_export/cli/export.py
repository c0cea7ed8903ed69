"""`qvl-export export`: its options, and what it prints."""

from __future__ import annotations

import re
import time
from pathlib import Path

import click

from qvl_runtime import sessions
from qvl_runtime.cli.describe import describe
from qvl_runtime.common.standard_streams import show

from ..engines import PROFILES
from .progress import RichProgress

EXAMPLES = """\b
Examples:
  qvl-export export Qwen/Qwen2.5-VL-3B-Instruct bundle
  qvl-export export CHECKPOINT bundle --precision int4 --calib my_scans/ --samples 64
  qvl-export export CHECKPOINT bundle --max-size 2.1GB
  qvl-export export CHECKPOINT bundle --target tensorrt-rtx --compute-capability 89"""


@click.command(epilog=EXAMPLES)
@click.argument("checkpoint")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--target",
    default="cpu",
    show_default=True,
    help=f"Engine to export for: {', '.join(sessions.available()).replace('_', '-')}. cpu and cuda are ONNX Runtime, "
    "portable is plain ONNX for any engine, tensorrt-rtx is for GPUs in PCs.",
)
@click.option(
    "--layout",
    default="qvl",
    show_default=True,
    help="What OUT is to be: qvl (a bundle) or genai (a directory for ONNX Runtime GenAI).",
)
@click.option(
    "--precision",
    default="fp16",
    show_default=True,
    help="fp32, fp16, int8 (both towers W8A8), int4 (LLM int4, vision int8) or hybrid (int8, answers by int4).",
)
@click.option("--min-pixels", type=click.IntRange(1), help="Smallest image after resizing (default: the checkpoint's).")
@click.option("--max-pixels", type=click.IntRange(1), help="Largest image after resizing (default: the checkpoint's).")
@click.option("--max-length", type=click.IntRange(2), help="Tokens of prompt and answer together (default: 8192).")
@click.option(
    "--accuracy-level",
    type=click.Choice(["0", "4"]),
    default="4",
    show_default=True,
    help="4- and 8-bit weights times activations as int8 (4) or as float32 (0: slower, closer to the checkpoint).",
)
@click.option("--vision-precision", help="Of the vision tower, where it is to differ: fp32, fp16, int8 or int4.")
@click.option("--llm-precision", help="Of the LLM, where it is to differ: fp32, fp16, int8, int4 or hybrid.")
@click.option("--reduce-range", is_flag=True, help="7-bit codes for int8: faster on x86 without VNNI, less accurate.")
@click.option("--max-kl", type=float, help="Choose precisions so that answers diverge no more: mean KL, nats a token.")
@click.option("--max-size", help="Choose precisions so that the bundle is no larger, such as 1.5GB.")
@click.option(
    "--block-size",
    type=int,
    default=32,
    show_default=True,
    help="Columns that share a scale in int4 linears and in a quantized embedding.",
)
@click.option(
    "--calib",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Pages to calibrate on: an image, a PDF, a directory of these, or a set of `calib build`; may be repeated "
    "(default: the built-in set).",
)
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Most pages to calibrate on, spread evenly over all that --calib gives.",
)
@click.option("--vision-weight", type=float, default=1.0, help="What image tokens count in GPTQ; text tokens count 1.")
@click.option(
    "--save-gptq",
    type=click.Path(path_type=Path),
    help="Also write the int4 LLM as a GPTQ checkpoint to this directory.",
)
@click.option(
    "--rotate/--no-rotate",
    help="Fold a rotation into the language model's weights: better where a few channels are far larger than others.",
)
@click.option(
    "--gptq-experts/--no-gptq-experts",
    default=True,
    show_default=True,
    help="int4 experts by GPTQ, or, several times as fast, rounded to nearest.",
)
@click.option("--compute-capability", help="tensorrt-rtx: GPUs to build engines for (default: 86,89,120).")
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    default=PROFILES[0],
    show_default=True,
    help="Engines that are built: for single images, or for videos too.",
)
@click.option("--threads", type=click.IntRange(1), help="Cores to calibrate with (default: all).")
@click.option("--ray", metavar="ADDRESS", help="Spread the calibration pages over the Ray cluster there.")
@click.option("--revision", help="Branch, tag or commit of a Hugging Face id.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.pass_context
def export(
    context: click.Context,
    checkpoint: str,
    out: Path,
    target: str,
    layout: str,
    precision: str,
    min_pixels: int | None,
    max_pixels: int | None,
    max_length: int | None,
    accuracy_level: str,
    vision_precision: str | None,
    llm_precision: str | None,
    reduce_range: bool,
    max_kl: float | None,
    max_size: str | None,
    block_size: int,
    calib: tuple[Path, ...],
    samples: int,
    vision_weight: float,
    save_gptq: Path | None,
    rotate: bool,
    gptq_experts: bool,
    compute_capability: str | None,
    profile: str,
    threads: int | None,
    ray: str | None,
    revision: str | None,
    force: bool,
    quiet: bool,
) -> None:
    """Export CHECKPOINT, a directory or a Hugging Face id, to the bundle directory OUT."""
    from ..exporting.pipeline import ExportPlan
    from ..exporting.pipeline import export as make

    plan = ExportPlan(
        checkpoint=checkpoint,
        out=out,
        target=target,
        layout=layout,
        precision=precision,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        max_length=max_length,
        revision=revision,
        force=force,
        accuracy_level=int(accuracy_level),
        vision_precision=vision_precision,
        llm_precision=llm_precision,
        reduce_range=reduce_range,
        max_kl=max_kl,
        max_size=_nbytes(max_size),
        block_size=block_size,
        calib=calib,
        samples=samples,
        vision_weight=vision_weight,
        save_gptq=save_gptq,
        rotate=rotate,
        gptq_experts=gptq_experts,
        compute_capability=compute_capability,
        profile=profile,
        ray=ray,
        threads=threads,
        given=_given(context),
    )
    progress, began = RichProgress(quiet), time.perf_counter()
    try:
        manifest = make(plan, progress)
    finally:
        progress.stop()
    if not quiet:
        show(describe(manifest, ports=False))
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
