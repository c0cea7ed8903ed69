"""How much of the answers each linear's precision costs, measured on pages.

For every stage the divergence of the answers is measured with all its linears in the coarsest scheme and everything
else in float: one pass through the rest of the network. Within the stage it is shared out by the noise that each
linear alone, in each scheme, leaves in the stage's output: small errors add up in energy, and the divergence of
distributions grows with the energy of what disturbs them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from .calibrate import Tower

Floats = npt.NDArray[np.float32]


class Sensitivity(msgspec.Struct, frozen=True):
    """A linear's part in the divergence of answers, and its bytes, by precision; float is not among them."""

    name: str
    shape: tuple[int, int]
    kl: dict[str, float]


@dataclass(frozen=True)
class Chain:
    """Both towers' float stages, one after the other, over the same pages.

    `splice` puts image features into the hidden states of a page, `logits` reads the answers' logits from the last.
    """

    vision: Tower
    llm: Tower
    splice: Callable[[int, Floats], Floats]
    logits: Callable[[int, Floats], Floats]
    pages: int
