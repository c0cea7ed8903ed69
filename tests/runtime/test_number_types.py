"""Numbers of options are read as they are written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner

from qvl_export.cli.commands import cli as exporter
from qvl_runtime.cli.main import cli as runtime
from qvl_runtime.cli.number_types import Number, NumberRange, Whole, WholeRange

TYPES = {"integer": Whole(), "float": Number(), "integer range": WholeRange(1), "float range": NumberRange(1)}
NUMBERS = (click.types.IntParamType, click.types.FloatParamType)


def answered(kind: click.ParamType, text: str) -> tuple[int, str]:
    """The exit code and the output of a command that prints an option of this type."""

    @click.command()
    @click.option("--n", type=kind)
    def command(n: Any) -> None:
        click.echo(repr(n))

    done = CliRunner().invoke(command, ["--n", text])
    return done.exit_code, done.output


@pytest.mark.parametrize("name", TYPES)
def test_underscores_are_refused(name: str) -> None:
    assert answered(TYPES[name], "10") == (0, f"{10 if 'integer' in name else 10.0}\n")
    code, said = answered(TYPES[name], "1_0")
    assert code == 2 and f"'1_0' is not a valid {name}." in said


def commands(group: click.Command) -> Iterator[click.Command]:
    yield group
    for command in getattr(group, "commands", {}).values():
        yield from commands(command)


@pytest.mark.parametrize("program", [exporter, runtime], ids=["exporter", "runtime"])
def test_no_option_has_another_type_of_number(program: click.Command) -> None:
    """Click's own read underscores."""
    options = [option for command in commands(program) for option in command.params]
    numbers = [option for option in options if isinstance(option.type, NUMBERS)]
    assert numbers and all(isinstance(option.type, Whole | Number | WholeRange | NumberRange) for option in numbers)
