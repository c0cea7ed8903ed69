"""Where a prefill is cut so that later prompts can continue from there: needed for layers whose state cannot be cut.

The same prompt is always cut at the same tokens, whether its first part is in the cache or not: a state that is reused
has therefore the bits of one that is computed anew.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise, takewhile

import numpy as np

from ..prompts.prompt import Prompt


def cuts(prompt: Prompt, stop: Collection[int]) -> list[int]:
    """Returns the numbers of tokens after which the prefill of a prompt is cut, increasing; its answer is left out.

    They are the end of the last image or video of each message, and of every message after the last image or video. A
    message ends with a `stop` token.
    """
    count = len(prompt.ids) - prompt.answer_tokens
    ends = (np.flatnonzero(np.isin(prompt.ids[:count], list(stop))) + 1).tolist()
    media = [item.span.end for item in prompt.placed]
    found = [max(inside) for a, b in pairwise((0, *ends, count)) if (inside := [end for end in media if a < end <= b])]
    return [*found, *(end for end in ends if end > max(media, default=0))]


def reusable(made: list[int], wanted: list[int], most: int) -> list[int]:
    """Returns the cuts that a cached prompt and a new one have in common from the start, none after `most` tokens."""
    same = takewhile(lambda pair: pair[0] == pair[1] <= most, zip(made, wanted, strict=False))
    return [cut for cut, _ in same]
