"""What an engine is asked and does, whatever runs the graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import EngineError
from ..positions import Grid, Ints

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LlmInputs:
    """One call of the `llm` graph: new tokens after `past` cached ones.

    `ids` [S], `positions` [3, S], `features` [1 + D, N, H] placed at `feature_places` [N], logits wanted at
    `wanted` [K]; both places count from the first new token. Features are those of images and of D DeepStack layers.
    Tokens of an `answer` are run by the graph for decoding where the bundle has one. `ntk_alpha` is the prompt's.
    """

    ids: Ints
    positions: Ints
    features: Floats
    feature_places: Ints
    wanted: Ints
    past: int
    answer: bool = False
    ntk_alpha: float = 1.0


class Engine(Protocol):
    """Runs the graphs of one bundle and owns their KV cache."""

    def encode(self, pixel_values: Floats, grid: Grid) -> Floats:
        """Patches [frames, patches, dim] → image features and those of D DeepStack layers [1 + D, tokens, H]."""

    def forward(self, inputs: LlmInputs) -> Floats:
        """Logits [K, vocab]; the cache then holds past + S tokens."""

    def clear(self) -> None:
        """Free the KV cache; the next call begins with an empty one."""

    def close(self) -> None:
        """Free everything; any later call raises EngineError."""


def closed(*_: Any, **__: Any) -> NoReturn:
    """What the methods of an engine become when it is closed."""
    raise EngineError("the model is closed", fix="load the bundle again")
