"""Draws boxes and points on an image."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .errors import MediaError
from .grounding import Box, Region
from .media.images import Frame
from .media.sources import resolve_source

COLORS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "PDF", "JPEG2000", "AVIF")
"""The formats Pillow writes that can store a page in color and at full size."""
WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "msyh.ttc", "PingFang.ttc")
"""Fonts tried if a label has characters that Pillow's own font lacks."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw(image: Frame, regions: Sequence[Region]) -> Image.Image:
    """Returns a copy of the image with every region and its label drawn; equal labels have the same color."""
    copy = image.copy()
    canvas = ImageDraw.Draw(copy)
    width = max(2, max(image.size) // 400)
    size = max(12, max(image.size) // 60)
    order = list(dict.fromkeys(region.label for region in regions))
    for region in regions:
        color = COLORS[order.index(region.label) % len(COLORS)]
        corner = _outline(canvas, region, color, width)
        if region.label:
            _write_label(canvas, corner, region.label, color, size)
    return copy


def _outline(canvas: ImageDraw.ImageDraw, region: Region, color: str, width: int) -> tuple[float, float]:
    """Draws the shape; returns its upper left corner."""
    if isinstance(region, Box):
        corners = (region.x1, region.y1, region.x2, region.y2)
        canvas.rectangle(corners, outline=color, width=width)
    else:
        radius = 2 * width
        corners = (region.x - radius, region.y - radius, region.x + radius, region.y + radius)
        canvas.ellipse(corners, fill=color, outline="white", width=max(1, width // 2))
    return corners[0], corners[1]


def _write_label(canvas: ImageDraw.ImageDraw, corner: tuple[float, float], label: str, color: str, size: int) -> None:
    """Draws the label on a colored background above the corner, or below it at the upper edge of the page."""
    label, font = " ".join(label.split())[:80], _font(label, size)
    left, top, right, bottom = canvas.textbbox((0, 0), label, font=font)
    x, y = corner[0], corner[1] - (bottom - top) - 4
    y = y if y >= 0 else corner[1] + 2
    canvas.rectangle((x, y, x + right - left + 4, y + bottom - top + 4), fill=color)
    canvas.text((x + 2 - left, y + 2 - top), label, fill="white", font=font)


def _font(label: str, size: int) -> Font:
    for name in WIDE_FONTS if max(map(ord, label)) > 0x24F else ():
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def is_image(path: Path) -> bool:
    """Whether the file's suffix is that of a still image format."""
    Image.init()
    return Image.registered_extensions().get(path.suffix.lower(), "GIF") not in ("GIF", "MPEG")


def image_format(path: Path) -> str:
    """Returns Pillow's format for the file's suffix; raises MediaError if it is unknown or cannot be written."""
    Image.init()
    kind = Image.registered_extensions().get(path.suffix.lower(), "")
    if kind not in FORMATS or kind not in Image.SAVE:
        raise MediaError("does not have the extension of an image format", where=path, fix="write to a .png file")
    return kind


def check_writable(path: Path, sources: Iterable[str] = ()) -> None:
    """Raises MediaError if `save` could not write the path, or would overwrite one of the `sources`."""
    image_format(path)
    if path.is_dir():
        raise MediaError("is a directory", where=path, fix="name a file, such as drawn.png")
    if path.exists() and not path.is_file():  # renaming would replace it
        raise MediaError("is a device or a pipe", where=path, fix="name a file, such as drawn.png")
    if not path.absolute().parent.is_dir():
        raise MediaError("directory not found", where=path.parent, fix="create it first")
    if path.exists() and any(_is_same_file(path, source) for source in sources):
        raise MediaError("is the input image and would be overwritten", where=path, fix="write to another file")
    try:
        (partial := _partial_path(path)).touch()
        partial.unlink()
    except OSError as error:
        raise MediaError(f"cannot be written: {error.strerror or error}", where=path) from error


def _is_same_file(path: Path, source: str) -> bool:
    file = resolve_source(source)
    return not isinstance(file, bytes) and os.path.exists(file) and os.path.samefile(path, file)


def _partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def save(image: Image.Image, path: Path) -> None:
    """Writes the image completely or not at all; raises MediaError naming the path."""
    partial = _partial_path(path)
    try:
        image.save(partial, format=image_format(path))
        os.replace(partial, path)
    except (OSError, ValueError, struct.error) as error:  # the last two: a side has more pixels than the format allows
        raise MediaError(f"cannot be written: {getattr(error, 'strerror', None) or error}", where=path) from error
    finally:
        partial.unlink(missing_ok=True)
