"""`qvl-export`: parse, call, print. Bad input is one line on standard error and exit code 2."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from qvl_runtime.__main__ import main as runtime_main
from qvl_runtime.arguments import BAD_INPUT
from qvl_runtime.describe import describe
from qvl_runtime.errors import QvlError

from . import __version__

PASS_THROUGH = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


class RichProgress:
    """A bar on a terminal, a line a stage elsewhere, nothing with `quiet`."""

    def __init__(self, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        self._bar = Bar(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._task: TaskID | None = None

    def stage(self, text: str, total: int = 0) -> None:
        self._console.print(text)
        if total and self._console.is_terminal:
            self._bar.start()
            self._task = self._bar.add_task(text, total=total)

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._bar.advance(self._task, count)

    def stop(self) -> None:
        if self._task is not None:
            self._bar.stop()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qvl-export")
def cli() -> None:
    """Turn a Qwen-VL checkpoint into a bundle that runs where no PyTorch belongs."""


@cli.command()
@click.argument("checkpoint")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--target", default="cpu", show_default=True, help="Engine to export for.")
@click.option("--precision", default="fp16", show_default=True, help="How weights are stored: fp32 or fp16.")
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
@click.option("--llm-precision", type=click.Choice(["int4"]), help="Quantize the decoder with GPTQ; needs --calib.")
@click.option("--block-size", type=int, default=32, show_default=True, help="Columns that share an int4 scale.")
@click.option("--calib", type=click.Path(path_type=Path), help="Calibration set: a directory with labels.jsonl.")
@click.option("--samples", type=click.IntRange(1), default=128, show_default=True, help="Most pages to calibrate on.")
@click.option("--revision", help="Branch, tag or commit of a Hugging Face id.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def export(
    checkpoint: str,
    out: Path,
    target: str,
    precision: str,
    min_pixels: int | None,
    max_pixels: int | None,
    max_length: int | None,
    accuracy_level: str,
    llm_precision: str | None,
    block_size: int,
    calib: Path | None,
    samples: int,
    revision: str | None,
    force: bool,
    quiet: bool,
) -> None:
    """Export CHECKPOINT, a directory or a Hugging Face id, to the bundle directory OUT."""
    from .pipeline import ExportPlan
    from .pipeline import export as run

    plan = ExportPlan(
        checkpoint=checkpoint,
        out=out,
        target=target,
        precision=precision,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        max_length=max_length,
        revision=revision,
        force=force,
        accuracy_level=int(accuracy_level),
        llm_precision=llm_precision,
        block_size=block_size,
        calib=calib,
        samples=samples,
    )
    progress, began = RichProgress(quiet), time.perf_counter()
    try:
        manifest = run(plan, progress)
    finally:
        progress.stop()
    if not quiet:
        click.echo(describe(manifest, ports=False))
        click.echo(f"{out}: done in {time.perf_counter() - began:.1f} s")


def _delegate(name: str, summary: str) -> None:
    """A command of the runtime under the same name here, its arguments untouched."""

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


def main() -> None:
    """The console script: errors become one line, usage errors too."""
    if sys.argv[1:2] and sys.argv[1] in DELEGATED:  # before click, which would swallow a `--`
        sys.exit(runtime_main(sys.argv[1:], program="qvl-export"))
    try:
        cli(standalone_mode=False)
    except QvlError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(BAD_INPUT)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(BAD_INPUT)
    except click.ClickException as error:
        click.echo(f"error: {' '.join(error.format_message().split())}", err=True)
        sys.exit(BAD_INPUT)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {where}{error.strerror or error}", err=True)
        sys.exit(BAD_INPUT)
    except MemoryError:
        click.echo("error: not enough memory", err=True)
        sys.exit(BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
