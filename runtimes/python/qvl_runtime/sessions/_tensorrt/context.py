"""An execution context of a TensorRT engine: shapes, addresses and buffers of its tensors, and running it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import EngineError
from .cuda_driver import Buffer, Cuda


class Context:
    """An execution context of one profile with its own buffers, which grow as needed."""

    def __init__(self, cuda: Cuda, context: Any, profile: int) -> None:
        self._cuda, self._context = cuda, context
        self._buffers: dict[str, Buffer] = {}
        self._state: dict[str, object] = {}  # shapes and addresses
        self._last_state: dict[str, object] | None = None
        self._recorded: tuple[dict[str, object], Any] | None = None
        if not context.set_optimization_profile_async(profile, cuda.stream):
            raise EngineError(f"profile {profile} of the engine cannot be used")
        cuda.wait()

    def _changed(self, what: str, value: object) -> bool:
        """Notes a shape or address; returns whether it changed. If not, no call is needed and recordings stay valid."""
        changed = self._state.get(what) != value
        self._state[what] = value
        return changed

    def set_shape(self, name: str, array: np.ndarray) -> None:
        if self._changed(f"shape of {name}", array.shape) and not self._context.set_input_shape(name, array.shape):
            raise EngineError(f"the engine rejects {name} of shape {list(array.shape)}")

    def feed(self, name: str, array: np.ndarray) -> None:
        """Binds an input to a buffer and copies the array to it."""
        self.set_address(name, self.buffer(name, array.nbytes).address)
        self._cuda.upload(self._buffers[name].address, array)

    def buffer(self, name: str, nbytes: int) -> Buffer:
        """Returns the buffer of a tensor, reallocated if it is too small."""
        if name not in self._buffers or self._buffers[name].nbytes < nbytes:
            if name in self._buffers:
                self._buffers.pop(name).free()
            self._buffers[name] = self._cuda.allocate(nbytes)
        return self._buffers[name]

    def set_address(self, name: str, address: int) -> None:
        if self._changed(name, address) and not self._context.set_tensor_address(name, address):
            raise EngineError(f"the engine rejects the buffer of {name}")

    def output_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._context.get_tensor_shape(name))

    def run(self, record: bool) -> None:
        """Queues the network.

        With `record` the second call with equal shapes and buffers is recorded as a CUDA graph; later ones launch it.
        """
        state = dict(self._state)
        if record and state == self._last_state:
            if self._recorded is None or self._recorded[0] != state:
                self._record(state)
            assert self._recorded is not None
            self._cuda.launch(self._recorded[1])
        else:
            self._execute()
        self._last_state = state

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError("TensorRT failed to run the engine")

    def _record(self, state: dict[str, object]) -> None:
        self._forget()
        self._cuda.wait()  # queued copies must not become part of the recording
        self._recorded = state, self._cuda.capture(self._execute)

    def _forget(self) -> None:
        if self._recorded is not None:
            self._cuda.destroy_graph(self._recorded[1])
            self._recorded = None

    def free(self) -> None:
        self._forget()
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()
