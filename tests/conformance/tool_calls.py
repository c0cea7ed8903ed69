"""Vectors of tool calls in answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from qvl_runtime.tools import parse_calls

from .document import Case, Document

ONE, TWO = '{"name": "look_up", "arguments": {"id": "7"}}', '{"name": "now", "arguments": {}}'
JSON: Mapping[str, str] = {
    "one": f"<tool_call>\n{ONE}\n</tool_call>",
    "text and two": f"Let me see.\n<tool_call>\n{ONE}\n</tool_call>\n<tool_call>\n{TWO}\n</tool_call>",
    "no end mark": f"<tool_call>\n{ONE}",
    "no end marks": f"<tool_call>{ONE}<tool_call>{TWO}",
    "text after": f"<tool_call>{ONE}</tool_call> Done.",
    "fence": f"<tool_call>\n```json\n{ONE}\n```\n</tool_call>",
    "list": f"<tool_call>[{ONE}, {TWO}]</tool_call>",
    "arguments as text": '<tool_call>{"name": "f", "arguments": " {\\"id\\": \\"7\\"} "}</tool_call>',
    "arguments as text that is cut off": '<tool_call>{"name": "f", "arguments": "{\\"id\\": "}</tool_call>',
    "no arguments": '<tool_call>{"name": "now"}</tool_call>',
    "null as arguments": '<tool_call>{"name": "now", "arguments": null}</tool_call>',
    "marks in a string": '<tool_call>{"name": "f", "arguments": {"x": "</tool_call> {"}}</tool_call>!',
    "cut off": f"So: <tool_call>{ONE}</tool_call><tool_call>{TWO[:-1]}",
    "not JSON": f"<tool_call>now()</tool_call> <tool_call>{ONE}</tool_call>",
    "no name": '<tool_call>{"arguments": {}}</tool_call>a',
    "a list of arguments": '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
    "half a list": f"<tool_call>[{ONE}, 1]</tool_call>",
    "a key twice": '<tool_call>{"name": "f", "arguments": {"a": 1, "b": 2, "a": 3}}</tool_call>',
    "none": "It was Bob.",
}
TOOLS: Sequence[Mapping[str, Any]] = (
    {
        "type": "function",
        "function": {
            "name": "draw",
            "parameters": {
                "type": "object",
                "properties": {
                    "box": {"type": "array"},
                    "wide": {"type": "boolean"},
                    "size": {"type": ["integer", "null"]},
                    "label": {"type": "string"},
                    "note": {"type": ["string", "null"]},
                },
            },
        },
    },
    {"name": "now"},
)


def marked(name: str, **arguments: str) -> str:
    """A call as Qwen3.5 writes it."""
    lines = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<function={name}>\n{lines}</function>"


LINES = marked("f", x=" a\n\n b ")
TYPED = marked("draw", box="[1, 2.5]", wide="true", size="3", label="3", note="4")
STRANGE = marked("draw", box="[1, ", wide='"yes"', size="null", other="3")
NULL = marked("draw", label="null", note="null", box="null")
MARKED: Mapping[str, str] = {
    "text of an argument": f"So.\n<tool_call>\n{marked('look_up', id='7')}\n</tool_call>",
    "nothing": f"<tool_call>{marked('now')}</tool_call> Done.",
    "no end mark": f"<tool_call>\n{marked('now')}",
    "lines": f"<tool_call>{LINES}</tool_call>",
    "types": f"<tool_call>{TYPED}</tool_call>",
    "not of the type": f"<tool_call>{STRANGE}</tool_call>",
    "null": f"<tool_call>{NULL}</tool_call>",
    "a missing end": "<tool_call><function=f><parameter=a>1<parameter=b>2</function>",
    "cut off": "<tool_call><function=f>\n<parameter=a>\n1",
    "both forms": f"<tool_call>{marked('now')}</tool_call><tool_call>{ONE}</tool_call>",
}


def tool_calls() -> Document:
    return Document(
        "Tool calls of an answer, in JSON or with a mark per argument; what is not a whole call is malformed.",
        {"answer": "", "tools": "that were described to the model; types of arguments without JSON are theirs"},
        {
            "text": "the answer without its calls",
            "calls": "in order: name and arguments",
            "malformed": "as they are written",
        },
        _tool_calls(),
    )


def _tool_calls() -> Iterator[Case]:
    for name, answer in JSON.items():
        yield _parsed(name, {"answer": answer})
    for name, answer in MARKED.items():
        yield _parsed(f"marks: {name}", {"answer": answer, "tools": TOOLS})
    yield _parsed("marks: without tools arguments are text", {"answer": MARKED["types"]})


def _parsed(name: str, given: Mapping[str, Any]) -> Case:
    reply = parse_calls(given["answer"], given.get("tools"))
    calls = [asdict(call) for call in reply.calls]
    return Case(name, given, {"text": reply.text, "calls": calls, "malformed": list(reply.malformed)})
