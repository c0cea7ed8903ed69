"""Scores of plain text: CER, WER, exact match, ANLS."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rapidfuzz.distance import Levenshtein

from .fraction import Fraction
from .text_normalization import collapse_whitespace, normalize

ANLS_THRESHOLD = 0.5
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")


def words(text: str) -> list[str]:
    """Splits a text into runs of non-whitespace characters; every ideograph or kana is a word of its own."""
    return _WORD.findall(normalize(text))


def without_whitespace(text: str) -> str:
    """Returns the text without whitespace."""
    return "".join(normalize(text).split())


def error_rate(answer: str, truths: Sequence[str], units: Callable[[str], Sequence[str]] = normalize) -> Fraction:
    """Returns (Levenshtein distance, length of the truth) in units, for the truth with the lowest rate.

    The units are characters by default (CER); with `words` the rate is the WER.
    """
    given = units(answer)
    pairs = [(float(Levenshtein.distance(given, truth)), float(len(truth))) for truth in map(units, truths)]
    return min(pairs, key=lambda pair: pair[0] / max(pair[1], 1))


def exact_match(answer: str, truths: Sequence[str]) -> Fraction:
    """Returns (1, 1) if the answer equals any of the truths, else (0, 1)."""
    return float(any(normalize(answer) == normalize(truth) for truth in truths)), 1.0


def anls(answer: str, truths: Sequence[str]) -> float:
    """Returns the ANLS term of one answer (Biten et al. 2019): 1 − normalized Levenshtein distance, 0 if that is ≥ 0.5.

    The truth nearest to the answer counts. Case and the length of whitespace are ignored.
    """
    given = collapse_whitespace(answer).lower()
    least = min(Levenshtein.normalized_distance(given, collapse_whitespace(truth).lower()) for truth in truths)
    return 1 - least if least < ANLS_THRESHOLD else 0.0
