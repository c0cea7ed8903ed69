"""What templates may take of Python renders as Jinja renders it; sources beyond the bounds are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from qvl_runtime.errors import BundleError, PromptError
from qvl_runtime.templates.chat import ChatTemplate, parse_arguments
from qvl_runtime.templates.source import MAX_BRANCHES, MAX_OPERATORS, MAX_SOURCE, SourceError, prepare
from tests.runtime import templates

WHERE = Path("bundle/chat_template.jinja")
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "a </think> b </think> c"},
    {"role": "assistant", "content": [{"type": "text", "text": "x.y"}]},
]
PYTHON = {
    "rsplit": "{{ messages[0].content.rsplit('</think>', 1) }}",
    "rsplit and a subscript": "{{ messages[0]['content'].rsplit('</think>', 1)[-1].lstrip('\\n') }}",
    "rsplit twice": "{{ messages[0].content.rsplit('</think>', 1)[0].rsplit('</think>')[0] ~ '|' }}",
    "rsplit of an argument": "{{ 'q'.join(messages[0].content.rsplit(' ', 2)) }}",
    "rsplit of a call": "{{ ('a' + 'b c').upper().rsplit(' ')[0] }}",
    "rsplit in a condition": "{% if 'c' in messages[0].content.rsplit(' ') and not false %}y{% endif %}",
    "rsplit in a loop": "{%- for part in messages[0].content.rsplit(' ') -%}{{ part }};{%- endfor -%}",
    "rsplit in a mapping": "{{ {'a': {'b': messages[0].content.rsplit(' ')}} }}",
    "rsplit without arguments": "{{ ' a b '.rsplit()[-1] }}",
    "partition": "{{ messages[0].content.partition('</think>')[2] }}{{ 'a-b'.rpartition('-')[0] }}",
    "affixes": "{{ 'abc'.removeprefix('a').removesuffix('c') }}",
    "widths": "{{ '7'.zfill(3) }}{{ 'a'.ljust(3) }}{{ 'a'.rjust(3) }}{{ 'a'.center(3) }}{{ 'a'|center(5) }}",
    "index": "{{ 'abc'.index('b') }}{{ [1, 2, 3].index(3) }}",
    "others": "{{ 'aB'.swapcase() }}{{ '12'.isdecimal() }}{{ 'AB'.casefold() }}{{ 'a b'|wordcount }}",
    "percent": "{{ '%s' % messages[0].role }}{{ '%s' % 'x' }}{{ \"%s's\" % ('a') }}",
    "percent of several": "{{ '%s-%02d %.1f%%' % ('a', 3, 2.25) + '!' }}",
    "percent of a mapping": "{{ '%(role)s' % messages[0] }}{{ '%(a)d' % {'a': 1} }}",
    "percent of a call": "{{ '%s' % messages[0].content.upper()[:3] ~ '.' }}",
    "remainder": "{{ 7 % 4 }}{{ (messages|length) % 2 == 0 }}{{ loop_index|default(5) % 3 }}",
    "sequence": (
        "{{ messages is sequence }}{{ 'a' is sequence }}{{ {} is sequence }}{{ 1 is sequence }}{{ none is sequence }}"
        "{% for m in messages %}{{ m.content is sequence and m.content is not string }}{% endfor %}"
    ),
    "default": "{{ ''|default('y', boolean=true) }}{{ nothing|default(default_value='z') }}{{ none|default('y') }}",
    "separators": "{{ {'a': [1, 2]}|tojson(separators=(',', ':')) }}{{ {'a': 1}|tojson(indent=4) }}",
    "text that looks like it": "a.rsplit('b') % {# '%s' % x.rsplit() #}{{ \"'a'.rsplit(\" }}{{ '}}' }}",
    "raw": "{% raw %}{{ a.rsplit('b') }}{{ '%s' % x }}{% endraw %}{{ 'a b'.rsplit()[0] }}",
    "spaces": "{{  messages[0].role . rsplit ( 's' ) [ 0 ]  }}",
    "attribute of that name": "{{ {'index': 5}.index }}{{ {'center': 6}['center'] }}",
}


def theirs(source: str, **arguments: Any) -> str:
    (text,), _ = render_jinja_template([MESSAGES], chat_template=source, add_generation_prompt=True, **arguments)
    return str(text)


@pytest.mark.parametrize("source", PYTHON.values(), ids=PYTHON)
def test_python_in_templates(source: str) -> None:
    assert ChatTemplate(source, WHERE).render(MESSAGES) == theirs(source)


def test_published_templates_are_unchanged() -> None:
    published = [value for name, value in vars(templates).items() if name.startswith("QWEN") and isinstance(value, str)]
    assert len(published) >= 3
    for source in published:
        assert prepare(source) == source


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "-" * MAX_OPERATORS + "-1 }}",
        "{{ " + "not " * MAX_OPERATORS + "not 1 }}",
        "{{ 1" + "~1" * MAX_OPERATORS + "~1 }}",
        "{{ a" + "[0]" * MAX_OPERATORS + "[0] }}",
        "{{ a" + "|trim" * MAX_OPERATORS + "|trim }}",
        "{{ 1" + " if 1 else 1" * MAX_OPERATORS + " }}",
        "{{ '}}' " + "-" * MAX_OPERATORS + "-1 }}",
        "{{ {'a': {}} " + "-" * MAX_OPERATORS + "-1 }}",
        "{% if 0 %}" + "{% elif 0 %}" * MAX_BRANCHES + "{% elif 0 %}{% endif %}",
        "x" * (MAX_SOURCE + 1),
    ],
    ids=["minus", "not", "tilde", "subscripts", "filters", "conditions", "after a text", "after a map", "elif", "long"],
)
def test_sources_beyond_the_bounds(source: str) -> None:
    with pytest.raises(SourceError, match="more than"):
        prepare(source)
    with pytest.raises(BundleError, match=r"chat_template\.jinja: cannot be rendered: .* more than \d+$"):
        ChatTemplate(source, WHERE)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception() }}", None),
        ("{{ raise_exception('no', 'way') }}", None),
        ("{{ strftime_now(none) }}", "strftime_now takes a text"),
        ("{{ strftime_now('%Y' * 1000000) }}", "strftime_now takes a text"),
        ("{{ messages|tojson(indent=1000000000) }}", "an indent of more than 16"),
        ("{{ messages|tojson(indent='x' * 99) }}", "an indent of more than 16"),
        ("{{ '%999999999d' % 1 }}", "is too wide"),
        ("{{ '%*d' % (999999999, 1) }}", "is too wide"),
        ("{{ 'a'.zfill(999999999) }}", "of more than 10000"),
        ("{{ 1.rsplit(',') }}", "has no method rsplit"),
        (
            "{% set ns = namespace(a=[]) %}{% for i in range(3000) %}{% set ns.a = [ns.a] %}{% endfor %}"
            "{{ ns.a|tojson }}",
            "nested too deeply",
        ),
        ("{{ 'a' * 40000000 }}", "produces a prompt of 40000000 characters"),
    ],
)
def test_failures_are_one_line(source: str, reason: str | None) -> None:
    template = ChatTemplate(source, WHERE)
    with pytest.raises(PromptError if reason is None else BundleError) as caught:
        template.render(MESSAGES)
    assert "\n" not in str(caught.value)
    assert (reason or "the chat template rejects these messages") in str(caught.value)


def test_special_tokens_are_variables() -> None:
    source = "{{ bos_token }}{{ messages[0].role }}{{ eos_token }}|{{ pad_token }}"
    special = {"bos_token": "<s>", "eos_token": "<|im_end|>", "image_token": "<|image_pad|>"}
    ours = ChatTemplate(source, WHERE, special)
    assert ours.render(MESSAGES) == theirs(source, **special) == "<s>user<|im_end|>|"
    assert ours.render(MESSAGES, template_args={"eos_token": "x"}) == "<s>userx|"


THINKING = (
    "{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif -%}"
    "{% if add_vision_id %}Picture{% endif %}{{ template|default('none') }}"
)


@pytest.mark.parametrize("given", [{}, {"enable_thinking": False}, {"template": "kie", "add_vision_id": True}])
def test_template_args(given: dict[str, Any]) -> None:
    assert ChatTemplate(THINKING, WHERE).render(MESSAGES, template_args=given) == theirs(THINKING, **given)


@pytest.mark.parametrize("name", ["messages", "tools", "documents", "add_generation_prompt", "strftime_now"])
def test_template_args_that_collide(name: str) -> None:
    with pytest.raises(PromptError, match=rf"template_args cannot set {name}"):
        ChatTemplate(THINKING + f"{{{{ {name} }}}}", WHERE).render(MESSAGES, template_args={name: []})


def test_template_args_that_the_template_does_not_know() -> None:
    fix = r"has no variable 'enable_thinkng' \(its variables are add_vision_id, enable_thinking, template\)"
    with pytest.raises(PromptError, match=fix):
        ChatTemplate(THINKING, WHERE).render(MESSAGES, template_args={"enable_thinkng": False})
    with pytest.raises(PromptError, match=r"has no variable 'x' \(it has none\)"):
        ChatTemplate("{{ messages }}", WHERE).render(MESSAGES, template_args={"x": False})


def test_template_args_from_the_command_line() -> None:
    given = ["a=false", "b=two words", "c=", "d=[1]", "e=x=y"]
    assert parse_arguments(given) == {"a": False, "b": "two words", "c": "", "d": [1], "e": "x=y"}
    for wrong in (["a"], ["=1"], ["a-b=1"], ["a=1", "a=2"]):
        with pytest.raises(PromptError, match="--template-arg"):
            parse_arguments(wrong)
