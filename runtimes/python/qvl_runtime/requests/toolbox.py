"""Tools of a request: which of them the prompt describes, what a forced call must look like, calls in an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from ..tools import Call, parse_calls
from .errors import ApiError, unsupported
from .request import ChatRequest

Schema = dict[str, Any]
_FORMATS = ("text", "json_object", "json_schema")


@dataclass(frozen=True)
class Toolbox:
    """What a request says about the form of its answer.

    `tools` are described to the model. With a `schema` the answer is JSON, a call of a tool if it is `forced`.
    """

    tools: tuple[dict[str, Any], ...] = ()
    schema: Schema | None = None
    forced: bool = False

    def read(self, answer: str) -> tuple[str, list[dict[str, Any]]]:
        """Returns the text of an answer and its calls as OpenAI writes them; malformed calls stay text."""
        if self.forced:
            value = json.loads(answer)
            return "", [_call(Call(value["name"], value["arguments"]))]
        if not self.tools:
            return answer, []
        reply = parse_calls(answer, self.tools)
        return (answer, []) if reply.malformed else (reply.text, [_call(call) for call in reply.calls])


def _call(call: Call) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    function = {"name": call.name, "arguments": arguments}
    return {"id": f"call_{uuid4().hex[:24]}", "type": "function", "function": function}


def read_toolbox(request: ChatRequest) -> Toolbox:
    """Reads `tools`, `tool_choice` and `response_format`; raises ApiError 400 for what cannot be followed."""
    schema, tools = _schema(request.response_format), tuple(_tool(tool) for tool in request.tools)
    forced = _forced(request.tool_choice, tools)
    if forced is None:
        return Toolbox(() if request.tool_choice == "none" else tools, _alone(schema, request, tools))
    if schema is not None:
        raise unsupported("response_format together with a forced call", "response_format")
    return Toolbox(tools, {"anyOf": [_call_schema(tool["function"]) for tool in forced]}, True)


def _alone(schema: Schema | None, request: ChatRequest, tools: Sequence[Any]) -> Schema | None:
    if schema is not None and tools and request.tool_choice != "none":
        raise unsupported("response_format together with tools", "response_format", "set tool_choice to 'none'")
    return schema


def _schema(wanted: Mapping[str, Any]) -> Schema | None:
    kind = wanted.get("type", "text")
    if kind not in _FORMATS:
        raise unsupported(f"response_format {str(kind)[:40]!r}", "response_format", f"use {', '.join(_FORMATS)}")
    if kind == "json_schema":
        inner = wanted.get("json_schema")
        if not isinstance(inner, Mapping) or not isinstance(inner.get("schema"), Mapping):
            raise ApiError(400, "response_format has no json_schema.schema", param="response_format")
        return dict(inner["schema"])
    return {"type": "object"} if kind == "json_object" else None


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a tool without `strict`, which is not for the model."""
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, Mapping):
        raise unsupported(f"a tool of type {str(tool.get('type'))[:40]!r}", "tools", "use type 'function'")
    return {**tool, "function": {key: value for key, value in function.items() if key != "strict"}}


def _forced(choice: str | Mapping[str, Any], tools: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]] | None:
    """Returns the tools of which one has to be called, None if a call is up to the model."""
    if choice in ("auto", "none"):
        return None
    if choice == "required" and tools:
        return tools
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    named = [tool for tool in tools if name is not None and tool["function"].get("name") == name]
    if not named:
        raise ApiError(400, "tool_choice must be auto, none, required or one of the tools", param="tool_choice")
    return named


def _call_schema(function: Mapping[str, Any]) -> Schema:
    parameters = function.get("parameters") or {"type": "object"}
    properties = {"name": {"const": function.get("name")}, "arguments": parameters}
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
