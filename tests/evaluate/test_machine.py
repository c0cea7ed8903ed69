"""The machine that a report names."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvl_export.evaluate.analysis import machine as machines
from qvl_export.evaluate.analysis.machine import this_machine


def test_a_machine_without_cpuinfo_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "CPUINFO", tmp_path / "none")
    assert this_machine(1, 1, 1, []).processor and this_machine(1, 1, 1, []).instructions == []
