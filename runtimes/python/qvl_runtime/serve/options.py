"""What a server is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

MAX_BODY_BYTES = 64 << 20
"""Largest body of a request: images travel in it, a third larger than their files."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of `qvl-runtime serve`; times in seconds, counts of at least 1 unless said otherwise.

    `waiting` requests (0 or more) may wait for one of the `parallel` slots. `timeout` is the time of a request, waiting
    included. `media_root` is the only directory whose files a request may name, `allow_urls` lets it name http(s) URLs.
    `allowed_hosts` are accepted in the Host header besides those of the loopback interface; None accepts any.
    """

    model_name: str
    parallel: int = 1
    waiting: int = 32
    timeout: float = 600.0
    api_key: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] | None = ()
    cors_origins: tuple[str, ...] = ()
    allow_urls: bool = False
    media_root: Path | None = None
    max_pages: int = 16
    max_body_bytes: int = MAX_BODY_BYTES
    log_content: bool = False
