"""A cluster that is not there is known at once, and Ray that is not installed is named."""

from __future__ import annotations

import signal
import sys
from types import SimpleNamespace

import pytest

from qvl_runtime.common.ray_connection import connected
from qvl_runtime.errors import EngineError, InstallError


def test_nothing_at_the_address_is_an_error() -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:1: no Ray cluster answers"):
        connected("127.0.0.1:1")
    assert signal.getsignal(signal.SIGTERM) is handler


def test_an_error_without_a_message_is_named_by_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise RuntimeError

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(EngineError, match="no Ray cluster answers: RuntimeError"):
        connected("auto")


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InstallError, match=r"the extra qvl-runtime\[ray\]"):
        connected("auto")
