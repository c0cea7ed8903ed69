"""What the layers keep between calls, as values of ONNX Runtime: keys and values, and recurrent states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._onnxruntime.library import ort
from ..errors import EngineError
from ..manifest import CacheTensor, Manifest
from .snapshots import Copy, Snapshots

CACHE_STEP = 512
"""The KV cache grows by multiples of this many tokens."""
DTYPES = {"float": np.float32, "float16": np.float16}


class Device(NamedTuple):
    """Where ONNX Runtime computes and keeps the KV cache: its execution provider and the names of its memory.

    `fix` is the advice if the provider cannot be loaded; ONNX Runtime would silently compute elsewhere.
    """

    provider: str = "CPUExecutionProvider"
    memory: str = "cpu"
    arena: str = "cpu:0"
    fix: str = "install onnxruntime again"


CPU = Device()


class KvCache:
    """Keys and values [1, heads, capacity, head_dim] of every token, grown in steps of CACHE_STEP tokens."""

    def __init__(self, manifest: Manifest, device: Device) -> None:
        self._longest, self._device, self._tensors = manifest.llm.max_length, device, manifest.cache_tensors("kv")
        self.capacity = 0
        self._values = {t.past: ort.OrtValue.ortvalue_from_numpy(self._empty(t, 0)) for t in self._tensors}

    def _empty(self, tensor: CacheTensor, capacity: int) -> npt.NDArray[np.floating]:
        return np.zeros(tensor.dims(capacity), DTYPES[tensor.dtype])

    def reserve(self, tokens: int, used: int, bindings: Sequence[ort.IOBinding]) -> None:
        """Makes room for `tokens` in total, keeps the first `used`, and binds the buffers as both past and present."""
        if tokens > self.capacity:
            self.copy(self, tokens, used, bindings)

    def copy(self, other: KvCache, tokens: int, used: int, bindings: Sequence[ort.IOBinding]) -> None:
        """Replaces the buffers by ones with room for `tokens`, which begin with the first `used` tokens of `other`."""
        capacity = min(-(-tokens // CACHE_STEP) * CACHE_STEP, max(tokens, self._longest))
        self.capacity = 0  # until all are bound: if memory runs out halfway, the next call starts over
        for tensor in self._tensors:
            grown = self._empty(tensor, capacity)
            kept = other._values[tensor.past]  # numpy() does not own the memory, and the other may grow meanwhile
            grown[:, :, :used] = kept.numpy()[:, :, :used]
            value = self._values[tensor.past] = ort.OrtValue.ortvalue_from_numpy(grown, self._device.memory, 0)
            for binding in bindings:
                binding.bind_ortvalue_input(tensor.past, value)
                binding.bind_ortvalue_output(tensor.present, value)
        self.capacity = capacity


class RecurrentStates:
    """The states of recurrent layers, in two slots: a call reads one and writes the other.

    The state before the latest call therefore remains. `snapshot` keeps copies of others. A call with p past tokens
    continues the state after p tokens, and drops the copies of states after more: their tokens are being replaced.
    """

    def __init__(self, manifest: Manifest, device: Device) -> None:
        self._tensors, self._device = manifest.cache_tensors("recurrent"), device
        self._slots: list[dict[str, ort.OrtValue]] = []
        self._tokens: list[int | None] = [None, None]
        """Of each slot: the number of tokens that its state sums up, or None if it has none."""
        self._snapshots = Snapshots()

    def bind(self, past: int, binding: ort.IOBinding) -> None:
        """Binds the state after `past` tokens, and the other slot for the new one; raises EngineError if there is none.

        `advance` has to follow the call.
        """
        if not self._tensors:
            return
        self._snapshots.drop_after(past)
        source = self._tokens.index(past) if past in self._tokens else self._load(past)
        self._tokens[1 - source] = None
        for tensor in self._tensors:
            binding.bind_ortvalue_input(tensor.past, self._slots[source][tensor.past])
            binding.bind_ortvalue_output(tensor.present, self._slots[1 - source][tensor.past])

    def advance(self, past: int, total: int) -> None:
        """Records that the slot which `bind` chose now has the state after `total` tokens."""
        if self._tensors:
            self._tokens[1 - self._tokens.index(past)] = total

    def _load(self, past: int) -> int:
        """Puts a copy of the state after `past` tokens into a slot, which is returned."""
        if past and past not in self._snapshots:
            raise EngineError(f"no state of the recurrent layers after {past} tokens is kept")
        self._tokens = [None, None]
        values = self._snapshots[past] if past else {t.past: self._zeros(t) for t in self._tensors}
        if self._slots:
            for name, value in values.items():
                self._slots[0][name].update_inplace(value)
        else:
            self._slots = [self._allocate(values), self._allocate(values)]
        self._tokens = [past, None]
        return 0

    def _zeros(self, tensor: CacheTensor) -> npt.NDArray[np.floating]:
        return np.zeros(tensor.dims(0), DTYPES[tensor.dtype])

    def _allocate(self, values: Copy) -> dict[str, ort.OrtValue]:
        """Copies values to the device; on a CPU, ONNX Runtime would use their own memory."""
        copies = {name: np.array(value) for name, value in values.items()}
        return {name: ort.OrtValue.ortvalue_from_numpy(copy, self._device.memory, 0) for name, copy in copies.items()}

    def snapshot(self) -> None:
        """Keeps a copy of the latest state."""
        latest = max((count for count in self._tokens if count is not None), default=0)
        if not self._tensors or not latest or latest in self._snapshots:
            return
        slot = self._slots[self._tokens.index(latest)]
        self._snapshots.keep(latest, {name: np.array(value.numpy()) for name, value in slot.items()})

    def resumable(self, past: int) -> int:
        """Returns the largest number of tokens, at most `past`, after which a call can continue."""
        if not self._tensors:
            return past
        known = (0, *self._snapshots.counts(), *(count for count in self._tokens if count is not None))
        return max(count for count in known if count <= past)
