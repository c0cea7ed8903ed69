"""A termination signal becomes an exception, and handlers of others stay."""

from __future__ import annotations

import signal
import threading

import pytest

from qvl_export.common.signals import Terminated, terminable


@pytest.fixture(autouse=True)
def default() -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_ends_the_block_with_the_code_of_a_shell() -> None:
    with pytest.raises(Terminated) as caught, terminable():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_the_application_stays() -> None:
    seen: list[int] = []
    mine = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with terminable():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, mine)
    assert seen == [signal.SIGTERM]


def test_other_threads_change_no_handler() -> None:
    found: list[object] = []

    def work() -> None:
        with terminable():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
