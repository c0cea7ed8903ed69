"""Hidden states of every page on disk: of the float model, and of variants with one quantized stage.

A killed run resumes in the step that it was in: states advance one by one, each file is complete or absent, and the
float model's states, from which a step can start again, stay until the step's record is written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from ...common.arrays import Floats
from ...common.atomic_output import atomic_file
from ...qtensor import QuantFormat
from ..calibration.work_dir import Sample

FLOAT_MODEL = "float"
"""The name of the variant without quantization."""


class LinearNoise(msgspec.Struct, frozen=True):
    """A linear's shape, its format in each precision, and the energy of the noise that this adds to its stage's output;
    precisions under which it stays float are left out."""

    shape: tuple[int, int]
    formats: dict[str, QuantFormat]
    noise: dict[str, float]


class Step(msgspec.Struct, frozen=True):
    """The result of a step.

    For a stage: its linears by name, all of which were quantized to precision `coarsest` at once. A step that only
    prepares states has no linears.
    """

    name: str
    coarsest: str
    linears: dict[str, LinearNoise]


class Variants:
    """Hidden states before step number `len(steps)`, in `directory`; `names` lists the variants that exist."""

    def __init__(self, directory: Path) -> None:
        """Resumes from the finished steps in `directory`."""
        self.directory, self.steps = directory, list[Step]()
        directory.mkdir(parents=True, exist_ok=True)
        while (path := self._record(len(self.steps))).is_file():
            self.steps.append(msgspec.json.decode(path.read_bytes(), type=Step))

    @property
    def names(self) -> list[str]:
        return [FLOAT_MODEL, *(step.name for step in self.steps if step.linears)]

    def load(self, name: str, page: int) -> Floats:
        """The input of the next step for a page."""
        return np.asarray(np.load(self._path(len(self.steps), name, page)))

    def save(self, name: str, page: int, hidden: Floats) -> None:
        """Saves the output of the next step for a page."""
        with atomic_file(self._path(len(self.steps) + 1, name, page)) as file:
            np.save(file, hidden)

    def advance(self, name: str, page: int, sample: Sample, run: Callable[[Floats, Sample], Floats]) -> None:
        """Runs the next step on a state, unless an earlier run did; inputs of the float model stay until `finish`."""
        if not self._path(len(self.steps) + 1, name, page).is_file():
            self.save(name, page, run(self.load(name, page), sample))
        if name != FLOAT_MODEL:
            self._path(len(self.steps), name, page).unlink(missing_ok=True)

    def finish(self, step: Step) -> None:
        """Saves the record of the next step, then removes its inputs."""
        number = len(self.steps)
        with atomic_file(self._record(number)) as file:
            file.write(msgspec.json.encode(step))
        self.steps.append(step)
        for path in self.directory.glob(f"{number}.*.npy"):
            path.unlink()

    def _path(self, step: int, name: str, page: int) -> Path:
        return self.directory / f"{step}.{name}.{page}.npy"

    def _record(self, step: int) -> Path:
        return self.directory / f"step.{step}.json"
