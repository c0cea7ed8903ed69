"""A cluster that is not there is known at once, and Ray that is not installed is named."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from qvl_runtime.common.ray_connection import check, connected
from qvl_runtime.errors import EngineError, InstallError


def test_nothing_at_the_address_is_an_error() -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:1: no Ray cluster answers"):
        connected("127.0.0.1:1")
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("ask", [connected, check])
def test_without_ray_its_extra_is_named(ask: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InstallError, match=r"the extra qvl-runtime\[ray\]"):
        ask("auto")


def test_an_error_without_a_message_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise ConnectionError

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(EngineError, match="auto: no Ray cluster answers: ConnectionError"):
        connected("auto")


@pytest.mark.parametrize("ask", [connected, check])
def test_an_address_that_is_none_is_an_error(ask: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:99999: no Ray cluster answers"):
        ask("127.0.0.1:99999")
