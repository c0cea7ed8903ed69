"""The position axis of every M-RoPE frequency."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qvl_export.graph.rope import frequency_axes


def axes(head_dim: int, section: tuple[int, int, int], interleaved: bool) -> list[int]:
    spec: Any = SimpleNamespace(rotated=head_dim, mrope_section=section, mrope_interleaved=interleaved)
    return frequency_axes(spec).tolist()


def test_sections_follow_one_another() -> None:
    assert axes(16, (2, 3, 3), interleaved=False) == [0, 0, 1, 1, 1, 2, 2, 2]


def test_sections_are_interleaved_until_they_are_used_up() -> None:
    assert axes(20, (4, 3, 3), interleaved=True) == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert axes(24, (8, 2, 2), interleaved=True) == [0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("interleaved", [False, True])
def test_every_section_has_its_number_of_frequencies(interleaved: bool) -> None:
    found = axes(128, (24, 20, 20), interleaved)
    assert [found.count(axis) for axis in range(3)] == [24, 20, 20]
