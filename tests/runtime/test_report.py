"""The statistics of an answer as JSON shows them."""

from __future__ import annotations

import json

from qvl_runtime.answers.generate import GenerationStats, PhaseSeconds, TokenCounts
from qvl_runtime.cli.report import report


def test_speed_is_that_of_the_tokens_after_the_first() -> None:
    stats = GenerationStats(finish_reason="stop", tokens=[5, 6, 7])
    stats.counts, stats.times = TokenCounts(prompt=9, generated=3), PhaseSeconds(prefill=0.123456, decode=0.5)
    shown = report(stats)
    assert (shown["tokens"], shown["finish_reason"], shown["tokens_per_second"]) == ([5, 6, 7], "stop", 4.0)
    assert (shown["counts"]["prompt"], shown["seconds"]["prefill"]) == (9, 0.1235)
    assert "stop_string" not in shown and "forced" not in shown
    assert json.loads(json.dumps(shown)) == shown


def test_one_token_has_no_speed() -> None:
    """What passes after it, until the answer has ended, is no time of a token."""
    stats = GenerationStats(finish_reason="stop", tokens=[5])
    stats.counts, stats.times = TokenCounts(prompt=9, generated=1), PhaseSeconds(prefill=0.1, decode=0.0001)
    assert stats.tokens_per_second is None and json.dumps(report(stats)).endswith('"tokens_per_second": null}')


def test_nothing_decoded_has_no_speed() -> None:
    shown = report(GenerationStats(finish_reason="stop", stop_string="END", forced=2))
    assert shown["tokens_per_second"] is None and (shown["stop_string"], shown["forced"]) == ("END", 2)
