"""The presence penalty, as OpenAI and vLLM define it: a fixed amount off the logits of tokens that were generated.

Unlike `penalties.Penalties`, it ignores the prompt, so that text which the page repeats may be read as often as it is
there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..common.checks import check_float
from .sampling import Logits, TokenPicker

MOST = 2.0


@dataclass(frozen=True)
class PresencePenalty:
    """Subtracts `amount` from the logits of tokens of the answer so far; 0 disables it, negative amounts favor them.

    It applies after `penalties.Penalties` and before the temperature, as in vLLM. Raises PromptError unless the amount
    is from −2 to 2, the range of OpenAI's interface.
    """

    amount: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "amount", check_float("presence_penalty", self.amount, -MOST, MOST, fix="0 is none"))

    def picker(self, pick: TokenPicker) -> TokenPicker:
        """Applies `pick` to penalized logits; the tokens it chooses count from then on."""
        if not self.amount:
            return pick
        chosen: set[int] = set()

        def penalized(logits: Logits) -> int:
            left, tokens = logits.copy(), list(chosen)
            left[tokens] -= np.float32(self.amount)
            token = pick(left)
            chosen.add(token)
            return token

        return penalized
