"""Resolves `--video`: a video file, or the images of a directory or of a quoted pattern as the frames of a video."""

from __future__ import annotations

import glob
import mimetypes
import os
import re
from pathlib import Path

from ..common.natural_order import natural_order
from ..drawing import is_image
from ..errors import MediaError
from ..media.sources import describe_source, is_remote, resolve_source

VIDEO_FORMS = (
    "--video a.mp4 --video b.mp4 for two videos, --video 'frames/*.png' or --video frames for images as frames"
)


def video_source(name: str) -> str | list[str]:
    """Returns a video for a content part: a file, or the paths of its frames in natural order (2 before 10).

    Raises MediaError if a directory or a pattern has no images.
    """
    path = resolve_source(name)
    if isinstance(path, bytes) or is_remote(name):  # not a pattern, even with a question mark
        return name
    text = os.fspath(path)
    if os.path.isdir(text):
        found = [str(file) for file in Path(text).iterdir() if not file.name.startswith(".")]
        return _frames([file for file in found if is_image(Path(file))], name, "is a directory without images")
    if glob.has_magic(text) and not os.path.exists(text):
        return _frames(_matching(text), name, "matches no file")
    return [text] if is_image(Path(text)) else text


def _matching(pattern: str) -> list[str]:
    try:
        return [file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file)]
    except ValueError:  # not a file name, for example with NUL in it
        return []


def _frames(found: list[str], name: str, problem: str) -> list[str]:
    for file in found:
        if not is_image(Path(file)):
            problem = f"is {_kind(file)}, not a frame of a video"
            raise MediaError(problem, where=describe_source(file), fix=f"a pattern names images: {VIDEO_FORMS}")
    if not found:
        raise MediaError(problem, where=describe_source(name), fix=f"write {VIDEO_FORMS}")
    return sorted(found, key=natural_order)


def _kind(file: str) -> str:
    return "a video" if looks_like_media(file) else "a file of another kind"


def looks_like_media(text: str) -> bool:
    """Whether a text is the name of an image or a video, and not a question that ends in one."""
    if not re.search(r"\.\w{2,5}\s*$", text):
        return False
    kind = mimetypes.guess_type(text)[0] or ""
    return kind.startswith(("image/", "video/")) and (os.path.isfile(text) or not re.search(r"\s", text.strip()))
