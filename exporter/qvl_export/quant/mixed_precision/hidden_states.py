"""Hidden states of every page on disk, undisturbed ones and those after a stage was disturbed, and what came of stages.

A killed run goes on with the step it was in: states are moved one by one, each file is whole or not there, and the
undisturbed ones, from which a step can be begun again, stay until its record is written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from ...common.atomic_output import written
from ...qtensor import Layout
from ..calibration.work_dir import Floats, Sample

CLEAN = "float"


class Part(msgspec.Struct, frozen=True):
    """A linear's shape, the form it has in each precision, and the energy of the noise that this leaves in its stage's
    output; precisions under which it stays float are left out."""

    shape: tuple[int, int]
    forms: dict[str, Layout]
    noise: dict[str, float]


class Step(msgspec.Struct, frozen=True):
    """What came of a step: of a stage its linears by name, all of which were disturbed by precision `coarsest` at once;
    of one that only moves states none."""

    name: str
    coarsest: str
    parts: dict[str, Part]


class Variants:
    """States before step number `len(steps)`, in `directory`; `names` are those that were finished."""

    def __init__(self, directory: Path) -> None:
        """Go on with what is there."""
        self.directory, self.steps = directory, list[Step]()
        directory.mkdir(parents=True, exist_ok=True)
        while (path := self._record(len(self.steps))).is_file():
            self.steps.append(msgspec.json.decode(path.read_bytes(), type=Step))

    @property
    def names(self) -> list[str]:
        return [CLEAN, *(step.name for step in self.steps if step.parts)]

    def load(self, name: str, page: int) -> Floats:
        """What the next step takes of a page."""
        return np.asarray(np.load(self._path(len(self.steps), name, page)))

    def save(self, name: str, page: int, hidden: Floats) -> None:
        """What the next step makes of a page."""
        with written(self._path(len(self.steps) + 1, name, page)) as file:
            np.save(file, hidden)

    def move(self, name: str, page: int, sample: Sample, through: Callable[[Floats, Sample], Floats]) -> None:
        """Take a state through the next step, unless that was done; undisturbed ones are kept until it is finished."""
        if not self._path(len(self.steps) + 1, name, page).is_file():
            self.save(name, page, through(self.load(name, page), sample))
        if name != CLEAN:
            self._path(len(self.steps), name, page).unlink(missing_ok=True)

    def finish(self, step: Step) -> None:
        """Keep what came of the next step, then forget what it took."""
        number = len(self.steps)
        with written(self._record(number)) as file:
            file.write(msgspec.json.encode(step))
        self.steps.append(step)
        for path in self.directory.glob(f"{number}.*.npy"):
            path.unlink()

    def _path(self, step: int, name: str, page: int) -> Path:
        return self.directory / f"{step}.{name}.{page}.npy"

    def _record(self, step: int) -> Path:
        return self.directory / f"step.{step}.json"
