"""Chat templates render to the letter as transformers renders them, and broken ones are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from qvl_runtime.errors import BundleError, PromptError
from qvl_runtime.model import load
from qvl_runtime.templates.chat import ChatTemplate
from tests.conftest import REFERENCE
from tests.runtime.templates import QWEN2_5_VL, QWEN3_5, QWEN3_VL

WHERE = Path("bundle/chat_template.jinja")
IMAGE, VIDEO = {"type": "image"}, {"type": "video"}


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def says(role: str, *content: Any) -> dict[str, Any]:
    return {"role": role, "content": content[0] if isinstance(content[0], str) else list(content)}


CONVERSATIONS = {
    "text": [says("user", "What is the date?")],
    "parts": [says("user", text("What is "), text("the date?"))],
    "image": [says("user", IMAGE, text("Read the text."))],
    "images": [says("user", IMAGE, text("Compare "), IMAGE, IMAGE, text("with this."))],
    "video": [says("user", VIDEO, IMAGE, text("What happens?"))],
    "system": [says("system", "Be brief."), says("user", IMAGE, text("Total?"))],
    "system parts": [says("system", text("Be brief.")), says("user", "Total?")],
    "turns": [says("user", IMAGE, text("Total?")), says("assistant", "12.50"), says("user", "And the tax?")],
    "turns of parts": [says("user", IMAGE), says("assistant", text("A bill.")), says("user", IMAGE, text("This?"))],
    "chinese and emoji": [
        says("user", "读出文字 😀👩‍👩‍👧"),
        says("assistant", "发票 №1"),
        says("user", text("合计？")),
    ],
    "markup": [says("user", "<b>a & b</b> \"q\" 'q' {{ 7 * 7 }} {% if %} \\n"), says("tool", text("<x>&amp;</x>"))],
    "space": [says("user", "  a \n\n b\t\n"), says("assistant", text("\n")), says("user", text(" "))],
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(REFERENCE)


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize(
    "source", [None, QWEN2_5_VL, QWEN3_VL, QWEN3_5], ids=["reference", "qwen2.5-vl", "qwen3-vl", "qwen3.5"]
)
def test_conversations(tokenizer: PreTrainedTokenizerBase, conversation: list[Any], source: str | None) -> None:
    theirs = tokenizer.apply_chat_template(
        conversation, chat_template=source, tokenize=False, add_generation_prompt=True
    )
    ours = ChatTemplate(source or (REFERENCE / "chat_template.jinja").read_text("utf-8"), WHERE)
    assert ours.render(conversation) == theirs
    assert "<|im_start|>" in theirs


REASONED = (
    "{% for m in messages %}{{ m.role }}:{{ m.reasoning_content }}:{{ m.thinking }}:{{ 'name' in m }};{% endfor %}"
)


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning", "other"])
def test_reasoning_and_keys_without_a_value(tokenizer: PreTrainedTokenizerBase, key: str) -> None:
    asked = [{**says("user", "?"), "name": None, key: None}, {**says("assistant", "!"), key: "hm", "tool_calls": None}]
    theirs = tokenizer.apply_chat_template(asked, chat_template=REASONED, tokenize=False)
    assert ChatTemplate(REASONED, WHERE).render(asked) == theirs


LOOK = {
    "function": {"name": "look", "arguments": {"box": [1, 2.5], "wide": True, "label": "a\n<b>", "at": {"é": None}}}
}
THOUGHTS = {
    "a question": [says("user", IMAGE, text("Total?"))],
    "reasoning before the question": [
        says("user", "Total?"),
        {**says("assistant", "12"), "reasoning_content": "hm"},
        says("user", "Sure?"),
    ],
    "marks before the question": [
        says("user", "Total?"),
        says("assistant", "<think>\nhm\n</think>\n\n12"),
        says("user", "Sure?"),
    ],
    "reasoning after the question": [
        says("user", "Total?"),
        {**says("assistant", ""), "reasoning_content": " hm\n", "tool_calls": [LOOK, LOOK]},
        says("tool", "12"),
    ],
    "marks after the question": [
        says("user", VIDEO, text("Total?")),
        {**says("assistant", "<think>\nhm\n</think>\n\nI look."), "tool_calls": [LOOK]},
        says("tool", text("12"), IMAGE),
    ],
    "a result in a question": [
        says("user", "Total?"),
        {**says("assistant", "So."), "reasoning": "hm"},
        says("user", "<tool_response>\n12\n</tool_response>"),
    ],
}


@pytest.mark.parametrize(
    "given", [{}, {"enable_thinking": True}, {"enable_thinking": False}, {"add_vision_id": True}], ids=str
)
@pytest.mark.parametrize("conversation", THOUGHTS.values(), ids=THOUGHTS)
def test_thinking(tokenizer: PreTrainedTokenizerBase, conversation: list[Any], given: dict[str, Any]) -> None:
    """Thoughts are kept since the last question alone; without thinking the prompt ends behind an empty one."""
    theirs = tokenizer.apply_chat_template(
        conversation, chat_template=QWEN3_5, tokenize=False, add_generation_prompt=True, **given
    )
    ours = ChatTemplate(QWEN3_5, WHERE).render(conversation, template_args=given)
    assert ours == theirs
    assert ours.endswith("<think>\n\n</think>\n\n" if given.get("enable_thinking") is False else "assistant\n<think>\n")
    last = max(index for index, message in enumerate(conversation) if "<tool_response>" not in message["content"])
    assert ("hm" in ours) == (conversation[last]["role"] != "user")


@pytest.mark.parametrize(
    ("conversation", "says_why"),
    [
        ([says("system", IMAGE), says("user", "x")], "System message cannot contain images"),
        ([says("user", "x"), says("system", "y")], "System message must be at the beginning"),
        ([says("assistant", "x")], "No user query found in messages"),
        ([says("user", "x"), says("critic", "y")], "Unexpected message role"),
    ],
    ids=str,
)
def test_what_the_template_of_qwen3_5_refuses(conversation: list[Any], says_why: str) -> None:
    with pytest.raises(PromptError, match=f"rejects these messages: {says_why}") as refused:
        ChatTemplate(QWEN3_5, WHERE).render(conversation)
    assert "\n" not in str(refused.value)


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look<up>",
            "description": "查 & 'find' \"it\"",
            "parameters": {"b": 1, "a": [True, None]},
        },
    }
]
FEATURES = {
    "tojson": "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{{ '<>&\\'中' | tojson }}",
    "tojson indent": "{{ tools | tojson(indent=2) }}",
    "tojson options": "{{ tools | tojson(ensure_ascii=True, sort_keys=True) }}",
    "generation": (
        "{% for m in messages %}\n  {% generation %}\n {{ m.content }}\n{% endgeneration %}\n{% endfor %}\nend"
    ),
    "generation trimmed": "a {%- generation -%}  b  {%- endgeneration -%} c {%generation%}d{%endgeneration%}",
    "namespace": (
        "{% set ns = namespace(n=0, last='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{% set ns.last = m.role %}{% endfor %}{{ ns.n }}{{ ns.last }}"
    ),
    "scope": "{% set n = 1 %}{% for m in messages %}{% set n = 2 %}{% endfor %}{{ n }}",
    "blocks": "  {% if true %}\n    x\n  {% endif %}\n\n{# note #}\n  y  \n",
    "methods": (
        "{% for m in messages %}{% set c = m.content %}{{ c.startswith('a') }}{{ c.split('b')[-1] }}{{ c.strip() }}"
        "{{ c.rstrip('\\n') }}{{ c.upper() }}{{ m.get('x') }}{{ m.get('x', 'y') }}{% endfor %}"
    ),
    "items": "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
    "slices": "{{ messages[::-1][0].content }}{{ messages[1:] | length }}{{ messages[-1]['role'] }}",
    "loop": "{% for m in messages %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "loop controls": "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}"
    "{{ i }}{% endfor %}",
    "previous": "{% for m in messages %}{% if not loop.last %}{{ loop.nextitem.role }}{% endif %}{% endfor %}",
    "macro": (
        "{% macro say(m, end='!') %}{{ m.role }}{{ end }}{% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}"
    ),
    "tests": (
        "{{ tools is defined }}{{ documents is defined }}{{ x is defined }}{{ messages is iterable }}{{ 1 is none }}"
    ),
    "undefined": "{{ nothing }}{{ messages[0].nothing }}{% if nothing %}a{% else %}b{% endif %}",
    "filters": "{{ messages | map(attribute='role') | join(', ') }}{{ ' a ' | trim }}{{ messages | selectattr('role', "
    "'equalto', 'user') | list | length }}{{ messages[0].content | default('x') }}{{ none | default('y', true) }}",
    "constants": "{{ true }}{{ none }}{{ 1.0 }}{{ 7 // 2 }}{{ 'a' ~ 1 }}{{ ['a', 1] }}{{ 'x' if messages else 'z' }}",
    "time": "{{ strftime_now('%Y') }}",
    "generation prompt": "{% if add_generation_prompt %}go{% endif %}",
}


@pytest.mark.parametrize("source", FEATURES.values(), ids=FEATURES)
def test_template_features(source: str) -> None:
    messages = [says("user", "ab <&> 中\n"), says("assistant", "bab"), says("user", "é")]
    tools = TOOLS if "tools" in source else None  # to a template without them, ours tells of them
    (theirs,), _ = render_jinja_template(
        [messages], tools=tools, chat_template=source, add_generation_prompt=True, return_assistant_tokens_mask=False
    )
    assert ChatTemplate(source, WHERE).render(messages, tools=tools) == theirs


def test_without_tools_they_are_none() -> None:
    source = "{{ tools is none }}{% if tools %}x{% endif %}"
    (theirs,), _ = render_jinja_template([CONVERSATIONS["text"]], chat_template=source)
    assert ChatTemplate(source, WHERE).render(CONVERSATIONS["text"]) == theirs


def test_what_a_template_refuses_is_a_prompt_error() -> None:
    refuse = "{% if m.role == 'system' %}{{ raise_exception('no <system> 消息') }}{% endif %}"
    template = ChatTemplate(f"{{% for m in messages %}}{refuse}{{% endfor %}}", WHERE)
    with pytest.raises(PromptError, match="rejects these messages: no <system> 消息"):
        template.render(CONVERSATIONS["system"])
    assert template.render(CONVERSATIONS["text"]) == ""


@pytest.mark.parametrize(
    "source",
    ["{% if %}", "{% for m in messages %}", "{{ unclosed", "{% generation %}", "{% nonsense %}"],
)
def test_syntax_errors_are_found_on_loading(source: str) -> None:
    with pytest.raises(BundleError, match=r"chat_template\.jinja: cannot be rendered: syntax error") as caught:
        ChatTemplate(source, WHERE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(10 ** 12) %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages.nothing.more }}",
        "{{ undefined_function() }}",
        "{{ ''.__class__.__mro__ }}",
    ],
)
def test_templates_that_break_on_rendering(source: str) -> None:
    template = ChatTemplate(source, WHERE)
    with pytest.raises(BundleError, match=r"chat_template\.jinja: cannot be rendered"):
        template.render(CONVERSATIONS["text"])


@pytest.mark.parametrize(
    ("content", "reason"), [(b"{% if %}", "syntax error"), (b"\xff\xfe{", "cannot be read")], ids=["syntax", "bytes"]
)
def test_a_bundle_with_a_broken_template(bundle: Any, tmp_path: Path, content: bytes, reason: str) -> None:
    source = bundle("qwen2_vl", "small", "fp32")
    for path in source.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.jinja").write_bytes(content.ljust((source / "chat_template.jinja").stat().st_size))
    with pytest.raises(BundleError, match=reason):
        load(tmp_path, threads=1)
