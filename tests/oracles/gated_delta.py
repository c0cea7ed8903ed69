"""Naive float64 oracles of Gated DeltaNet (arXiv 2412.06464, eq. 10) and of its causal convolution, token by token."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray
EPS = 1e-6
"""Added to the square of the length of queries and keys, as in transformers."""


class DeltaInputs(NamedTuple):
    """Inputs of the recurrence over T tokens, before any activation.

    `query` and `key` [T, key heads, key size], `value` [T, value heads, value size], `a` and `b` [T, value heads],
    `a_log` and `dt_bias` [value heads]; each key head serves consecutive value heads.
    """

    query: Array
    key: Array
    value: Array
    a: Array
    b: Array
    a_log: Array
    dt_bias: Array

    @property
    def decay(self) -> Array:
        """The logarithm of what a token leaves of the state, [T, value heads]."""
        return -np.exp(self.a_log) * np.logaddexp(0, self.a + self.dt_bias)

    @property
    def beta(self) -> Array:
        """The share of the state's error that a token corrects, [T, value heads]."""
        return 1 / (1 + np.exp(-self.b))

    def normalized(self) -> tuple[Array, Array]:
        """Queries, scaled by 1 / √size, and keys, one per value head."""
        groups = self.value.shape[1] // self.key.shape[1]
        query, key = (
            np.repeat(x / np.sqrt((x * x).sum(-1, keepdims=True) + EPS), groups, axis=1) for x in (self.query, self.key)
        )
        return query / np.sqrt(query.shape[-1]), key

    def part(self, first: int, last: int) -> DeltaInputs:
        """The inputs of the tokens [first, last)."""
        return DeltaInputs(*(x[first:last] for x in self[:5]), *self[5:])


def recurrence(inputs: DeltaInputs, state: Array) -> tuple[Array, Array]:
    """Outputs [T, value heads, value size] and the last state, from `state` [value heads, key size, value size]."""
    query, key = inputs.normalized()
    outputs = np.empty_like(inputs.value)
    for t in range(len(query)):
        state = state * np.exp(inputs.decay[t])[:, None, None]
        for head in range(len(state)):
            error = inputs.value[t, head] - key[t, head] @ state[head]
            state[head] += np.outer(key[t, head], inputs.beta[t, head] * error)
            outputs[t, head] = query[t, head] @ state[head]
    return outputs, state


def causal_convolution(x: Array, weight: Array, state: Array) -> tuple[Array, Array]:
    """SiLU of the depthwise convolution of x [T, C] with `weight` [C, 1, k], and the last k − 1 inputs.

    `state` [k − 1, C] holds the inputs before x.
    """
    size = weight.shape[-1]
    padded = np.concatenate((state, x))
    y = np.stack([(padded[t : t + size] * weight[:, 0].T).sum(0) for t in range(len(x))])
    return y / (1 + np.exp(-y)), padded[len(padded) - size + 1 :]
