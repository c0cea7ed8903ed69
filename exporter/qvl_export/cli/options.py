"""Options that several commands share, so that they read alike everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from qvl_runtime.cli.number_types import WholeRange
from qvl_runtime.cli.options import (
    add_options,
    generation_config_option,
    ray_option,
    rule_option,
    template_args_option,
)

__all__ = [
    "any_path",
    "counts_json_option",
    "data_option",
    "engine_option",
    "evaluation_options",
    "json_option",
    "max_pixels_option",
    "no_progress_option",
    "only_errors_option",
    "positive",
    "ray_option",
    "report_json_option",
    "revision_option",
    "rule_option",
    "samples_option",
    "template_args_option",
    "threads_option",
]

Command = TypeVar("Command", bound="Callable[..., Any] | click.Command")


class _NonEmptyPath(click.Path):
    """A path that is not empty: `Path` would take an empty one as the current directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


positive = WholeRange(1)
any_path = _NonEmptyPath(path_type=Path)

threads_option = click.option("--threads", type=positive, metavar="N", help="Cores to use (default: all).")
workers_option = click.option(
    "--workers",
    type=positive,
    metavar="N",
    help="Worker processes per model, which share the cores of --threads (default: one per machine).",
)
revision_option = click.option("--revision", help="Branch, tag or commit of a Hugging Face id.")
max_pixels_option = click.option(
    "--max-pixels", type=positive, metavar="N", help="Largest image after resizing (default: the checkpoint's)."
)
data_option = click.option("--data", required=True, type=any_path, help="Evaluation set: images and labels.jsonl.")
items_option = click.option(
    "--items",
    type=positive,
    metavar="N",
    help="Evaluate at most N items, drawn with a fixed seed (default: all).",
)
max_new_tokens_option = click.option(
    "--max-new-tokens",
    type=positive,
    metavar="N",
    help="Maximum length of an answer in tokens (default: 512, or a quarter of the bundle's length).",
)
engine_option = click.option(
    "--reference",
    "engine",
    type=click.Choice(["bundle", "hf"]),
    default="bundle",
    show_default=True,
    help="Kind of REFERENCE: a bundle, or a checkpoint that PyTorch runs.",
)
no_progress_option = click.option("--quiet", is_flag=True, help="Show no progress.")
only_errors_option = click.option("--quiet", is_flag=True, help="Print only errors.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
counts_json_option = click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object.")
report_json_option = click.option("--json", "as_json", is_flag=True, help="Print report.json instead of the summary.")


def samples_option(default: int | None) -> Callable[[Command], Command]:
    """Returns the decorator that adds `--samples`; without a default, all pages are used."""
    return click.option(
        "--samples",
        type=positive,
        metavar="N",
        default=default,
        show_default=default is not None,
        help="Use at most N pages, spread evenly over the sources" + ("." if default else " (default: all)."),
    )


def evaluation_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of commands whose models answer an evaluation set: which items, with what, and how."""
    options = (
        items_option,
        threads_option,
        workers_option,
        ray_option,
        max_new_tokens_option,
        generation_config_option,
    )
    return add_options(options, function)
