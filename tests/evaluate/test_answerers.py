"""A bundle as the worker runs it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from qvl_export.evaluate.answers.answerers import BundleAnswerer


def test_a_prefill_uses_the_template_args_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Model:
        manifest = SimpleNamespace(image=SimpleNamespace(patch_size=14))

        def stream(self, *_: Any, template_args: Any = None, **__: Any) -> Iterator[str]:
            asked.append(template_args)
            return iter(())

    monkeypatch.setattr("qvl_runtime.load", lambda *_: Model())
    BundleAnswerer("", 1, {"enable_thinking": False}).prefill([], 3)
    assert asked == [{"enable_thinking": False}]
