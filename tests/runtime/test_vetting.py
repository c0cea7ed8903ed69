"""Hostile templates and tokenizers end a child process and not this one; what passed once is not tried again."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qvl_runtime.templates import vetting
from qvl_runtime.templates.tokenizer import pipeline
from tests.oracles.tiny import REFERENCE
from tests.runtime.templates import QWEN2_5_VL, QWEN3_VL

SELF = "{% set ns = namespace() %}{% set ns.a = ns %}"
GROWING = "{%% set ns = namespace(a=%s) %%}{%% for i in range(60) %%}{%% set ns.a = ns.a %s ns.a %%}{%% endfor %%}x"
ENDS = "it crashes the process that tests it"
MEMORY = "it needs too much memory|ran out of fuel|it takes too long"
HOSTILE = {
    "holds itself": (SELF + "{{ ns }}", ENDS),
    "holds itself, as JSON": (SELF + "{{ ns|tojson }}", ENDS),
    "holds itself, compared": (SELF + "{% set b = namespace() %}{% set b.a = b %}{{ ns == b }}", ENDS),
    "deep lists": (
        "{% set ns = namespace(a=[]) %}{% for i in range(90000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}",
        ENDS,
    ),
    "deep operators": ("{{ " + "-" * 100_000 + "1 }}", "operators, more than"),
    "joined": ("{{ (range(100000)|join('a' * 100000))|length }}", MEMORY),
    "text doubled": (GROWING % ("'a'", "~"), MEMORY),
    "repeated": ("{{ 'a' * 9000000000 }}", MEMORY),
    "long": ("{{ 'a' * 2000000 }}", "it renders a short conversation as 2000000 characters"),
    "endless": ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "ran out of fuel"),
    "malformed": ("{% for", "syntax error"),
}


LONG = ("joined", "text doubled")
"""Those that compute for seconds before they meet a bound."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def template(source: str) -> dict[str, str]:
    return vetting.faults({"template": vetting.template_job(source, {"eos_token": "<|im_end|>"})})


@pytest.mark.parametrize(
    ("source", "reason"),
    [pytest.param(*row, id=name, marks=[pytest.mark.slow] if name in LONG else []) for name, row in HOSTILE.items()],
)
def test_hostile_templates(source: str, reason: str, cache: Path) -> None:
    found = template(source)
    assert re.search(reason, found["template"]) and "\n" not in found["template"]
    assert not cache.exists()


@pytest.mark.slow
def test_lists_doubled_end_in_time() -> None:
    began = time.process_time()
    assert template("{% set ns = namespace(a=[1]) %}" + GROWING.partition("%}")[2] % "+")
    assert time.process_time() - began < 2  # of this process: the child ends itself


def test_templates_that_refuse_or_fail_for_some_messages_pass() -> None:
    refuse = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{% endfor %}"
    assert template(refuse) == template("{{ messages[0].content + 'x' }}") == {}


def test_what_passed_is_not_tried_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert template(QWEN3_VL) == template(QWEN2_5_VL) == {}
    assert len(list((cache / "qvl-runtime" / "vetted").iterdir())) == 2
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("tried again"))
    importlib.reload(vetting)  # as in another process
    assert template(QWEN3_VL) == template(QWEN2_5_VL) == {}


def test_without_a_cache_it_is_tried_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert template(QWEN3_VL) == {}
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("tried again"))
    assert template(QWEN3_VL) == {}


@pytest.mark.parametrize("executable", ["", "/usr/bin/uwsgi", None])
def test_no_child_if_the_program_is_not_python(executable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("started"))
    assert template(SELF + "{{ ns }}") == {}


def test_no_child_in_a_frozen_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("started"))
    assert template(SELF + "{{ ns }}") == {}


def test_a_child_that_is_not_our_python_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "python3"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(other))
    assert template(SELF + "{{ ns }}") == {}


def tokenizer(**changes: Any) -> dict[str, str]:
    whole = json.loads((REFERENCE / "tokenizer.json").read_text("utf-8"))
    return vetting.faults({"tokenizer": pipeline(json.dumps({**whole, **changes}))})


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


HUGE = {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "c" * 100_000}
DECODER = {"type": "Strip", "content": "a", "start": 10**18, "stop": 10**18}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pre_tokenizer": split("(a+)+$")}, "cannot encode a text: .*retry-limit"),
        ({"pre_tokenizer": split(r"(\w+\s?)+$")}, "cannot encode a text: .*retry-limit"),
        ({"pre_tokenizer": split("(x+x+)+y")}, "cannot encode a text: .*retry-limit"),
        ({"pre_tokenizer": split("(")}, "cannot encode a text"),
        ({"normalizer": HUGE}, MEMORY),
        ({"decoder": DECODER}, "cannot encode a text"),
    ],
)
def test_hostile_tokenizers(changes: dict[str, Any], reason: str) -> None:
    assert re.search(reason, tokenizer(**changes)["tokenizer"])


def test_both_at_once(cache: Path) -> None:
    """A template that ends the child is distinguished from a tokenizer that was not tried because of it."""
    words = pipeline((REFERENCE / "tokenizer.json").read_text("utf-8"))
    jobs = {"template": vetting.template_job(SELF + "{{ ns }}", {}), "tokenizer": words}
    assert list(vetting.faults(jobs)) == ["template"] and not cache.exists()
    jobs = {"template": vetting.template_job(QWEN3_VL, {}), "tokenizer": words}
    assert vetting.faults(jobs) == {}
    assert len(list((cache / "qvl-runtime" / "vetted").iterdir())) == 2
