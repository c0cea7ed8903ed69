"""The items with the largest losses, for the page: pictures, boxes, and answers with their differences marked."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Levenshtein

from qvl_runtime.media.images import load_pages

from ..analysis.results import BundleReport, Report, WorstItem
from ..metrics.boxes import Box, PageGeometry, parse_boxes
from ..metrics.scores import METRICS
from .text import percent

THUMBNAIL = 460
"""Longest side of a page's thumbnail, in pixels."""
MAX_ANSWER_SHOWN = 4000
"""Number of characters of an answer that are shown."""


def item_values(item: WorstItem, report: Report, bundle: BundleReport) -> dict[str, Any]:
    """Returns the template's values of an item: its picture, boxes, and both answers with their differences marked."""
    reference, other = mark_differences(item.reference_answer[:MAX_ANSWER_SHOWN], item.answer[:MAX_ANSWER_SHOWN])
    picture, size = thumbnail(Path(item.image))
    boxes = []
    if item.task == "grounding" and size:
        notation = report.reference.boxes or bundle.boxes
        sources = [
            ("truth", item.truth, PageGeometry.original(size)),
            ("reference", item.reference_answer, PageGeometry(notation, size, item.reference_resized)),
            ("other", item.answer, PageGeometry(bundle.boxes, size, item.resized)),
        ]
        boxes = [_rectangle(kind, box) for kind, text, page in sources for box in parse_boxes(text, page)[:50]]
    return {
        "picture": picture,
        "size": size or (1, 1),
        "boxes": boxes,
        "page": Path(item.image).name,
        "task": item.task,
        "kind": item.kind,
        "prompt": item.prompt,
        "truth": item.truth[:MAX_ANSWER_SHOWN],
        "reference": reference,
        "other": other,
        "metric": METRICS[item.metric].title,
        "scores": f"{percent(item.reference)} → {percent(item.other)}",
        "kl": f"{item.kl:.2g}",
        "error": item.error,
    }


def _rectangle(kind: str, box: Box) -> dict[str, Any]:
    return {"kind": kind, "x": box[0], "y": box[1], "w": max(box[2] - box[0], 0), "h": max(box[3] - box[1], 0)}


def mark_differences(reference: str, other: str) -> tuple[str, str]:
    """Returns both answers as HTML, with the reference's deleted text and the other's inserted text marked."""
    one, two = [], []
    for step in Levenshtein.opcodes(reference, other):
        before, after = reference[step.src_start : step.src_end], other[step.dest_start : step.dest_end]
        if step.tag == "equal":
            one.append(escape(before))
            two.append(escape(after))
        else:
            one.append(f"<del>{escape(before)}</del>" if before else "")
            two.append(f"<ins>{escape(after)}</ins>" if after else "")
    return "".join(one), "".join(two)


def thumbnail(path: Path) -> tuple[str, tuple[int, int] | None]:
    """Returns a thumbnail as a data URI, and the page's size; ("", None) if the page cannot be read."""
    try:
        page = load_pages(path)[0]
    except Exception:  # the item's own error says what is wrong with it
        return "", None
    small = page.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", page.size
