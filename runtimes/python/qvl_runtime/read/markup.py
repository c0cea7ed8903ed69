"""HTML that a model wrote, made safe to stand beside that of other pages: balanced, without what acts or loads."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

_KEPT = """
a abbr address article aside b bdi bdo big blockquote br caption center cite code col colgroup dd del details
dfn div dl dt em figcaption figure font footer h1 h2 h3 h4 h5 h6 header hr i img input ins kbd label legend li
main mark nav ol p pre q s samp section small span strike strong sub summary sup table tbody td tfoot th thead
time tr tt u ul var wbr
"""
KEPT = frozenset(_KEPT.split())
"""Elements of documents. Of others, such as `meta`, `base`, `form` and `html`, only the content is kept."""
EMPTY = frozenset(("br", "col", "hr", "img", "input", "wbr"))
"""Elements without content and end tag."""
UNSEEN = frozenset(("script", "style", "template", "title"))
"""Elements whose content is not text of the page."""
TABLE = frozenset(("caption", "table", "tbody", "td", "tfoot", "th", "thead", "tr"))
CELLS = frozenset(("caption", "td", "th"))
_NAME = re.compile(r"[a-z][\w:.-]*")
_LINK = re.compile(r"(?:https?:|mailto:|#)", re.IGNORECASE)


def safe_markup(text: str) -> str:
    """Returns a fragment in which every element is closed; what was cut off does not reach beyond it."""
    writer = _Writer()
    writer.feed(text)
    writer.close()
    return writer.balanced()


class _Writer(HTMLParser):
    """Writes what it reads anew, so that a browser reads the same."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._written, self._open = list[str](), list[str]()
        self._unseen: str | None = None

    def balanced(self) -> str:
        """Returns what was written, with the end tags of what is open."""
        return "".join(self._written) + "".join(f"</{name}>" for name in reversed(self._open))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Writes the tag of a document with its attributes."""
        if tag in UNSEEN:
            self._unseen = self._unseen or tag
        elif self._unseen is None and tag in KEPT:
            values = (f' {name}="{html.escape(value or "")}"' for name, value in attrs if _is_kept(name, value or ""))
            self._written.append(f"<{tag}{''.join(values)}>")
            if tag not in EMPTY:
                self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Closes an element and those within it, unless it is not open or is outside the cell."""
        if tag == self._unseen:
            self._unseen = None
        for depth, name in enumerate(reversed(self._open), 1):
            if name == tag:
                self._written += [f"</{each}>" for each in reversed(self._open[-depth:])]
                del self._open[-depth:]
                return
            if name in CELLS and tag not in TABLE:
                return

    def handle_data(self, data: str) -> None:
        """Writes text."""
        if self._unseen is None:
            self._written.append(html.escape(data, quote=False))


def _is_kept(name: str, value: str) -> bool:
    """Whether an attribute has neither a script nor an address that is followed by itself."""
    if not _NAME.fullmatch(name) or name.startswith("on") or name in ("formaction", "ping"):
        return False
    return name != "href" or bool(_LINK.match(value))
