"""How much of the answers the precision of each linear costs, measured on pages.

For every stage the divergence of the answers is measured with all its linears in the coarsest scheme and everything
else in float: one more pass through the rest of the network. Within the stage it is shared out by the noise that each
linear alone, in each scheme, leaves in the stage's output: small independent errors add up in energy, and the
divergence of distributions grows with the energy of what disturbs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..distributions import divergence, log_softmax
from ..graph.stages import Stage
from .calibrate import observe, quantize_linears
from .question import Report
from .running import through
from .schemes import Scheme
from .sensitivities import Sensitivity
from .shards import Here
from .smooth import smooth
from .statistics import Statistics
from .tower import Tower
from .work import Sample, StageRecord, Work

Floats = npt.NDArray[np.float32]
CLEAN = "float"
TINY = 1e-30
NOISE_PAGES = 2
"""Pages on which the noise of single linears is measured."""


class Part(msgspec.Struct, frozen=True):
    """A linear's shape, and the energy of the noise that each precision of it leaves in its stage's output."""

    shape: tuple[int, int]
    noise: dict[str, float]


@dataclass(frozen=True)
class Chain:
    """Both towers over the same pages: `splice` puts image features into the language model's input of a page."""

    vision: Tower
    llm: Tower
    head: Callable[[Floats, Sample], Floats]
    splice: Callable[[Floats, Sample], Floats]


class Variants:
    """Hidden states of every page: undisturbed ones, and those after a stage was disturbed, on disk."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.names = directory, [CLEAN]
        directory.mkdir(parents=True, exist_ok=True)

    def save(self, name: str, page: int, hidden: Floats) -> None:
        np.save(self._path(name, page), hidden)

    def load(self, name: str, page: int) -> Floats:
        return np.asarray(np.load(self._path(name, page)))

    def _path(self, name: str, page: int) -> Path:
        return self.directory / f"{name}.{page}.npy"


Candidates = Mapping[str, Scheme]
"""Schemes by name, the coarsest first."""


def measure(
    chain: Chain, works: Mapping[str, Work], schemes: Mapping[str, Candidates], report: Report
) -> list[Sensitivity]:
    """Every linear's cost in each of its tower's `schemes`; `works` hold the samples of both towers."""
    variants, parts = Variants(works["vision"].directory / "variants"), {}
    for tower in (chain.vision, chain.llm):
        work = works[tower.name]
        if tower is chain.llm:
            for page, sample in enumerate(work.samples(0)):
                for name in variants.names:
                    variants.save(name, page, chain.splice(variants.load(name, page), sample))
        else:
            for page, sample in enumerate(work.samples(0)):
                variants.save(CLEAN, page, sample.hidden)
        for number, name in enumerate(tower.stages):
            parts[name] = _disturb(tower, name, work, variants, schemes[tower.name])
            report(f"{tower.name}: sensitivity of {number + 1} of {len(tower.stages)} stages measured")
    return _share_out(parts, _divergences(chain, works["llm"], variants))


def _disturb(tower: Tower, name: str, work: Work, variants: Variants, schemes: Candidates) -> dict[str, Part]:
    """Take all states through a stage, undisturbed, and add those that its own quantization disturbs."""
    stage = tower.build(name, {})
    coarsest = replace(tower, scheme=lambda _: next(iter(schemes.values())))
    statistics, _ = observe(coarsest, stage, work, Here(lambda: _clean(work, variants), work.directory))
    undisturbed = _session(tower, name, StageRecord({}, {}), work)
    record = quantize_linears(coarsest, stage, *_smoothed(coarsest, stage, statistics), work)
    disturbed = _session(coarsest, name, record, work)
    for page, sample in enumerate(_clean(work, variants)):
        variants.save(name, page, through(disturbed, sample))
    few = list(islice(_clean(work, variants), NOISE_PAGES))
    parts = _parts(tower, stage, work, few, statistics, schemes, undisturbed)
    for page, sample in enumerate(work.samples(0)):
        for variant in variants.names:
            moved = sample._replace(hidden=variants.load(variant, page))
            variants.save(variant, page, through(undisturbed, moved))
    variants.names.append(name)
    return parts


def _clean(work: Work, variants: Variants) -> Iterator[Sample]:
    """Undisturbed, page by page."""
    for page, sample in enumerate(work.samples(0)):
        yield sample._replace(hidden=variants.load(CLEAN, page))


def _parts(
    tower: Tower,
    stage: Stage,
    work: Work,
    samples: Sequence[Sample],
    statistics: Mapping[str, Statistics],
    schemes: Candidates,
    undisturbed: ort.InferenceSession,
) -> dict[str, Part]:
    """Every linear of a stage alone, in each scheme; scales are moved as if all linears were in that scheme."""
    exact = [through(undisturbed, sample) for sample in samples]
    noise: dict[str, dict[str, float]] = {linear: {} for linear in statistics}
    shapes: dict[str, tuple[int, int]] = {}
    for precision, scheme in schemes.items():
        moved, rewritten = _smoothed(replace(tower, scheme=dict.fromkeys(statistics, scheme).get), stage, statistics)
        for linear in statistics:
            alone = replace(tower, scheme={linear: scheme}.get)
            record = quantize_linears(alone, stage, moved, dict(rewritten), work)
            session = _session(alone, stage.graph.name, record, work)
            found = [through(session, sample) for sample in samples]
            noise[linear][precision] = float(sum(np.square(a - b).sum() for a, b in zip(found, exact, strict=True)))
            shapes[linear] = record.linears[linear].shape
    return {linear: Part(shapes[linear], noise[linear]) for linear in statistics}


def _smoothed(
    tower: Tower, stage: Stage, statistics: Mapping[str, Statistics]
) -> tuple[dict[str, Statistics], dict[str, Floats]]:
    """The statistics after scales were moved, and the tensors that this rewrites."""
    moved = dict(statistics)
    rewritten, _ = smooth(tower, stage, moved)
    return moved, rewritten


def _session(tower: Tower, name: str, record: StageRecord, work: Work) -> ort.InferenceSession:
    quantized = work.quantized(record)
    return tower.open(tower.build(name, quantized.layouts), quantized, work.directory)


def _divergences(chain: Chain, work: Work, variants: Variants) -> dict[str, float]:
    """Mean KL(float ‖ variant) over the tokens of all answers, by variant."""
    total: dict[str, list[float]] = {name: [] for name in variants.names}
    for page, sample in enumerate(work.samples(0)):
        exact = log_softmax(chain.head(variants.load(CLEAN, page), sample))
        for name in variants.names:
            other = log_softmax(chain.head(variants.load(name, page), sample))
            total[name].extend(divergence(exact, other).tolist())
    return {name: float(np.mean(found)) for name, found in total.items()}


def _share_out(parts: Mapping[str, Mapping[str, Part]], divergences: Mapping[str, float]) -> list[Sensitivity]:
    """Each linear's part of its stage's divergence, in proportion to the energy of its noise."""
    found = []
    for stage, linears in parts.items():
        whole = sum(next(iter(part.noise.values())) for part in linears.values())
        for name, part in linears.items():
            kl = {precision: divergences[stage] * noise / max(whole, TINY) for precision, noise in part.noise.items()}
            found.append(Sensitivity(name, part.shape, kl))
    return found
