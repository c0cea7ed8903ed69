"""The checkpoint's own chat template, rendered by minijinja: no Python evaluation, bounded work."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import minijinja

from .errors import BundleError, PromptError
from .tools import inline

FUEL = 10_000_000
"""minijinja instructions a template may use: thousands of times what a long conversation takes."""
_GENERATION = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")


class ChatTemplate:
    """Renders messages as transformers' `apply_chat_template` does."""

    def __init__(self, source: str, where: Path) -> None:
        self.where, self._source = where, source
        self._knows_tools = re.search(r"\btools\b", source) is not None
        self._environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True)
        self._environment.fuel = FUEL
        self._environment.add_filter("tojson", _to_json)
        self._environment.add_global("raise_exception", _raise_exception)
        self._environment.add_global("strftime_now", _strftime_now)
        try:
            self._environment.add_template("chat", _GENERATION.sub(_neutral_block, source))
        except minijinja.TemplateError as error:
            raise self._broken(error) from error

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """The prompt, ready for the assistant's turn; a template that never mentions tools gets them as text.

        Raises PromptError where the template refuses the messages, BundleError where the template itself is broken.
        """
        if tools and not self._knows_tools:
            messages = inline(messages, tools)
        try:
            return self._environment.render_template(
                "chat", messages=list(messages), tools=tools, documents=None, add_generation_prompt=True
            )
        except minijinja.TemplateError as error:
            refused = error.__cause__ if isinstance(error.__cause__, PromptError) else None
            if refused:
                raise refused from error
            raise self._broken(error) from error

    def reads(self, key: str) -> bool:
        """Whether the template names the key as one of something, as in `message.key` or `message['key']`."""
        return re.search(rf"""\.{re.escape(key)}\b|['"]{re.escape(key)}['"]""", self._source) is not None

    def _broken(self, error: minijinja.TemplateError) -> BundleError:
        return BundleError(f"cannot be rendered: {str(error).splitlines()[0]}", where=self.where)


def _neutral_block(match: re.Match[str]) -> str:
    """`{% generation %}` only marks training tokens: an always-true block keeps its whitespace control."""
    before, end, after = match.groups()
    return f"{{%{before} {'endif' if end else 'if true'} {after}%}}"


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
    """JSON as transformers writes it: minijinja's own filter escapes `<>&'`, which breaks tool prompts."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _raise_exception(message: str) -> None:
    raise PromptError(f"the chat template refuses these messages: {message}")
