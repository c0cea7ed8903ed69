"""Sensitivities are measured stage by stage, and a killed measurement resumes."""

from __future__ import annotations

from qvl_export.quant.mixed_precision.measure import Pace


def test_what_is_left_grows_with_the_states_that_are_moved() -> None:
    pace = Pace()
    pace.add(10, 1, 1)
    pace.add(12, 2, 2)
    assert pace.left(3, 3) == f"about {3 * 11 + 3 + 4 + 5} s left"
