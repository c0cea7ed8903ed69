"""Where a scale of a linear's inputs can go instead: into the outputs of what comes before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Fold:
    """Input channel k of `linears` is output `channels[k]` of `source`, a norm or linear that nothing else reads.

    Multiplying the channels of the linears and dividing the outputs of the source by the same numbers changes nothing.
    The outputs of a `cached` source lie in the KV cache: graphs that share it must take the same numbers.
    """

    linears: tuple[str, ...]
    source: str
    channels: npt.NDArray[np.int64]
    cached: bool = False
