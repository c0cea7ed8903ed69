"""Loads images as RGB: files, bytes, arrays, PIL images, multi-page TIFFs and pages of PDFs."""

from __future__ import annotations

import contextlib
import io
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, overload

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..common.files import check_regular, is_pipe, read_file
from ..common.interruption import check_interrupted
from ..errors import MediaError, QvlError
from ..pdf import PdfPage
from ..resize import MAX_ASPECT_RATIO
from .sources import describe_source, is_remote, resolve_source

MAX_IMAGE_PIXELS = 1 << 27
"""Larger images are rejected before decoding: 134 million pixels, an A3 page at 800 dpi."""
MAX_PAGES_PIXELS = 1 << 28
"""Maximum pixels of all pages of one TIFF: 30 A4 pages at 300 dpi."""
MAX_TIFF_PAGES = 1024
"""Maximum pages of one TIFF: a page takes time even if it has only one pixel."""
MAX_SCANNED_PIXELS = 1 << 31
"""Maximum pixels × scans of a JPEG: each scan covers all pixels. Ten are usual, but 90 kB may hold thousands."""
MAX_CLIP_PIXELS = 1 << 30
"""Maximum pixels of all frames of a video: 517 frames of 1920 × 1080, 3.2 GB."""
MAX_IMAGE_BYTES = 1 << 30
"""Larger files are rejected."""
MAX_CLIP_FRAMES = 1 << 16
FEWER_FRAMES = "give fewer or smaller frames, or a video file"
COMPLETE = "check that the file is complete"
CHUNK = 1 << 20
_REFUSED = ("EPS", "WMF")  # Pillow runs Ghostscript or Windows on these
_PILLOW_LOCK = threading.Lock()

Numbers = np.ndarray[Any, Any]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Picture = str | Path | bytes | BinaryIO | Image.Image | np.ndarray[Any, Any]
ImageSource = Picture | PdfPage


class Frame(Protocol):
    """The interface of an image in a prompt: a `PIL.Image.Image`, or a PDF page that is rendered on demand."""

    @property
    def size(self) -> tuple[int, int]: ...

    def tobytes(self) -> bytes: ...

    def copy(self) -> Image.Image: ...

    def resize(self, size: tuple[int, int], resample: int) -> Image.Image: ...


@overload
def load_pages(source: Picture) -> list[Image.Image]: ...


@overload
def load_pages(source: ImageSource) -> list[Image.Image] | list[PdfPage]: ...


def load_pages(source: ImageSource) -> list[Image.Image] | list[PdfPage]:
    """Returns the pages of an image source in RGB: one, except for multi-page TIFFs; PDF pages are not rendered yet.

    Applies EXIF orientation and composites transparency on white. Raises MediaError naming the source.
    """
    if isinstance(source, PdfPage):
        return [source]
    where = describe_source(source)
    with _reading(where):
        source = resolve_source(source)
        if isinstance(source, Image.Image):
            return [_upright_rgb(source, where)]
        with _open(source, where) as image:
            return [_upright_rgb(_seek(image, index), where) for index in range(_count_pages(image, where))]


def load_page(source: str | Path | bytes, index: int) -> Image.Image:
    """Returns one page, counted from 0, as `load_pages` would, without decoding the others."""
    where = describe_source(source)
    with _reading(where), _open(source, where) as image:
        return _upright_rgb(_seek(image, index), where)


def count_pages(source: str | Path | bytes) -> int:
    """Returns the number of pages `load_pages` would return, reading only headers; raises MediaError as it does."""
    where = describe_source(source)
    with _reading(where), _open(source, where) as image:
        return _count_pages(image, where)


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
    """Converts any exception in the block into a MediaError naming the source."""
    try:
        yield
    except (QvlError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        hint = "give PDFs with --pdf" if where.lower().endswith(".pdf") else ""
        raise MediaError("is not an image in a known format", where=where, fix=hint) from error
    except Exception as error:  # on damaged files Pillow's parsers raise exceptions of any type
        raise MediaError(f"cannot be read: {str(error)[:200]}", where=where, fix=COMPLETE) from error


def load_image(source: ImageSource) -> Image.Image:
    """Loads an image source of one page; raises MediaError for several pages."""
    pages = load_pages(source)
    if len(pages) > 1:
        raise MediaError(
            f"has {len(pages)} pages; one image is expected", where=describe_source(source), fix="split it"
        )
    return pages[0].draw() if isinstance(pages[0], PdfPage) else pages[0]


def check_aspect(pages: Sequence[Frame], source: ImageSource) -> None:
    """Raises MediaError for an aspect ratio above the limit, here where the source's name is known."""
    for page in pages:
        if max(page.size) > MAX_ASPECT_RATIO * min(page.size):
            width, height = page.size
            raise MediaError(
                f"aspect ratio of {width} × {height} is above {MAX_ASPECT_RATIO}",
                where=describe_source(source),
                fix="crop it",
            )


def load_frames(sources: Sequence[ImageSource]) -> list[Image.Image]:
    """Loads video frames; raises MediaError if there are none or too many, or if their sizes differ."""
    frames: list[Image.Image] = []
    pixels = 0
    if len(sources) > MAX_CLIP_FRAMES:
        raise MediaError(f"the video has {len(sources):,} frames, more than {MAX_CLIP_FRAMES:,}", fix=FEWER_FRAMES)
    for source in sources:
        frames.append(load_image(source))
        pixels += frames[-1].width * frames[-1].height
        if pixels > MAX_CLIP_PIXELS:
            raise MediaError(
                f"the first {len(frames):,} frames of the video have {pixels:,} pixels",
                fix=FEWER_FRAMES,
            )
    if not frames:
        raise MediaError("a video needs at least one frame")
    if len(sizes := {frame.size for frame in frames}) > 1:
        raise MediaError(f"the frames of the video differ in size: {sorted(sizes)}", fix="resize them to one size")
    return frames


def check_clip(frames: np.ndarray[Any, Any]) -> None:
    """Raises MediaError for an array [frames, H, W, …] that is too large, before any of it is copied."""
    pixels = math.prod(frames.shape[:3])
    if pixels > MAX_CLIP_PIXELS or len(frames) > MAX_CLIP_FRAMES:
        raise MediaError(
            f"is an array of shape {list(frames.shape)}: {pixels:,} pixels",
            where="video",
            fix=FEWER_FRAMES,
        )


def _open(source: str | Path | bytes | BinaryIO | np.ndarray[Any, Any], where: str) -> Image.Image:
    if isinstance(source, np.ndarray):
        source = source[..., 0] if source.ndim == 3 and source.shape[2] == 1 else source
        if source.dtype != np.uint8 or source.ndim not in (2, 3) or source.shape[2:] not in ((), (3,), (4,)):
            raise MediaError(
                f"is a {source.dtype} array of shape {list(source.shape)}", where=where, fix="use uint8 [H, W, 3]"
            )
        _check_pixels(source.shape[1], source.shape[0], where)  # the array may be a view that repeats one pixel
        return Image.fromarray(source)
    if not isinstance(source, str | Path | bytes) and hasattr(source, "read"):
        source = _read_all(source, where)
    if isinstance(source, bytes | bytearray):
        return _identify(io.BytesIO(source))
    if not isinstance(source, str | Path):
        raise MediaError("is not an image", where=where, fix="give a path, bytes, a PIL image or a uint8 array")
    check_exists(source)
    if is_pipe(source):
        return _identify(io.BytesIO(read_file(source, MAX_IMAGE_BYTES)))
    check_regular(source, MAX_IMAGE_BYTES)
    return _identify(Path(source))


def _read_all(source: BinaryIO, where: str) -> bytes:
    """Reads an open file completely, from its start if it is seekable."""
    if hasattr(source, "seekable") and source.seekable():
        source.seek(0)
    content = bytearray()
    while piece := source.read(CHUNK):  # a pipe returns less than requested, a device never ends
        if not isinstance(piece, bytes | bytearray):
            raise MediaError("is open as text", where=where, fix='open it with mode "rb"')
        content += piece
        if len(content) > MAX_IMAGE_BYTES:
            raise MediaError(f"has more than {MAX_IMAGE_BYTES >> 20:,} MiB", where=where)
    return bytes(content)


def check_exists(source: str | Path) -> None:
    """Raises MediaError if there is no such file, with a hint for URLs."""
    text = str(source)
    if os.path.exists(source):  # unlike pathlib, it takes any text
        return
    if not text:
        raise MediaError("the path is empty")
    if is_remote(text):
        raise MediaError("is a URL", where=describe_source(source), fix="URLs are not fetched; download the file first")
    if text.lower().startswith("data:"):
        fix = "write data:image/png;base64,…"
        raise MediaError("is a data: URL without data", where=describe_source(source), fix=fix)
    raise MediaError("no such file", where=describe_source(source))


def _identify(file: Path | io.BytesIO) -> Image.Image:
    with _no_pillow_limit():
        image = Image.open(file)
    if image.format in _REFUSED:
        image.close()
        raise UnidentifiedImageError
    return image


def _seek(image: Image.Image, index: int) -> Image.Image:
    """Moves the image to one of its pages and returns it; reads only the page's header, raises Interrupted before."""
    check_interrupted("while the pages of its image were read")
    if image.tell() != index:
        with _no_pillow_limit():
            image.seek(index)
    return image


def _count_pages(image: Image.Image, where: str) -> int:
    """Counts the pages and checks the size in every page's header, before any page is decoded."""
    _check_size(image, where)
    if image.format in ("JPEG", "MPO"):
        _check_scans(image, where)
    if image.format != "TIFF":
        return 1
    count, total = 0, 0
    with contextlib.suppress(EOFError):
        while True:
            _check_size(_seek(image, count), where)
            count, total = count + 1, total + image.width * image.height
            if count > MAX_TIFF_PAGES or total > MAX_PAGES_PIXELS:
                problem = f"its first {count} pages have {total:,} pixels, which is too many"
                raise MediaError(problem, where=where, fix="split it")
    return count


def _check_scans(image: Image.Image, where: str) -> None:
    """Raises MediaError for a JPEG with too many scans; `image` is open and not decoded yet."""
    file: Any = getattr(image, "fp", None)
    if file is None:
        return
    position, scans, last = file.tell(), 0, b""
    file.seek(0)
    while piece := file.read(CHUNK):
        scans += (last + piece).count(b"\xff\xda")  # no pixel data contains it
        last = piece[-1:]
    file.seek(position)
    if scans * image.width * image.height > MAX_SCANNED_PIXELS:
        raise MediaError(f"its {scans:,} scans take too long to read", where=where, fix="save it again")


@contextlib.contextmanager
def _no_pillow_limit() -> Iterator[None]:
    """Disables Pillow's process-wide size limit, which warns first and names no file; `_check_size` replaces it."""
    with _PILLOW_LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_size(image: Image.Image, where: str) -> None:
    _check_pixels(*image.size, where)


def _check_pixels(width: int, height: int, where: str) -> None:
    if width * height > MAX_IMAGE_PIXELS:
        raise MediaError(
            f"has {width} × {height} pixels; more than {MAX_IMAGE_PIXELS:,} are refused as a decompression bomb",
            where=where,
            fix="scale it down",
        )
    if min(width, height) < 1:
        raise MediaError("has no pixels", where=where)


def _upright_rgb(image: Image.Image, where: str) -> Image.Image:
    _check_size(image, where)
    return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(_bytes_of_floats(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        background = Image.new("RGB", rgba.size, "white")
        background.paste(rgba, mask=rgba.getchannel("A"))
        return background
    return image.convert("RGB")


def _eight_bits(values: Numbers) -> Bytes:
    """Converts 16-bit grays to their upper byte; Pillow's own conversion would clip everything above 255 to white.

    Grays of mode I that fit into 8 bits stay as they are.
    """
    narrow = values.dtype.itemsize > 2 and values.max() <= 255
    return _by_rows(values, lambda rows: np.clip(rows, 0, 255) if narrow else np.clip(rows, 0, 65535) // 256)


def _bytes_of_floats(values: Numbers) -> Bytes:
    """Converts float grays: if all are at most 1, they are fractions of white, otherwise values from 0 to 255."""
    factor = 1 if np.fmax.reduce(values, axis=None) > 1 else 255
    return _by_rows(values, lambda rows: np.clip(np.nan_to_num(rows) * factor, 0, 255))


def _by_rows(values: Numbers, convert: Callable[[Numbers], Numbers]) -> Bytes:
    """Converts a few rows at a time, since intermediate arrays take several times the memory of the result."""
    converted, step = np.empty(values.shape, np.uint8), max(1, CHUNK // values.shape[1])
    for first in range(0, len(values), step):
        converted[first : first + step] = convert(values[first : first + step]).astype(np.uint8)
    return converted
