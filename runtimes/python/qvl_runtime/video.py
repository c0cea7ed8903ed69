"""Frames of videos as `qwen-vl-utils` 0.0.14 takes them: how many, which ones, and how large."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .errors import InstallError, MediaError, PromptError
from .extras import install_fix
from .media import MAX_IMAGE_PIXELS, check_there, load_frames
from .positions import Ints

if TYPE_CHECKING:
    from av.container import InputContainer

DEFAULT_FPS, MIN_FPS, MAX_FPS = 2.0, 0.01, 1000
FRAME_FACTOR = 2
"""Frames come in pairs: one temporal patch."""
MIN_FRAMES, MAX_FRAMES = 4, 768
MIN_TOKENS, MAX_TOKENS = 128, 768
"""Image tokens of a frame, unless the pixel budgets say otherwise."""
SHARE = 0.9
"""Of the maximum length, for the frames of one video together."""
Size = tuple[int, int]
Resize = Callable[[int, Size], Size]
"""Number of frames and their size (width, height) → the size they are wanted in."""


@dataclass(frozen=True)
class Budget:
    """Pixel bounds of an image or a frame, and of all temporal patches of a video together; None is the default."""

    min_pixels: int | None = None
    max_pixels: int | None = None
    total_pixels: int | None = None

    @classmethod
    def of(cls, part: Mapping[str, Any]) -> Budget:
        """What a content part asks for; raises PromptError for what is no budget."""
        low, high, total = (_count(part, name) for name in ("min_pixels", "max_pixels", "total_pixels"))
        if low and high and low > high:
            raise PromptError(f"min_pixels {low} is above max_pixels {high}")
        return cls(low, high, total)

    def frame_bounds(self, frames: int, token_side: int, max_length: int) -> tuple[int, int]:
        """Least and most pixels of each of `frames` frames, where a token is `token_side` pixels square."""
        token = token_side**2
        low = self.min_pixels or MIN_TOKENS * token
        total = self.total_pixels or max_length * token * SHARE
        high = max(min(MAX_TOKENS * token, total / _even(frames, math.ceil) * FRAME_FACTOR), int(low * 1.05))
        high = int(min(self.max_pixels or high, high))
        return min(low, high), high


@dataclass(frozen=True)
class Sampling:
    """`frames` in all, or `fps` a second but `min_frames` to `max_frames` of them."""

    fps: float = DEFAULT_FPS
    frames: int | None = None
    min_frames: int = MIN_FRAMES
    max_frames: int | None = None

    @classmethod
    def of(cls, part: Mapping[str, Any]) -> Sampling:
        """What a content part asks for; raises PromptError for what makes no sense."""
        fps = part.get("fps", DEFAULT_FPS)
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not MIN_FPS <= fps <= MAX_FPS:
            raise PromptError(f"a video has {fps!r} frames a second", fix=f"give a number from {MIN_FPS} to {MAX_FPS}")
        if "fps" in part and "nframes" in part:
            raise PromptError("a video has both fps and nframes", fix="give one of them")
        low, high = _count(part, "min_frames"), _count(part, "max_frames")
        if high is not None and high < max(low or 0, FRAME_FACTOR):
            problem = f"max_frames {high} is below min_frames {low or FRAME_FACTOR}"
            raise PromptError(problem, fix=f"frames come in pairs: give at least {max(low or 0, FRAME_FACTOR)}")
        return cls(float(fps), _count(part, "nframes"), low or MIN_FRAMES, high)

    def count(self, total: int, rate: float) -> int:
        """How many of `total` frames at `rate` a second to take (`smart_nframes`); a video of one frame keeps it."""
        if self.frames is not None:
            wanted = round(self.frames / FRAME_FACTOR) * FRAME_FACTOR
            if not FRAME_FACTOR <= wanted <= total:
                problem, most = f"nframes is {self.frames}, the video has {total} frames", _even(total, math.floor)
                raise PromptError(problem, fix=f"frames come in pairs: give {FRAME_FACTOR} to {most}")
            return wanted
        low = _even(self.min_frames, math.ceil)
        high = _even(self.max_frames or min(MAX_FRAMES, total), math.floor)
        return max(min(total, FRAME_FACTOR), _even(min(max(total / rate * self.fps, low), high, total), math.floor))


def _even(number: float, rounded: Callable[[float], int]) -> int:
    return rounded(number / FRAME_FACTOR) * FRAME_FACTOR


def _count(part: Mapping[str, Any], name: str) -> int | None:
    value = part.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise PromptError(f"{name} is {value!r}", fix="give a positive whole number")
    return value


def spread(total: int, count: int) -> Ints:
    """Indices of `count` of `total` frames, first and last among them (`torch.linspace(…).round()` in float32)."""
    step = np.float32(total - 1) / np.float32(max(count - 1, 1))
    place = np.arange(count, dtype=np.float32)
    from_end = np.float32(total - 1) - step * (count - 1 - place)
    first_half = place < max(count // 2, 1)
    return np.asarray(np.where(first_half, step * place, from_end).round(), dtype=np.int64)


@dataclass(frozen=True)
class Clip:
    """RGB frames of one size, how many make a second, the second each was taken at, and whether resized already."""

    frames: tuple[Image.Image, ...]
    fps: float
    times: tuple[float, ...]
    resized: bool


def load_clip(source: Any, sampling: Sampling, resize: Resize) -> Clip:
    """A video file, a list of images, or a uint8 array [frames, H, W, 3].

    A file is sampled and its frames are resized as they are decoded. Frames given one by one are `sampling.fps` a
    second already; `max_frames` thins them out. Raises MediaError naming the file.
    """
    if isinstance(source, str | Path):
        return _from_file(source, sampling, resize)
    if sampling.frames is not None:
        raise PromptError("nframes samples video files", fix="choose among the frames, or give max_frames")
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise MediaError(f"is an array of shape {list(source.shape)}", where="video", fix="give [frames, H, W, 3]")
    frames = load_frames(list(source))
    chosen = spread(len(frames), min(len(frames), sampling.max_frames or len(frames)))
    fps = sampling.fps * len(chosen) / len(frames)
    return Clip(tuple(frames[index] for index in chosen), fps, tuple((chosen / sampling.fps).tolist()), False)


def _from_file(source: str | Path, sampling: Sampling, resize: Resize) -> Clip:
    try:
        import av
    except ImportError as error:
        raise InstallError("video files need av", fix=install_fix("video")) from error
    check_there(source)
    path = Path(source)
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            total, rate = _length(container, path)
            container.seek(0)
            chosen = spread(total, sampling.count(total, rate))
            frames = list(_decoded(container, chosen, resize))
    except av.error.FFmpegError as error:
        raise MediaError(f"cannot be read as a video: {error.strerror}", where=path) from error
    if not frames:
        raise MediaError("no frame of the video can be decoded", where=path)
    frames += frames[-1:] * (len(chosen) - len(frames))  # the file ends sooner than it says
    return Clip(tuple(frames), len(chosen) / total * rate, tuple((chosen / rate).tolist()), True)


def _length(container: InputContainer, path: Path) -> tuple[int, float]:
    """Number of frames, counted where the file does not say it, and frames a second."""
    if not container.streams.video:
        raise MediaError("has no pictures", where=path)
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    if stream.width * stream.height > MAX_IMAGE_PIXELS:
        raise MediaError(f"{stream.width} × {stream.height} pixels are too many", where=path, fix="scale it down")
    total = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
    rate = float(stream.average_rate or 0)
    if total < 1 or rate <= 0:
        raise MediaError("has no frames, or no frame rate", where=path)
    return total, rate


def _decoded(container: InputContainer, chosen: Ints, resize: Resize) -> Iterator[Image.Image]:
    """The chosen frames in order, upright and resized."""
    wanted = iter(chosen.tolist())
    following = next(wanted, None)
    for index, frame in enumerate(container.decode(video=0)):
        if index == following:
            image = _upright(frame)
            yield image.resize(resize(len(chosen), image.size), Image.Resampling.BICUBIC)
            following = next(wanted, None)
            if following is None:
                return


def _upright(frame: Any) -> Image.Image:
    """As a player shows it: telephones store how they were held."""
    image: Image.Image = frame.to_image()
    turned = getattr(frame, "rotation", 0)  # degrees counter-clockwise, PyAV 14 and newer
    return image.rotate(turned, expand=True) if turned else image
