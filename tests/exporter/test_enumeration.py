"""Names in a sentence."""

from __future__ import annotations

from qvl_export.common.enumeration import joined


def test_names_are_joined() -> None:
    assert joined(["a"]) == "a"
    assert joined(["a", "b"]) == "a and b"
    assert joined(["a", "b", "c"]) == "a, b and c"
