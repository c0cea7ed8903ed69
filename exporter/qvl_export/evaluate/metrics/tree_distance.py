"""The exact edit distance of two tables as ordered trees of rows and cells: Zhang and Shasha (1989) in NumPy.

Inserting, deleting, and renaming to another shape cost 1; renaming a cell of the same shape costs the normalized
Levenshtein distance of the texts. Since all rows have the same label and no rename costs more than 1, an optimal
mapping maps the root to the root, and no row that has cells to a cell (its first cell would do as well). So the
distance of two rows is the edit distance of their cells, the distance of a row and a cell has a closed form, and only
one forest of rows remains to be computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from ...common.arrays import Doubles

Cell = tuple[int, str]
"""A number that stands for the cell's shape, and its text."""
Row = Sequence[Cell]
_Costs = Doubles


def tree_distance(given: Sequence[Row], wanted: Sequence[Row]) -> float:
    """Returns the edit distance of the two trees with these rows."""
    forest = _Forest(wanted)
    before = np.arange(forest.size + 1, dtype=np.float64)  # distance from the empty forest to the first j nodes
    for row in given:
        before = forest.after(row, before)
    return float(before[-1])


class _Forest:
    """The rows of one table in postorder: the cells of a row, then the row. Positions j are item_counts from 1."""

    def __init__(self, rows: Sequence[Row]) -> None:
        lengths = np.array([len(row) for row in rows], dtype=np.intp)
        self.size = int(lengths.sum()) + len(rows)
        self._ends = np.cumsum(lengths + 1)
        self._starts = self._ends - lengths  # position of a row's first cell, or of the row if empty
        is_row = np.zeros(self.size + 1, dtype=bool)
        is_row[self._ends] = True
        is_row[0] = True
        self._cells = np.flatnonzero(~is_row)
        self._lengths = lengths
        self._before = np.arange(self.size + 1) - 1  # the last position before a node's subtree
        self._before[self._ends] = self._starts - 1
        self._shapes = np.array([cell[0] for cell in chain(*rows)], dtype=np.intp)
        self._texts = [cell[1] for cell in chain(*rows)]
        self._slope = np.arange(self.size + 1, dtype=np.float64)
        self._segment = np.repeat(np.arange(len(rows)), lengths + 1)

    def after(self, row: Row, before: _Costs) -> _Costs:
        """Returns the distances to every position after one more row, from the distances before it."""
        renames = self._renames(row)
        current, start = before, before
        for costs in renames:
            current = self._step(current, start, self._to_subtrees(costs))
            start = current
        return self._step(current, before, self._row_to_subtrees(renames))

    def _step(self, previous: _Costs, start: _Costs, subtree: _Costs) -> _Costs:
        """Adds one node: it is deleted, or its subtree is mapped to the subtree at j, or j is inserted."""
        best = previous + 1
        np.minimum(best[1:], start[self._before[1:]] + subtree[1:], out=best[1:])
        return np.minimum.accumulate(best - self._slope) + self._slope

    def _renames(self, row: Row) -> _Costs:
        """Returns rename costs [cells of the row, cells of this forest]."""
        if not row or not self._texts:
            return np.ones((len(row), len(self._texts)))
        texts = [cell[1] for cell in row]
        costs = cdist(texts, self._texts, scorer=Levenshtein.normalized_distance, dtype=np.float64)
        shapes = np.array([cell[0] for cell in row], dtype=np.intp)
        return np.where(shapes[:, None] == self._shapes, costs, 1.0)

    def _to_subtrees(self, costs: _Costs) -> _Costs:
        """Returns a cell's distance to each subtree: to a cell, the rename; to a row, its best cell and insertions."""
        subtree = np.ones(self.size + 1)
        subtree[self._cells] = costs
        best = np.ones(self.size + 1)
        best[self._cells] = costs
        if len(self._ends):
            least = np.minimum.reduceat(np.minimum(best, 1.0), self._starts)
            subtree[self._ends] = np.where(self._lengths > 0, self._lengths + least, 1.0)
        return subtree

    def _row_to_subtrees(self, renames: _Costs) -> _Costs:
        """Returns a row's distance to each subtree: to a row, the edit distance of their cells; to a cell, a sum."""
        subtree = np.empty(self.size + 1)
        subtree[self._cells] = len(renames) + (renames.min(0) if len(renames) else 1.0)
        subtree[self._ends] = self._edits(renames)[self._ends - 1]
        return subtree

    def _edits(self, renames: _Costs) -> _Costs:
        """Returns the edit distances of the row's cells to the first cells of every row, for all rows at once.

        The state before a row's first cell is stored at the position before it, so that each row has one segment of
        states; at each segment boundary the slope has a step so high that no minimum crosses it.
        """
        states = np.arange(self.size)
        cells = self._cells
        wall = 2.0 + len(renames) + self._lengths.max(initial=0)
        slope = states + wall * self._segment
        current = (states - (self._starts - 1)[self._segment]).astype(np.float64)
        for costs in renames:
            best = current + 1
            best[cells] = np.minimum(best[cells], current[cells - 1] + costs)
            current = np.minimum.accumulate(best - slope) + slope
        return current
