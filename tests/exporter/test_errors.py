"""Errors of the exporter: one short line, and whether the input is at fault."""

from __future__ import annotations

import pytest

from qvl_export.errors import LONGEST, CheckpointError, ConfigError, ExportError, HubError, OutputError, StoppedError
from qvl_export.errors import is_bad_input as at_fault
from qvl_runtime.errors import BundleError


def test_messages_are_one_line_of_bounded_length() -> None:
    error = ExportError("a\nb\x1b[2J" + "x" * 5000, where="config.json", fix="y" * 5000)
    text = str(error)
    assert text.startswith("config.json: ") and "\n" not in text and "\x1b" not in text
    assert len(text) < 2 * LONGEST + 100 and text.count("…") == 2


@pytest.mark.parametrize("kind", [CheckpointError, ConfigError, HubError, ExportError, BundleError])
def test_bad_input_would_fail_again(kind: type[Exception]) -> None:
    assert at_fault(kind("x"))


@pytest.mark.parametrize("error", [OutputError("x"), StoppedError("x"), OSError("x"), KeyboardInterrupt()])
def test_other_failures_may_succeed_when_repeated(error: BaseException) -> None:
    assert not at_fault(error)
