"""Templates in minijinja: the functions that transformers has, and limits on what they do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qvl_runtime.errors import PromptError
from qvl_runtime.templates.engine import TemplateFault, compile_template, render_template, template_variables


def rendered(source: str, **context: Any) -> str:
    return render_template(compile_template(source), context)


def test_json_is_not_escaped_for_html() -> None:
    value = {"b": "<a> & 'ü'", "a": [1, None]}
    assert rendered("{{ v | tojson }}", v=value) == json.dumps(value, ensure_ascii=False)
    assert rendered("{{ v | tojson(indent=2, sort_keys=true) }}", v=value) == json.dumps(
        value, ensure_ascii=False, indent=2, sort_keys=True
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 'a-b'.split('-') | join('+') }}", "a+b"),
        ("{{ ' x '.strip() }}|{{ 'x' is sequence }}|{{ [1] is sequence }}|{{ 1 is sequence }}", "x|True|True|False"),
        ("{% for i in range(3) %}{{ i }}{% if i == 1 %}{% break %}{% endif %}{% endfor %}", "01"),
        ("{{ 'ab cd' | wordcount }}", "2"),
        ("{{ strftime_now('%%') }}", "%"),
    ],
)
def test_features_of_templates(source: str, text: str) -> None:
    assert rendered(source) == text


def test_a_rejection_is_the_templates_own_text() -> None:
    with pytest.raises(PromptError, match="the chat template rejects these messages: no system"):
        rendered("{{ raise_exception('no system') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{{ 'x'.center(10000000) }}",
        "{{ 1 | tojson(indent=99) }}",
        "{{ nothing.at.all }}",
        "{{ strftime_now('%Y' * 1000) }}",
    ],
)
def test_what_goes_too_far_is_a_fault_of_one_line(source: str) -> None:
    with pytest.raises(TemplateFault) as caught:
        rendered(source)
    assert "\n" not in str(caught.value)
    with pytest.raises(TemplateFault):
        compile_template("{% for %}")


def test_variables_are_those_that_a_caller_gives() -> None:
    environment = compile_template("{% set x = 1 %}{{ messages }}{{ x }}{{ raise_exception }}{{ tools | tojson }}")
    assert template_variables(environment) == {"messages", "tools"}
