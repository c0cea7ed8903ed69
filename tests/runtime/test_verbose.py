"""The option `--verbose`: messages of loggers on standard error, while a command runs."""

from __future__ import annotations

import logging

import click
import pytest
from click.testing import CliRunner

from qvl_runtime.cli.verbose import shown_messages, verbose_option

NAME = "qvl_runtime.test_of_verbose"
LOGGER = logging.getLogger(NAME)


@click.group()
@verbose_option(NAME)
def group() -> None:
    """A program."""


@group.command()
@verbose_option(NAME)
def command() -> None:
    """A command."""
    LOGGER.debug("step %d", 1)


@pytest.mark.parametrize(
    ("arguments", "count"),
    [(["command"], 0), (["--verbose", "command"], 1), (["command", "--verbose"], 1)]
    + [(["--verbose", "command", "--verbose"], 1)],
)
def test_messages_are_printed_once_wherever_the_option_is(arguments: list[str], count: int) -> None:
    done = CliRunner().invoke(group, arguments, catch_exceptions=False)
    assert done.stderr.count(f"s {NAME}: step 1\n") == count and done.stdout == ""
    assert LOGGER.level == logging.NOTSET and not LOGGER.handlers


def test_messages_are_one_line_and_end_with_the_block(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_messages(NAME):
        LOGGER.debug("a\nb\x1b[2J")
    LOGGER.debug("later")
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and "\x1b" not in errors and "later" not in errors
