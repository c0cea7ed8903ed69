"""A checkpoint's tokenizer, special tokens and chat template come out as transformers reads them, or are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

from qvl_export import ExportPlan, export, families
from qvl_export.bundle.text_files import texts
from qvl_export.bundle.text_files.texts import Texts
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.cli.progress import RichProgress
from qvl_export.errors import ConfigError
from qvl_runtime.bundle import read_manifest
from qvl_runtime.model import load
from tests.oracles.tiny import REFERENCE
from tests.runtime.templates import QWEN2_5_TOOLS, QWEN2_5_VL, QWEN3_VL

FILES = ("tokenizer.json", "config.json", "preprocessor_config.json", "generation_config.json", "model.safetensors")
WHOLE = json.loads((REFERENCE / "tokenizer.json").read_text("utf-8"))
IM_START, IM_END, IMAGE = "<|im_start|>", "<|im_end|>", "<|image_pad|>"
TEXT = f"Read e\u0301 1.5  don't{IM_END}\n<|new|>é<|x|>{IMAGE}"
BOM = "\ufeff"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A checkpoint without a tokenizer's configuration and chat template."""
    logging.set_verbosity_error()
    for name in FILES:
        (tmp_path / name).symlink_to(REFERENCE / name)
    return tmp_path


def put(here: Path, **files: Any) -> None:
    """Files whose dots are underscores twice: texts as they are, all else as JSON."""
    for name, content in files.items():
        path = here / name.replace("__", ".")
        path.unlink(missing_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")


def read(here: Path, said: list[str] | None = None) -> Texts:
    checkpoint = Checkpoint(here)
    return texts.read(checkpoint, families.read_spec(checkpoint), (said if said is not None else []).append)


def ids(found: Texts, text: str = TEXT) -> list[int]:
    from tokenizers import Tokenizer

    return list(Tokenizer.from_str(found.tokenizer).encode(text, add_special_tokens=False).ids)


def by_id(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    """`added_tokens` of a tokenizer.json as the `added_tokens_decoder` of a tokenizer_config.json."""
    return {str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in tokens}


QWEN2: dict[str, Any] = {"tokenizer_class": "Qwen2Tokenizer"}
AS_OBJECT = {"content": IM_START, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
CONFIGS = {
    "nothing": {},
    "class alone": QWEN2,
    "null tokens": {**QWEN2, "eos_token": None, "unk_token": None, "pad_token": "<|vision_pad|>"},
    "another class": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": IM_END, "bos_token": None},
    "named beside the standard ones": {"tokenizer_class": "TokenizersBackend", "image_token": IMAGE},
    "a mapping of extra ones": {**QWEN2, "extra_special_tokens": {"image_token": IMAGE}},
    "objects": {**QWEN2, "eos_token": {**AS_OBJECT, "__type": "AddedToken"}},
    "a list of extra ones": {**QWEN2, "additional_special_tokens": [IM_START, "<|new|>"]},
    "a new list": {**QWEN2, "extra_special_tokens": ["<|x|>"]},
    "one that is nowhere else": {**QWEN2, "eos_token": "<|x|>"},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("special", [None, {"eos_token": AS_OBJECT, "cls_token": "<|box_start|>"}], ids=["", "map"])
@pytest.mark.parametrize("listed", [False, True], ids=["", "decoder"])
def test_special_tokens_are_those_of_transformers(here: Path, config: Any, special: Any, listed: bool) -> None:
    listing = {"added_tokens_decoder": by_id(WHOLE["added_tokens"])} if listed else {}
    put(here, tokenizer_config__json={**config, **listing}, chat_template__jinja=QWEN2_5_VL)
    if special:
        put(here, special_tokens_map__json=special)
    theirs, ours = AutoTokenizer.from_pretrained(here), read(here)
    assert ours.special_tokens == theirs.special_tokens_map
    plain = TEXT.replace("e\u0301", "e")  # the reference tokenizer does not normalize, Qwen2Tokenizer does
    assert ids(ours, plain) == theirs.encode(plain, add_special_tokens=False)


def test_a_tokenizer_that_is_whole_is_not_rewritten(here: Path) -> None:
    shutil.copyfile(REFERENCE / "tokenizer_config.json", here / "tokenizer_config.json")
    put(here, chat_template__jinja=QWEN2_5_VL)
    assert read(here).tokenizer == (REFERENCE / "tokenizer.json").read_text("utf-8")


MORE = [{**AS_OBJECT, "content": "<|new|>", "special": True, "id": 365}]
MORE += [{**AS_OBJECT, "content": "<|x|>", "special": False, "normalized": True, "id": 366}]


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config__json": {**QWEN2, "added_tokens_decoder": by_id([*WHOLE["added_tokens"], *MORE])}},
        {"tokenizer_config__json": QWEN2, "added_tokens__json": {"<|new|>": 365, "<|x|>": 366}},
    ],
    ids=["added_tokens_decoder", "added_tokens.json"],
)
def test_tokens_that_only_other_files_have(here: Path, files: dict[str, Any]) -> None:
    put(here, chat_template__jinja=QWEN2_5_VL, **files)
    theirs, ours = AutoTokenizer.from_pretrained(here), read(here)
    text = f"a<|new|> b <|x|>c{IM_END}"
    assert ids(ours, text) == theirs.encode(text, add_special_tokens=False)
    assert {365, 366} <= set(ids(ours, text))


def test_vision_tokens_that_only_the_configuration_has(here: Path) -> None:
    """As trainers leave them that write `tokenizer.json` before they add tokens."""
    put(here, tokenizer__json={**WHOLE, "added_tokens": WHOLE["added_tokens"][:5]}, chat_template__jinja=QWEN2_5_VL)
    put(here, tokenizer_config__json={**QWEN2, "added_tokens_decoder": by_id(WHOLE["added_tokens"])})
    theirs, ours = AutoTokenizer.from_pretrained(here), read(here)
    assert ids(ours, f"a{IMAGE}b") == theirs.encode(f"a{IMAGE}b", add_special_tokens=False)
    assert ids(ours, IMAGE) == [363]


def test_tokens_that_would_get_other_ids(here: Path) -> None:
    put(here, tokenizer_config__json=QWEN2, added_tokens__json={"<|new|>": 370}, chat_template__jinja=QWEN2_5_VL)
    refused = r"added_tokens\.json: token '<\|new\|>' has id 370, but the tokenizer makes it 365 \(.*save_pretrained"
    with pytest.raises(ConfigError, match=refused):
        read(here)


@pytest.mark.parametrize("decoder", [3, {"a": {"content": "x"}}, {"365": "x"}, {"365": {"lstrip": True}}])
def test_malformed_added_tokens(here: Path, decoder: Any) -> None:
    put(here, tokenizer_config__json={"added_tokens_decoder": decoder}, chat_template__jinja=QWEN2_5_VL)
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json: has a malformed added_tokens_decoder"):
        read(here)
    put(here, tokenizer_config__json={}, added_tokens__json={"x": "y"})
    with pytest.raises(ConfigError, match=r"added_tokens\.json: token 'x' has no id"):
        read(here)


@pytest.mark.parametrize("extra", [3, True, "<|new|>"])
@pytest.mark.parametrize("name", ["extra_special_tokens", "additional_special_tokens"])
def test_malformed_special_tokens(here: Path, name: str, extra: Any) -> None:
    put(here, tokenizer_config__json={name: extra}, chat_template__jinja=QWEN2_5_VL)
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json: extra special tokens must be a list, got "):
        read(here)


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
    assert manifest.special_tokens["eos_token"] == IM_END and manifest.schema_version == 7
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


def test_qwen_vl_has_no_named_tokens(checkpoint: Any) -> None:
    assert read(checkpoint("qwen", "small")).special_tokens == {}
