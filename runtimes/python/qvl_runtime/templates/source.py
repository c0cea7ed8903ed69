"""Prepares the source of a chat template for minijinja: checks its limits and rewrites Python-isms as filters.

minijinja limits the nesting of brackets and blocks, but not chains such as `{{ ---1 }}`, in which every operator is a
call on the native stack. `MAX_OPERATORS` of them take less than 256 KiB of stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

METHODS = frozenset(
    ("rsplit", "partition", "rpartition", "removeprefix", "removesuffix", "swapcase", "casefold", "zfill", "ljust")
    + ("rjust", "center", "index", "rindex", "isdecimal", "istitle", "isidentifier", "isprintable")
)
"""Methods of Python's strings that minijinja lacks; calls are rewritten as the filter `py_NAME`."""
MAX_SOURCE = 1 << 18
"""Maximum characters; the longest published templates have about 20,000."""
MAX_OPERATORS = 400
"""Maximum operators in one `{{ … }}` or `{% … %}`; published templates have fewer than 50."""
MAX_BRANCHES = 200
"""Maximum `elif`s of a template: each is nested in the previous one."""
_GENERATION = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
_OPENING = re.compile(r"\{[{%#]")
_RAW_END = re.compile(r"\{%[-+]?\s*endraw\s*[-+]?%\}")
_TOKEN = re.compile(
    r"(?P<space>\s*)(?:(?P<string>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|(?P<name>[^\W\d]\w*)"
    r"|(?P<number>\d[\d_]*(?:\.\d+)?)|(?P<close>[-+]?(?:%\}|\}\}))|(?P<op>//|\*\*|[=!<>]=|\S)|(?P<end>\Z))",
    re.DOTALL,
)
_CHAINS = frozenset(("+", "-", "*", "/", "//", "%", "**", "~", "|", ".", "(", "[", "<", ">", "==", "!=", "<=", ">="))
_KEYWORDS = frozenset(("not", "and", "or", "is", "in", "if", "else", "elif", "set", "for", "recursive"))
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_OPENING_OF = {closing: opening for opening, closing in _CLOSING.items()}


class Token(NamedTuple):
    """A token of a tag: its kind (string, name, number, op, close, end), its text, and the whitespace before it."""

    kind: str
    text: str
    space: str = ""

    @property
    def ends_value(self) -> bool:
        """Whether a value may end with this token, so that a bracket after it is a call or a subscript."""
        return self.kind in ("string", "number") or self.text in (")", "]", "}") or self.is_name

    @property
    def is_name(self) -> bool:
        return self.kind == "name" and self.text not in _KEYWORDS


class SourceError(ValueError):
    """A template source exceeds the limits."""


def prepare(source: str) -> str:
    """Returns the source rewritten for minijinja; raises SourceError if it exceeds the limits."""
    if len(source) > MAX_SOURCE:
        raise SourceError(f"it has {len(source)} characters, more than {MAX_SOURCE}")
    pieces, branches = list[str](), 0
    for piece in _pieces(_GENERATION.sub(_replace_generation, source)):
        if isinstance(piece, str):
            pieces.append(piece)
            continue
        branches += sum(token.text == "elif" for token in piece)
        _check_chain(piece)
        pieces += [token.space + token.text for token in _rewrite(piece)]
    if branches > MAX_BRANCHES:
        raise SourceError(f"it has {branches} elifs, more than {MAX_BRANCHES}")
    return "".join(pieces)


def _replace_generation(match: re.Match[str]) -> str:
    """Replaces `{% generation %}`, which only marks training tokens, by a true `if`, keeping whitespace control."""
    before, end, after = match.groups()
    return f"{{%{before} {'endif' if end else 'if true'} {after}%}}"


def _check_chain(tokens: list[Token]) -> None:
    operators = sum(token.text in (_CHAINS if token.kind == "op" else _KEYWORDS) for token in tokens)
    if operators > MAX_OPERATORS:
        raise SourceError(f"an expression has {operators} operators, more than {MAX_OPERATORS}")


def _pieces(source: str) -> Iterator[str | list[Token]]:
    """Yields tags as token lists, and the text between them, comments included, as strings."""
    index = 0
    while found := _OPENING.search(source, index):
        if found.group() == "{#":
            end = source.find("#}", found.end())
            end = len(source) if end < 0 else end + 2
            yield source[index:end]
            index = end
            continue
        yield source[index : found.end()]
        tokens, index = _tag(source, found.end())
        yield tokens
        if [token.text for token in tokens if token.kind == "name"] == ["raw"]:
            raw = _RAW_END.search(source, index)
            end = raw.start() if raw else len(source)
            yield source[index:end]
            index = end
    yield source[index:]


def _tag(source: str, start: int) -> tuple[list[Token], int]:
    """Returns the tokens of a tag up to its end and the index after it; braces of inner mappings do not end it."""
    tokens, depth, index = list[Token](), 0, start
    while match := _TOKEN.match(source, index):
        kind, space = str(match.lastgroup), match["space"]
        text, index = match[kind], match.end()
        if kind == "close" and depth and text[-2] == "}":  # the first brace closes a mapping
            index -= len(text) - 1
            kind, text = "op", text[0]
        depth += (text == "{") - (text == "}") if kind == "op" else 0
        tokens.append(Token(kind, text, space))
        if kind in ("close", "end"):
            break
    return tokens, index


def _rewrite(tokens: list[Token]) -> list[Token]:
    """Rewrites `a.rsplit(b)` as `(a|py_rsplit(b))`, `"…" % x` as `("…"|py_percent(x))`; leaves unparsable tokens."""
    index = 0
    while index < len(tokens):
        if tokens[index].text == "." and tokens[index].kind == "op":
            tokens = _rewrite_method(tokens, index)
        elif (
            tokens[index].text in ("boolean", "default_value")
            and tokens[index + 1 : index + 2][:1]
            and (tokens[index + 1].text == "=" and tokens[index - 1].text in ("(", ","))
        ):  # minijinja's `default` takes no keyword arguments
            tokens = [*tokens[:index], *tokens[index + 2 :]]
        elif tokens[index].text == "%" and index and tokens[index - 1].kind == "string":
            tokens = _rewrite_percent(tokens, index)
        index += 1
    return tokens


def _rewrite_method(tokens: list[Token], dot: int) -> list[Token]:
    """Returns the tokens with the method call at `dot` rewritten as a filter, if minijinja lacks the method."""
    if [token.text in wanted for token, wanted in zip(tokens[dot + 1 :], (METHODS, "("), strict=False)] != [True] * 2:
        return tokens
    start, end = _value_start(tokens, dot - 1), _closing_bracket(tokens, dot + 2)
    if start is None or end is None:
        return tokens
    method_filter = tokens[dot + 1]._replace(text=f"py_{tokens[dot + 1].text}")
    inner = [*_strip_first(tokens[start:dot]), Token("op", "|"), method_filter, *tokens[dot + 2 : end + 1]]
    return [*tokens[:start], Token("op", "(", tokens[start].space), *inner, Token("op", ")"), *tokens[end + 1 :]]


def _rewrite_percent(tokens: list[Token], sign: int) -> list[Token]:
    """Returns the tokens with the `%` at `sign`, whose left operand is a string, rewritten as a filter."""
    end = _value_end(tokens, sign + 1)
    if end is None:
        return tokens
    operand = _strip_first(tokens[sign + 1 : end + 1])
    if operand[0].text != "(" or _closing_bracket(operand, 0) != len(operand) - 1:
        operand = [Token("op", "("), *operand, Token("op", ")")]
    text = tokens[sign - 1]
    inner = [*_strip_first([text]), Token("op", "|"), Token("name", "py_percent"), *operand]
    return [*tokens[: sign - 1], Token("op", "(", text.space), *inner, Token("op", ")"), *tokens[end + 1 :]]


def _strip_first(tokens: list[Token]) -> list[Token]:
    """Returns the tokens without the whitespace before the first."""
    return [tokens[0]._replace(space=""), *tokens[1:]]


def _closing_bracket(tokens: list[Token], opened: int) -> int | None:
    """Returns the index of the bracket that closes the one at `opened`."""
    depth = 0
    for index in range(opened, len(tokens)):
        if tokens[index].kind == "op":
            depth += (tokens[index].text in _CLOSING) - (tokens[index].text in _OPENING_OF)
        if depth == 0:
            return index
    return None


def _opening_bracket(tokens: list[Token], closed: int) -> int | None:
    """Returns the index of the bracket that the one at `closed` closes."""
    found = _closing_bracket([token._replace(text=_OPENING_OF.get(token.text, _CLOSING.get(token.text, token.text)))
                       if token.kind == "op" else token for token in reversed(tokens[: closed + 1])], 0)  # fmt: skip
    return None if found is None else closed - found


def _value_start(tokens: list[Token], index: int) -> int | None:
    """Returns the first index of the value that ends at `index`, including calls, subscripts and attributes."""
    while index >= 0 and tokens[index].ends_value:
        if tokens[index].kind == "op":
            opened = _opening_bracket(tokens, index)
            if opened is None or opened == 0 or not tokens[opened - 1].ends_value:
                return opened
            index = opened - 1
        elif index and tokens[index - 1].text == "." and tokens[index].is_name:
            index -= 2
        else:
            return index
    return None


def _value_end(tokens: list[Token], index: int) -> int | None:
    """Returns the last index of the value that begins at `index`."""
    end = _closing_bracket(tokens, index) if tokens[index].text in _CLOSING else index
    if end is None or not tokens[end].ends_value:
        return None
    while tokens[end + 1 : end + 2] and tokens[end + 1].text in (".", "(", "["):
        after = end + 2 if tokens[end + 1].text == "." else _closing_bracket(tokens, end + 1)
        if after is None or after >= len(tokens):
            return None
        end = after
    return end
