"""Makes text of files, bundles and users safe to show: no control characters, no hidden payloads, one line.

Terminals obey escape codes and Unicode's bidirectional overrides wherever they come from, so text from outside is shown
with them escaped, as `\\x1b` or `\\u202e`.
"""

from __future__ import annotations

import re

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 controls except tab and newline; line separators; bidirectional embeddings and isolates; surrogates."""
_DATA_URL = re.compile(
    r"""(?<!\w)(data:[\w.+-]{0,40}(?:/[\w.+-]{0,60})?)[;,](?!…)(?:[^\s'":]+|:(?![\s'"]|$))*""", re.IGNORECASE
)


def printable(text: str) -> str:
    """Returns the text with control characters escaped; tabs and newlines stay."""
    return _UNSAFE.sub(_escaped, text)


def printable_json(text: str) -> str:
    """Returns equivalent JSON with control characters as escapes; outside of strings JSON has none."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str) -> str:
    """Returns the text on one line, printable, with every `data:` URL cut to its media type."""
    return printable(" ".join(_DATA_URL.sub(r"\1;…", text).split()))


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message; the name of its type if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
