"""Resolves names of media: paths, `file:` URLs and `data:` URLs. Nothing is fetched from a network.

`resolve_source` turns a name into a path or the bytes themselves; `describe_source` is how an error may quote it.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, unquote_to_bytes

from ..errors import MediaError
from ..printable import one_line

MAX_DATA_BYTES = 1 << 26
"""Maximum decoded size of a `data:` URL."""
MAX_ESCAPES = 1 << 20
"""Maximum percent-encoded bytes of a URL: decoding one takes a hundred times its memory."""
_FILE = re.compile(r"file:(?://(?P<host>[^/\\]*)(?=[/\\])|(?=[/\\](?![/\\])))", re.IGNORECASE)
_DATA = re.compile(r"data:(?P<kind>[^,]{0,200}),", re.IGNORECASE)
_KIND = re.compile(r"data:[\w.+-]{0,40}(?:/[\w.+-]{0,60})?", re.IGNORECASE)
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
_DRIVE = re.compile(r"[/\\]+([A-Za-z])[:|](?=[/\\]|$)")
Source = TypeVar("Source")


def resolve_source(source: Source) -> Source | Path | bytes:
    """Returns the path of a `file:` URL or the bytes of a `data:` URL; other sources unchanged.

    In a path that does not exist, backslashes become slashes if that path exists. Raises MediaError for a damaged URL.
    """
    if not isinstance(source, str | Path):
        return source
    text = str(source)
    if match := _DATA.match(text):
        return _decode_data_url(text, match)
    if text[:5].lower() == "file:" and not os.path.exists(text):
        return Path(file_path(text))
    if os.sep == "/" and "\\" in text and not os.path.exists(text):
        with_slashes = text.replace("\\", "/")
        return Path(with_slashes) if os.path.exists(with_slashes) else source
    return source


def describe_source(source: object) -> str:
    """Returns how errors name a source: without the payload of a `data:` URL and without credentials or query."""
    if not isinstance(source, str | Path):
        return f"image given as {type(source).__name__}"
    text = str(source)
    if kind := _KIND.match(text):
        return f"{kind[0]};…"
    if is_remote(text):
        text = re.sub(r"//[^/@]*@", "//", text.split("?")[0])
    return one_line(text[:200])


def is_remote(text: str) -> bool:
    """Whether this is a URL that would have to be fetched, even if a slash is missing (`http:/…`)."""
    scheme = text.split(":")[0].lower()
    return _REMOTE.match(text) is not None and len(scheme) > 1 and scheme != "file"


def file_path(url: str, windows: bool = os.name == "nt") -> str:
    """Returns the path of a `file:` URL; raises MediaError unless it is an absolute path on this machine."""
    match = _FILE.match(url)
    if not match:
        raise MediaError(
            "has no absolute path", where=describe_source(url), fix="write file:///directory/name, or a plain path"
        )
    host, rest = (match["host"] or "").lower(), url[match.end() :]
    path = unquote(rest) if windows else _unquoted(rest)
    if windows:
        path = _DRIVE.sub(r"\1:", path, count=1) if _DRIVE.match(path) else path
        return path if host in ("", "localhost") else f"//{host}{path}"
    if host not in ("", "localhost"):
        problem = f"names a file on another machine, {host}"
        raise MediaError(problem, where=describe_source(url), fix="write file:///directory/name, or a plain path")
    return path


def _unquoted(path: str) -> str:
    """Decodes percent-encoded bytes of a file name, which need not be UTF-8."""
    try:
        return os.fsdecode(unquote_to_bytes(path.encode("utf-8", "surrogateescape")))
    except UnicodeEncodeError:  # no file can have this name
        return path


def _decode_data_url(url: str, match: re.Match[str]) -> bytes:
    """Decodes the content of a `data:` URL: strict base64 or percent-encoded bytes."""
    where, escapes = describe_source(url), url.count("%", match.end())
    if escapes > MAX_ESCAPES or len(url) - match.end() - 2 * escapes > MAX_DATA_BYTES * 4 // 3 + 4:
        raise _too_large(where)
    data = unquote_to_bytes(url[match.end() :].encode("utf-8", "replace"))
    if match["kind"].lower().rstrip().endswith(";base64"):
        try:
            data = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise MediaError(f"is not base64: {error}", where=where, fix="check that the URL is complete") from error
    if len(data) > MAX_DATA_BYTES:
        raise _too_large(where)
    if not data:
        raise MediaError("is empty", where=where)
    return data


def _too_large(where: str) -> MediaError:
    return MediaError(f"has more than {MAX_DATA_BYTES >> 20} MiB", where=where, fix="give the path of a file")
