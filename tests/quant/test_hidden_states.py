"""Hidden states of model variants are moved through the stages once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qvl_export.quant.calibration.work_dir import Sample
from qvl_export.quant.mixed_precision.hidden_states import FLOAT_MODEL, LinearNoise, Step, Variants


def test_states_are_moved_once(tmp_path: Path) -> None:
    """A run that was killed while it moved the states of a step moves the others."""
    state, sample = np.arange(3, dtype=np.float32), Sample(np.zeros(0, np.float32), {})
    before = Variants(tmp_path)
    before.save(FLOAT_MODEL, 0, state)
    before.finish(Step("begin", "", {}))
    before.save("a", 0, 10 * state)
    before.advance(FLOAT_MODEL, 0, sample, lambda x, _: x + 1)
    before.finish(Step("a", "int8", {"l": LinearNoise((1, 1), {}, {})}))
    before.advance("a", 0, sample, lambda x, _: x + 1)
    after = Variants(tmp_path)
    assert after.names == [FLOAT_MODEL, "a"]
    for name in after.names:
        after.advance(name, 0, sample, lambda x, _: x + 1)
    after.finish(Step("b", "", {}))
    assert np.array_equal(after.load("a", 0), 10 * state + 1)
    assert np.array_equal(after.load(FLOAT_MODEL, 0), state + 2)
    assert len(list(tmp_path.glob("*.npy"))) == 2
