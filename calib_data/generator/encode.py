"""Images to files: PNG as small as it goes without touching a pixel; a JPEG with the tables it was read with."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def encode(image: Image.Image) -> tuple[str, bytes]:
    """The file's extension and its bytes."""
    if image.format == "JPEG":
        return "jpg", _bytes(image, "JPEG", quality="keep")
    return "png", min((_bytes(form, "PNG", optimize=True) for form in _lossless(image)), key=len)


def _lossless(image: Image.Image) -> list[Image.Image]:
    """The forms of an RGB image that decode to the same pixels: itself, greyscale, palette."""
    pixels = np.asarray(image)
    forms = [image]
    if bool((pixels == pixels[:, :, :1]).all()):
        forms.append(Image.fromarray(pixels[:, :, 0]))
    packed = (pixels.astype(np.uint32) << np.array([16, 8, 0], dtype=np.uint32)).sum(axis=2, dtype=np.uint32)
    colors, indices = np.unique(packed, return_inverse=True)
    if len(colors) <= 256:
        forms.append(_palette(colors, indices.reshape(packed.shape).astype(np.uint8)))
    return forms


def _palette(colors: npt.NDArray[np.uint32], indices: npt.NDArray[np.uint8]) -> Image.Image:
    form = Image.fromarray(indices)
    form.putpalette([int(color) >> shift & 255 for color in colors for shift in (16, 8, 0)])
    return form


def _bytes(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
