"""Two lists of pages on which leaving out blank paper is timed: clean ones, and the same as by a scanner.

Clean pages are pages of the Guide for Debian Maintainers (`debmake-doc`), drawn at 100 dpi, and forms of the committed
sets, which were drawn on a computer too. No page of the guide is in the calibration set.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from PIL import Image

from calib_data.generator.degrade import degrade
from calib_data.generator.page import Page
from calib_data.generator.real import DOCUMENTS, document_page, require_document

DATA = Path(__file__).parents[2] / "calib_data"
GUIDE = {"en": (11, 21, 60, 87, 125), "zh": (17, 65, 137)}
"""Pages, the first is 1."""
FORMS = ("samples/form_0000.png", "samples/form_0002.png", "calibration/form_0001.png", "calibration/form_0006.png")
LISTS = ("clean", "scans")


def pages(name: str) -> dict[str, Image.Image]:
    """The pages of the list `name`; raises DocumentMissing if the guide is not installed in the known version."""
    clean = {**guide(), **{file: picture(file) for file in FORMS}}
    return {key: scanned(page, key) if name == "scans" else page.image for key, page in clean.items()}


def guide() -> dict[str, Page]:
    for document in DOCUMENTS:
        require_document(document)
    return {
        f"guide {document.language} {number}": document_page(document, number)
        for document in DOCUMENTS
        for number in GUIDE[document.language]
    }


def picture(file: str) -> Page:
    with Image.open(DATA / file) as image:
        return Page(image.convert("RGB"), "form", "en", ())


def scanned(page: Page, seed: str) -> Image.Image:
    """With slant, blur, uneven light, less contrast or noise, and as JPEG (`degrade`)."""
    return degrade(page, Random(seed)).image.convert("RGB")
