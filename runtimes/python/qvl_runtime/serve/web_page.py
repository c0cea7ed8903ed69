"""The page at `/`: one file, whose script and style a browser runs only unchanged, and which loads nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.responses import Response


@cache
def web_page() -> tuple[bytes, dict[str, str]]:
    """Returns the page and its headers. Its policy names the hashes of script and style, and forbids HTML from text."""
    page = (files(__package__) / "page.html").read_bytes()
    script, style = (_hash_of(page, tag) for tag in (b"script", b"style"))
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    )
    return page, {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _hash_of(page: bytes, tag: bytes) -> str:
    """Returns the source expression of the only element of a tag."""
    (content,) = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"


def page_response() -> Response:
    """Returns the answer to `GET /`."""
    page, headers = web_page()
    return Response(page, media_type="text/html; charset=utf-8", headers=headers)
