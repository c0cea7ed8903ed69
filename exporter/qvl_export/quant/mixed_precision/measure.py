"""Measures on pages how far the precision of each linear changes the answers.

For each stage, the divergence of the answers is measured with all its linears in the coarsest scheme and everything
else in float, which takes one more pass through the rest of the network. Within the stage it is divided in proportion
to the noise that each linear alone, in each scheme, adds to the stage's output: the energies of small independent
errors add up, and the divergence of distributions grows with the energy of the error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from ...common.kl import divergence, log_softmax
from ...common.log import log
from ...common.progress import Report
from ..calibration.layer_session import through
from ..calibration.layerwise import observe, quantize_linears
from ..calibration.shards import Here
from ..calibration.tower import Tower
from ..calibration.work_dir import Sample, StageRecord, Work
from .hidden_states import CLEAN, Part, Step, Variants
from .sensitivity_table import Sensitivity
from .single_linear import Candidates, open_stage, smoothed, try_linears

Floats = npt.NDArray[np.float32]
TINY = 1e-30
NOISE_PAGES = 2
"""Pages on which the noise of single linears is measured."""


@dataclass(frozen=True)
class Chain:
    """Both towers over the same pages; `head` returns logits, `splice` puts image features into the decoder's input."""

    vision: Tower
    llm: Tower
    head: Callable[[Floats, Sample], Floats]
    splice: Callable[[Floats, Sample], Floats]


@dataclass
class Pace:
    """Seconds that stages took: `disturbing` is the same for every stage, `moving` grows by one state per stage."""

    stages: int = 0
    states: int = 0
    disturbing: float = 0.0
    moving: float = 0.0

    def add(self, disturbing: float, moving: float, states: int) -> None:
        self.stages, self.states = self.stages + 1, self.states + states
        self.disturbing, self.moving = self.disturbing + disturbing, self.moving + moving

    def left(self, stages: int, states: int) -> str:
        """Estimates the time for `stages` more stages, the first of which moves `states` states."""
        moves = sum(range(states, states + stages))
        seconds = self.disturbing / self.stages * stages + self.moving / self.states * moves
        return f"about {seconds:.0f} s left"


def measure(
    chain: Chain, works: Mapping[str, Work], schemes: Mapping[str, Candidates], report: Report
) -> list[Sensitivity]:
    """Returns every linear's cost in each of its tower's `schemes`; `works` hold the samples of both towers.

    A killed run resumes from the work directories.
    """
    variants, steps = Variants(works["vision"].directory / "variants"), 0
    for tower in (chain.vision, chain.llm):
        work = works[tower.name]
        if len(variants.steps) == steps:
            _enter(chain, tower, work, variants)
        _measure_tower(tower, work, variants, schemes[tower.name], len(variants.steps) - steps - 1, report)
        steps += 1 + len(tower.stages)
    return _share_out(variants.steps, _divergences(chain, works["llm"], variants))


def _enter(chain: Chain, tower: Tower, work: Work, variants: Variants) -> None:
    """A separate step that makes the tower's inputs: from pages for the vision tower, else from its image features."""
    for page, sample in enumerate(work.samples(0)):
        if tower is chain.vision:
            variants.save(CLEAN, page, sample.hidden)
        else:
            for name in variants.names:
                variants.move(name, page, sample, chain.splice)
    variants.finish(Step(tower.name, "", {}))


def _measure_tower(
    tower: Tower, work: Work, variants: Variants, schemes: Candidates, done: int, report: Report
) -> None:
    """Measures all stages except the first `done`."""
    pace = Pace()
    for number, name in list(enumerate(tower.stages))[done:]:
        began = time.monotonic()
        parts = _disturb(tower, name, work, variants, schemes)
        disturbed = time.monotonic()
        _move(tower, name, work, variants)
        pace.add(disturbed - began, time.monotonic() - disturbed, len(variants.names))
        variants.finish(Step(name, next(iter(schemes)), parts))
        log.debug("sensitivity measured: %s, %.3f s", name, time.monotonic() - began)
        left = pace.left(len(tower.stages) - number - 1, len(variants.names))
        report(f"{tower.name}: sensitivity of {number + 1} of {len(tower.stages)} stages measured, {left}")


def _disturb(tower: Tower, name: str, work: Work, variants: Variants, schemes: Candidates) -> dict[str, Part]:
    """Saves the states after a stage with all linears in the coarsest scheme; returns the results of its linears."""
    stage = tower.build(name, {})
    coarsest = replace(tower, scheme=lambda _: next(iter(schemes.values())))
    statistics, _ = observe(coarsest, stage, work, Here(lambda: _clean(work, variants), work.directory))
    undisturbed = open_stage(tower, name, StageRecord({}, {}), work)
    record = quantize_linears(coarsest, stage, *smoothed(coarsest, stage, statistics), work)
    disturbed = open_stage(coarsest, name, record, work)
    for page, sample in enumerate(_clean(work, variants)):
        variants.save(name, page, through(disturbed, sample))
    few = list(islice(_clean(work, variants), NOISE_PAGES))
    return try_linears(tower, stage, work, few, statistics, schemes, undisturbed)


def _move(tower: Tower, name: str, work: Work, variants: Variants) -> None:
    """Moves all earlier states through a stage in float."""
    undisturbed = open_stage(tower, name, StageRecord({}, {}), work)

    def moved(hidden: Floats, sample: Sample) -> Floats:
        return through(undisturbed, sample._replace(hidden=hidden))

    for page, sample in enumerate(work.samples(0)):
        for variant in variants.names:
            variants.move(variant, page, sample, moved)


def _clean(work: Work, variants: Variants) -> Iterator[Sample]:
    """Yields the undisturbed samples, page by page."""
    for page, sample in enumerate(work.samples(0)):
        yield sample._replace(hidden=variants.load(CLEAN, page))


def _divergences(chain: Chain, work: Work, variants: Variants) -> dict[str, float]:
    """Mean KL(float ‖ variant) over the tokens of all answers, per variant."""
    total: dict[str, list[float]] = {name: [] for name in variants.names}
    for page, sample in enumerate(work.samples(0)):
        exact = log_softmax(chain.head(variants.load(CLEAN, page), sample))
        for name in variants.names:
            other = log_softmax(chain.head(variants.load(name, page), sample))
            total[name].extend(divergence(exact, other).tolist())
    return {name: float(np.mean(found)) for name, found in total.items()}


def _share_out(steps: Sequence[Step], divergences: Mapping[str, float]) -> list[Sensitivity]:
    """Divides each stage's divergence over its linears in proportion to the energy of their noise."""
    found = []
    for step in steps:
        whole = sum(part.noise.get(step.coarsest, 0.0) for part in step.parts.values())
        for name, part in step.parts.items():
            kl = {
                precision: divergences[step.name] * noise / max(whole, TINY) for precision, noise in part.noise.items()
            }
            found.append(Sensitivity(name, part.shape, kl, part.forms))
    return found
