"""Types of options that are numbers, as a user writes them: Python also takes underscores, and reads `1_0` as 10."""

from __future__ import annotations

from typing import Any

import click


class _AsWritten(click.ParamType[Any]):
    """Refuses a number with underscores."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and "_" in value:
            self.fail(f"{value!r:.80} is not a valid {self.name}.", param, ctx)
        return super().convert(value, param, ctx)


class Whole(_AsWritten, click.types.IntParamType):
    """A whole number."""


class Number(_AsWritten, click.types.FloatParamType):
    """A number."""


class WholeRange(_AsWritten, click.IntRange):
    """A whole number within bounds."""


class NumberRange(_AsWritten, click.FloatRange):
    """A number within bounds."""
