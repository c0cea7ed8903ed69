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
        """Returns the key of the server, empty if it needs none."""
        return os.environ.get(self.key_env, "") if self.key_env else ""


def parse_endpoint(text: str) -> Endpoint:
    """Returns the server that a `--endpoint` names; raises ExportError that says what is wrong."""
    title, equals, rest = text.partition("=")
    url, *pairs = rest.split(",")
    options = dict(pair.partition("=")[::2] for pair in pairs)
    if not equals or not _NAME.fullmatch(title):
        raise ExportError("--endpoint has no name", where=text[:200], fix=FIX)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ExportError("is not the http(s) URL of a server", where=text[:200], fix=FIX)
    for name, value in options.items():
        if name not in OPTIONS or not value:
            raise ExportError(f"{name!r} is not an option of an endpoint, or is empty", where=text[:200], fix=FIX)
    variable = options.get("key_env", "")
    if variable and not os.environ.get(variable):
        raise ExportError(f"the environment has no {variable}", where=title, fix=f"export {variable}=…")
    return Endpoint(title, url.rstrip("/"), options.get("model", ""), variable)
