"""The work directory of a calibration: samples, hidden states between stages, results of finished stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qvl_export.quant.calibration.work_dir import Sample, StageRecord, Work


def samples(count: int, value: float = 0) -> list[Sample]:
    return [Sample(np.full((1, 2, 3), value + i, np.float32), {"ids": np.array([i])}) for i in range(count)]


def test_hidden_states_go_from_stage_to_stage(tmp_path: Path) -> None:
    work = Work(tmp_path / "work", {"a": 1})
    work.begin(samples(3))
    assert work.pages == 3 and work.record(0) is None
    record = StageRecord({}, {"norm": [2]})
    work.save_tensor("norm", np.array([1.5, -2], np.float32))
    work.finish(0, record, (sample.hidden + 10 for sample in work.samples(0)))
    found = list(work.samples(1))
    assert [(float(sample.hidden[0, 0, 0]), sample.feeds["ids"].tolist()) for sample in found] == [
        (10, [0]),
        (11, [1]),
        (12, [2]),
    ]
    assert [sample.feeds["ids"].tolist() for sample in work.samples(1, [2])] == [[2]]
    assert work.record(0) == record and not list(work.directory.glob("*.0.*.npy"))
    (norm,) = work.tensors(record).values()
    assert np.concatenate(list(norm.chunks())).tolist() == [1.5, -2]


def test_the_same_key_resumes_and_another_begins_anew(tmp_path: Path) -> None:
    first = Work(tmp_path / "work", {"a": 1, "b": 2})
    first.begin(samples(2))
    resumed = Work(tmp_path / "work", {"b": 2, "a": 1})
    resumed.begin(samples(5, 100))
    assert resumed.directory == first.directory and resumed.pages == 2
    assert float(next(resumed.samples(0)).hidden.max()) == 0
    other = Work(tmp_path / "work", {"a": 2})
    assert other.directory != first.directory and not first.directory.exists()
