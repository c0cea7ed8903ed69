"""The interface of engines, independent of what runs the graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, runtime_checkable

from ..common.arrays import Floats, Ints
from ..errors import EngineError
from ..positions import Grid


@dataclass(frozen=True)
class LlmInputs:
    """One call of the `llm` graph: new tokens after `past` cached ones.

    `ids` [S], `positions` [3, S], `features` [1 + D, N, H] for the tokens at `feature_indices` [N], logits requested at
    `wanted` [K]; both index from the first new token. Features are those of images and of D DeepStack layers.
    Tokens of an `answer` are run by the decode graph if the bundle has one. `ntk_alpha` is the prompt's.
    """

    ids: Ints
    positions: Ints
    features: Floats
    feature_indices: Ints
    wanted: Ints
    past: int
    answer: bool = False
    ntk_alpha: float = 1.0


class Engine(Protocol):
    """Runs the graphs of one bundle and owns what their layers keep between calls, the cache."""

    def encode(self, pixel_values: Floats, grid: Grid, cells: Ints | None = None) -> Floats:
        """Patches [frames, patches, dim] → features [1 + D, tokens, H] of the image and of D DeepStack layers.

        Patches are all of the grid, or those of its `cells` [n], the same of every frame.
        """

    def forward(self, inputs: LlmInputs) -> Floats:
        """Returns logits [K, vocab]; the cache then holds past + S tokens.

        Raises EngineError if the cache cannot continue after `past` tokens, see `resumable`.
        """

    def snapshot(self) -> None:
        """Keeps a copy of the recurrent states after the cached tokens, if any layer has one; old copies are dropped.

        Copies of states after more tokens than a later call's `past` are dropped, too.
        """

    def resumable(self, past: int) -> int:
        """Returns the largest number of tokens, at most `past`, after which the cache can continue.

        Keys and values continue after any; recurrent states after the latest call, before it, and where `snapshot` was
        called.
        """

    def clear(self) -> None:
        """Frees the cache; the next call starts with an empty one."""

    def close(self) -> None:
        """Frees everything; any later call raises EngineError."""


@runtime_checkable
class Forkable(Protocol):
    """An engine whose graphs several caches can share, so that it computes several answers at the same time."""

    def fork(self) -> Engine:
        """Returns an engine of the same graphs with an empty cache of its own, for another thread."""

    def adopt(self, other: Any, tokens: int) -> None:
        """Copies the first `tokens` tokens of another fork's cache in place of its own.

        The other fork may meanwhile run calls with at least that many past tokens. Recurrent states are not copied.
        """


def raise_closed(*_: Any, **__: Any) -> NoReturn:
    """Replaces the methods of a closed engine; raises EngineError."""
    raise EngineError("the model is closed", fix="load the bundle again")


def end_calls(engine: Engine) -> None:
    """Is called by `Engine.close`: from now on methods of the engine raise EngineError, and `close` does nothing."""
    vars(engine).update(
        dict.fromkeys(("encode", "forward", "snapshot", "resumable", "clear", "fork", "adopt"), raise_closed)
    )
    vars(engine).update(close=_do_nothing)


def _do_nothing() -> None: ...
