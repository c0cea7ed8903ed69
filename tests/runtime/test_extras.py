"""The fix for a missing extra names its packages and the extra itself."""

from __future__ import annotations

import pytest

from qvl_runtime.common.extras import EXTRAS, fix_of, install_fix


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_fix_names_every_package(extra: str) -> None:
    fix = install_fix(extra)
    assert fix.endswith(f", which is the extra qvl-runtime[{extra}]")
    assert all(f'"{package}"' in fix for package in EXTRAS[extra])


def test_packages_are_quoted_for_a_shell() -> None:
    assert fix_of("d", "x", ["a>=1", "b[c]"]) == 'pip install "a>=1" "b[c]", which is the extra d[x]'
