"""Small PDFs that ask for far more memory or time than they look like: for tests of the bounds on pdfium."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from tests.pdfs import pdf_source

PAGE = "<</Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R /Resources {}>>"


def document(contents: str, resources: str = "<<>>", objects: tuple[str, ...] = ()) -> bytes:
    """A PDF of one page; `objects` are numbered from 5."""
    catalog, pages = "<</Type /Catalog /Pages 2 0 R>>", "<</Type /Pages /Kids [3 0 R] /Count 1>>"
    return pdf_source([catalog, pages, PAGE.format(resources), contents, *objects])


def stream(content: str, entries: str = "") -> str:
    return f"<<{entries} /Length {len(content)}>>\nstream\n{content}\nendstream"


def deflated(content: bytes) -> str:
    return stream(zlib.compress(content, 9).hex(), "/Filter [/ASCIIHexDecode /FlateDecode]")


def thrice_deflated(block: bytes, count: int, entries: str = "") -> str:
    """A stream of `count` times `block`, which is never held in memory."""
    packed = zlib.compress(zlib.compress(repeated(block, count), 9), 9)
    return stream(packed.hex(), f"{entries} /Filter [/ASCIIHexDecode /FlateDecode /FlateDecode /FlateDecode]")


def repeated(block: bytes, count: int) -> bytes:
    """zlib's form of `count` times `block`; it ends without a checksum, as pdfium takes it."""
    packer = zlib.compressobj(9)
    first = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    body = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + body * (count - 1) + packer.flush()


def nested_flate() -> bytes:
    """19 GB of blanks in 3 kB or so."""
    return document(thrice_deflated(b" " * (1 << 24), 1152))


def nested_forms(levels: int = 12, calls: int = 10) -> bytes:
    """Forms that show the next one ten times, which shows the next one ten times."""

    def form(level: int) -> str:
        shown = "0 0 1 1 re f" if level == levels else "/X Do " * calls
        resources = f"/Resources <</XObject <</X {6 + level} 0 R>>>>" if level < levels else ""
        return stream(shown, f"/Type /XObject /Subtype /Form /BBox [0 0 600 800] {resources}")

    resources = "<</XObject <</X 5 0 R>>>>"
    return document(stream("/X Do"), resources, tuple(form(level) for level in range(levels + 1)))


def tiny_tiles() -> bytes:
    """A page filled with a pattern that repeats every thousandth of a point."""
    pattern = stream(
        "0 0 1 1 re f",
        "/Type /Pattern /PatternType 1 /PaintType 1 /TilingType 1 /BBox [0 0 1 1] /XStep 0.001 /YStep 0.001"
        " /Resources <<>>",
    )
    return document(stream("/Pattern cs /P scn 0 0 600 800 re f"), "<</Pattern <</P 5 0 R>>>>", (pattern,))


def transparency_groups(count: int = 3000) -> bytes:
    """As many half-transparent groups as large as the page, one after another."""
    group = stream(
        "/G gs 0 0 600 800 re f",
        "/Type /XObject /Subtype /Form /BBox [0 0 600 800] /Group <</S /Transparency /I true>>"
        " /Resources <</ExtGState <</G 6 0 R>>>>",
    )
    state = "<</Type /ExtGState /ca 0.5 /BM /Multiply>>"
    resources = "<</XObject <</X 5 0 R>> /ExtGState <</G 6 0 R>>>>"
    return document(deflated(b"/G gs " + b"/X Do " * count), resources, (group, state))


def many_rectangles(count: int = 2_000_000) -> bytes:
    return document(deflated(b"0 0 600 800 re f\n" * count))


def endless_catalog() -> bytes:
    """The catalog is in an object stream of gigabytes: the harm is done when the file is opened."""
    objects = thrice_deflated(b" " * (1 << 24), 256, "/Type /ObjStm /N 1 /First 4")
    body = f"%PDF-1.7\n2 0 obj\n{objects}\nendobj\n".encode()
    # the first object is the first in object stream 2, which is here, as the table itself is
    entries = [(0, 0, 0), (2, 2, 0), (1, len(b"%PDF-1.7\n"), 0), (1, len(body), 0)]
    table = "".join(f"{kind:02x}{place:08x}{index:02x}" for kind, place, index in entries)
    head = "/Type /XRef /W [1 4 1] /Size 4 /Root 1 0 R /Filter /ASCIIHexDecode"
    return body + f"3 0 obj\n{stream(table, head)}\nendobj\nstartxref\n{len(body)}\n%%EOF".encode()


ATTACKS: dict[str, Callable[[], bytes]] = {
    "nested flate": nested_flate,
    "nested forms": nested_forms,
    "tiny tiles": tiny_tiles,
    "transparency groups": transparency_groups,
    "many rectangles": many_rectangles,
    "endless catalog": endless_catalog,
}
