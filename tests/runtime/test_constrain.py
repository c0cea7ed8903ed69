"""Constrained answers are valid JSON of their schema, wherever they are cut; jsonschema is the judge."""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from qvl_runtime.constrain import Constraint, Grammars
from qvl_runtime.errors import InstallError, PromptError
from qvl_runtime.generate import Run
from qvl_runtime.model import Model, load
from qvl_runtime.stream import Stream
from tests.conftest import REFERENCE, Loader

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
    "a pattern that could go on for ever": thing(code={"type": "string", "pattern": "^A*BC$"}),
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


@pytest.fixture(scope="module")
def babbler(bundle: Any) -> Model:
    """Random weights: what it says is the grammar's doing alone."""
    return load(bundle("qwen2_5_vl", "deep", "fp32"), threads=1)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
@pytest.mark.parametrize("length", [1, 7, 33])
def test_every_answer_is_valid_wherever_it_is_cut(babbler: Model, schema: dict[str, Any], length: int) -> None:
    for options in ({}, {"temperature": 1.5, "seed": 3}, {"temperature": 0.7, "top_k": 5, "top_p": 0.8, "seed": 1}):
        answer = babbler.generate(QUESTION, length, json_schema=schema, **options)
        jsonschema.validate(json.loads(answer), schema)


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_cut_inside_a_character_is_closed_too(babbler: Model, cut: int) -> None:
    """Every answer a model could have given, token by token: 发 and 😀 are several tokens each."""
    answer = '{"kind": "发票😀é\\n \\"q\\"", "total": -12.5e3}'
    schema = thing(kind=TEXT, total=NUMBER)
    constraint, run = babbler._grammars.constraint(schema), Run(finish_reason="length")
    script = iter(babbler._ids(answer)[:cut])
    choose = constraint.chooser(lambda logits: next(script))
    said = [choose(np.zeros(babbler.manifest.llm.vocab_size, np.float32)) for _ in range(cut)]
    text = "".join(Stream(constraint.closed(iter(said), run), babbler.tokenizer, run))
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


def test_what_the_model_knows_is_still_its_own(reader: Model) -> None:
    """Where the model answers with such JSON by itself, a schema changes nothing."""
    page = REFERENCE.parents[2] / "calib_data" / "heldout" / "simple_0000.png"
    content = [{"type": "image", "image": page}, {"type": "text", "text": "Locate the city."}]
    messages = [{"role": "user", "content": content}]
    corners = {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4}
    assert reader.generate(messages, json_schema=thing(bbox_2d=corners)) == reader.generate(messages)


def test_a_seed_repeats_and_a_schema_may_be_text(babbler: Model) -> None:
    options = {"max_new_tokens": 20, "temperature": 1.0, "seed": 5}
    first = babbler.generate(QUESTION, json_schema=SCHEMAS["flat"], **options)
    assert first == babbler.generate(QUESTION, json_schema=json.dumps(SCHEMAS["flat"]), **options)


BAD: dict[str, tuple[Any, str]] = {
    "a type there is not": ({"type": "objekt"}, "Invalid type: objekt"),
    "a keyword that is not supported": ({"not": {}}, "Unimplemented keys"),
    "a reference to nowhere": ({"$ref": "#/x"}, "does not exist"),
    "a broken pattern": ({"type": "string", "pattern": "("}, "regex parse error"),
    "not JSON": ("{", "is not a JSON object"),
    "a list": ("[]", "is not a JSON object"),
    "a number": (3, "is not a JSON object"),
    "a value JSON cannot hold": ({"const": object()}, "is not a JSON object"),
    "what cannot be": ({"type": "integer", "minimum": 3, "maximum": 2}, "json_schema cannot be used"),
}


@pytest.mark.parametrize(("schema", "reason"), BAD.values(), ids=BAD)
def test_a_bad_schema_is_one_line(babbler: Model, schema: Any, reason: str) -> None:
    with pytest.raises(PromptError, match=reason) as caught:
        babbler.stream(QUESTION, json_schema=schema)
    assert "\n" not in str(caught.value)


def test_a_schema_and_ignore_eos_exclude_each_other(babbler: Model) -> None:
    with pytest.raises(PromptError, match="exclude each other"):
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
    monkeypatch.setattr("qvl_runtime.constrain.DEPTHS", (2,))
    with pytest.raises(PromptError, match="no short ending"):
        babbler.generate(QUESTION, 1, json_schema=SCHEMAS["lengths"])


def test_endings_are_searched_not_guessed(babbler: Model) -> None:
    """Only `B` leads out of this string, and it is no likely ending."""
    constraint: Constraint = babbler._grammars.constraint(SCHEMAS["a pattern that could go on for ever"])

    def nothing() -> Iterator[int]:
        return iter(())

    text = babbler.tokenizer.decode(list(constraint.closed(nothing(), Run(finish_reason="length"))))
    jsonschema.validate(json.loads(text), SCHEMAS["a pattern that could go on for ever"])


def test_other_answers_stay_free(babbler: Model, model: Loader) -> None:
    before = babbler.generate(QUESTION, 12)
    babbler.generate(QUESTION, 12, json_schema={})
    assert babbler.generate(QUESTION, 12) == before == model("qwen2_5_vl", "deep", "fp32").generate(QUESTION, 12)
