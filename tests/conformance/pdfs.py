"""Vectors of PDFs: which pages are meant, and the size that a page is drawn in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qvl_runtime.errors import MediaError
from qvl_runtime.pdf import _scaled, parse_pages

from .document import Case, Document

RANGES = (None, "1", "5", "1-5", "4,1-2,4", "2-2", " 2 - 3 ,1", "4-", "0", "6", "3-6", "4-2", "1,0", "1-999999999")
NO_RANGES = ("", ",", "a", "1,", "-2", "1--2", "1-2-3", "1.5", "+1", "1 2")
PAGES = ((612.0, 792.0), (595.276, 841.89), (94.08, 40.32), (14400.0, 14400.0), (2e9, 0.5), (0.1, 0.1))
"""Width and height in points: Letter, A4, a picture, the largest page of Acrobat, a hair, a dot."""


def pdf_pages() -> Document:
    return Document(
        "Pages of a PDF that a text chooses, and the size that a page is drawn in.",
        {
            "pages": 'such as "1-3,7", counted from one; null means all',
            "count": "pages of the file",
            "points": "[width, height] of a page in 1/72 inch, float32",
            "dpi": "pixels per inch, less for pages of more than 2^25 pixels",
        },
        {"indices": "counted from zero; null if the text is refused", "size": "[width, height] in pixels, rounded up"},
        _pdf_pages(),
    )


def _pdf_pages() -> Iterator[Case]:
    for pages in (*RANGES, *NO_RANGES):
        yield Case(f"pages {pages!r} of 5", {"pages": pages, "count": 5}, {"indices": _indices(pages)})
    for width, height in PAGES:
        points = float(np.float32(width)), float(np.float32(height))
        for dpi in (72, 150):
            given = {"points": points, "dpi": dpi}
            yield Case(f"{width:g} × {height:g} at {dpi}", given, {"size": _scaled(*points, dpi)[1]})


def _indices(pages: str | None) -> list[int] | None:
    try:
        return parse_pages(pages, 5, "x.pdf")
    except MediaError:
        return None
