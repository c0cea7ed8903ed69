"""Exit codes of commands and jobs."""

from __future__ import annotations

DAMAGED = 1
"""`inspect --verify` found files of the right size with other content."""
SOME_FAILED = 1
"""`read` has read what it could, and recorded which pages failed."""
BAD_INPUT = 2
"""The command cannot succeed as it was given: bad input, options or environment."""
INTERRUPTED = 130
"""Ctrl-C: 128 + SIGINT, as shells have it."""
