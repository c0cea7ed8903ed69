"""Classes of commands: examples at the end of the help, warnings as notes, an optional prompt."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import click

from ..common.standard_streams import put, say

DASH_FIX = "a prompt that begins with a dash goes after --"
MEMORY_FIX = "take fewer or smaller images, or a smaller bundle"


class _WithExamples(click.Command):
    """A command whose help ends with examples, written with the name of the program that it is part of."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        program = ctx.find_root().command_path
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text("\b\nExamples:\n" + "\n".join(f"  {program} {line}" for line in self.examples))

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _show_help
        return option


class Group(_WithExamples, click.Group):
    """A group whose help ends with examples."""


class Command(_WithExamples):
    """A command that runs a bundle: its warnings are printed as notes."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings_as_notes():
                return super().invoke(ctx)
        except MemoryError as error:
            error.add_note(MEMORY_FIX)
            raise


class PromptCommand(Command):
    """A command with an optional argument `prompt`.

    A file name as the prompt is most likely an image or a frame whose option was forgotten. It is refused, unless the
    command line has a `--`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        literal = "--" in args
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if " " in error.option_name or not error.possibilities:
                error.add_note(DASH_FIX)
            raise
        words: tuple[str, ...] = ctx.params["prompt"]
        if not literal:
            _refuse_file_names(ctx, words)
        if len(words) > 1:
            raise click.UsageError(f"unexpected arguments: {' '.join(words[1:])}; put the prompt in quotes", ctx)
        ctx.params["prompt"] = words[0] if words else None
        return rest


prompt_argument = click.argument("prompt", nargs=-1, metavar="[PROMPT]")
"""The prompt of a PromptCommand. All words are taken, so that the command can say what is wrong with them."""


def _refuse_file_names(context: click.Context, words: Sequence[str]) -> None:
    """Raises UsageError, which names the option that is missing, if a word is the name of a media file."""
    from .frames import VIDEO_FORMS, looks_like_media

    for word in filter(looks_like_media, words):
        if context.params["video"]:
            raise click.UsageError(f"--video takes one name, {word} is another: write {VIDEO_FORMS}", context)
        raise click.UsageError(f"{word} is a file and not a question: give it with --image or --video", context)


def _show_help(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        put(context.get_help())  # not click.echo, whose reader may have gone away
        context.exit()


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Prints each warning in one line on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.")  # thousands of warnings about damaged metadata
        warnings.showwarning = _note
        yield


def _note(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"note: {message}")
