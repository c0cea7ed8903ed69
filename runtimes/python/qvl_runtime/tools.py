"""Checks tools, describes them to the model if its template cannot, and reads tool calls from an answer.

    reply = parse_calls(model.generate(messages, tools=tools), tools)
    messages += [reply.message(), *({"role": "tool", "content": run(call)} for call in reply.calls)]

Qwen models write `<tool_call>\\n{"name": …, "arguments": {…}}\\n</tool_call>`; since Qwen3.5 the call within is
`<function=NAME>`, `<parameter=NAME>` and a value per argument, and their end marks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from .common.checks import abbreviated
from .errors import PromptError

Message = Mapping[str, Any]
OPEN, CLOSE = "<tool_call>", "</tool_call>"
_FENCE = re.compile(r"\s*(?:```(?:json)?\s*)?")
_END = re.compile(rf"\s*(?:```\s*)?(?:{CLOSE})?")
_FUNCTION, _FUNCTION_END = re.compile(r"\s*<function=([^>\n]+)>"), "</function>"
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?(?:</parameter>|(?=<parameter=)|\Z)", re.DOTALL)
DEFAULT_SYSTEM = "You are a helpful assistant."
"""The system message of the published templates for conversations without one."""
_DESCRIPTION = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


@dataclass(frozen=True)
class Call:
    """A function call that the model requests."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """A parsed answer: its `text` without the calls, the `calls`, and `malformed` calls as written."""

    text: str
    calls: tuple[Call, ...]
    malformed: tuple[str, ...]

    def message(self) -> dict[str, Any]:
        """Returns the answer as a message for the next turn; results follow it with the role `tool`, in order."""
        calls = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in self.calls
        ]
        return {"role": "assistant", "content": self.text, **({"tool_calls": calls} if calls else {})}


def parse_calls(text: str, tools: Sequence[Mapping[str, Any]] | None = None) -> Reply:
    """Parses the tool calls of an answer; a last one without its end mark counts if the call itself is complete.

    Calls that are not written in JSON have no types: `tools` say which arguments are not text.
    """
    before, *parts = text.split(OPEN)
    texts, calls, malformed = [before], [], []
    for part in parts:
        try:
            found, end = _marked_call(part, tools or ()) if _FUNCTION.match(part) else _json_calls(part)
            calls += found
        except (ValueError, RecursionError):
            body, _, rest = part.partition(CLOSE)
            malformed.append(body.strip())
            texts.append(rest)
        else:
            after = _END.match(part, end)
            texts.append(part[after.end() if after else end :])
    return Reply("".join(texts).strip(), tuple(calls), tuple(malformed))


def _json_calls(part: str) -> tuple[list[Call], int]:
    """Returns the calls at the start of a text and where they end; raises ValueError if there are none."""
    start = _FENCE.match(part)
    value, end = json.JSONDecoder().raw_decode(part, start.end() if start else 0)
    return [_call(item) for item in (value if isinstance(value, list) else [value])], end


def _marked_call(part: str, tools: Sequence[Mapping[str, Any]]) -> tuple[list[Call], int]:
    """Returns the call with a mark per argument and where it ends; raises ValueError if it is incomplete."""
    start = _FUNCTION.match(part)
    end = part.find(_FUNCTION_END)
    if start is None or end < 0:
        raise ValueError("not a whole call")
    name = start[1].strip()
    functions = {function.get("name"): function for function in map(_function, tools)}
    schema = functions.get(name, {}).get("parameters")
    known = schema.get("properties") if isinstance(schema, Mapping) else None
    types = known if isinstance(known, Mapping) else {}
    found = _PARAMETER.finditer(part, start.end(), end)
    arguments = {match[1].strip(): _typed(match[2], types.get(match[1].strip())) for match in found}
    return [Call(name, arguments)], end + len(_FUNCTION_END)


def _typed(text: str, schema: Any) -> Any:
    """Returns an argument as its JSON schema has it: text, unless another type is named and the text is its JSON."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    kinds = set(kind if isinstance(kind, list) else [kind]) - {None}
    if not kinds or (kinds - {"null"} <= {"string"} and text != "null"):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, str) or (value is None and "null" not in kinds) else value


def _call(value: Any) -> Call:
    """Converts a JSON value to a Call; raises ValueError if it is not one."""
    name = value.get("name") if isinstance(value, dict) else None
    arguments = value.get("arguments", {}) if isinstance(value, dict) else None
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not (isinstance(name, str) and name and isinstance(arguments, dict)):
        raise ValueError("not a name and an object of arguments")
    return Call(name, arguments)


def check_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Returns tools as templates expect them, or None if there are none; raises PromptError for invalid tools."""
    if tools is None or (isinstance(tools, Sequence) and not tools):
        return None
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise PromptError(f"tools must be a list of function descriptions, got {type(tools).__name__}")
    for tool in tools:
        if not isinstance(_function(tool).get("name"), str):
            raise PromptError(
                f"cannot use the tool {abbreviated(tool, 80)!r}",
                fix='describe it as {"type": "function", "function": {"name": …, "description": …, "parameters": …}}',
            )
    try:
        json.dumps(list(tools))
    except (TypeError, ValueError, RecursionError) as error:
        raise PromptError(f"tools cannot be written as JSON: {error}") from error
    return [dict(tool) for tool in tools]


def _function(value: Any) -> Mapping[str, Any]:
    """Returns the value's `function`, or the value itself if it has none; an empty mapping if that is not a mapping."""
    function = value.get("function", value) if isinstance(value, Mapping) else None
    return function if isinstance(function, Mapping) else {}


def check_calls(message: Message) -> None:
    """Raises PromptError unless the `tool_calls` of a message are a list of named calls."""
    calls = message.get("tool_calls") or []
    for call in calls if isinstance(calls, Sequence) and not isinstance(calls, str) else [calls]:
        function = _function(call)
        if not (isinstance(function.get("name"), str) and isinstance(function.get("arguments", {}), Mapping | str)):
            raise PromptError(
                f"cannot use the tool call {abbreviated(call, 80)!r}",
                fix='write {"type": "function", "function": {"name": …, "arguments": {…}}}',
            )


def inline_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rewrites a conversation for a template without tool support, with the wording of templates that have it.

    Tools are described in the system message, calls become text, and consecutive results become one user message.
    """
    first = messages[0] if messages[0]["role"] == "system" else {"role": "system", "content": DEFAULT_SYSTEM}
    rest = messages[1:] if first is messages[0] else messages
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    system = {**first, "content": [*_parts(first), _text("\n\n" + _DESCRIPTION.format(lines))]}
    return [system, *_without_tool_roles(rest)]


def _without_tool_roles(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    for is_tool_group, group in groupby(messages, lambda message: message["role"] == "tool"):
        if is_tool_group:
            results = [part for message in group for part in _result(message)]
            yield {"role": "user", "content": [_text("<tool_response>\n"), *results[1:]]}
        else:
            yield from (_with_calls(message) for message in group)


def _result(message: Message) -> list[dict[str, Any]]:
    return [_text("\n<tool_response>\n"), *_parts(message), _text("\n</tool_response>")]


def _with_calls(message: Message) -> dict[str, Any]:
    content = _parts(message)
    for call in message.get("tool_calls") or []:
        function = _function(call)
        arguments = json.dumps(function.get("arguments", {}), ensure_ascii=False)
        start = "\n" if any(part.get("text", "x") for part in content) else ""
        content.append(_text(f'{start}{OPEN}\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n{CLOSE}'))
    return {**{key: value for key, value in message.items() if key != "tool_calls"}, "content": content}


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message["content"]
    return [_text(content)] if isinstance(content, str) else list(content)


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
