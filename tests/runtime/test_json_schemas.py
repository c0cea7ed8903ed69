"""JSON schemas: which are taken, and the error for every other."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import jsonschema_specifications
import numpy as np
import pytest

from qvl_runtime.answers import json_schemas
from qvl_runtime.answers.constrain import Constraint, Grammars
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.answers.json_schemas import IgnoredKeywordWarning
from qvl_runtime.errors import PromptError
from qvl_runtime.model import Model
from tests.runtime.test_constrain import NUMBER, QUESTION, TEXT, thing

pytestmark = pytest.mark.filterwarnings("ignore::qvl_runtime.errors.TruncatedAnswerWarning")


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


FLAT = thing(name=TEXT, total={"type": "integer"})


WRAPPED: dict[str, Any] = {
    "OpenAI's json_schema": {"name": "fields", "schema": FLAT, "strict": True},
    "with a description": {"name": "fields", "description": "The fields.", "schema": FLAT},
    "OpenAI's response_format": {"type": "json_schema", "json_schema": {"name": "fields", "schema": FLAT}},
    "OpenAI's newer format": {"type": "json_schema", "name": "fields", "schema": FLAT, "strict": True},
    "response_format itself": {"response_format": {"type": "json_schema", "json_schema": {"schema": FLAT}}},
    "as text": json.dumps({"name": "fields", "schema": FLAT}),
}


@pytest.mark.parametrize("schema", WRAPPED.values(), ids=WRAPPED)
def test_a_wrapped_schema_is_unwrapped(babbler: Model, schema: Any) -> None:
    """It used to constrain nothing."""
    options = {"temperature": 1.3, "seed": 1, "max_new_tokens": 30}
    answer = babbler.generate(QUESTION, json_schema=schema, **options)
    jsonschema.validate(json.loads(answer), FLAT)
    assert answer == babbler.generate(QUESTION, json_schema=FLAT, **options)


def test_json_object_is_any_object(babbler: Model) -> None:
    assert isinstance(json.loads(babbler.generate(QUESTION, 9, json_schema={"type": "json_object"})), dict)


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "no choice": {"enum": []},
    "no type": {"type": []},
    "a forbidden field": {"type": "object", "properties": {"a": False}, "required": ["a"]},
    "a field that may not be": thing(a=TEXT) | {"required": ["b"]},
    "lengths": {"type": "string", "minLength": 3, "maxLength": 2},
    "counts": {"type": "array", "minItems": 3, "maxItems": 2},
    "types": {"allOf": [TEXT, NUMBER]},
    "bounds apart": {"allOf": [{"type": "integer", "minimum": 5}, {"type": "integer", "maximum": 2}]},
    "a pattern without a match": {"type": "string", "pattern": "[^\\s\\S]"},
    "no multiple": {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 6},
    "a choice of another type": {"type": "integer", "enum": ["a"]},
    "too deep": json.loads('{"items": ' * 300 + "{}" + "}" * 300),
}


@pytest.mark.parametrize("schema", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_schema_that_nothing_follows_is_refused(babbler: Model, schema: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match="json_schema cannot be used: ") as caught:
        babbler.stream(QUESTION, json_schema=schema)
    assert "\n" not in str(caught.value)


def test_keys_that_are_numbers_are_texts_in_json(babbler: Model) -> None:
    with pytest.warns(IgnoredKeywordWarning, match="'1' at # is not a keyword"):
        babbler.generate(QUESTION, 5, json_schema={1: 2, "type": "array"})  # type: ignore[dict-item]


def test_a_key_that_is_not_a_keyword_is_noted(babbler: Model) -> None:
    """A misspelt one used to be passed over without a word."""
    inner = {"type": "object", "requierd": ["a"], "x-order": 3, "title": "t"}
    with pytest.warns(IgnoredKeywordWarning) as caught:
        babbler.generate(QUESTION, 5, json_schema={"type": "array", "items": inner, "nullable": True})
    assert [str(warning.message) for warning in caught if warning.category is IgnoredKeywordWarning] == [
        "json_schema: 'nullable' at # is not a keyword of JSON Schema and constrains nothing",
        "json_schema: 'requierd' at #/items is not a keyword of JSON Schema and constrains nothing; "
        "did you mean 'required'?",
    ]


@pytest.mark.parametrize("schema", [{"parameters": FLAT, "name": "f"}, {"propertes": {}}, {"name": "f"}], ids=str)
def test_values_that_are_not_schemas_are_refused(babbler: Model, schema: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match="json_schema would constrain nothing: "):
        babbler.stream(QUESTION, json_schema=schema)


EXAMPLES: dict[str, Any] = {
    "type": "integer", "const": "ab", "enum": ["ab"], "multipleOf": 3, "maximum": 3, "minimum": 3,
    "exclusiveMaximum": 3, "exclusiveMinimum": 3, "maxLength": 1, "minLength": 9, "pattern": "^b", "maxItems": 0,
    "minItems": 3, "maxProperties": 0, "minProperties": 3, "required": ["c"], "properties": {"a": TEXT},
    "patternProperties": {"^a": TEXT}, "additionalProperties": TEXT, "items": TEXT, "prefixItems": [TEXT],
    "allOf": [NUMBER], "anyOf": [NUMBER], "oneOf": [NUMBER], "$ref": "#/$defs/n", "format": "date",
    "uniqueItems": True, "contains": TEXT, "minContains": 2, "maxContains": 0, "not": {}, "if": {}, "then": False,
    "else": False, "propertyNames": {"pattern": "^b"}, "dependentRequired": {"a": ["b"]},
    "dependentSchemas": {"a": False}, "dependencies": {"a": ["b"]}, "unevaluatedItems": False,
    "unevaluatedProperties": False, "$dynamicRef": "#n", "$recursiveRef": "#", "additionalItems": False,
}  # fmt: skip
"""A value for every keyword of the drafts by which something is not allowed."""


def test_every_keyword_of_the_drafts_is_followed_or_refused(babbler: Model, grammars: Grammars) -> None:
    """Each of them forbids a value here, or is refused by the engine; none is passed over."""
    values = ["x", 7, [1, 1, "x"], [], {"a": 1}, {}, {"a": 1, "b": 2}, "1999-01-01", 3, -1, {"q": 1}]
    named = {key for meta in META for key in meta.get("properties", {})}
    assert named <= EXAMPLES.keys() | json_schemas.ANNOTATIONS | {"$dynamicAnchor", "$recursiveAnchor"}
    for keyword, value in EXAMPLES.items():
        schema = {keyword: value, **({"$defs": {"n": NUMBER}} if keyword == "$ref" else {})}
        if keyword == "additionalItems":
            schema |= {"$schema": "http://json-schema.org/draft-07/schema#", "items": [NUMBER]}
        if keyword not in json_schemas.KEYWORDS:
            with pytest.raises(PromptError, match="Unimplemented keys"):
                grammars.constraint(schema)
            continue
        constraints = [grammars.constraint(schema) for _ in values]
        taken = [_takes(babbler, one, json.dumps(text)) for one, text in zip(constraints, values, strict=True)]
        judge = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema)
        valid = [judge.is_valid(value) for value in values]
        if keyword != "format":  # an annotation to jsonschema
            assert taken == valid, keyword
        assert not all(taken), keyword


def _takes(model: Model, constraint: Constraint, text: str) -> bool:
    """Whether the grammar allows every token of the text, and the answer to end after it."""
    script = model.token_ids(text)
    tokens, stats = iter(script), GenerationStats(finish_reason="length")
    pick = constraint.picker(lambda logits: next(tokens))
    try:
        for _ in script:
            pick(np.zeros(model.manifest.llm.vocab_size, np.float32))
        return not list(constraint.with_ending(iter(()), stats))
    except PromptError:
        return False


META = [
    schema.contents
    for uri in jsonschema_specifications.REGISTRY
    if "2020-12" in uri or uri.rstrip("#").endswith(("2019-09/schema", "draft-07/schema"))
    for schema in [jsonschema_specifications.REGISTRY[uri]]
]
