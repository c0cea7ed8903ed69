"""Renders the checkpoint's chat template with minijinja: no Python evaluation, bounded work."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import BundleError, PromptError
from ..tools import inline_tools
from .engine import TemplateFault, compile_template, render_template, template_variables

NO_VARIABLES: Mapping[str, Any] = MappingProxyType({})
_REASONING = ("reasoning_content", "thinking", "reasoning")
RESERVED = ("messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now")
"""Variables and functions that the runtime provides to templates."""


def parse_arguments(given: Sequence[str]) -> dict[str, Any]:
    """Parses template variables `NAME=VALUE`; a value that is not JSON is taken as text. Raises PromptError."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise PromptError(f"--template-arg {text!r} is not NAME=VALUE", fix="such as enable_thinking=false")
        if name in found:
            raise PromptError(f"--template-arg {name} is given twice")
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    return found


def _check_texts(given: Any) -> None:
    """Raises PromptError for lone surrogates, which minijinja would replace, and for values nested too deeply."""
    try:
        json.dumps(given, ensure_ascii=False, skipkeys=True, default=lambda value: type(value).__name__).encode()
    except UnicodeEncodeError as error:
        part = error.object[max(0, error.start - 20) : error.start].encode("utf-8", "replace").decode()
        raise PromptError(f"a text has a lone surrogate after {part!r}", fix="give valid Unicode") from error
    except (ValueError, RecursionError) as error:
        raise PromptError(f"the messages cannot be used: {error}") from error


def _normalized(message: Mapping[str, Any]) -> dict[str, Any]:
    """Normalizes as transformers 5 does: drops None values, stores reasoning under the names that templates read."""
    kept = {key: value for key, value in message.items() if value is not None}
    reasoning = next((kept[name] for name in _REASONING if name in kept), None)
    return kept if reasoning is None else {"thinking": reasoning, **kept, "reasoning_content": reasoning}


class ChatTemplate:
    """Renders messages as transformers' `apply_chat_template` does.

    Special tokens of the tokenizer's configuration (`eos_token`, …) are variables of the template.
    """

    def __init__(self, source: str, where: Path, special_tokens: Mapping[str, str] = NO_VARIABLES) -> None:
        self.where, self._source, self._special_tokens = where, source, dict(special_tokens)
        self._knows_tools = re.search(r"\btools\b", source) is not None
        try:
            self._environment = compile_template(source)
        except TemplateFault as fault:
            raise self._render_error(fault) from fault

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> str:
        """Returns the prompt up to the assistant's turn; a template that never mentions tools gets them as text.

        `template_args` are further variables, which override special tokens. Raises PromptError if the template
        rejects the messages or has no such variable, BundleError if the template itself is broken.
        """
        _check_texts([messages, tools, template_args])
        if tools and not self._knows_tools:
            messages = inline_tools(messages, tools)
        given = {
            "messages": [_normalized(message) for message in messages],
            "tools": tools,
            "documents": None,
            "add_generation_prompt": True,
        }
        try:
            return render_template(
                self._environment, {**self._special_tokens, **self._check_arguments(template_args), **given}
            )
        except TemplateFault as fault:
            raise self._render_error(fault) from fault

    def reads(self, key: str) -> bool:
        """Whether the template accesses the key, as in `message.key` or `message['key']`."""
        return re.search(rf"""\.{re.escape(key)}\b|['"]{re.escape(key)}['"]""", self._source) is not None

    def _check_arguments(self, arguments: Mapping[str, Any] | None) -> Mapping[str, Any]:
        if not arguments:
            return NO_VARIABLES
        if not isinstance(arguments, Mapping):
            raise PromptError(
                f"template_args must be a mapping, got {type(arguments).__name__}",
            )
        if taken := sorted(set(arguments) & set(RESERVED)):
            raise PromptError(f"template_args cannot set {taken[0]}", fix="messages and tools have their own arguments")
        known = template_variables(self._environment) - set(RESERVED)
        if unknown := sorted(str(name) for name in set(arguments) - known):
            fix = f"its variables are {', '.join(sorted(known))}" if known else "it has none"
            raise PromptError(f"the chat template has no variable {unknown[0]!r}", fix=fix)
        return arguments

    def _render_error(self, fault: TemplateFault) -> BundleError:
        return BundleError(f"cannot be rendered: {fault}", where=self.where)
