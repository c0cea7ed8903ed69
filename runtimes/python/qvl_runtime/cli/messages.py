"""Chat messages of a command line: images, pages of PDFs, videos, the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ..errors import MediaError, PromptError


class MediaOptions(NamedTuple):
    """The options that name media; images, PDFs and videos in the order given."""

    image: tuple[str, ...] = ()
    pdf: tuple[str, ...] = ()
    pages: str | None = None
    video: tuple[str, ...] = ()
    fps: float | None = None
    max_frames: int | None = None


def build_messages(media: MediaOptions, prompt: str | None, system: str | None = None) -> list[dict[str, Any]]:
    """Returns the messages; raises PromptError or MediaError for options and files that cannot be used."""
    from ..pdf import pdf_pages

    _check_media(media)
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in media.image]
    for pdf in media.pdf:
        parts += [{"type": "image", "image": page} for page in pdf_pages(_path(pdf), media.pages)]
    parts += [_video(name, media) for name in media.video]
    if prompt:
        parts.append({"type": "text", "text": prompt})
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": parts}]


def _check_media(media: MediaOptions) -> None:
    """Raises PromptError for an option without the media that it applies to."""
    for option, value, needed, given in (
        ("--pages", media.pages, "--pdf", media.pdf),
        ("--fps", media.fps, "--video", media.video),
        ("--max-frames", media.max_frames, "--video", media.video),
    ):
        if value is not None and not given:
            raise PromptError(f"{option} needs {needed}")


def _path(name: str) -> str | Path:
    """Returns the path of a PDF, which may be given as a `file:` URL."""
    from ..media.sources import describe_source, resolve_source

    path = resolve_source(name)
    if isinstance(path, bytes):
        raise MediaError("is not a path", where=describe_source(name), fix="PDFs are given as files")
    return path


def _video(name: str, media: MediaOptions) -> dict[str, Any]:
    from ..media.video import DEFAULT_FPS, MAX_FRAMES
    from .frames import video_source

    source = video_source(name)
    most = media.max_frames or (MAX_FRAMES if isinstance(source, list) else None)
    limit = {} if most is None else {"max_frames": most}
    return {"type": "video", "video": source, "fps": DEFAULT_FPS if media.fps is None else media.fps, **limit}
