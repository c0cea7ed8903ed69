"""The chat template of a checkpoint: the first that takes images, in the order of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers.processing_utils import ProcessorMixin

from qvl_export.errors import ConfigError
from tests.exporter.text_files import (
    BOM,
    put,
    read,
)
from tests.runtime.templates import QWEN2_5_TOOLS, QWEN2_5_VL, QWEN3_VL

TEXT_ONLY = QWEN2_5_TOOLS


NAMED = [{"name": "tool_use", "template": TEXT_ONLY}, {"name": "default", "template": QWEN3_VL}]


CHOICES: dict[str, tuple[dict[str, Any], str]] = {
    "jinja alone": ({"chat_template__jinja": QWEN3_VL}, QWEN3_VL),
    "json before jinja": (
        {"chat_template__json": {"chat_template": QWEN2_5_VL}, "chat_template__jinja": QWEN3_VL},
        QWEN2_5_VL,
    ),
    "the processor's before all": (
        {"processor_config__json": {"chat_template": QWEN3_VL}, "chat_template__json": {"chat_template": QWEN2_5_VL}},
        QWEN3_VL,
    ),
    "the processor's alone": ({"processor_config__json": {"chat_template": QWEN3_VL}}, QWEN3_VL),
    "jinja before the tokenizer's": (
        {"chat_template__jinja": QWEN3_VL, "tokenizer_config__json": {"chat_template": QWEN2_5_VL}},
        QWEN3_VL,
    ),
    "a default among additional ones": (
        {"additional_chat_templates/default__jinja": QWEN3_VL, "additional_chat_templates/rag__jinja": TEXT_ONLY},
        QWEN3_VL,
    ),
}


@pytest.mark.parametrize(("files", "taken"), CHOICES.values(), ids=CHOICES)
def test_the_template_is_the_processors_of_transformers(here: Path, files: dict[str, Any], taken: str) -> None:
    (here / "additional_chat_templates").mkdir()
    put(here, **{"tokenizer_config__json": {}, **files})
    said: list[str] = []
    assert read(here, said).template == taken and said == []
    if "tokenizer" not in str(files):
        theirs = ProcessorMixin.get_processor_dict(here)[0]["chat_template"]
        assert (theirs["default"] if isinstance(theirs, dict) else theirs) == taken


PASSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "text-only jinja": (
        {"chat_template__jinja": TEXT_ONLY, "tokenizer_config__json": {"chat_template": QWEN3_VL}},
        QWEN3_VL,
        "the chat template of chat_template.jinja",
    ),
    "real files of Qwen2.5-VL": (
        {"chat_template__json": {"chat_template": QWEN2_5_VL}, "tokenizer_config__json": {"chat_template": TEXT_ONLY}},
        QWEN2_5_VL,
        "",
    ),
    "named ones": ({"tokenizer_config__json": {"chat_template": NAMED}}, QWEN3_VL, ""),
    "named ones as a mapping": ({"chat_template__json": {"chat_template": {"default": QWEN3_VL}}}, QWEN3_VL, ""),
    "named ones without a default": (
        {"tokenizer_config__json": {"chat_template": [{"name": "a", "template": "x"}, {"name": "b", "template": "y"}]},
         "processor_config__json": {}, "chat_template__json": {"chat_template": {"a": QWEN3_VL}}},
        QWEN3_VL,
        "",
    ),
    "names that are none": (
        {"chat_template__json": {"chat_template": [{"name": ["a"], "template": "x"}, {"name": "b"}]},
         "chat_template__jinja": QWEN3_VL},
        QWEN3_VL,
        "the chat template of chat_template.json is none of several: ['a'], b",
    ),
    "no names": ({"chat_template__json": {"chat_template": []}, "chat_template__jinja": QWEN3_VL}, QWEN3_VL, ""),
    "a broken one first": (
        {"chat_template__json": {"chat_template": "{% for"}, "chat_template__jinja": QWEN3_VL},
        QWEN3_VL,
        "the chat template of chat_template.json cannot be rendered: syntax error",
    ),
    "a hostile one first": (
        {
            "chat_template__json": {"chat_template": "{% set n = namespace() %}{% set n.a = n %}{{ n }}"},
            "chat_template__jinja": QWEN3_VL,
        },
        QWEN3_VL,
        "the chat template of chat_template.json cannot be rendered: it crashes the process that tests it",
    ),
    "a byte order mark": ({"chat_template__jinja": BOM + QWEN3_VL}, QWEN3_VL, ""),
}  # fmt: skip


@pytest.mark.parametrize(("files", "taken", "note"), PASSED.values(), ids=PASSED)
def test_the_first_that_places_the_image_token(here: Path, files: dict[str, Any], taken: str, note: str) -> None:
    put(here, **{"tokenizer_config__json": {}, **files})
    said: list[str] = []
    assert read(here, said).template == taken
    assert [text[: len(note)] for text in said] == ([note] if note else [])


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, r"has no chat template \(copy chat_template\.json or chat_template\.jinja from the base model\)"),
        (
            {"chat_template__jinja": "{{ messages[0].role }}"},
            r"chat_template\.jinja: takes no images: it does not place token 363, .* \(copy chat_template\.json",
        ),
        (
            {"chat_template__json": {"chat_template": "x"}, "chat_template__jinja": "{{ raise_exception('no') }}"},
            r"chat_template\.json: takes no images: .* and the one of chat_template\.jinja the chat template rejects",
        ),
        (
            {"tokenizer_config__json": {"chat_template": [{"name": "a", "template": "x"}, {"name": "b"}]}},
            r"tokenizer_config\.json: is none of several: a, b, and none is called default",
        ),
    ],
    ids=["none", "text only", "two", "no default"],
)
def test_no_template_that_takes_images(here: Path, files: dict[str, Any], reason: str) -> None:
    put(here, **{"tokenizer_config__json": {}, **files})
    with pytest.raises(ConfigError, match=reason) as caught:
        read(here)
    assert "\n" not in str(caught.value)
