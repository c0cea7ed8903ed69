"""Constrained answers are valid JSON of their schema, wherever they are cut; jsonschema is the judge."""

from __future__ import annotations

import builtins
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from qvl_runtime import __main__ as cli
from qvl_runtime.answers.constrain import Constraint, Grammars
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.answers.stream import Stream
from qvl_runtime.errors import BundleError, InstallError, PromptError
from qvl_runtime.model import Model, load
from tests.conftest import REFERENCE, Bundles, Loader

pytestmark = pytest.mark.filterwarnings("ignore::qvl_runtime.errors.TruncatedAnswerWarning")
QUESTION = [{"role": "user", "content": "Extract the key-value information."}]
TEXT, NUMBER = {"type": "string"}, {"type": "number"}


def thing(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


SCHEMAS: dict[str, dict[str, Any]] = {
    "anything": {},
    "flat": thing(name=TEXT, total=NUMBER),
    "nested": thing(items={"type": "array", "minItems": 2, "items": thing(name=TEXT, price=NUMBER)}, date=TEXT),
    "enum": thing(kind={"enum": ["receipt", "发票"]}, paid={"type": "boolean"}, note={"type": ["string", "null"]}),
    "pattern": thing(date={"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}),
    "a pattern without an end": thing(code={"type": "string", "pattern": "^A*BC$"}),
    "lengths": thing(code={"type": "string", "minLength": 30, "maxLength": 40}),
    "range": thing(year={"type": "integer", "minimum": 1900, "maximum": 2100}),
    "open": {"type": "object", "additionalProperties": NUMBER, "minProperties": 1},
    "either": {"anyOf": [thing(name=TEXT), thing(total=NUMBER)]},
    "reference": {"$defs": {"money": NUMBER}, "type": "array", "items": {"$ref": "#/$defs/money"}, "minItems": 2},
    "many fields": thing(**{f"field_{index}": TEXT for index in range(60)}),
    "list": {"type": "array", "items": TEXT, "minItems": 1},
    "text": TEXT,
    "number": NUMBER,
}


@pytest.fixture(scope="module")
def reader(reference_bundle: Path) -> Model:
    return load(reference_bundle, threads=1)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
@pytest.mark.parametrize("length", [1, 7, 33])
def test_every_answer_is_valid_wherever_it_is_cut(babbler: Model, schema: dict[str, Any], length: int) -> None:
    for options in ({}, {"temperature": 1.5, "seed": 3}, {"temperature": 0.7, "top_k": 5, "top_p": 0.8, "seed": 1}):
        answer = babbler.generate(QUESTION, length, json_schema=schema, **options)
        jsonschema.validate(json.loads(answer), schema)


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_cut_inside_a_character_is_closed_too(babbler: Model, grammars: Grammars, cut: int) -> None:
    """Every answer a model could have given, token by token: 发 and 😀 are several tokens each."""
    answer = '{"kind": "发票😀é\\n \\"q\\"", "total": -12.5e3}'
    schema = thing(kind=TEXT, total=NUMBER)
    constraint, run = grammars.constraint(schema), GenerationStats(finish_reason="length")
    script = iter(babbler.token_ids(answer)[:cut])
    pick = constraint.picker(lambda logits: next(script))
    said = [pick(np.zeros(babbler.manifest.llm.vocab_size, np.float32)) for _ in range(cut)]
    text = "".join(Stream(constraint.with_ending(iter(said), run), babbler.tokenizer, run))
    jsonschema.validate(json.loads(text), schema)
    assert text.startswith(babbler.tokenizer.decode(said).rstrip("\ufffd"))
    assert len(text) < len(answer) + 20, "a short ending"
    assert (run.finish_reason, bool(run.forced)) == ("length", True)


def test_an_answer_that_ends_by_itself(reader: Model) -> None:
    schema = thing(name=TEXT, total={"type": "integer", "maximum": 99})
    stream = reader.stream(QUESTION, 300, json_schema=schema)
    text = "".join(stream)
    jsonschema.validate(json.loads(text), schema)
    assert (stream.run.finish_reason, stream.run.forced) in (("stop", ""), ("length", text[-len(stream.run.forced) :]))


def test_the_last_token_that_fits_may_be_the_last_needed(babbler: Model) -> None:
    schema = {"const": "ab"}
    whole = babbler.stream(QUESTION, 50, json_schema=schema)
    assert ("".join(whole), whole.run.finish_reason) == ('"ab"', "stop")
    cut = babbler.stream(QUESTION, len(whole.run.tokens), json_schema=schema)
    assert ("".join(cut), cut.run.finish_reason, cut.run.forced) == ('"ab"', "stop", "")


def test_a_schema_changes_nothing_that_the_model_writes_anyway(reader: Model) -> None:
    """If the model answers with such JSON by itself, a schema changes nothing."""
    page = REFERENCE.parents[2] / "calib_data" / "heldout" / "simple_0000.png"
    content = [{"type": "image", "image": page}, {"type": "text", "text": "Locate the city."}]
    messages = [{"role": "user", "content": content}]
    corners = {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4}
    assert reader.generate(messages, json_schema=thing(bbox_2d=corners)) == reader.generate(messages)


def test_a_seed_repeats_and_a_schema_may_be_text(babbler: Model) -> None:
    options = {"max_new_tokens": 20, "temperature": 1.0, "seed": 5}
    first = babbler.generate(QUESTION, json_schema=SCHEMAS["flat"], **options)
    assert first == babbler.generate(QUESTION, json_schema=json.dumps(SCHEMAS["flat"]), **options)


def linked(**more: Any) -> dict[str, Any]:
    """A list of which each entry holds the next."""
    following = {"anyOf": [{"$ref": "#/$defs/entry"}, *more.get("or_else", [])]}
    return {"$defs": {"entry": thing(next=following)}, "$ref": "#/$defs/entry"}


ENDLESS: dict[str, dict[str, Any]] = {
    "itself": {"$ref": "#"},
    "each other": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "a required field": thing(a={"$ref": "#"}),
    "a required field of any name": {"type": "object", "required": ["a"], "additionalProperties": {"$ref": "#"}},
    "items": {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    "first items": {"type": "array", "prefixItems": [TEXT, {"$ref": "#"}], "minItems": 2},
    "fields": {"type": "object", "additionalProperties": {"$ref": "#"}, "minProperties": 1},
    "in all of": {"allOf": [thing(a={"$ref": "#"}), {"type": "object"}]},
    "every choice": {"anyOf": [thing(a={"$ref": "#"}), thing(b={"$ref": "#"})]},
    "a linked list": linked(),
    "escaped": {"$defs": {"a/b ~": thing(a={"$ref": "#/$defs/a~1b%20~0"})}, "$ref": "#/$defs/a~1b%20~0"},
}
ENDING: dict[str, dict[str, Any]] = {
    "an optional field": {"type": "object", "properties": {"a": {"$ref": "#"}}, "additionalProperties": False},
    "items that may be none": {"type": "array", "items": {"$ref": "#"}},
    "a choice": {"anyOf": [NUMBER, {"type": "array", "items": {"$ref": "#"}, "minItems": 1}]},
    "a linked list": linked(or_else=[{"type": "null"}]),
    "a type": {"type": ["array", "null"], "items": {"$ref": "#"}, "minItems": 1},
    "later": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": NUMBER}, "$ref": "#/$defs/a"},
    "an anchor": {"$defs": {"a": {"$anchor": "here", **NUMBER}}, "$ref": "#here"},
}


@pytest.mark.parametrize("schema", ENDLESS.values(), ids=ENDLESS)
def test_a_schema_without_a_finite_answer_is_refused(babbler: Model, schema: dict[str, Any]) -> None:
    """The first two used to answer nothing, as if that were the answer."""
    with pytest.raises(PromptError, match="json_schema allows no finite answer") as caught:
        babbler.stream(QUESTION, json_schema=schema)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("schema", ENDING.values(), ids=ENDING)
def test_a_schema_that_refers_to_itself_may_end(babbler: Model, schema: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(babbler.generate(QUESTION, 12, json_schema=schema)), schema)


def test_the_command_line_refuses_it(babbler: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "schema.json").write_text('{"$ref": "#"}')
    assert cli.main(["run", str(babbler.bundle), "Hi", "--json-schema", str(tmp_path / "schema.json")]) == 2
    out = capsys.readouterr()
    assert (out.out, out.err.count("\n")) == ("", 1)
    assert out.err.startswith("error: json_schema allows no finite answer")


def test_an_engine_that_fails_is_not_the_end_of_an_answer(babbler: Model, grammars: Grammars) -> None:
    """It then allows only to stop."""

    class GivenUp:
        def compute_bitmask(self) -> bytes:
            return bytes(64)

        def is_error(self) -> bool:
            return True

        def get_error(self) -> str:
            return "step fuel exceeded\n\na dump\nof state"

    pick = Constraint(GivenUp(), grammars).picker(lambda logits: 353)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match=r"json_schema cannot be followed: step fuel exceeded$"):
        pick(np.zeros(babbler.manifest.llm.vocab_size, np.float32))


def test_a_missing_tokenizer_is_reported(bundle: Bundles, tmp_path: Path) -> None:
    """A schema reads it once more, long after the bundle was loaded."""
    path = shutil.copytree(bundle("qwen2_5_vl", "small", "fp32"), tmp_path / "bundle")
    with load(path, threads=1) as model:
        (path / "tokenizer.json").unlink()
        with pytest.raises(BundleError, match=r"tokenizer\.json: no such file"):
            model.generate(QUESTION, 5, json_schema={"type": "array"})


def test_a_schema_and_ignore_eos_exclude_each_other(babbler: Model) -> None:
    with pytest.raises(PromptError, match="cannot be combined"):
        babbler.stream(QUESTION, json_schema={}, ignore_eos=True)


def test_without_llguidance_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name == "llguidance":
            raise ImportError(name)
        return imported(name, *arguments)

    monkeypatch.delitem(sys.modules, "llguidance", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InstallError, match=r"qvl-runtime\[json\]"):
        Grammars("{}", 10, [1])


def test_an_ending_that_cannot_be_found_is_an_error(babbler: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvl_runtime.answers.constrain.DEPTHS", (2,))
    with pytest.raises(PromptError, match="no short ending"):
        babbler.generate(QUESTION, 1, json_schema=SCHEMAS["lengths"])


def test_endings_are_searched_not_guessed(babbler: Model, grammars: Grammars) -> None:
    """Only `B` leads out of this string, and it is an unlikely ending."""
    constraint: Constraint = grammars.constraint(SCHEMAS["a pattern without an end"])

    def nothing() -> Iterator[int]:
        return iter(())

    text = babbler.tokenizer.decode(list(constraint.with_ending(nothing(), GenerationStats(finish_reason="length"))))
    jsonschema.validate(json.loads(text), SCHEMAS["a pattern without an end"])


def test_other_answers_stay_free(babbler: Model, model: Loader) -> None:
    before = babbler.generate(QUESTION, 12)
    babbler.generate(QUESTION, 12, json_schema={})
    assert babbler.generate(QUESTION, 12) == before == model("qwen2_5_vl", "deep", "fp32").generate(QUESTION, 12)
