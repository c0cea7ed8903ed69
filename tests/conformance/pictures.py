"""Pixels by formula, so that vectors need no image files: every runtime computes them for itself.

A picture is `{"formula": name, "width": w, "height": h}`, and `"frame": f` (0 unless given) in a video.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""[height, width, 3], RGB."""

FORMULAS = {
    "waves": "(x·x + 3·y·y·(c + 1) + 7·x·y + 29·c + 53·f) mod 256",
    "checks": "255 if floor(x / 3) + floor(y / 2) + c + f is odd, else 0",
    "noise": "floor(((x·374761393 + y·668265263 + c·2246822519 + f·3266489917) mod 2^32) / 2^16) mod 256",
    "page": "255, but 20·c + 40 where f + 20 <= x < f + 70, 30 <= y < 60, (x − f) mod 5 < 3 and y mod 10 < 6",
    "scan": "that of `page`, minus (31·x + 17·y + 7·c) mod 5",
}
"""Value of channel c (0 to 2) at column x and row y of frame f; all are computed exactly in integers."""


def picture(formula: str, width: int, height: int, frame: int = 0) -> dict[str, Any]:
    """The description of a picture, as vectors have it."""
    return {"formula": formula, "width": width, "height": height, **({"frame": frame} if frame else {})}


def pixels(formula: str, width: int, height: int, frame: int = 0) -> Pixels:
    """The pixels of a picture."""
    y, x, c = np.indices((height, width, 3)).astype(np.int64)
    f = np.int64(frame)
    if formula == "waves":
        return ((x * x + 3 * y * y * (c + 1) + 7 * x * y + 29 * c + 53 * f) % 256).astype(np.uint8)
    if formula == "checks":
        return (255 * ((x // 3 + y // 2 + c + f) % 2)).astype(np.uint8)
    if formula == "noise":
        mixed = x * 374761393 + y * 668265263 + c * 2246822519 + f * 3266489917
        return (mixed % 2**32 // 2**16 % 256).astype(np.uint8)
    inked = (f + 20 <= x) & (x < f + 70) & (y >= 30) & (y < 60) & ((x - f) % 5 < 3) & (y % 10 < 6)
    page = np.where(inked, 20 * c + 40, 255)
    if formula == "page":
        return page.astype(np.uint8)
    if formula == "scan":
        return (page - (31 * x + 17 * y + 7 * c) % 5).astype(np.uint8)
    raise ValueError(f"no formula {formula!r}")


def sha256(array: npt.NDArray[Any]) -> str:
    """The hash of an array's elements in C order, little-endian."""
    little = array.astype(array.dtype.newbyteorder("<"))
    return hashlib.sha256(np.ascontiguousarray(little).tobytes()).hexdigest()
