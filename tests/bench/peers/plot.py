"""The results as one SVG: bars of the time to the first token, tower and prompt apart, of speed and of memory."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, LABELS, BAR, GAP, HEADER = 900, 250, 15, 6, 58
PANELS = (("first token, s", 300), ("answer, tokens/s", 150), ("peak, MB", 150))
SPACE = 16
OURS, THEIRS, PRUNED = ("#1f6fb4", "#7fb3dc"), ("#8a8f98", "#c6c9ce"), ("#2b8a4b", "#8ccba1")
"""Colors of the tower (and of undivided figures) and of the prompt."""
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.h{font-weight:600}.n{font-size:11px}.e{text-anchor:end}"
    "rect.b{fill:#fff}"
)


def colors(row: dict[str, Any]) -> tuple[str, str]:
    return (PRUNED if row["prune"] else OURS) if row["ours"] else THEIRS


def bar(x: float, y: float, width: float, color: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{BAR}" fill="{color}"/>'


def seconds(row: dict[str, Any], x: float, y: float, scale: float) -> str:
    """The bar of the time to the first token, in its parts if they are known."""
    dark, pale = colors(row)
    if row["tower"] is None:
        return bar(x, y, row["first"] * scale, dark)
    tower = row["tower"] * scale
    return bar(x, y, tower, dark) + bar(x + tower, y, (row["first"] - row["tower"]) * scale, pale)


def panel(rows: Sequence[dict[str, Any]], key: str, title: str, x: float, width: float) -> str:
    """One column of bars, its title, and the figure behind each bar."""
    scale = (width - 48) / max(row[key] for row in rows)
    parts = [f'<text class="h" x="{x}" y="{HEADER - 10}">{escape(title)}</text>']
    for index, row in enumerate(rows):
        y = HEADER + index * (BAR + GAP)
        parts.append(seconds(row, x, y, scale) if key == "first" else bar(x, y, row[key] * scale, colors(row)[0]))
        shown = f"{row[key]:,.0f}" if key == "peak_mb" else f"{row[key]:.1f}"
        parts.append(f'<text class="n" x="{x + row[key] * scale + 5:.1f}" y="{y + 12}">{shown}</text>')
    return "".join(parts)


def name(row: dict[str, Any]) -> str:
    return f"{row['precision']}, pruned, {row['page']} page" if row["prune"] else f"{row['runtime']} {row['precision']}"


def svg(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """The plot of one shape's measured lines, fastest first."""
    shown = sorted((row for row in rows if "reason" not in row), key=lambda row: row["first"])
    height = HEADER + len(shown) * (BAR + GAP) + 30
    parts = [f'<rect class="b" width="{WIDTH}" height="{height}"/><text class="h" x="12" y="20">{escape(title)}</text>']
    for index, row in enumerate(shown):
        y = HEADER + index * (BAR + GAP) + 12
        parts.append(f'<text class="e" x="{LABELS - 8}" y="{y}">{escape(name(row))}</text>')
    x = LABELS
    for (heading, width), key in zip(PANELS, ("first", "speed", "peak_mb"), strict=True):
        parts.append(panel(shown, key, heading, x, width) if shown else "")
        x += width + SPACE
    parts.append(f'<text class="n" x="12" y="{height - 10}">dark: vision tower, or not divided; pale: prompt</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}"><style>{STYLE}</style>{"".join(parts)}</svg>\n'
    )
