"""`python -m calib_data.generator.calibration OUT`: write the set that quantization is calibrated on.

96 pages, one question each: 40 of a real document in two languages, 56 generated ones from seeds that no other set
uses. Lines of `labels.jsonl` are shuffled, so that any even spread over them is a mixture.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from random import Random

from .dataset import (
    Item,
    Plan,
    digests,
    fonts_used,
    new_directory,
    plan_items,
    require_fonts,
    write_item,
    write_labels,
    write_manifest,
)
from .fonts import FontMissing
from .real import DOCUMENTS, DocumentMissing, document_items, require_document

SEED = "calibration-115"
"""Of the seven pages of a kind at least one is damaged and one asked `ocr`; where a kind has both languages, two are
of the rarer one; a third of the generated pages is damaged."""
DRAWN = ("form", "handwriting", "invoice", "letter", "receipt", "table", "vertical")
PLANS = (
    Plan(DRAWN, 7, SEED, "one", degraded=0.38),
    Plan(("simple",), 7, f"{SEED}-simple", "one"),
)
PAGES_OF_DOCUMENT = 20


def items() -> Iterator[Item]:
    drawn = chain.from_iterable(plan_items(plan) for plan in PLANS)
    real = (document_items(document, PAGES_OF_DOCUMENT, SEED) for document in DOCUMENTS)
    return chain(drawn, *real)


def write_calibration(out: Path) -> None:
    """Make the set beside `out` and rename it; raises FileExistsError, FontMissing, DocumentMissing."""
    with new_directory(out) as folder:
        require_fonts([kind for plan in PLANS for kind in plan.kinds])
        for document in DOCUMENTS:
            require_document(document)
        _write_licences(folder / "LICENSES")
        _write_pages(folder)


def _write_licences(folder: Path) -> None:
    folder.mkdir()
    for document in DOCUMENTS:
        shutil.copyfile(document.copyright, folder / document.package)


def _write_pages(folder: Path) -> None:
    sources, labels = {}, []
    for item in items():
        image, lines = write_item(item, folder)
        sources[image] = dict(item.source)
        labels += lines
    Random(f"{SEED}/order").shuffle(labels)
    write_labels(labels, folder)
    write_manifest({**manifest(), "source": sources, "sha256": digests(folder)}, folder)


def manifest() -> dict[str, object]:
    """Arguments, the versions on which bytes depend, fonts and documents with their packages and licences."""
    versions = {name: version(name) for name in ("pillow", "pypdfium2")}
    fonts = fonts_used([kind for plan in PLANS for kind in plan.kinds])
    documents = [asdict(document) for document in DOCUMENTS]
    plans = [asdict(plan) for plan in PLANS]
    return {"seed": SEED, "arguments": plans, **versions, "fonts": fonts, "documents": documents}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m calib_data.generator.calibration", description="Write the set.")
    parser.add_argument("out", type=Path, help="directory to make; it must not exist")
    try:
        write_calibration(parser.parse_args(arguments).out)
    except (FontMissing, DocumentMissing, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
