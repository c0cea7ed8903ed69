"""The inputs of a graph that is called again and again with the same shapes, as for every token of an answer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .._onnxruntime.library import ort
from .layer_states import CPU, Device

MOST = 1 << 16
"""Larger inputs, in bytes, are bound anew instead of copied."""


class BoundInputs:
    """Gives a binding its inputs. What is small and of the shape that it had is written into the array that is bound.

    Binding takes ten times as long as writing a number, which an answer would pay for every input of every token. Other
    devices than the CPU read an input when it is bound, so that theirs are bound anew.
    """

    def __init__(self, binding: ort.IOBinding, device: Device = CPU) -> None:
        self._binding, self._most = binding, MOST if device is CPU else -1
        self._arrays: dict[str, np.ndarray] = {}

    def set(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Sets the values of inputs for the next call; each keeps its type of elements."""
        for name, array in feeds.items():
            bound = self._arrays.get(name)
            if bound is not None and bound.shape == array.shape:
                bound[...] = array
                continue
            self._arrays.pop(name, None)
            small = array.nbytes <= self._most
            own = array.copy() if small else array
            self._binding.bind_cpu_input(name, own)
            if small:  # only now: after an interrupt before it, the next call binds anew
                self._arrays[name] = own
