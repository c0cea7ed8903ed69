"""The process that traces a model."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from qvl_export.evaluate.trace import worker as tapping
from qvl_export.evaluate.trace.worker import TraceJob
from tests.heldout import HELDOUT

PAGE = HELDOUT / "simple_0001.png"


def test_few_streams_at_a_time_are_the_same(
    reference_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = TraceJob(str(reference_bundle), "bundle", (str(PAGE),), "Read the text.", "", threads=1)
    for name, count in (("all", 8), ("few", 3)):
        monkeypatch.setattr(tapping, "OUTPUTS_PER_RUN", count)
        (tmp_path / name).mkdir()
        tapping.run(msgspec.structs.replace(job, out=str(tmp_path / name)))
    kept = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert kept == sorted(path.name for path in (tmp_path / "few").iterdir()) and "vision.blocks.3.npy" in kept
    for file in kept:
        assert np.array_equal(*(np.load(tmp_path / name / file) for name in ("all", "few")))
