"""Commands: examples in the help, warnings as notes, and a prompt that is not a forgotten file."""

from __future__ import annotations

import warnings

import click
import pytest
from click.testing import CliRunner, Result

from qvl_runtime.cli.command import MEMORY_FIX, Group, PromptCommand, prompt_argument


@click.group(cls=Group, examples=["ask 'What?'"])
def program() -> None:
    """A program."""


@program.command(cls=PromptCommand, examples=["ask 'Read.'", "ask --video a.mp4"])
@click.option("--video", multiple=True)
@prompt_argument
def ask(prompt: str | None, video: tuple[str, ...]) -> None:
    """Asks."""
    if prompt == "much":
        raise MemoryError
    warnings.warn("scaled\ndown", UserWarning, stacklevel=2)
    click.echo(repr(prompt))


def call(*arguments: str) -> Result:
    return CliRunner().invoke(program, arguments)


def test_help_ends_with_examples_of_the_program() -> None:
    assert call("--help").stdout.endswith("Examples:\n    program ask 'What?'\n")
    assert call("ask", "--help").stdout.endswith("    program ask 'Read.'\n    program ask --video a.mp4\n")


@pytest.mark.parametrize(
    ("arguments", "prompt"),
    [(["What?"], "'What?'"), ([], "None"), (["--", "page.png"], "'page.png'"), (["What is in a.png"], None)],
)
def test_a_prompt_is_one_argument(arguments: list[str], prompt: str | None) -> None:
    done = call("ask", *arguments)
    assert done.stdout.strip() == (prompt or repr(arguments[0]))
    assert done.stderr.startswith("note: scaled") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["What", "is", "it?"], "unexpected arguments: is it?; put the prompt in quotes"),
        (["page.png"], "page.png is a file and not a question"),
        (["--video", "a.mp4", "b.mp4"], "--video takes one name, b.mp4 is another"),
    ],
)
def test_other_arguments_are_refused_with_the_fix(arguments: list[str], message: str) -> None:
    done = call("ask", *arguments)
    assert done.exit_code == 2 and message in done.stderr


def test_a_lack_of_memory_has_a_note() -> None:
    error = call("ask", "much").exception
    assert isinstance(error, MemoryError) and error.__notes__ == [MEMORY_FIX]
