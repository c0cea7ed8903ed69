"""The statistics of an answer, as JSON shows them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..answers.generate import GenerationStats


def report(run: GenerationStats) -> dict[str, Any]:
    """Returns tokens, finish reason, counts, times in seconds, and tokens per second (None for one token)."""
    speed = run.tokens_per_second
    times = {name: round(seconds, 4) for name, seconds in asdict(run.times).items()}
    return {
        "tokens": run.tokens,
        "finish_reason": run.finish_reason,
        **({"stop_string": run.stop_string} if run.stop_string else {}),
        **({"loop": run.loop} if run.loop else {}),
        **({"forced": run.forced} if run.forced else {}),
        **({"logprobs": [asdict(entry) for entry in run.logprobs]} if run.logprobs else {}),
        "counts": asdict(run.counts),
        "seconds": times,
        "tokens_per_second": None if speed is None else round(speed, 2),
    }
