"""What the tests of the generator share: kinds whose fonts are installed, money read back from a page."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from calib_data.generator import fonts
from calib_data.generator.kinds import kinds
from calib_data.generator.page import Page

SETS = Path(__file__).parents[2] / "calib_data"
NAMES = sorted(kinds())


def need_fonts(kind: str) -> None:
    """Skip, naming the packages, when a font of `kind` is not installed."""
    lacks = fonts.missing(kinds()[kind].fonts)
    if lacks:
        packages = sorted({fonts.FONTS[key].package for key in lacks})
        pytest.skip(f"{kind} needs fonts: apt-get install {' '.join(packages)}")


def pages(kind: str, count: int = 12) -> list[Page]:
    need_fonts(kind)
    return [kinds()[kind].make(Random(f"test/{kind}/{i}")) for i in range(count)]


def cents(text: str) -> int:
    """`$1,234.56` as 123456."""
    return int(text.lstrip("$€£¥").replace(",", "").replace(".", ""))
