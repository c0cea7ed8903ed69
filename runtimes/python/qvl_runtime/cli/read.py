"""The command `read`: answers one prompt about every page of many documents, or the requests of a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..common.counted import counted
from ..common.exit_codes import SOME_FAILED
from ..common.standard_streams import print_json, say
from ..errors import PromptError
from .command import Command
from .options import (
    bundle_argument,
    check_prune,
    check_sampling,
    device_option,
    file_path,
    json_file,
    json_schema_option,
    positive,
    prune_option,
    ray_option,
    sampling_options,
    system_option,
    template_args_option,
    threads_option,
    verbose,
)

if TYPE_CHECKING:
    from ..read.options import ReadOptions
    from ..read.run import Summary
    from ..read.tasks import OpenPdfs
    from ..read.workers import Workers

EXAMPLES = (
    'read bundle scans/ --prompt "Read the text." --out answers.jsonl',
    "read bundle invoices/ --json-schema fields.json --format csv --out invoices.csv",
    "read bundle book.pdf --format md --out book/ --workers 2 --retry-loops",
    "read bundle requests.jsonl --out answers.jsonl",
)
FORMATS = ("jsonl", "md", "csv", "html")


@click.command(cls=Command, examples=EXAMPLES)
@bundle_argument
@click.argument("inputs", nargs=-1, required=True)
@click.option("--out", type=file_path, required=True, metavar="PATH",
              help="Where answers go: a file, for md and html a folder; what is there is not read again.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(FORMATS), default="jsonl", show_default=True,
              help="JSON lines, a Markdown or HTML file per document, or a table of a schema's fields.")  # fmt: skip
@click.option("--prompt", metavar="TEXT", help="What is asked about every page (md and html have one by default).")
@system_option
@json_schema_option
@click.option("--pages", metavar="1-3,7-", help="Pages of PDFs and TIFFs, counted from 1 (default: all).")
@click.option("--max-pixels", type=positive, metavar="N", help="Scale larger pages down to this many pixels.")
@prune_option
@click.option("--retry-loops", is_flag=True,
              help="End an answer that repeats itself, and try once more with a mild repetition penalty.")  # fmt: skip
@sampling_options
@template_args_option
@click.option("--workers", type=positive, metavar="N",
              help="Pages at the same time (default: 1, with --ray one per machine).")  # fmt: skip
@ray_option
@threads_option
@device_option
@click.option("--force", is_flag=True, help="Begin anew, and replace the answers that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers of pages as one JSON object.")
@click.option("--quiet", is_flag=True, help="Print no progress.")
@verbose
def read(
    bundle: Path, inputs: tuple[str, ...], out: Path, form: str, prompt: str | None, system: str | None,
    json_schema: Path | None, pages: str | None, max_pixels: int | None, prune: Any, retry_loops: bool,
    template_args: tuple[str, ...], workers: int | None, ray: str | None, threads: int | None, device: str | None,
    force: bool, as_json: bool, quiet: bool, **settings: Any,
) -> int:  # fmt: skip
    """Ask about every page of INPUTS: images, PDFs, folders, quoted patterns, .jsonl files of requests.

    The same command continues a run that was ended, and tries pages again that failed. The exit code is 1 if a page
    failed, which is in its answer's place.
    """
    from ..read import formats
    from ..read.inputs import find_documents
    from ..read.journal import Journal
    from ..read.options import ReadOptions
    from ..read.progress import Progress
    from ..read.run import read as read_all
    from ..read.tasks import OpenPdfs
    from ..templates.chat import parse_arguments

    check_prune(prune)
    check_sampling(settings)
    settings["template_args"] = parse_arguments(template_args)
    schema = json_file(json_schema)
    columns = formats.columns_of(schema) if form == "csv" else []
    documents = find_documents(inputs)
    _check_pages(pages)
    prompt = prompt or formats.PROMPTS.get(form)
    if prompt is None and any(document.kind != "requests" for document in documents):
        raise PromptError("there is nothing to ask about the pages", fix='give --prompt "Read the text."')
    options = ReadOptions(
        prompt=prompt, system=system, json_schema=schema, max_pixels=max_pixels, prune=prune, retry_loops=retry_loops,
        settings=settings,
    )  # fmt: skip
    formats.check_place(out)
    if not force:
        formats.check_free(out, form)
    answers, pdfs = formats.journal_path(out, form), OpenPdfs()
    with (
        Journal(answers, options.fingerprint(bundle), force) as journal,
        _opened(bundle, options, workers, ray, threads, device, pdfs) as at_work,
    ):
        progress = Progress(len(documents), quiet)
        try:
            summary = read_all(documents, at_work, journal, progress, pages, pdfs)
        except KeyboardInterrupt as error:
            error.add_note(f"what is read is in {answers}; the same command continues")
            raise
        finally:
            progress.end()
    if form == "csv":
        formats.write_table(answers, out, columns)
    elif form != "jsonl":
        formats.write_documents(answers, out, form)
    _report(summary, out, as_json, quiet)
    return SOME_FAILED if summary.failed else 0


def _check_pages(pages: str | None) -> None:
    """Raises MediaError for `--pages` that no document could have."""
    from ..pdf import PDF_MAX_PAGES, parse_pages

    parse_pages(pages, PDF_MAX_PAGES, "--pages")


@contextlib.contextmanager
def _opened(
    bundle: Path, options: ReadOptions, count: int | None, ray: str | None, threads: int | None, device: str | None,
    pdfs: OpenPdfs,
) -> Iterator[Workers]:  # fmt: skip
    """Yields the workers: forks of a model here, or actors of a cluster."""
    if ray is not None:
        from ..read.ray_workers import ray_workers

        with ray_workers(ray, bundle, options, count, threads, device) as workers:
            yield workers
        return
    from ..model import load
    from ..read.workers import local_workers

    with load(bundle, threads, options.prune, device) as model, local_workers(model, options, count or 1, pdfs) as here:
        yield here


def _report(summary: Summary, out: Path, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json({"out": str(out), **summary.values()})
    elif not quiet:
        known = f", {summary.known:,} read before" if summary.known else ""
        copied = f", {summary.copied:,} with the content of another" if summary.copied else ""
        failed = f", {summary.failed:,} failed (see `error` there)" if summary.failed else ""
        say(f"{counted(summary.answered, 'page')} read{known}{copied}{failed}: {out}")
    if summary.loops and not quiet:
        say(f"note: {counted(summary.loops, 'answer')} ended in a loop")
    if summary.cut and not quiet:
        say(f"note: {counted(summary.cut, 'answer')} cut off, see --max-new-tokens")
