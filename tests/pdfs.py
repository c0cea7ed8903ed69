"""Small PDFs for tests: with a text layer, of pictures, encrypted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def pdf_source(objects: Sequence[str]) -> bytes:
    """A PDF of these objects, the first of which is the catalog."""
    body, offsets = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n" + "".join(f"{at:010} 00000 n \n" for at in offsets)
    return body + f"{table}trailer <</Size {len(objects) + 1} /Root 1 0 R>>\nstartxref\n{len(body)}\n%%EOF".encode()


def text_pdf(path: Path, pages: Sequence[Sequence[str]]) -> Path:
    """A page of 200 × 100 points for each list of lines, set in Helvetica; an empty list is an empty page."""
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(pages)))
    objects = [
        "<</Type /Catalog /Pages 2 0 R>>",
        f"<</Type /Pages /Kids [{kids}] /Count {len(pages)}>>",
        "<</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>",
    ]
    for index, lines in enumerate(pages):
        shown = "".join(f"BT /F 12 Tf 10 {80 - 16 * row} Td ({line}) Tj ET\n" for row, line in enumerate(lines))
        objects += [
            f"<</Type /Page /Parent 2 0 R /MediaBox [0 0 200 100] /Contents {5 + 2 * index} 0 R"
            " /Resources <</Font <</F 3 0 R>>>>>>",
            f"<</Length {len(shown)}>>\nstream\n{shown}\nendstream",
        ]
    path.write_bytes(pdf_source(objects))
    return path


def encrypt(source: bytes) -> bytes:
    """A PDF that needs an unknown password."""
    zeros = "0" * 64
    keys = f"<</Filter /Standard /V 2 /R 3 /Length 128 /P -4 /O <{zeros}> /U <{zeros}>>>"
    start = source.index(b"<<", source.rindex(b"trailer")) + 2
    return source[:start] + f"/Encrypt {keys} /ID [<00><00>] ".encode() + source[start:]
