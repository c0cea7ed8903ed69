"""The fix for a missing extra names its packages and the extra itself."""

from __future__ import annotations

import pytest

from qvl_export.common.extras import EXTRAS, install_fix


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_fix_names_every_package(extra: str) -> None:
    fix = install_fix(extra)
    assert fix.startswith("pip install ") and fix.endswith(f"qvl-export[{extra}]")
    assert all(f'"{package}"' in fix for package in EXTRAS[extra])
