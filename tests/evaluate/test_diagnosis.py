"""The first drop is found in given similarities."""

from __future__ import annotations

import numpy as np

from qvl_export.evaluate.trace.diagnosis import Stage, diagnose, first_drop, with_added_noise
from qvl_export.evaluate.trace.similarity import NOT_FINITE, Similarity, similarity


def test_values_that_are_not_finite_are_the_first_drop() -> None:
    y = np.ones((3, 4), np.float32)
    for bad in (np.inf, np.nan):
        broken = y.copy()
        broken[1, 1] = bad
        assert similarity(y, broken) == Similarity(0.0, NOT_FINITE)
    equal, lost = Similarity(1.0, None), Similarity(0.0, NOT_FINITE)
    found = [Stage("a", equal, equal, None), Stage("b", lost, lost, None), Stage("c", lost, lost, None)]
    found_drop = diagnose(with_added_noise(found))
    assert found_drop.first_drop == "b" and found_drop.summary == "the first drop is at b; the logits are not finite."


def stages(*added: float) -> list[Stage]:
    equal = Similarity(1.0, None)
    return [Stage(str(index), equal, equal, None, value) for index, value in enumerate(added)]


def test_an_even_loss_blames_no_stage() -> None:
    assert first_drop(stages(0, 0, 0.02, 0.03, 0.02, 0.025)) is None
    assert first_drop(stages(0, 0.001, 0.002, 0.6, 0.002, 0.5)) == "3"
    assert first_drop(stages(0, 1e-6, 1e-4, 1e-6)) is None
