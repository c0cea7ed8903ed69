"""Samples and resizes video frames as `qwen-vl-utils` 0.0.14 does: how many, which ones, and how large."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..common.arrays import Ints
from ..common.checks import check_float, check_int
from ..common.extras import install_fix
from ..common.files import check_regular
from ..common.interruption import check_interrupted
from ..errors import InstallError, MediaError, PromptError, QvlError
from ..resize import MAX_ASPECT_RATIO, smart_resize
from .images import COMPLETE, MAX_CLIP_FRAMES, MAX_CLIP_PIXELS, MAX_IMAGE_PIXELS, check_clip, check_exists, load_frames
from .sources import describe_source, resolve_source

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

DEFAULT_FPS, MIN_FPS, MAX_FPS = 2.0, 0.01, 1000
FRAME_FACTOR = 2
"""Frames per temporal patch."""
MIN_FRAMES, MAX_FRAMES = 4, 768
MAX_COUNT = 1 << 53
"""Maximum pixels, frames or seconds that a part may request."""
MIN_TOKENS, MAX_TOKENS = 128, 768
"""Default minimum and maximum image tokens of a frame."""
RESIZED_TOKENS = 4, 16384
"""Minimum and maximum image tokens of an explicitly requested size."""
VIDEO_SHARE = 0.9
"""Fraction of the maximum length that the frames of one video may take together."""
MAX_VIDEO_BYTES = 1 << 34
"""Larger files are rejected: 16 GiB."""
FORMATS = (
    "mov,mp4,matroska,webm,avi,flv,asf,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ogg,gif,apng,mjpeg,ivf,obu,nut,mxf,dv,wtv,rm,"
    "yuv4mpegpipe,wav,mp3,flac,aac"
)
"""FFmpeg's names of the accepted containers; playlists (HLS, DASH, concat) would open further files and URLs."""
AV_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
Size = tuple[int, int]
Resize = Callable[[int, Size], Size]
"""Number of frames and their size (width, height) → the size to resize them to."""


@dataclass(frozen=True)
class PixelBudget:
    """Pixel bounds of an image or a frame, and of all temporal patches of a video together; None means the default.

    `resized` is an explicit width and height, which replaces the bounds.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    total_pixels: int | None = None
    resized: Size | None = None

    @classmethod
    def from_part(cls, part: Mapping[str, Any]) -> PixelBudget:
        """Reads the budget of a content part; raises PromptError for invalid values."""
        low, high, total = (_positive_int(part, name) for name in ("min_pixels", "max_pixels", "total_pixels"))
        if low and high and low > high:
            raise PromptError(f"min_pixels {low} is above max_pixels {high}")
        height, width = _positive_int(part, "resized_height"), _positive_int(part, "resized_width")
        if (height is None) != (width is None):
            raise PromptError("resized_height and resized_width must be given together")
        if height and width and max(height, width) > MAX_ASPECT_RATIO * min(height, width):
            raise PromptError(f"resized_width {width} to resized_height {height} is above {MAX_ASPECT_RATIO} to 1")
        return cls(low, high, total, (width, height) if height and width else None)

    def resized_to(self, token_side: int) -> Size | None:
        """Returns the requested size in whole tokens (`smart_resize` of qwen-vl-utils: at least one token per side)."""
        if self.resized is None:
            return None
        low, high = (tokens * token_side**2 for tokens in RESIZED_TOKENS)
        wide, tall = (max(token_side, round(side / token_side) * token_side) for side in self.resized)
        if not low <= wide * tall <= high:
            tall, wide = smart_resize(self.resized[1], self.resized[0], token_side, low, high)
        return wide, tall

    def frame_bounds(self, frames: int, token_side: int, max_length: int) -> tuple[int, int]:
        """Returns minimum and maximum pixels of each of `frames` frames; a token is `token_side` pixels square."""
        token = token_side**2
        low = self.min_pixels or MIN_TOKENS * token
        total = self.total_pixels or max_length * token * VIDEO_SHARE
        high = max(min(MAX_TOKENS * token, total / _even(frames, math.ceil) * FRAME_FACTOR), int(low * 1.05))
        high = int(min(self.max_pixels or high, high))
        return min(low, high), high


@dataclass(frozen=True)
class FrameSampling:
    """`frames` in total, or `fps` per second but `min_frames` to `max_frames`, between seconds `start` and `end`."""

    fps: float = DEFAULT_FPS
    frames: int | None = None
    min_frames: int = MIN_FRAMES
    max_frames: int | None = None
    start: float | None = None
    end: float | None = None

    @classmethod
    def from_part(cls, part: Mapping[str, Any]) -> FrameSampling:
        """Reads the sampling options of a content part; raises PromptError for invalid or conflicting values."""
        given = {name: part[name] for name in ("fps", "sample_fps", "nframes") if part.get(name) is not None}
        rates = list(given)
        if len(rates) > 1:
            raise PromptError(f"a video has both {rates[0]} and {rates[1]}", fix="give one of them")
        name = "sample_fps" if "sample_fps" in given else "fps"
        fps = check_float(name, given.get(name, DEFAULT_FPS), MIN_FPS, MAX_FPS)
        low, high = _positive_int(part, "min_frames"), _positive_int(part, "max_frames")
        if high is not None and high < max(low or 0, FRAME_FACTOR):
            problem = f"max_frames {high} is below min_frames {low or FRAME_FACTOR}"
            raise PromptError(problem, fix=f"frames come in pairs: give at least {max(low or 0, FRAME_FACTOR)}")
        start, end = _seconds(part, "video_start"), _seconds(part, "video_end")
        return cls(fps, _positive_int(part, "nframes"), low or MIN_FRAMES, high, start, end)

    def range(self, total: int, rate: float) -> tuple[int, int]:
        """Returns first frame and number of frames of the requested time span (`calculate_video_frame_range`)."""
        if self.start is None and self.end is None:
            return 0, total
        longest = total / rate
        start, end = (max(0.0, min(second, longest)) for second in (self.start or 0.0, _value_or(self.end, longest)))
        first, last = math.ceil(start * rate), min(math.floor(end * rate), total - 1)
        if first >= last:
            raise PromptError(
                f"video_start {self.start or 0:g} to video_end {_value_or(self.end, longest):g} holds under two frames",
                fix=f"the video is {longest:.2f} seconds long",
            )
        return first, last - first + 1

    def count(self, total: int, rate: float) -> int:
        """Returns how many of `total` frames at `rate` per second to take (`smart_nframes`); 1 if `total` is 1."""
        if self.frames is not None:
            wanted = round(self.frames / FRAME_FACTOR) * FRAME_FACTOR
            if not FRAME_FACTOR <= wanted <= total:
                most = _even(total, math.floor)
                problem = f"nframes {self.frames} does not fit a video of {total} frames"
                raise PromptError(problem, fix=f"frames come in pairs: give {FRAME_FACTOR} to {most}")
            return wanted
        low = _even(self.min_frames, math.ceil)
        high = _even(self.max_frames or min(MAX_FRAMES, total), math.floor)
        return max(min(total, FRAME_FACTOR), _even(min(max(total / rate * self.fps, low), high, total), math.floor))


def _value_or(value: float | None, default: float) -> float:
    return default if value is None else value


def _even(number: float, rounded: Callable[[float], int]) -> int:
    return rounded(number / FRAME_FACTOR) * FRAME_FACTOR


def _positive_int(part: Mapping[str, Any], name: str) -> int | None:
    """Returns a positive whole number of a content part, of any numeric type, or None if absent."""
    value = part.get(name)
    return None if value is None else check_int(name, _without_fraction(value), 1, MAX_COUNT)


def _without_fraction(value: Any) -> Any:
    """Converts a float without a fraction to an int, such as the result of `0.5 * 1568000`; others stay."""
    floating = isinstance(value, Real) and not isinstance(value, Integral)
    return int(value) if floating and -MAX_COUNT <= value <= MAX_COUNT and value == int(value) else value


def _seconds(part: Mapping[str, Any], name: str) -> float | None:
    value = part.get(name)
    return None if value is None else check_float(name, value, -MAX_COUNT, MAX_COUNT, fix="seconds")


def evenly_spaced(total: int, count: int, first: int = 0) -> Ints:
    """Returns `count` evenly spaced indices of `total` frames starting at `first`, both ends included.

    Equals `torch.linspace(…).round()` in float32.
    """
    step = np.float32(total - 1) / np.float32(max(count - 1, 1))
    index = np.arange(count, dtype=np.float32)
    from_start = np.float32(first) + step * index
    from_end = np.float32(first + total - 1) - step * (count - 1 - index)
    first_half = index < max(count // 2, 1)
    return np.asarray(np.where(first_half, from_start, from_end).round(), dtype=np.int64)


@dataclass(frozen=True)
class Clip:
    """RGB frames of one size, frames per second, the time of each frame in seconds, and whether already resized."""

    frames: tuple[Image.Image, ...]
    fps: float
    times: tuple[float, ...]
    resized: bool


def load_clip(source: Any, sampling: FrameSampling, resize: Resize) -> Clip:
    """Loads a video file (its path, URL or bytes), a list of images, or a uint8 array [frames, H, W, 3].

    A file is sampled, and its frames are resized as they are decoded. Frames given as images or an array already have
    the rate `sampling.fps`; `max_frames` thins them out. Raises MediaError naming the file.
    """
    if isinstance(source, str | Path | bytes):
        return _from_file(source, sampling, resize)
    for name, value in (("nframes", sampling.frames), ("video_start", sampling.start), ("video_end", sampling.end)):
        if value is not None:
            raise PromptError(
                f"{name} applies to video files only",
                fix="select the frames, or give max_frames",
            )
    if isinstance(source, np.ndarray):
        if source.ndim != 4:
            raise MediaError(f"is an array of shape {list(source.shape)}", where="video", fix="give [frames, H, W, 3]")
        check_clip(source)
    total = len(source)
    chosen = evenly_spaced(total, min(total, sampling.max_frames or total))
    frames = load_frames([source[index] for index in chosen])
    return Clip(tuple(frames), sampling.fps * len(chosen) / total, tuple((chosen / sampling.fps).tolist()), False)


def _from_file(source: str | Path | bytes, sampling: FrameSampling, resize: Resize) -> Clip:
    try:
        import av
    except ImportError as error:
        raise InstallError("video files need av", fix=install_fix("video")) from error
    path, where = resolve_source(source), describe_source(source)
    if not isinstance(path, bytes):
        check_exists(path)
        check_regular(path, MAX_VIDEO_BYTES)
    try:
        # without "file:", text before a colon in the name would be taken for a protocol
        file = io.BytesIO(path) if isinstance(path, bytes) else f"file:{path}"
        with av.open(file, "r", options=AV_OPTIONS, metadata_errors="replace") as container:
            total, rate = frames_and_rate(container, where)
            container.seek(0)
            first, total = sampling.range(total, rate)
            chosen = evenly_spaced(total, _check_count(sampling.count(total, rate)), first)
            frames = list(_decoded(container, chosen, resize))
    except QvlError:
        raise
    except av.error.FFmpegError as error:
        raise MediaError(f"cannot be read as a video: {error.strerror}", where=where) from error
    except MemoryError:
        raise
    except Exception as error:  # on damaged files PyAV raises exceptions of other types too
        raise MediaError(f"cannot be read as a video: {str(error)[:200]}", where=where, fix=COMPLETE) from error
    if not frames:
        raise MediaError("no frame of the video can be decoded", where=where)
    frames += frames[-1:] * (len(chosen) - len(frames))  # the file has fewer frames than its header says
    return Clip(tuple(frames), len(chosen) / total * rate, tuple((chosen / rate).tolist()), True)


def _check_count(frames: int) -> int:
    if frames > MAX_CLIP_FRAMES:
        raise PromptError(f"{frames:,} frames of a video are too many", fix=f"request at most {MAX_CLIP_FRAMES:,}")
    return frames


def frames_and_rate(container: InputContainer, where: str) -> tuple[int, float]:
    """Returns the number of frames, counted if the file does not state it, and the frames per second."""
    if not container.streams.video:
        raise MediaError("has no video stream", where=where)
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise MediaError("its video codec is unknown", where=where)
    stream.thread_type = "AUTO"
    stream.codec_context.options = {"max_pixels": str(MAX_IMAGE_PIXELS)}  # for frames larger than the header says
    if stream.width * stream.height > MAX_IMAGE_PIXELS:
        raise MediaError(f"{stream.width} × {stream.height} pixels are too many", where=where, fix="scale it down")
    total = stream.frames or sum(packet.size > 0 for packet in _packets(container, stream))
    rate = float(stream.average_rate or 0)
    if total < 1 or rate <= 0:
        raise MediaError("has no frames or no frame rate", where=where)
    return total, rate


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Yields the packets of a stream, of which files of any length may be made; raises Interrupted between two."""
    for packet in container.demux(stream):
        check_interrupted("while its video was decoded")
        yield packet


def _decoded(container: InputContainer, chosen: Ints, resize: Resize) -> Iterator[Image.Image]:
    """Yields the chosen frames in order, upright and resized."""
    wanted = iter(chosen.tolist())
    following = next(wanted, None)
    packets = _packets(container, container.streams.video[0])
    for index, frame in enumerate(frame for packet in packets for frame in packet.decode()):
        if index == following:
            image = upright(frame)
            width, height = resize(len(chosen), image.size)
            if (pixels := len(chosen) * width * height) > MAX_CLIP_PIXELS:
                problem = f"{len(chosen):,} frames of the video have {pixels:,} pixels, more than {MAX_CLIP_PIXELS:,}"
                raise PromptError(problem, fix="request fewer or smaller frames")
            yield image.resize((width, height), Image.Resampling.BICUBIC)
            following = next(wanted, None)
            if following is None:
                return


def upright(frame: Any) -> Image.Image:
    """Returns the frame as an image, rotated as players show it: phones store how they were held."""
    image: Image.Image = frame.to_image()
    degrees = getattr(frame, "rotation", 0)  # degrees counterclockwise, PyAV 14 and newer
    return image.rotate(degrees, expand=True) if degrees else image
