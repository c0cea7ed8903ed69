"""Language graphs of standard ONNX that append new tokens to their KV cache, in ONNX Runtime on a CPU."""

from __future__ import annotations

from typing import Self

import numpy as np

from .._onnxruntime.library import ort
from ..common.arrays import Floats
from ..manifest import Manifest
from .cpu import CpuLlm, raising_engine_errors
from .engine import LlmInputs
from .feeds import llm_feeds
from .layer_states import DTYPES, RecurrentStates


class ConcatCache:
    """Keys and values [1, heads, tokens, head_dim] of every layer; every call makes new ones."""

    def __init__(self, manifest: Manifest) -> None:
        self.tensors = manifest.cache_tensors()
        empty = {tensor.past: np.zeros(tensor.dims(0), DTYPES[tensor.dtype]) for tensor in self.tensors}
        self.values = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in empty.items()}

    @property
    def capacity(self) -> int:
        """The number of tokens in the cache."""
        return int(self.values[self.tensors[0].past].shape()[2])

    def keep(self, tokens: int) -> None:
        """Drops all tokens but the first `tokens`."""
        if tokens != self.capacity:
            kept = {name: np.ascontiguousarray(value.numpy()[:, :, :tokens]) for name, value in self.values.items()}
            self.values = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in kept.items()}


class ConcatLlm(CpuLlm):
    """The language graphs with their KV cache (batch 1; not thread-safe)."""

    def clear(self) -> None:
        """Frees the KV cache; the next call starts with an empty one."""
        self.tokens = ConcatCache(self._manifest)
        self.states = RecurrentStates(self._manifest, self._device)  # none: `read_manifest` refuses them

    def adopt(self, other: Self, tokens: int) -> None:
        """See `sessions.engine.Forkable`."""
        with raising_engine_errors:
            self.tokens.values = dict(other.tokens.values)
            self.tokens.keep(tokens)

    def forward(self, inputs: LlmInputs) -> Floats:
        """Returns logits [K, vocab]; the cache then holds past + S tokens."""
        session, total = self.sessions[-1 if inputs.answer else 0], inputs.past + len(inputs.ids)
        binding = session.io_binding()
        feeds = llm_feeds(self._manifest, inputs, total)
        del feeds["write_indices"]  # of graphs that write in place
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        with raising_engine_errors:
            self.tokens.keep(inputs.past)
            for name, value in self.tokens.values.items():
                binding.bind_ortvalue_input(name, value)
            for output in ("logits", *(tensor.present for tensor in self.tokens.tensors)):
                binding.bind_output(output)
            session.run_with_iobinding(binding, self._silent)
        logits, *presents = binding.get_outputs()[: 1 + len(self.tokens.tensors)]  # those of `blame` follow
        self.tokens.values = dict(zip(self.tokens.values, presents, strict=True))
        return np.asarray(logits.numpy()[0])
