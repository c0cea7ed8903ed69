"""Text of files, bundles and users made safe to show: no control characters, no hidden payloads, one line.

A terminal obeys escape codes and Unicode's bidirectional overrides wherever they come from: what was not written by us
is shown with them spelt out, as `\\x1b` or `\\u202e`.
"""

from __future__ import annotations

import re

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 controls but tab and newline; separators of lines; bidirectional embeddings and isolates; surrogates."""
_DATA_URL = re.compile(
    r"""(?<!\w)(data:[\w.+-]{0,40}(?:/[\w.+-]{0,60})?)[;,](?!…)(?:[^\s'":]+|:(?![\s'"]|$))*""", re.IGNORECASE
)


def printable(text: str) -> str:
    """The text with control characters spelt out; tabs and newlines stay."""
    return _UNSAFE.sub(_spelt, text)


def printable_json(text: str) -> str:
    """JSON that says the same with control characters as escapes; outside of strings it has none."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str) -> str:
    """The text on one line, printable, with every `data:` URL cut to its media type."""
    return printable(" ".join(_DATA_URL.sub(r"\1;…", text).split()))


def _spelt(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
