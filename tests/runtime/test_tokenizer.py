"""Tokenizers lose what would cut or fill a prompt, and no text or token ends in more than an error of one line."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tokenizers import Tokenizer

from qvl_runtime.bundle import read_manifest
from qvl_runtime.errors import BundleError, PromptError
from qvl_runtime.manifest import MANIFEST, FileEntry
from qvl_runtime.model import Model, load
from qvl_runtime.templates.bundle_texts import open_texts
from qvl_runtime.templates.tokenizer import encode, parse_tokenizer
from tests.oracles.tiny import REFERENCE

WHOLE = json.loads((REFERENCE / "tokenizer.json").read_text("utf-8"))
TEXT = "Read all the text of the page.<|im_end|>"
IDS = Tokenizer.from_file(str(REFERENCE / "tokenizer.json")).encode(TEXT, add_special_tokens=False).ids
HALF = "half \ud83d of it"
TRUNCATION = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 9}
PADDING = {
    "strategy": {"Fixed": 10**11},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "x",
}


@pytest.mark.parametrize("limit", [{"truncation": TRUNCATION}, {"padding": PADDING}], ids=["truncation", "padding"])
def test_truncation_and_padding_are_left_out(limit: dict[str, Any]) -> None:
    """A stride beyond the length panics, so much padding needs all memory, and the rest would be cut off in silence."""
    assert encode(parse_tokenizer(json.dumps({**WHOLE, **limit})), TEXT, 999) == IDS


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": 3}', '{"added_tokens": [1]}'])
def test_no_tokenizers(text: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse_tokenizer(text)


def test_panics_of_the_library_are_errors() -> None:
    words = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    tokenizer = parse_tokenizer(json.dumps({**WHOLE, "pre_tokenizer": words}))
    with pytest.raises(PromptError, match=r"cannot be tokenized: .*retry-limit"):
        encode(tokenizer, "a" * 64 + "!", 999)


def test_tokens_beyond_the_table() -> None:
    with pytest.raises(PromptError, match=r"'<\|im_end\|>' is token 353, but the model has 353 tokens"):
        encode(parse_tokenizer(json.dumps(WHOLE)), TEXT, 353)


@pytest.fixture(scope="module")
def whole(bundle: Any) -> Path:
    return bundle("qwen2_vl", "small", "fp32")


@pytest.fixture(scope="module")
def model(whole: Path) -> Model:
    return load(whole, threads=1)


ASKED = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "f", "description": HALF, "parameters": {}}}


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.logits(ASKED, HALF),
        lambda model: model.generate([{"role": "user", "content": HALF}]),
        lambda model: model.generate([{"role": "user", "content": [{"type": "text", "text": HALF}]}]),
        lambda model: model.generate([{"role": "system", "content": HALF}, *ASKED]),
        lambda model: model.generate(ASKED, tools=[TOOL]),
        lambda model: next(model.stream([{"role": "user", "content": HALF}])),
    ],
    ids=["logits", "text", "part", "system", "tool", "stream"],
)
def test_half_of_a_surrogate_pair(model: Model, ask: Any) -> None:
    with pytest.raises(PromptError, match="a lone surrogate"):
        ask(model)


def changed(whole: Path, directory: Path, name: str, content: bytes, **manifest: Any) -> Path:
    """The bundle with other bytes in a file, and a manifest that knows them."""
    for path in whole.iterdir():
        shutil.copyfile(path, directory / path.name)
    (directory / name).write_bytes(content)
    said = read_manifest(whole)
    entry = FileEntry(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    said = msgspec.structs.replace(said, files={**said.files, name: entry}, **manifest)
    (directory / MANIFEST).write_bytes(msgspec.json.encode(said))
    return directory


def test_a_hostile_template_in_a_bundle(whole: Path, tmp_path: Path) -> None:
    source = b"{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}"
    with pytest.raises(BundleError, match=r"chat_template\.jinja: cannot be rendered: it crashes the process"):
        load(changed(whole, tmp_path, "chat_template.jinja", source), threads=1)


def test_a_hostile_tokenizer_in_a_bundle(whole: Path, tmp_path: Path) -> None:
    words = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    content = json.dumps({**WHOLE, "pre_tokenizer": words}).encode()
    with pytest.raises(BundleError, match=r"tokenizer\.json: is not a tokenizer: it cannot encode a text"):
        load(changed(whole, tmp_path, "tokenizer.json", content), threads=1)


def test_special_tokens_of_the_manifest(whole: Path, tmp_path: Path) -> None:
    source = b"\xef\xbb\xbf{{ messages[0].content }}{{ eos_token }}"
    path = changed(whole, tmp_path, "chat_template.jinja", source, special_tokens={"eos_token": "<|im_end|>"})
    _, template = open_texts(path, read_manifest(path).special_tokens)
    assert template.render(ASKED) == "Hello<|im_end|>"


def test_an_older_bundle_has_none(whole: Path, tmp_path: Path) -> None:
    path = changed(whole, tmp_path, "chat_template.jinja", b"{{ eos_token }}|")
    said = json.loads((path / MANIFEST).read_text("utf-8"))
    said["schema_version"] = 6
    said.pop("special_tokens")
    (path / MANIFEST).write_text(json.dumps(said))
    manifest = read_manifest(path)
    assert manifest.special_tokens == {} and open_texts(path, {})[1].render(ASKED) == "|"


def test_template_args_of_a_model(whole: Path, tmp_path: Path) -> None:
    source = b"{% if loud %}LOUD{% endif %}{{ messages[0].content }}"
    loud = changed(whole, tmp_path, "chat_template.jinja", source)
    with load(loud, threads=1) as model:
        quiet, said = model.prompt(ASKED), model.prompt(ASKED, template_args={"loud": True})
        assert len(said.ids) > len(quiet.ids)
        spoken = model.stream(ASKED, 2, template_args={"loud": True}).prompt
        assert spoken is not None and spoken.ids.tolist() == said.ids.tolist()
        assert model.generate(ASKED, 2, template_args={"loud": False}) == model.generate(ASKED, 2)
        assert model.logits(ASKED, "x", template_args={"loud": True}).shape[0] == 1
        with pytest.raises(PromptError, match="has no variable 'louder'"):
            model.generate(ASKED, 2, template_args={"louder": True})
