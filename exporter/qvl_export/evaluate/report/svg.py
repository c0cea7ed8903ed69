"""The report's plots as inline SVG; colors are CSS classes, so that the page defines light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

SHORT = {"vision.blocks.": "block ", "llm.layers.": "layer ", "vision.": "", "preprocessing": "input"}
SERIES = 6
"""Number of the page's color classes `s0` …, used in turn."""


@dataclass(frozen=True)
class Point:
    """A labeled point with an interval in y."""

    label: str
    x: float
    y: float
    low: float
    high: float
    series: int


@dataclass(frozen=True)
class Line:
    """A series over stages; None where a stage has no value."""

    label: str
    values: Sequence[float | None]
    series: int
    dashed: bool = False


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Returns about `count` round numbers within the bounds."""
    span = (high - low) or 1.0
    raw = span / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def whisker(low: float, middle: float, high: float, bounds: tuple[float, float], series: int) -> str:
    """Draws an interval and its middle on a horizontal line, with zero marked."""
    width, height = 300.0, 20.0

    def x(value: float) -> float:
        return 4 + (value - bounds[0]) / ((bounds[1] - bounds[0]) or 1) * (width - 8)

    left, right = x(low), max(x(high), x(low) + 1)
    return (
        f'<svg class="whisker" viewBox="0 0 {width:.0f} {height:.0f}" preserveAspectRatio="none" aria-hidden="true">'
        f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="0" y2="{height}"/>'
        f'<line class="span s{series % SERIES}" x1="{left:.1f}" x2="{right:.1f}" y1="10" y2="10"/>'
        f'<line class="dot s{series % SERIES}" x1="{x(middle):.1f}" x2="{x(middle):.1f}" y1="5" y2="15"/></svg>'
    )


def scatter(points: Sequence[Point], x_title: str, y_title: str) -> str:
    """Plots accuracy against a cost, with intervals and labels that do not overlap."""
    frame = _Frame(
        _padded(0.0, max(point.x for point in points)), _padded(*_extent([v for p in points for v in (p.low, p.high)]))
    )
    parts = [frame.axes(x_title, y_title)]
    for point in points:
        x, color = frame.x(point.x), f"s{point.series % SERIES}"
        parts.append(
            f'<line class="span {color}" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.y(point.low):.1f}" '
            f'y2="{frame.y(point.high):.1f}"/>'
            f'<circle class="point {color}" cx="{x:.1f}" cy="{frame.y(point.y):.1f}" r="5"/>'
        )
    taken = [box for point in points for box in _occupied(frame, point)]
    for point in points:
        box = _label_box(frame, point, taken)
        taken.append(box)
        parts.append(f'<text class="name" x="{box.x:.1f}" y="{box.y + 11:.1f}">{escape(point.label)}</text>')
    return frame.wrap("".join(parts), f"{y_title} against {x_title}")


def lines(series: Sequence[Line], stages: Sequence[str], y_title: str) -> str:
    """Plots a value per stage, one line per series."""
    values = [value for line in series for value in line.values if value is not None]
    frame = _Frame((0.0, max(len(stages) - 1, 1)), _padded(*_extent([*values, 0.0])), 880, 300)
    parts = [frame.axes("", y_title, x_ticks=False), _stage_names(frame, stages)]
    for line in series:
        style = f'class="line s{line.series % SERIES}{" dashed" if line.dashed else ""}"'
        for run in _runs(line.values):
            points = " ".join(f"{frame.x(i):.1f},{frame.y(value):.1f}" for i, value in run)
            parts.append(f'<polyline {style} points="{points}"/>')
            parts += [
                f'<circle class="point s{line.series % SERIES}" cx="{frame.x(i):.1f}" cy="{frame.y(value):.1f}" '
                f'r="2.5"><title>{escape(line.label)}, {escape(stages[i])}: {value:.1f} dB</title></circle>'
                for i, value in run
            ]
    return frame.wrap("".join(parts), y_title)


def _stage_names(frame: _Frame, stages: Sequence[str]) -> str:
    """Draws stage names below the axis, at most about 24."""
    every = max(1, math.ceil(len(stages) / 24))
    names = []
    for index, stage in enumerate(stages):
        if index % every == 0 or index == len(stages) - 1:
            x, y = frame.x(index), frame.bottom + 12
            short = stage
            for long, brief in SHORT.items():
                short = short.replace(long, brief)
            names.append(
                f'<text class="tick" text-anchor="end" transform="translate({x + 4:.1f} {y:.1f}) rotate(-40)">'
                f"{escape(short)}</text>"
            )
    return "".join(names)


def _runs(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Splits values into runs without gaps."""
    runs: list[list[tuple[int, float]]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((index, value))
    return [run for run in runs if run]


class _Frame:
    """Maps data to positions on a canvas with room for axes."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], width: int = 430, height: int = 300) -> None:
        self._x, self._y, self.width, self.height = x, y, width, height
        self.left, self.right, self.top, self.bottom = 52, width - 14, 14, height - 58

    def x(self, value: float) -> float:
        return self.left + (value - self._x[0]) / (self._x[1] - self._x[0]) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - (value - self._y[0]) / (self._y[1] - self._y[0]) * (self.bottom - self.top)

    def axes(self, x_title: str, y_title: str, x_ticks: bool = True) -> str:
        parts = []
        for value in ticks(*self._y):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{self.left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        for value in ticks(*self._x) if x_ticks else ():
            parts.append(
                f'<text class="tick" x="{self.x(value):.1f}" y="{self.bottom + 18}" text-anchor="middle">'
                f"{value:g}</text>"
            )
        parts.append(f'<line class="axis" x1="{self.left}" x2="{self.right}" y1="{self.bottom}" y2="{self.bottom}"/>')
        middle = (self.left + self.right) / 2
        parts.append(
            f'<text class="title" x="{middle:.0f}" y="{self.bottom + 40}" text-anchor="middle">{escape(x_title)}</text>'
        )
        parts.append(
            f'<text class="title" transform="translate(13 {(self.top + self.bottom) / 2:.0f}) rotate(-90)" '
            f'text-anchor="middle">{escape(y_title)}</text>'
        )
        return "".join(parts)

    def wrap(self, body: str, label: str) -> str:
        return f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(label)}">{body}</svg>'


def _extent(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _padded(low: float, high: float) -> tuple[float, float]:
    """Adds some margin at the ends; the range is never empty, and a lower bound of zero stays."""
    room = 0.08 * (high - low) or max(abs(high), 1.0) * 0.02
    return (low - room if low != 0 else 0.0), high + room


class _Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float

    def overlaps(self, other: _Box) -> bool:
        apart = self.x + self.width <= other.x or other.x + other.width <= self.x
        return not (apart or self.y + self.height <= other.y or other.y + other.height <= self.y)


def _occupied(frame: _Frame, point: Point) -> list[_Box]:
    """Returns the boxes that the point and its interval occupy."""
    x, top = frame.x(point.x), frame.y(point.high)
    return [_Box(x - 6, frame.y(point.y) - 6, 12, 12), _Box(x - 2, top, 4, frame.y(point.low) - top)]


def _label_box(frame: _Frame, point: Point, taken: Sequence[_Box]) -> _Box:
    """Returns the first free position on the canvas beside, above or below the point, or further down."""
    x, y, width = frame.x(point.x), frame.y(point.y), 7.4 * len(point.label)
    sides = [(x + 9, y - 7), (x - 9 - width, y - 7), (x - width / 2, y - 23), (x - width / 2, y + 9)]
    candidates = [_Box(left, top + 15 * down, width, 14) for down in range(6) for left, top in sides]
    free = [candidate for candidate in candidates if not any(candidate.overlaps(box) for box in taken)]
    inside = [p for p in free if p.x > frame.left and p.x + p.width < frame.width and 0 < p.y < frame.bottom - 12]
    return (inside or free or candidates)[0]
