"""The states of recurrent layers, as arrays of the host: inputs and outputs of every call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import EngineError
from ...manifest import Manifest
from ..snapshots import Copy, Snapshots


class States:
    """The states of recurrent layers: those after the latest call and before it, and a few copies.

    A call with p past tokens continues the state after p tokens, see `sessions.layer_states.RecurrentStates`.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._tensors = manifest.cache_tensors("recurrent")
        self._recent: dict[int, Copy] = {}
        self._snapshots = Snapshots()

    def after(self, past: int) -> Copy:
        """Returns the graph's inputs; raises EngineError if the state after `past` tokens is not kept."""
        if past == 0:
            return {tensor.past: np.zeros(tensor.dims(0), np.float32) for tensor in self._tensors}
        if self._tensors and self.resumable(past) != past:
            raise EngineError(f"no state of the recurrent layers after {past} tokens is kept")
        return self._recent[past] if past in self._recent else self._snapshots[past] if self._tensors else {}

    def advance(self, past: int, before: Copy, total: int, found: Mapping[str, Any]) -> None:
        """Records the states that a call read and wrote."""
        self._snapshots.drop_after(past)
        self._recent = {past: before, total: {tensor.past: np.array(found[tensor.present]) for tensor in self._tensors}}

    def snapshot(self) -> None:
        """See `sessions.engine.Engine`."""
        if self._tensors and self._recent:
            latest = max(self._recent)
            self._snapshots.keep(latest, self._recent[latest])

    def resumable(self, past: int) -> int:
        """See `sessions.engine.Engine`."""
        if not self._tensors:
            return past
        return max(count for count in (0, *self._snapshots.counts(), *self._recent) if count <= past)
