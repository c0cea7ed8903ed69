"""Prompts with tools equal transformers' to the letter, and calls are found in any answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers.utils.chat_template_utils import render_jinja_template

from qvl_runtime.errors import PromptError
from qvl_runtime.templates.chat import ChatTemplate
from qvl_runtime.tools import Call, parse_calls
from tests.conformance import tool_calls
from tests.conformance.tool_calls import marked
from tests.conftest import Loader
from tests.runtime.templates import QWEN2_5_TOOLS, QWEN2_5_VL, QWEN3_5, QWEN3_VL

WHERE = Path("bundle/chat_template.jinja")
IMAGE = {"type": "image"}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Find <b>a & b</b> in 'the' \"register\" 发票 😀",
            "parameters": {
                "type": "object",
                "properties": {
                    "id": {"type": "string"},
                    "limit": {"type": "integer", "default": None, "maximum": 1e20},
                },
                "required": ["id"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"b": 1, "a": [1.0, 0.1, 2**70, -0.0, True]}}},
]


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def says(role: str, content: Any, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": content, **({"tool_calls": list(calls)} if calls else {})}


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "question": [says("user", "Who sent it?")],
    "system": [says("system", "Be <brief>."), says("user", "Who sent it?")],
    "call and result": [
        says("user", "Who sent it?"),
        says("assistant", "", call("look_up", id="<7>&'", limit=1.0)),
        says("tool", '{"sender": "Bob & <Co>"}'),
    ],
    "text and calls": [
        says("user", "Who?"),
        says("assistant", "Let me see.", call("look_up", id="№1 发票", nested={"a": [None, {}]}), call("now")),
        says("tool", "Bob"),
        says("tool", "12:00"),
        says("assistant", "Bob, at noon."),
        says("user", "And now?"),
        says("assistant", "", {"name": "now", "arguments": {}}),
        says("tool", "12:01"),
    ],
}
PARTS: dict[str, list[dict[str, Any]]] = {
    "image": [says("user", [IMAGE, {"type": "text", "text": "Who sent it?"}])],
    "image as a result": [
        says("user", [{"type": "text", "text": "Zoom in."}, IMAGE]),
        says("assistant", [{"type": "text", "text": "So."}], call("zoom", factor=2)),
        says("tool", [IMAGE, {"type": "text", "text": "done"}]),
    ],
    "arguments as a string": [
        says("user", "x"),
        {"role": "assistant", "content": "", "tool_calls": [{"name": "now", "arguments": '{"a":  1}'}]},
    ],
}


def rendered(source: str, conversation: list[dict[str, Any]]) -> str:
    (text,), _ = render_jinja_template([conversation], tools=TOOLS, chat_template=source, add_generation_prompt=True)
    return text


@pytest.mark.parametrize("source", [QWEN2_5_TOOLS, QWEN3_VL, QWEN3_5], ids=["qwen2.5", "qwen3-vl", "qwen3.5"])
@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_prompts_equal_those_of_transformers(conversation: list[Any], source: str) -> None:
    theirs = rendered(source, conversation)
    assert ChatTemplate(source, WHERE).render(conversation, TOOLS) == theirs
    assert "<b>a & b</b> in 'the'" in theirs


@pytest.mark.parametrize("conversation", PARTS.values(), ids=PARTS)
def test_parts_among_tools(conversation: list[Any]) -> None:
    assert ChatTemplate(QWEN3_VL, WHERE).render(conversation, TOOLS) == rendered(QWEN3_VL, conversation)


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_template_without_tools_gets_the_text_of_one_with_tools(conversation: list[Any]) -> None:
    """Qwen2.5-VL publishes two templates, one with images and one with tools; this is the first for both."""
    ours = ChatTemplate(QWEN2_5_VL, WHERE).render(conversation, TOOLS)
    assert ours == rendered(QWEN2_5_TOOLS, conversation)


def test_images_keep_their_position_in_such_a_template() -> None:
    ours = ChatTemplate(QWEN2_5_VL, WHERE).render(PARTS["image as a result"], TOOLS)
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert f"<|im_start|>user\nZoom in.{image}<|im_end|>\n" in ours
    assert '<|im_start|>assistant\nSo.\n<tool_call>\n{"name": "zoom", "arguments": {"factor": 2}}\n</tool_call>' in ours
    assert f"<|im_start|>user\n<tool_response>\n{image}done\n</tool_response><|im_end|>\n" in ours


ONE, TWO = '{"name": "look_up", "arguments": {"id": "7"}}', '{"name": "now", "arguments": {}}'
A, B = Call("look_up", {"id": "7"}), Call("now", {})
REPLIES: dict[str, tuple[str, str, list[Call], list[str]]] = {
    "one": (f"<tool_call>\n{ONE}\n</tool_call>", "", [A], []),
    "two": (
        f"Let me see.\n<tool_call>\n{ONE}\n</tool_call>\n<tool_call>\n{TWO}\n</tool_call>",
        "Let me see.",
        [A, B],
        [],
    ),
    "no end mark": (f"<tool_call>\n{ONE}", "", [A], []),
    "no end marks": (f"<tool_call>{ONE}<tool_call>{TWO}", "", [A, B], []),
    "text after": (f"<tool_call>{ONE}</tool_call> Done.", "Done.", [A], []),
    "fence": (f"<tool_call>\n```json\n{ONE}\n```\n</tool_call>", "", [A], []),
    "list": (f"<tool_call>[{ONE}, {TWO}]</tool_call>", "", [A, B], []),
    "arguments as text": (
        '<tool_call>{"name": "look_up", "arguments": "{\\"id\\": \\"7\\"}"}</tool_call>',
        "",
        [A],
        [],
    ),
    "no arguments": ('<tool_call>{"name": "now"}</tool_call>', "", [B], []),
    "marks in a string": (
        '<tool_call>{"name": "f", "arguments": {"x": "</tool_call> {"}}</tool_call>!',
        "!",
        [Call("f", {"x": "</tool_call> {"})],
        [],
    ),
    "cut": (f"So: <tool_call>{ONE}</tool_call><tool_call>{TWO[:-1]}", "So:", [A], [TWO[:-1]]),
    "not JSON": (f"<tool_call>now()</tool_call> <tool_call>{ONE}</tool_call>", "", [A], ["now()"]),
    "no name": ('<tool_call>{"arguments": {}}</tool_call>a', "a", [], ['{"arguments": {}}']),
    "a list": ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>', "", [], ['{"name": "f", "arguments": [1]}']),
    "half a list": (f"<tool_call>[{ONE}, 1]</tool_call>", "", [], [f"[{ONE}, 1]"]),
    "none": ("It was Bob.", "It was Bob.", [], []),
    "deep": ("<tool_call>" + "[" * 100_000, "", [], ["[" * 100_000]),
}


@pytest.mark.parametrize(("answer", "text", "calls", "malformed"), REPLIES.values(), ids=REPLIES)
def test_calls_of_an_answer(answer: str, text: str, calls: list[Call], malformed: list[str]) -> None:
    reply = parse_calls(answer)
    assert (reply.text, list(reply.calls), list(reply.malformed)) == (text, calls, malformed)


TYPED = tool_calls.TOOLS[0]["function"]
MANY = "<function=f>" + "<parameter=a>" * 50_000
BOXES = marked("draw", box="[1, 2.5]", wide="true", size="3", label="3")
STRANGE = marked("draw", box="[1, ", wide='"yes"', size="null", other="3")
LINES = marked("f", x=" a\n\nb ")
MARKED: dict[str, tuple[str, str, list[Call], list[str]]] = {
    "text": (f"So.\n<tool_call>\n{marked('look_up', id='7')}\n</tool_call>", "So.", [A], []),
    "no arguments": (f"<tool_call>{marked('now')}</tool_call> Done.", "Done.", [B], []),
    "no end mark": (f"<tool_call>\n{marked('now')}", "", [B], []),
    "lines": (f"<tool_call>{LINES}</tool_call>", "", [Call("f", {"x": " a\n\nb "})], []),
    "types": (
        f"<tool_call>{BOXES}</tool_call>",
        "",
        [Call("draw", {"box": [1, 2.5], "wide": True, "size": 3, "label": "3"})],
        [],
    ),
    "not of the type": (
        f"<tool_call>{STRANGE}</tool_call>",
        "",
        [Call("draw", {"box": "[1, ", "wide": '"yes"', "size": None, "other": "3"})],
        [],
    ),
    "a missing end": (
        "<tool_call><function=f><parameter=a>1<parameter=b>2</function>",
        "",
        [Call("f", {"a": "1", "b": "2"})],
        [],
    ),
    "cut": ("<tool_call><function=f>\n<parameter=a>\n1", "", [], ["<function=f>\n<parameter=a>\n1"]),
    "both forms": (f"<tool_call>{marked('now')}</tool_call><tool_call>{ONE}</tool_call>", "", [B, A], []),
    "many marks": (f"<tool_call>{MANY}", "", [], [MANY]),
    "many marks, whole": (f"<tool_call>{MANY}</function>", "", [Call("f", {"a": ""})], []),
}


@pytest.mark.parametrize(("answer", "text", "calls", "malformed"), MARKED.values(), ids=MARKED)
def test_calls_with_a_mark_per_argument(answer: str, text: str, calls: list[Call], malformed: list[str]) -> None:
    reply = parse_calls(answer, [*TOOLS, TYPED])
    assert (reply.text, list(reply.calls), list(reply.malformed)) == (text, calls, malformed)


def test_without_tools_arguments_are_text() -> None:
    assert parse_calls(f"<tool_call>{marked('draw', size='3')}").calls == (Call("draw", {"size": "3"}),)


@pytest.mark.parametrize("source", [QWEN2_5_VL, QWEN3_VL], ids=["qwen2.5-vl", "qwen3-vl"])
def test_a_parsed_answer_renders_as_it_was_said(source: str) -> None:
    answer = f"Let me see.\n<tool_call>\n{ONE}\n</tool_call>\n<tool_call>\n{TWO}\n</tool_call>"
    conversation = [says("user", "Who?"), parse_calls(answer).message(), says("tool", "Bob"), says("tool", "12:00")]
    assert f"<|im_start|>assistant\n{answer}<|im_end|>\n" in ChatTemplate(source, WHERE).render(conversation, TOOLS)
    assert parse_calls("Hm.").message() == {"role": "assistant", "content": "Hm."}


def test_a_parsed_answer_with_marks_renders_as_it_was_said() -> None:
    """Since the last question with its thoughts; before it without them."""
    one, two = marked("look_up", id="7", limit="3"), marked("now")
    answer = f"Let me see.\n\n<tool_call>\n{one}\n</tool_call>\n<tool_call>\n{two}\n</tool_call>"
    reply = parse_calls(f"hm\n</think>\n\n{answer}", TOOLS)
    assert [list(each.arguments) for each in reply.calls] == [["id", "limit"], []]
    conversation = [says("user", "Who?"), reply.message(), says("tool", "Bob"), says("tool", "12:00")]
    template = ChatTemplate(QWEN3_5, WHERE)
    assert f"<|im_start|>assistant\n<think>\nhm\n</think>\n\n{answer}<|im_end|>\n" in template.render(
        conversation, TOOLS
    )
    later = template.render([*conversation, says("assistant", "Bob."), says("user", "Sure?")], TOOLS)
    assert f"<|im_start|>assistant\n{answer}<|im_end|>\n" in later


def test_a_model_takes_tools_and_their_results(model: Loader) -> None:
    reader = model("qwen2_5_vl", "small", "fp32")
    question = [says("user", [{"type": "image", "image": Image.new("RGB", (56, 56))}, {"type": "text", "text": "x"}])]
    plain, described = reader.prompt(question), reader.prompt(question, tools=TOOLS)
    assert "look_up" in reader.tokenizer.decode(described.ids) and len(described.ids) > len(plain.ids)
    assert reader.prompt(question, tools=[]).ids.tolist() == plain.ids.tolist()
    assert "".join(reader.stream(question, 4, tools=TOOLS)) == reader.generate(question, 4, tools=TOOLS)
    assert reader.logits(question, "7", tools=TOOLS).shape[0] == len(reader.token_ids("7"))
    silent = {"role": "assistant", "content": None, "tool_calls": [call("now")]}
    ids = reader.prompt([*question, silent, says("tool", "12:00")], tools=TOOLS).ids
    assert "<tool_response>\n12:00\n</tool_response>" in reader.tokenizer.decode(ids)


@pytest.mark.parametrize(
    "tools",
    [{"name": "f"}, "f", 3, [1], [{}], [{"function": {}}], [{"function": "f"}], [{"name": "f", "x": {1}}]],
    ids=str,
)
def test_values_that_are_not_tools(model: Loader, tools: Any) -> None:
    with pytest.raises(PromptError, match=r"tools must be|tools cannot be written|cannot use the tool"):
        model("qwen2_5_vl", "small", "fp32").prompt([says("user", "x")], tools=tools)


@pytest.mark.parametrize("calls", [3, "f", ["f"], [{}], [{"function": {"name": "f", "arguments": [1]}}]], ids=str)
def test_texts_that_are_not_calls(model: Loader, calls: Any) -> None:
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    with pytest.raises(PromptError, match="cannot use the tool call"):
        model("qwen2_5_vl", "small", "fp32").prompt([says("user", "x"), message])


def test_descriptions_are_json(model: Loader) -> None:
    text = ChatTemplate(QWEN2_5_VL, WHERE).render(CONVERSATIONS["question"], TOOLS)
    lines = text.split("<tools>\n")[1].split("\n</tools>")[0].splitlines()
    assert [json.loads(line) for line in lines] == TOOLS
