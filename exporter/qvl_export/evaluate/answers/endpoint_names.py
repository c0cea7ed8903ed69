"""Names of servers in a comparison, such as `llama=http://127.0.0.1:8080/v1,model=page-reader,key_env=LLAMA_KEY`."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

import msgspec

from ...errors import ExportError

OPTIONS = ("model", "key_env")
FIX = "write NAME=http://HOST:PORT/v1[,model=MODEL][,key_env=VARIABLE]"
_NAME = re.compile(r"[\w.@ +-]{1,60}")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_KEY = re.compile(r"[!-~]+")
"""Printable ASCII without spaces: other characters cannot be in a header, whose error would show the key."""


class Endpoint(msgspec.Struct, frozen=True):
    """A server with OpenAI's chat interface at `url`, which ends before `/chat/completions`.

    `model` is the name that requests give, empty if the server has only one. `key_env` is the variable of the
    environment that holds the key, which is written nowhere.
    """

    title: str
    url: str
    model: str = ""
    key_env: str = ""

    def key(self) -> str:
        """Returns the key of the server, empty if it needs none.

        Raises ExportError if its variable is not set, or is no key; the error does not show it.
        """
        if not self.key_env:
            return ""
        if not _VARIABLE.fullmatch(self.key_env):  # perhaps it is the key itself
            raise ExportError("key_env is not the name of a variable of the environment", where=self.title, fix=FIX)
        key = os.environ.get(self.key_env, "")
        if not key:
            fix = f"export {self.key_env}=…"
            raise ExportError(f"the environment has no {self.key_env}", where=self.title, fix=fix)
        if not _KEY.fullmatch(key):
            what = f"{self.key_env} has characters that no key has"
            raise ExportError(what, where=self.title, fix="leave out spaces, line breaks and all that is not ASCII")
        return key

    def without_key(self, text: str) -> str:
        """Returns the text with the key as `…`: servers may repeat it."""
        key = self.key()
        return text.replace(key, "…") if key else text


def parse_endpoint(text: str) -> Endpoint:
    """Returns the server that a `--endpoint` names.

    Raises ExportError that says what is wrong; it shows no more of the text than the name, since a URL or an option
    may have a key in it.
    """
    title, equals, rest = text.partition("=")
    if not equals or not _NAME.fullmatch(title):
        raise ExportError("--endpoint has no name", fix=FIX)
    url, *pairs = rest.split(",")
    if problem := _url_problem(url):
        raise ExportError(problem, where=title, fix=FIX)
    options = dict(pair.partition("=")[::2] for pair in pairs)
    for name, value in options.items():
        if name not in OPTIONS or not value:
            raise ExportError(f"{name!r} is not an option of an endpoint, or is empty", where=title, fix=FIX)
    endpoint = Endpoint(title, url.rstrip("/"), options.get("model", ""), options.get("key_env", ""))
    endpoint.key()
    return endpoint


def _url_problem(url: str) -> str:
    """Returns why a URL is not that of a server; empty if it is."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            return "is not the http(s) URL of a server"
    except ValueError:  # an open bracket, or a port that is no number
        return "is not the http(s) URL of a server"
    if "@" in parts.netloc:
        return "its URL has a user or a password, which reports would show"
    if "?" in url or "#" in url:
        return "its URL has a query or a fragment, which reports would show"
    return ""
