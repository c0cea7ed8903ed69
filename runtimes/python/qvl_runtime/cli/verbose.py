"""The option `--verbose`: shows the debug messages of loggers on standard error while a command runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from ..common.standard_streams import say

_shown: set[str] = set()
"""Names of the loggers whose messages are shown: the option may be given to the group and to its command."""
Decorated = TypeVar("Decorated", bound="Callable[..., Any] | click.Command")


def verbose_option(*loggers: str) -> Callable[[Decorated], Decorated]:
    """Returns the decorator that adds `--verbose` to a command or a group; it shows the messages of `loggers`."""

    def start(context: click.Context, _: click.Parameter, verbose: bool) -> None:
        if verbose and not context.resilient_parsing:
            context.find_root().with_resource(shown_messages(*loggers))

    help_text = "Print debug messages on standard error."
    return click.option("--verbose", is_flag=True, is_eager=True, expose_value=False, callback=start, help=help_text)


@contextlib.contextmanager
def shown_messages(*names: str) -> Iterator[None]:
    """Prints the messages of loggers on standard error, one line each; skips loggers that are shown already."""
    import logging  # only needed here

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"{record.relativeCreated / 1000:.3f} s {record.name}: {record.getMessage()}")

    loggers = [logging.getLogger(name) for name in names if name not in _shown]
    handler, levels = Lines(), [logger.level for logger in loggers]
    for logger in loggers:
        _shown.add(logger.name)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            _shown.discard(logger.name)
            logger.removeHandler(handler)
            logger.setLevel(level)
