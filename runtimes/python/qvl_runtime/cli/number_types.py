"""Types of options that are numbers, as a user writes them: Python also takes underscores, and reads `1_0` as 10."""

from __future__ import annotations

from typing import Any

import click


def as_written(name: str, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
    """Returns `value`; raises click.BadParameter, with the name of the type, for a text with underscores."""
    if isinstance(value, str) and "_" in value:
        raise click.BadParameter(f"{value!r:.80} is not a valid {name}.", ctx, param)
    return value


class Whole(click.types.IntParamType):
    """A whole number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(as_written(self.name, value, param, ctx), param, ctx)


class Number(click.types.FloatParamType):
    """A number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(as_written(self.name, value, param, ctx), param, ctx)


class WholeRange(click.IntRange):
    """A whole number within bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(as_written(self.name, value, param, ctx), param, ctx)


class NumberRange(click.FloatRange):
    """A number within bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(as_written(self.name, value, param, ctx), param, ctx)
