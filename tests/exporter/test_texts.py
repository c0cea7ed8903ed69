"""A checkpoint's tokenizer, special tokens and chat template come out as transformers reads them, or are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from qvl_export import ExportPlan, export
from qvl_export.cli.progress import RichProgress
from qvl_export.errors import ConfigError
from qvl_runtime.bundle import read_manifest
from qvl_runtime.manifest import SCHEMA_VERSION
from qvl_runtime.model import load
from tests.exporter.text_files import (
    BOM,
    IM_END,
    QWEN2,
    TEXT,
    WHOLE,
    by_id,
    ids,
    put,
    read,
)
from tests.oracles.tiny import REFERENCE
from tests.runtime.templates import QWEN2_5_TOOLS, QWEN2_5_VL, QWEN3_VL


def test_a_tokenizer_that_is_whole_is_not_rewritten(here: Path) -> None:
    shutil.copyfile(REFERENCE / "tokenizer_config.json", here / "tokenizer_config.json")
    put(here, chat_template__jinja=QWEN2_5_VL)
    assert read(here).tokenizer == (REFERENCE / "tokenizer.json").read_text("utf-8")


@pytest.mark.parametrize("mark", ["", BOM], ids=["", "byte order mark"])
def test_a_vocabulary_and_merges_alone(here: Path, mark: str) -> None:
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in WHOLE["model"]["merges"]), ""])
    put(here, vocab__json=json.dumps(WHOLE["model"]["vocab"]), merges__txt=merges, chat_template__jinja=QWEN2_5_VL)
    put(here, tokenizer_config__json={**QWEN2, "added_tokens_decoder": by_id(WHOLE["added_tokens"])})
    (here / "tokenizer.json").unlink()
    theirs = AutoTokenizer.from_pretrained(here)
    put(here, vocab__json=mark + json.dumps(WHOLE["model"]["vocab"]), merges__txt=mark + merges)
    assert ids(read(here)) == theirs.encode(TEXT, add_special_tokens=False)


def test_a_vocabulary_and_merges_that_do_not_fit(here: Path) -> None:
    put(here, vocab__json={"a": 0}, merges__txt="a b\n", chat_template__jinja=QWEN2_5_VL)
    (here / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"vocab\.json and merges\.txt are not a vocabulary"):
        read(here)
    (here / "merges.txt").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json is missing .*save_pretrained"):
        read(here)


def test_truncation_and_padding_do_not_travel(here: Path) -> None:
    limit = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    put(here, tokenizer__json={**WHOLE, "truncation": limit}, chat_template__jinja=QWEN2_5_VL)
    put(here, tokenizer_config__json=QWEN2)
    ours, theirs = read(here), AutoTokenizer.from_pretrained(here)
    assert json.loads(ours.tokenizer)["truncation"] is None
    assert ids(ours, "a long enough text") == theirs.encode("a long enough text", add_special_tokens=False)


def test_a_hostile_tokenizer(here: Path) -> None:
    words = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    put(here, tokenizer__json={**WHOLE, "pre_tokenizer": words}, chat_template__jinja=QWEN2_5_VL)
    with pytest.raises(ConfigError, match=r"tokenizer\.json: is not a tokenizer: it cannot encode a text"):
        read(here)


def test_tokens_beyond_the_table_are_reported(here: Path) -> None:
    config = json.loads((REFERENCE / "config.json").read_text("utf-8"))
    size = config.get("text_config", config)["vocab_size"]
    known = {"<|new|>": 365, **{f"<|{number}|>": number for number in range(366, size + 2)}}
    put(here, tokenizer_config__json=QWEN2, added_tokens__json=known, chat_template__jinja=QWEN2_5_VL)
    said: list[str] = []
    read(here, said)
    beginning = f"2 tokens are beyond the model's table of {size}; prompts that have them are refused: "
    assert said == [f"{beginning}<|{size}|>, <|{size + 1}|>"]


# Chat templates

TEXT_ONLY = QWEN2_5_TOOLS
PARTS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Read."}]}]


def test_skipped_templates_are_reported_like_other_notes(
    here: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    put(here, chat_template__jinja=TEXT_ONLY, tokenizer_config__json={"chat_template": QWEN3_VL})
    export(ExportPlan(here, tmp_path_factory.mktemp("out") / "bundle"), RichProgress(quiet=False))
    assert capsys.readouterr().err.count("\nnote: the chat template of chat_template.jinja ") == 1


def test_special_tokens_travel_in_the_bundle(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A template that ends turns with `eos_token` renders as transformers renders it."""
    source = QWEN2_5_VL.replace("<|im_end|>", "{{ eos_token }}")
    put(here, chat_template__jinja=source, tokenizer_config__json={**QWEN2, "eos_token": IM_END, "pad_token": "<|x|>"})
    out = tmp_path_factory.mktemp("out") / "bundle"
    manifest = export(ExportPlan(here, out))
    assert read_manifest(out).special_tokens == manifest.special_tokens == read(here).special_tokens
    assert manifest.special_tokens["eos_token"] == IM_END and manifest.schema_version == SCHEMA_VERSION
    theirs = AutoTokenizer.from_pretrained(here).apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True
    )
    with load(out, threads=1) as model:
        assert model.prompt([{"role": "user", "content": "Hi"}]).ids.tolist() == list(theirs["input_ids"])


def test_a_hostile_template_leaves_nothing(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    put(here, chat_template__jinja="{% set n = namespace() %}{% set n.a = n %}{{ n }}", tokenizer_config__json=QWEN2)
    out = tmp_path_factory.mktemp("out")
    with pytest.raises(ConfigError, match=r"chat_template\.jinja: cannot be rendered: it crashes the process"):
        export(ExportPlan(here, out / "bundle"))
    assert list(out.iterdir()) == []
