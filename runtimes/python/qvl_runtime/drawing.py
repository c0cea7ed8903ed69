"""Boxes and points drawn on a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .errors import MediaError
from .grounding import Box, Region
from .media import Frame

COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "msyh.ttc", "PingFang.ttc")
"""Looked for where a label has letters that Pillow's own font lacks."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw(image: Frame, regions: Sequence[Region]) -> Image.Image:
    """A copy of the picture with every region and its label; the same label has the same colour."""
    copy = image.copy()
    canvas = ImageDraw.Draw(copy)
    width = max(2, max(image.size) // 400)
    size = max(12, max(image.size) // 60)
    order = list(dict.fromkeys(region.label for region in regions))
    for region in regions:
        colour = COLOURS[order.index(region.label) % len(COLOURS)]
        corner = _outline(canvas, region, colour, width)
        if region.label:
            _write(canvas, corner, region.label, colour, size)
    return copy


def _outline(canvas: ImageDraw.ImageDraw, region: Region, colour: str, width: int) -> tuple[float, float]:
    """Draws the shape; returns its upper left corner."""
    if isinstance(region, Box):
        corners = (region.x1, region.y1, region.x2, region.y2)
        canvas.rectangle(corners, outline=colour, width=width)
    else:
        radius = 2 * width
        corners = (region.x - radius, region.y - radius, region.x + radius, region.y + radius)
        canvas.ellipse(corners, fill=colour, outline="white", width=max(1, width // 2))
    return corners[0], corners[1]


def _write(canvas: ImageDraw.ImageDraw, corner: tuple[float, float], label: str, colour: str, size: int) -> None:
    """The label on a coloured ground above the corner, or below it at the upper edge of the page."""
    label, font = " ".join(label.split())[:80], _font(label, size)
    left, top, right, bottom = canvas.textbbox((0, 0), label, font=font)
    x, y = corner[0], corner[1] - (bottom - top) - 4
    y = y if y >= 0 else corner[1] + 2
    canvas.rectangle((x, y, x + right - left + 4, y + bottom - top + 4), fill=colour)
    canvas.text((x + 2 - left, y + 2 - top), label, fill="white", font=font)


def _font(label: str, size: int) -> Font:
    for name in WIDE_FONTS if max(map(ord, label)) > 0x24F else ():
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def is_image(path: Path) -> bool:
    """Whether the file's ending is one of a picture that does not move."""
    Image.init()
    return Image.registered_extensions().get(path.suffix.lower(), "GIF") not in ("GIF", "MPEG")


def image_format(path: Path) -> str:
    """Pillow's format for the file's ending; raises MediaError where it cannot write one."""
    Image.init()
    kind = Image.registered_extensions().get(path.suffix.lower(), "")
    if kind not in Image.SAVE:
        raise MediaError("has no ending of an image format", where=path, fix="write to a .png file")
    return kind


def save(image: Image.Image, path: Path) -> None:
    """Write the image whole or not at all; raises MediaError naming the path."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        image.save(partial, format=image_format(path))
        os.replace(partial, path)
    except OSError as error:
        raise MediaError(f"cannot be written: {error.strerror or error}", where=path) from error
    finally:
        partial.unlink(missing_ok=True)
