"""Media of a request: bytes that it carries, files below one directory, URLs if the server fetches them.

A request names no other file: every part is rebuilt from what is known to be safe, and unknown parts are refused.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..common.counted import counted
from ..errors import MediaError
from ..media.images import count_pages, load_page
from ..media.sources import file_path, is_remote, resolve_source
from ..pdf import Pdf, PdfPage, parse_pages
from ..prompts.part_keys import PART_KEYS
from .errors import ApiError, unsupported

PDF = b"%PDF-"
Fetch = Callable[[str], bytes]
Part = dict[str, Any]


@dataclass
class MediaReader:
    """Turns the messages of one request into those of the runtime; pages and images together are `max_pages` at most.

    `fetch` gets the content of an http(s) URL; None refuses them. Raises ApiError 400 and MediaError.
    """

    max_pages: int
    media_root: Path | None = None
    fetch: Fetch | None = None
    _pages: int = field(default=0, init=False)

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns messages as `Model.prompt` takes them, with all media loaded or known to be allowed."""
        return [self._message(message, f"messages.{index}") for index, message in enumerate(messages)]

    def _message(self, message: Mapping[str, Any], where: str) -> dict[str, Any]:
        content, made = message.get("content"), dict(message)
        if made.get("role") == "developer":
            made["role"] = "system"
        if isinstance(content, list):
            parts = [self._part(part, f"{where}.content.{index}") for index, part in enumerate(content)]
            made["content"] = [part for found in parts for part in found]
        elif content is not None and not isinstance(content, str):
            raise ApiError(400, "content must be a text or a list of parts", param=f"{where}.content")
        if isinstance(calls := made.get("tool_calls"), list):
            made["tool_calls"] = [_with_object(call) for call in calls]
        return made

    def _part(self, part: Any, where: str) -> list[Part]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        reader = {"text": self._text, "image_url": self._image, "video_url": self._video, "file": self._file}
        if not isinstance(kind, str) or kind not in reader:
            raise unsupported(f"a content part of type {str(kind)[:40]!r}", where, f"use {', '.join(reader)}")
        known = (*PART_KEYS.get(kind, ("type",)), kind)
        for key in part:
            if key not in known:
                raise unsupported(f"the key {str(key)[:40]!r} of a part of type {kind!r}", where)
        options = {key: value for key, value in part.items() if key not in ("type", kind)}
        return reader[kind](part.get(kind), options, where)

    def _text(self, text: Any, _options: Part, where: str) -> list[Part]:
        if not isinstance(text, str):
            raise ApiError(400, "text must be a text", param=where)
        return [{"type": "text", "text": text}]

    def _image(self, value: Any, options: Part, where: str) -> list[Part]:
        source = self._source(_url(value, where), where)
        self._count(count_pages(source))
        return [{"type": "image", "image": source, **options}]

    def _video(self, value: Any, options: Part, where: str) -> list[Part]:
        self._count(1)
        return [{"type": "video", "video": self._source(_url(value, where), where), **options}]

    def _source(self, url: str, where: str) -> bytes | Path:
        """Returns the content of a `data:` URL or of an http(s) URL, or the path of a file that may be read."""
        if url[:5].lower() == "data:":
            return _inline(url, where)
        if is_remote(url):
            if self.fetch is None or not url.lower().startswith(("http://", "https://")):
                fix = "send the content as a data: URL" if self.fetch is None else "use http, https or data"
                raise unsupported("fetching this URL", where, fix)
            return self.fetch(url)
        return self._local(url, where)

    def _local(self, name: str, where: str) -> Path:
        """Returns the path of a file below the root, links resolved; tells nothing about files elsewhere."""
        if self.media_root is None:
            raise unsupported("naming a file of the server", where, "send the content as a data: URL")
        root = self.media_root.resolve()
        try:
            path = (root / (file_path(name) if name[:5].lower() == "file:" else name)).resolve(strict=True)
            inside = path.is_relative_to(root) and path.is_file()
        except (OSError, ValueError, RuntimeError, MediaError):
            inside = False
        if not inside:
            raise ApiError(400, "no such file below the server's media root", param=where, code="file_not_found")
        return path

    def page(self, file: Mapping[str, Any], number: int) -> tuple[Image.Image, int]:
        """Returns page `number`, counted from 1, of a `file` part's file, and how many pages that has."""
        content, name, _ = _read_file(file, "file")
        pdf = Pdf(name, content=content) if content.startswith(PDF) else None
        count = count_pages(content) if pdf is None else len(pdf)
        if not 1 <= number <= count:
            raise ApiError(400, f"the file has {counted(count, 'page')}", param="page")
        return (load_page(content, number - 1) if pdf is None else pdf.draw(number - 1)), count

    def _file(self, value: Any, _options: Part, where: str) -> list[Part]:
        content, name, pages = _read_file(value, where)
        if not content.startswith(PDF):
            if pages is not None:
                raise unsupported("pages of a file that is no PDF", where)
            self._count(count_pages(content))
            return [{"type": "image", "image": content}]
        return [{"type": "image", "image": page} for page in self._pdf(content, name, pages)]

    def _pdf(self, content: bytes, name: str, pages: str | None) -> list[PdfPage]:
        pdf = Pdf(name, content=content)
        chosen = parse_pages(pages, len(pdf), name)
        self._count(len(chosen))
        return [PdfPage(pdf, index) for index in chosen]

    def _count(self, pages: int) -> None:
        self._pages += pages
        if self._pages > self.max_pages:
            found = counted(self._pages, "page")
            raise ApiError(
                400, f"{found} and images or more, this server takes {self.max_pages}", code="too_many_pages"
            )


def _read_file(value: Any, where: str) -> tuple[bytes, str, str | None]:
    """Returns content, name and wanted pages of the value of a `file` part."""
    given = value if isinstance(value, Mapping) else {}
    for key, content in given.items():
        if key not in ("file_data", "filename", "pages") and content is not None:
            raise unsupported(f"the key {str(key)[:40]!r} of a file", where)
    data, name, pages = given.get("file_data"), given.get("filename") or "file", given.get("pages")
    if not (isinstance(data, str) and isinstance(name, str) and isinstance(pages, str | None)):
        raise ApiError(400, "a file needs file_data, as base64 or as a data: URL", param=where)
    return _content(data, where), name[:80], pages


def _url(value: Any, where: str) -> str:
    """Returns the URL of an `image_url` or `video_url`, which may be written as a text too."""
    given = {"url": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping) or not isinstance(given.get("url"), str):
        raise ApiError(400, "a part has no url", param=where)
    for key, content in given.items():
        if key == "detail" and content not in (None, "auto", "high"):
            raise unsupported(f"detail {str(content)[:40]!r}", where, "give max_pixels beside the url")
        if key not in ("url", "detail"):
            raise unsupported(f"the key {str(key)[:40]!r} of a url", where)
    return str(given["url"])


def _content(data: str, where: str) -> bytes:
    if data[:5].lower() != "data:":
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ApiError(400, "file_data is not base64", param=where) from error
    return _inline(data, where)


def _inline(url: str, where: str) -> bytes:
    """Returns the content of a `data:` URL."""
    content = resolve_source(url)
    if not isinstance(content, bytes):
        raise ApiError(400, "a data: URL has no content", param=where)
    return content


def _with_object(call: Any) -> Any:
    """Returns a call whose arguments are an object, as chat templates expect it, instead of the text of one."""
    function = call.get("function") if isinstance(call, Mapping) else None
    text = function.get("arguments") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(text, str):
        return call
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": value}} if isinstance(value, dict) else call
