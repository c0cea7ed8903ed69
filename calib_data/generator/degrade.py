"""Damage as by a scanner or a telephone: slant, blur, uneven light, low contrast, noise, JPEG artefacts.

Slanting turns the boxes and character centers with the picture; everything else leaves geometry alone.
The returned image is a decoded JPEG, so that it can be stored once more without a second loss (`quality="keep"`).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from .page import Page, Span

MAX_DEGREES = 2.0
Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Turn:
    """A rotation by `degrees` against the clock about the middle of a page of `size`."""

    degrees: float
    size: tuple[int, int]

    def point(self, x: float, y: float) -> tuple[float, float]:
        angle, (middle_x, middle_y) = math.radians(self.degrees), (self.size[0] / 2, self.size[1] / 2)
        dx, dy = x - middle_x, y - middle_y
        cos, sin = math.cos(angle), math.sin(angle)
        return middle_x + dx * cos + dy * sin, middle_y - dx * sin + dy * cos

    def span(self, span: Span) -> Span:
        """The box becomes the upright box around its four turned corners, cut at the edges of the page."""
        left, top, right, bottom = span.box
        corners = [self.point(x, y) for x in (left, right) for y in (top, bottom)]
        xs, ys = [x for x, _ in corners], [y for _, y in corners]
        low, high = (math.floor(min(xs)), math.floor(min(ys))), (math.ceil(max(xs)), math.ceil(max(ys)))
        box = (max(0, low[0]), max(0, low[1]), min(self.size[0], high[0]), min(self.size[1], high[1]))
        return Span(span.text, box, tuple(self.point(*center) for center in span.centers))


def turn(page: Page, degrees: float) -> Page:
    """The page slanted, the corners filled with its paper; its size stays."""
    if abs(degrees) > MAX_DEGREES:
        raise ValueError(f"a slant of {degrees} degrees is more than {MAX_DEGREES}")
    paper = page.image.getpixel((0, 0))
    image = page.image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=paper)
    move = Turn(degrees, page.image.size).span
    turned = {id(span): move(span) for line in page.lines for span in line}
    lines = tuple(tuple(turned[id(span)] for span in line) for line in page.lines)
    fields = {key: turned[id(span)] for key, span in page.fields.items()}
    return replace(page, image=image, lines=lines, fields=fields)


def blur(image: Image.Image, rng: Random) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.9)))


def light(image: Image.Image, rng: Random) -> Image.Image:
    """A shadow that grows linearly in a random direction, to at most a third."""
    width, height = image.size
    angle, depth = rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 0.33)
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :] * math.cos(angle)
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * math.sin(angle)
    ramp = (x + y) / (abs(math.cos(angle)) + abs(math.sin(angle))) + 0.5
    shade: Pixels = np.asarray(1 - depth * ramp, dtype=np.float32)
    return _image(_pixels(image) * shade[:, :, None])


def fade(image: Image.Image, rng: Random) -> Image.Image:
    """Less contrast: black becomes gray, white a little darker."""
    return _image(_pixels(image) * rng.uniform(0.5, 0.75) + rng.uniform(40, 60))


def noise(image: Image.Image, rng: Random) -> Image.Image:
    pixels = _pixels(image)
    source = np.random.Generator(np.random.PCG64(rng.getrandbits(64)))
    grain = source.normal(0, rng.uniform(2, 7), pixels.shape[:2]).astype(np.float32)
    return _image(pixels + grain[:, :, None])


def jpeg(image: Image.Image, rng: Random) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=rng.randint(40, 85))
    return Image.open(buffer)


DAMAGES: tuple[Callable[[Image.Image, Random], Image.Image], ...] = (blur, light, fade, noise)


def degrade(page: Page, rng: Random) -> Page:
    """A page slanted in two cases of three, with one to three damages in the order of DAMAGES, then as JPEG."""
    if rng.random() < 2 / 3:
        page = turn(page, rng.uniform(-MAX_DEGREES, MAX_DEGREES))
    chosen = rng.sample(range(len(DAMAGES)), rng.randint(1, 3))
    image = page.image
    for i in sorted(chosen):
        image = DAMAGES[i](image, rng)
    return replace(page, image=jpeg(image, rng))


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(image, dtype=np.float32)


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
