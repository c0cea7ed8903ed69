"""Runs that also write the additional outputs of a graph."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from qvl_export.evaluate.trace import traced_runs, worker
from tests.evaluate.test_trace_worker import trace_job


def test_few_streams_at_a_time_are_the_same(
    reference_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = trace_job(reference_bundle, tmp_path)
    for name, count in (("all", 8), ("few", 3)):
        monkeypatch.setattr(traced_runs, "OUTPUTS_PER_RUN", count)
        (tmp_path / name).mkdir()
        worker.run(msgspec.structs.replace(job, out=str(tmp_path / name)))
    kept = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert kept == sorted(path.name for path in (tmp_path / "few").iterdir()) and "vision.blocks.3.npy" in kept
    for file in kept:
        assert np.array_equal(*(np.load(tmp_path / name / file) for name in ("all", "few")))
