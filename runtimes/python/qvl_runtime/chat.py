"""The checkpoint's own chat template, rendered by minijinja: no Python evaluation, bounded work."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import minijinja

from .errors import BundleError, PromptError

FUEL = 10_000_000
"""minijinja instructions a template may use: thousands of times what a long conversation takes."""
_GENERATION = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")


class ChatTemplate:
    """Renders messages as transformers' `apply_chat_template` does."""

    def __init__(self, source: str, where: Path) -> None:
        self.where = where
        self._environment = minijinja.Environment(
            templates={"chat": _GENERATION.sub(_neutral_block, source)}, trim_blocks=True, lstrip_blocks=True
        )
        self._environment.fuel = FUEL
        self._environment.add_filter("tojson", _to_json)
        self._environment.add_global("raise_exception", _raise_exception)

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """The prompt, ready for the assistant's turn.

        Raises PromptError where the template refuses the messages, BundleError where the template itself is broken.
        """
        try:
            return self._environment.render_template(
                "chat", messages=list(messages), tools=tools, add_generation_prompt=True
            )
        except minijinja.TemplateError as error:
            refused = error.__cause__ if isinstance(error.__cause__, PromptError) else None
            if refused:
                raise refused from error
            raise BundleError(f"cannot be rendered: {str(error).splitlines()[0]}", where=self.where) from error


def _neutral_block(match: re.Match[str]) -> str:
    """`{% generation %}` only marks training tokens: an always-true block keeps its whitespace control."""
    before, end, after = match.groups()
    return f"{{%{before} {'endif' if end else 'if true'} {after}%}}"


def _to_json(value: Any, indent: int | None = None) -> str:
    """JSON as transformers writes it: minijinja's own filter escapes `<>&'`, which breaks tool prompts."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise PromptError(f"the chat template refuses these messages: {message}")
