"""Runs a chat template in minijinja: no Python evaluation, bounded work, and the functions of transformers' templates.

Imports little, because the process that vets templates (`vet_child`) loads it too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import minijinja

from ..errors import PromptError
from ..printable import first_line
from .source import METHODS, SourceError, prepare

FUEL = 10_000_000
"""Maximum minijinja instructions of a rendering: thousands of times what a long conversation takes."""
MAX_OUTPUT = 32 << 20
"""Maximum characters of a prompt: far beyond what any model reads."""
MAX_INDENT = 16
MAX_WIDTH = 10_000
MAX_TIME_PATTERN = 256
_WIDE_FORMAT = re.compile(r"%[^%a-zA-Z]*(?:\*|\d{5})")
_NAME = "chat"


class TemplateFault(Exception):
    """A template is broken; the message is one line."""


def compile_template(source: str) -> minijinja.Environment:
    """Returns an environment with the template; raises TemplateFault if it is malformed or exceeds the limits."""
    environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.fuel = FUEL
    _add_python_features(environment)
    try:
        environment.add_template(_NAME, prepare(source))
    except SourceError as error:
        raise TemplateFault(str(error)) from error
    except BaseException as error:
        raise _fault(error) from error
    return environment


def template_variables(environment: minijinja.Environment) -> set[str]:
    """Returns the names of the template's undeclared variables, which the caller must provide."""
    return set(environment.undeclared_variables_in_template(_NAME)) - set(environment.globals)


def render_template(environment: minijinja.Environment, context: Mapping[str, Any]) -> str:
    """Renders the template; raises PromptError if it rejects the variables, TemplateFault if it fails."""
    try:
        text = environment.render_template(_NAME, **context)
    except BaseException as error:
        rejection = error if isinstance(error, PromptError) else error.__cause__
        if isinstance(rejection, PromptError):
            raise PromptError(rejection.what) from error
        raise _fault(error) from error
    if len(text) > MAX_OUTPUT:
        raise TemplateFault(f"it produces a prompt of {len(text)} characters, more than {MAX_OUTPUT}")
    return str(text)


def _fault(error: BaseException) -> TemplateFault:
    """Converts an engine failure, including panics (not an Exception), into TemplateFault; re-raises others."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    if isinstance(error, MemoryError):
        raise error
    if isinstance(error, RecursionError):
        return TemplateFault("it creates values that are nested too deeply")
    return TemplateFault(first_line(error)[:300])


def _add_python_features(environment: minijinja.Environment) -> None:
    environment.add_filter("tojson", _to_json)
    environment.add_global("raise_exception", _raise_exception)
    environment.add_global("strftime_now", _strftime_now)
    environment.add_test("sequence", _is_sequence)
    environment.add_filter("py_percent", _percent)
    environment.add_filter("center", _method("center"))
    environment.add_filter("wordcount", lambda text: len(re.findall(r"\w+", text)))
    for name in METHODS:
        environment.add_filter(f"py_{name}", _method(name))


def _method(name: str) -> Any:
    """Returns the filter for a method of Python's strings, or `index` of a list."""

    def call(value: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(value, str) and not (name == "index" and isinstance(value, list | tuple)):
            raise TypeError(f"{type(value).__name__} has no method {name}")
        if any(isinstance(argument, int) and argument > MAX_WIDTH for argument in arguments):
            raise ValueError(f"{name} of more than {MAX_WIDTH} characters")
        return getattr(value, name)(*arguments, **options)

    return call


def _percent(pattern: str, *values: Any) -> str:
    """Returns `pattern % values`, as Python formats it."""
    if _WIDE_FORMAT.search(pattern):
        raise ValueError(f"the format {pattern[:40]!r} is too wide")
    return pattern % (values[0] if len(values) == 1 and isinstance(values[0], Mapping) else values)


def _is_sequence(value: Any) -> bool:
    """Tests as Jinja does: true for anything with a length and subscripts, including strings and mappings."""
    return isinstance(value, str | list | tuple | Mapping)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Returns JSON as transformers writes it; minijinja's own filter escapes `<>&'`, which breaks tool prompts."""
    if (len(indent) if isinstance(indent, str) else indent or 0) > MAX_INDENT:
        raise ValueError(f"tojson with an indent of more than {MAX_INDENT}")
    pair = None if separators is None else tuple(separators)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys)


def _strftime_now(pattern: str) -> str:
    if not isinstance(pattern, str) or len(pattern) > MAX_TIME_PATTERN:
        raise ValueError(f"strftime_now takes a text of at most {MAX_TIME_PATTERN} characters")
    return datetime.now().strftime(pattern)


def _raise_exception(*message: Any) -> None:
    raise PromptError("the chat template rejects these messages" + "".join(f": {text}" for text in message))
