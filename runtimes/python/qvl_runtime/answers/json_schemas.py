"""Unwraps JSON schemas given by callers, and rejects or warns about those that an answer could not follow."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from ..errors import PromptError

Schema = Mapping[str, Any] | str
WRAPPING = {"name", "schema", "strict", "description", "type"}
"""Keys of OpenAI's wrapper object, whose type is `json_schema`."""
APPLICATORS = {"properties", "patternProperties", "additionalProperties", "prefixItems", "items", "additionalItems"} | {
    *("allOf", "anyOf", "oneOf", "$ref")
}
ASSERTIONS = {
    *("type", "enum", "const", "required", "minProperties", "maxProperties", "minItems", "maxItems"),
    *("minLength", "maxLength", "pattern", "format", "minimum", "maximum"),
    *("exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
ANNOTATIONS = {
    *("$schema", "$id", "id", "$anchor", "$defs", "definitions", "$comment", "$vocabulary", "title", "description"),
    *("default", "examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator"),
    *("contentEncoding", "contentMediaType", "contentSchema"),
}
KEYWORDS = APPLICATORS | ASSERTIONS | ANNOTATIONS
"""The keywords that llguidance enforces, and annotations; it rejects the standard's other keywords."""


class IgnoredKeywordWarning(UserWarning):
    """A JSON schema has keys that are not keywords and constrain nothing."""


def read(schema: Schema) -> dict[str, Any]:
    """Returns the schema without OpenAI's wrapper; raises PromptError if it is not a JSON object."""
    try:
        value = json.loads(schema) if isinstance(schema, str) else schema
        if not isinstance(value, Mapping):
            raise TypeError(f"it is a {type(value).__name__}")
        value = _unwrapped(value)
        found: dict[str, Any] = json.loads(json.dumps(value))  # makes all keys strings
    except (TypeError, ValueError, RecursionError) as error:
        raise PromptError(f"json_schema is not a JSON object: {error}") from error
    return found


def _unwrapped(value: Mapping[str, Any]) -> dict[str, Any]:
    if value.keys() == {"response_format"} and isinstance(value["response_format"], Mapping):
        value = value["response_format"]
    if value.get("type") == "json_object":
        return {**value, "type": "object"}
    if value.get("type") == "json_schema" and isinstance(value.get("json_schema"), Mapping):
        value = value["json_schema"]
    if "schema" in value and value.keys() <= WRAPPING:
        value = value["schema"]
        if not isinstance(value, Mapping):
            raise TypeError(f"its schema is a {type(value).__name__}")
    return dict(value)


def check(schema: dict[str, Any]) -> None:
    """Warns about unknown keys; raises PromptError if there are no others, or if every answer would be infinite."""
    if schema and not any(key in KEYWORDS or key.startswith("x-") for key in schema):
        raise PromptError(
            f"json_schema would constrain nothing: {_listed(schema)} are not keywords of JSON Schema",
            fix='give the schema itself, such as {"type": "object", "properties": …}',
        )
    nodes = _reachable(schema)
    unknown = [(key, at) for node, at in nodes for key in node if key not in KEYWORDS and not key.startswith("x-")]
    for key, at in unknown[:4]:
        near = difflib.get_close_matches(key, KEYWORDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        warnings.warn(
            f"json_schema: {key[:40]!r} at {at[:80]} is not a keyword of JSON Schema and constrains nothing{hint}",
            IgnoredKeywordWarning,
            stacklevel=2,
        )
    if any("$ref" in node for node, _ in nodes) and not _can_end(schema, [node for node, _ in nodes]):
        raise PromptError(
            "json_schema allows no finite answer: a required part contains itself",
            fix="make the field or the items that refer back optional, or allow null there",
        )


def _reachable(schema: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Returns every subschema that may apply to an answer, with its path; follows references; the root comes first."""
    found, seen = [(schema, "#")], {id(schema)}
    for node, at in found:  # grows during iteration
        for name, child in _children(schema, node):
            if isinstance(child, dict) and id(child) not in seen:
                seen.add(id(child))
                found.append((child, name if name.startswith("#") else f"{at}/{name}"))
    return found


def _children(root: dict[str, Any], node: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in APPLICATORS & node.keys():
        value = node[key]
        if key == "$ref":
            yield str(value), _target(root, value)
        elif isinstance(value, list):
            yield from ((f"{key}/{index}", child) for index, child in enumerate(value))
        elif key in ("properties", "patternProperties") and isinstance(value, dict):
            yield from ((f"{key}/{name}", child) for name, child in value.items())
        else:
            yield key, value


def _target(root: dict[str, Any], reference: Any) -> Any:
    """Resolves a reference within the document; None for other references, which llguidance resolves or rejects."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return None
    node: Any = root
    for part in unquote(reference).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, dict):
            node = node.get(key)
        else:
            return None
    return node


def _can_end(root: dict[str, Any], nodes: list[dict[str, Any]]) -> bool:
    """Whether some finite answer satisfies the schema: the least fixed point over all its subschemas."""
    ends: set[int] = set()

    def ending(value: Any) -> bool:
        return id(value) in ends if isinstance(value, dict) else value is not False

    grown = True
    while grown:
        grown = False
        for node in reversed(nodes):
            if id(node) not in ends and _ends(root, node, ending):
                ends.add(id(node))
                grown = True
    return id(root) in ends


def _ends(root: dict[str, Any], node: dict[str, Any], ending: Any) -> bool:
    """Whether an answer to `node` can be finite if those subschemas allow finite answers for which `ending` holds."""
    if "$ref" in node and not ending(_target(root, node["$ref"])):
        return False
    for key, enough in (("allOf", all), ("anyOf", any), ("oneOf", any)):
        if (parts := node.get(key)) and isinstance(parts, list) and not enough(ending(part) for part in parts):
            return False
    if "const" in node or "enum" in node:
        return True
    kinds = node.get("type", "any")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    ways = {"object": _object_ends, "array": _array_ends}
    return any(ways[kind](node, ending) if kind in ("object", "array") else True for kind in kinds)


def _object_ends(node: dict[str, Any], ending: Any) -> bool:
    named, others = _mapping(node.get("properties")), node.get("additionalProperties", True)
    patterns = list(_mapping(node.get("patternProperties")).values())
    required = node.get("required")
    needed = [named.get(name, patterns or others) for name in (required if isinstance(required, list) else [])]
    if not all(ending(value) for value in needed):
        return False
    least = node.get("minProperties", 0)
    return not (isinstance(least, int) and least > 0) or any(map(ending, [*named.values(), *patterns, others]))


def _array_ends(node: dict[str, Any], ending: Any) -> bool:
    items = node.get("items", True)
    first = items if isinstance(items, list) else node.get("prefixItems", [])
    rest = node.get("additionalItems", True) if isinstance(items, list) else items
    least = node.get("minItems", 0)
    if not (isinstance(least, int) and isinstance(first, list)):
        return True
    return all(map(ending, first[:least])) and (least <= len(first) or ending(rest))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _listed(value: Mapping[str, Any]) -> str:
    return ", ".join(repr(str(key)[:40]) for key in list(value)[:4])
