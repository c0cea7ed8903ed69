"""Tools and forms of answers that requests ask for."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from qvl_runtime.requests.errors import ApiError
from qvl_runtime.requests.toolbox import Toolbox, read_toolbox
from tests.runtime.test_request import read

NUMBER = {"type": "object", "properties": {"of": {"type": "integer"}}, "required": ["of"]}
SUM = {"type": "function", "function": {"name": "sum", "parameters": NUMBER, "strict": True}}
NOW = {"type": "function", "function": {"name": "now"}}
WRAPPED = {"type": "json_schema", "json_schema": {"name": "n", "schema": NUMBER, "strict": True}}


def test_tools_are_described_and_strict_is_not_for_the_model() -> None:
    box = read_toolbox(read(tools=[SUM, NOW]))
    assert [tool["function"] for tool in box.tools] == [{"name": "sum", "parameters": NUMBER}, {"name": "now"}]
    assert (box.schema, box.forced) == (None, False)
    assert read_toolbox(read(tools=[SUM], tool_choice="none")) == Toolbox()
    assert read_toolbox(read()) == Toolbox()


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "sum"}}], ids=str)
def test_a_forced_call_has_a_schema(choice: Any) -> None:
    box = read_toolbox(read(tools=[SUM, NOW], tool_choice=choice))
    assert box.forced and box.schema and len(box.tools) == 2
    jsonschema.validate({"name": "sum", "arguments": {"of": 3}}, box.schema)
    for wrong in ({"name": "other", "arguments": {}}, {"name": "sum", "arguments": {}}, {"name": "sum"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, box.schema)
    text, (call,) = box.read('{"name": "sum", "arguments": {"of": 3}}')
    assert (text, call["function"], call["type"]) == ("", {"name": "sum", "arguments": '{"of": 3}'}, "function")


def test_calls_of_an_answer() -> None:
    box = read_toolbox(read(tools=[SUM]))
    answer = 'Well.\n<tool_call>\n{"name": "sum", "arguments": {"of": 3}}\n</tool_call>'
    text, (call,) = box.read(answer)
    assert text == "Well." and json.loads(call["function"]["arguments"]) == {"of": 3}
    assert box.read("<tool_call>\nnonsense\n</tool_call>") == ("<tool_call>\nnonsense\n</tool_call>", [])
    assert Toolbox().read(answer) == (answer, [])


def test_forms_of_answers() -> None:
    assert read_toolbox(read(response_format={"type": "text"})).schema is None
    assert read_toolbox(read(response_format={"type": "json_object"})).schema == {"type": "object"}
    assert read_toolbox(read(response_format=WRAPPED)).schema == NUMBER
    assert read_toolbox(read(response_format=WRAPPED, tools=[SUM], tool_choice="none")).schema == NUMBER


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"response_format": {"type": ["text"]}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}, "response_format"),
        ({"response_format": WRAPPED, "tools": [SUM]}, "response_format"),
        ({"response_format": WRAPPED, "tools": [SUM], "tool_choice": "required"}, "response_format"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [SUM], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [SUM], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tools": [SUM], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
    ids=str,
)
def test_what_cannot_be_followed_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_toolbox(read(**fields))
    assert (caught.value.status, caught.value.param) == (400, param)
