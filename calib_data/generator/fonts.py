"""The fonts pages are drawn with: where each is installed, which Debian package holds it, under which license.

None of these licences asks anything of a picture of text set in the font; no font file is kept in this repository.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import ImageFont


class Font(NamedTuple):
    path: str
    package: str
    licence: str
    face: int = 0
    """Number in a collection (.ttc); Noto CJK's face 2 has the shapes of simplified Chinese."""


class FontMissing(OSError):
    """A font is not installed; the message names its Debian package."""


class GlyphMissing(ValueError):
    """A text holds a character that a font cannot draw."""


_TRUETYPE, _OPENTYPE = "/usr/share/fonts/truetype", "/usr/share/fonts/opentype"
_DEJAVU = ("fonts-dejavu-core", "Bitstream Vera")
_DEJAVU_EXTRA = ("fonts-dejavu-extra", "Bitstream Vera")
_MICROHEI = ("fonts-wqy-microhei", "Apache-2.0 or GPL-3+ with font exception")
_LIBERATION, _NOTO = ("fonts-liberation2", "OFL-1.1"), ("fonts-noto-cjk", "OFL-1.1")

FONTS: dict[str, Font] = {
    "dejavu-sans": Font(f"{_TRUETYPE}/dejavu/DejaVuSans.ttf", *_DEJAVU),
    "dejavu-sans-bold": Font(f"{_TRUETYPE}/dejavu/DejaVuSans-Bold.ttf", *_DEJAVU),
    "dejavu-mono": Font(f"{_TRUETYPE}/dejavu/DejaVuSansMono.ttf", *_DEJAVU),
    "dejavu-serif": Font(f"{_TRUETYPE}/dejavu/DejaVuSerif.ttf", *_DEJAVU),
    "dejavu-serif-bold": Font(f"{_TRUETYPE}/dejavu/DejaVuSerif-Bold.ttf", *_DEJAVU),
    "dejavu-condensed": Font(f"{_TRUETYPE}/dejavu/DejaVuSansCondensed.ttf", *_DEJAVU_EXTRA),
    "liberation-sans": Font(f"{_TRUETYPE}/liberation2/LiberationSans-Regular.ttf", *_LIBERATION),
    "liberation-sans-bold": Font(f"{_TRUETYPE}/liberation2/LiberationSans-Bold.ttf", *_LIBERATION),
    "liberation-serif": Font(f"{_TRUETYPE}/liberation2/LiberationSerif-Regular.ttf", *_LIBERATION),
    "liberation-serif-bold": Font(f"{_TRUETYPE}/liberation2/LiberationSerif-Bold.ttf", *_LIBERATION),
    "liberation-mono": Font(f"{_TRUETYPE}/liberation2/LiberationMono-Regular.ttf", *_LIBERATION),
    "courier-prime": Font(f"{_OPENTYPE}/courier-prime/Courier Prime.otf", "fonts-courier-prime", "OFL-1.1"),
    "noto-sans-sc": Font(f"{_OPENTYPE}/noto/NotoSansCJK-Regular.ttc", *_NOTO, face=2),
    "noto-sans-sc-bold": Font(f"{_OPENTYPE}/noto/NotoSansCJK-Bold.ttc", *_NOTO, face=2),
    "noto-serif-sc": Font(f"{_OPENTYPE}/noto/NotoSerifCJK-Regular.ttc", *_NOTO, face=2),
    "noto-serif-sc-bold": Font(f"{_OPENTYPE}/noto/NotoSerifCJK-Bold.ttc", *_NOTO, face=2),
    "wqy-microhei": Font(f"{_TRUETYPE}/wqy/wqy-microhei.ttc", *_MICROHEI),
    "ukai": Font(f"{_TRUETYPE}/arphic/ukai.ttc", "fonts-arphic-ukai", "Arphic Public License"),
    "wenkai": Font(f"{_TRUETYPE}/lxgw-wenkai/LXGWWenKai-Regular.ttf", "fonts-lxgw-wenkai", "OFL-1.1"),
    "wenkai-light": Font(f"{_TRUETYPE}/lxgw-wenkai/LXGWWenKai-Light.ttf", "fonts-lxgw-wenkai", "OFL-1.1"),
    "klee": Font(f"{_TRUETYPE}/klee/KleeOne-Regular.ttf", "fonts-klee", "OFL-1.1"),
    "dkg": Font(f"{_TRUETYPE}/fifthhorseman/dkg.ttf", "fonts-dkg-handwriting", "OFL-1.1"),
    "breip": Font(f"{_TRUETYPE}/breip/Breip.ttf", "fonts-breip", "OFL-1.0"),
}


def missing(keys: Sequence[str]) -> list[str]:
    """Those of `keys` whose file is not installed."""
    return [key for key in keys if not Path(FONTS[key].path).is_file()]


def key_of(name: str) -> str:
    """The key of a font given by its key or by its path."""
    return name if name in FONTS else next(key for key, font in FONTS.items() if font.path == name)


def missing_file(path: str) -> FontMissing:
    """The error for a font file that is not there, with the Debian package to install where one is known."""
    packages = [font.package for font in FONTS.values() if font.path == path]
    hint = f": apt-get install {packages[0]}" if packages else "; it is not one of the fonts of fonts.py"
    return FontMissing(f"font {path} is not installed{hint}")


@lru_cache(maxsize=256)
def load(key: str, size: int) -> ImageFont.FreeTypeFont:
    """The font `key` at `size` pixels; raises FontMissing."""
    font = FONTS[key]
    if missing([key]):
        raise missing_file(font.path)
    return ImageFont.truetype(font.path, size, index=font.face, layout_engine=ImageFont.Layout.RAQM)


@cache
def characters(key: str) -> frozenset[int]:
    """The code points that the character map of font `key` draws."""
    from fontTools.ttLib import TTFont

    load(key, 16)  # says which package is missing
    with TTFont(FONTS[key].path, fontNumber=FONTS[key].face, lazy=True) as font:
        return frozenset(font.getBestCmap())


def lacking(key: str, text: str) -> str:
    """The characters of `text` that font `key` would draw as an empty box."""
    return "".join(sorted({char for char in text if char != "\n" and ord(char) not in characters(key)}))


def require(key: str, text: str) -> None:
    if lacks := lacking(key, text):
        raise GlyphMissing(f"font {key} has no glyph for {lacks!r} in {text!r}")


def pick(rng: random.Random, keys: Sequence[str], text: str) -> str:
    """One of `keys` that can draw all of `text`."""
    able = [key for key in keys if not lacking(key, text)]
    if not able:
        raise GlyphMissing(f"none of the fonts {', '.join(keys)} can draw {text!r}")
    return rng.choice(able)
