"""Timed messages: written after a block that succeeds."""

from __future__ import annotations

import logging

import pytest

from qvl_runtime.common.log import log, timed


def test_a_block_is_logged_with_its_seconds(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, log.name), timed(log, "opened: %s, %d bytes", "a%b", 7):
        assert not caplog.messages
    (message,) = caplog.messages
    assert message.startswith("opened: a%b, 7 bytes, 0.") and message.endswith(" s")


def test_a_block_that_fails_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, log.name), pytest.raises(KeyError), timed(log, "opened"):
        raise KeyError
    assert not caplog.messages


def test_nothing_is_printed_without_a_handler(capsys: pytest.CaptureFixture[str]) -> None:
    log.warning("silent")
    assert capsys.readouterr() == ("", "")
