"""Inputs of repeated calls are written into what is bound; answers do not depend on it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from qvl_runtime.sessions._bound_inputs import MOST, BoundInputs
from qvl_runtime.sessions.layer_states import CPU, Device
from tests.conftest import Loader


class Binding:
    """What is bound, and how often."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.count = 0

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        self.arrays[name] = array
        self.count += 1


def bound(device: Device = CPU) -> tuple[Binding, BoundInputs]:
    binding = Binding()
    return binding, BoundInputs(cast(Any, binding), device)


def test_equal_shapes_are_bound_once_and_have_the_last_values() -> None:
    binding, inputs = bound()
    for token in (5, 6, 7):
        inputs.set({"input_ids": np.array([[token]]), "total": np.array(token, np.int32), "none": np.empty((0, 4))})
        assert (binding.arrays["input_ids"].tolist(), int(binding.arrays["total"])) == ([[token]], token)
    assert binding.count == 3
    inputs.set({"input_ids": np.array([[1, 2]])})
    assert binding.arrays["input_ids"].tolist() == [[1, 2]] and binding.count == 4


def test_callers_arrays_are_not_written_to() -> None:
    binding, inputs = bound()
    first = np.array([1, 2])
    inputs.set({"x": first})
    inputs.set({"x": np.array([3, 4])})
    assert first.tolist() == [1, 2] and binding.arrays["x"].tolist() == [3, 4]


def test_an_interrupt_before_the_binding_loses_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    binding, inputs = bound()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    inputs.set({"x": np.array([1])})
    with monkeypatch.context() as patch:
        patch.setattr(binding, "bind_cpu_input", interrupted)
        with pytest.raises(KeyboardInterrupt):
            inputs.set({"x": np.array([2, 2])})
    inputs.set({"x": np.array([3, 3])})
    assert binding.arrays["x"].tolist() == [3, 3]


def test_large_inputs_are_bound_as_they_are() -> None:
    binding, inputs = bound()
    for value in (1, 2):
        features = np.full(MOST // 8 + 1, value)
        inputs.set({"x": features})
        assert binding.arrays["x"] is features
    inputs.set({"x": np.array([3])})
    assert binding.arrays["x"].tolist() == [3]


def test_other_devices_get_every_input_anew() -> None:
    binding, inputs = bound(Device("CUDAExecutionProvider", "cuda", "gpu:0"))
    for token in (5, 6):
        inputs.set({"input_ids": np.array([token])})
    assert binding.count == 2 and binding.arrays["input_ids"].tolist() == [6]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_one_call_after_another_gives_what_one_prompt_gives(model: Loader, family: str) -> None:
    ours = model(family, "deep", "fp32")
    question = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    stream = ours.stream(question, 12, ignore_eos=True)
    list(stream)
    logits = ours.logits(question, stream.run.tokens)
    assert logits.argmax(axis=1).tolist() == stream.run.tokens
