"""`--max-kl` and `--max-size`: sensitivities measured on the plan's pages, and the precisions chosen by them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnx_ir as ir

from qvl_runtime.manifest import Calibration, Manifest
from qvl_runtime.sessions.cpu import CpuVision, open_vision

from .. import describe
from ..atomic import written
from ..graph import weights
from ..graph.build import Graph, build_vision
from ..graph.stages import head_stage
from . import fit, schemes, search, sensitivity
from .pinned import Pinned
from .question import Report
from .running import open_session
from .samples import Sampler
from .sensitivities import Sensitivity
from .sensitivity import Chain
from .sizes import NO_HASH, Sizes
from .threads import thread_limit
from .tower import Tower
from .towers import llm_tower, vision_tower
from .trial import shape_of
from .work import Floats, Sample, Work

if TYPE_CHECKING:
    from .quantizer import Quantizer

CANDIDATES = {"vision": ("int8",), "llm": ("int4", "int8")}
"""What the linears of each tower may be beside float, coarsest first."""


def choose(quantizer: Quantizer, draft: Manifest, directory: Path, report: Report) -> dict[str, schemes.Scheme | None]:
    """The scheme of every linear by name, None for float ones; raises ExportError where no choice keeps the limit.

    What is too small for any choice is refused before sensitivities are measured.
    """
    limit, sizes = quantizer.limit, _sizes(quantizer, draft)
    assert limit is not None
    fit.check(_unmeasured(quantizer), limit, sizes)
    table = sensitivities(quantizer, draft, directory, report)
    chosen = fit.choose(table, limit, sizes)
    report(f"KL of {search.predicted(table, chosen):.2g} expected of the precisions chosen")
    found = {name: schemes.find(name, quantizer.options) for name in schemes.available()}
    forms = fit.forms(table, chosen)
    return {name: Pinned(found[how.split()[0]], forms[name]) if name in forms else None for name, how in chosen.items()}


def _sizes(quantizer: Quantizer, draft: Manifest) -> Sizes:
    """Of the plan's bundles; the pages' record has the length that it will have."""
    record = Calibration(sources=quantizer.pages.names, pages=len(quantizer.pages), sha256=NO_HASH)
    origin = msgspec.structs.replace(draft.provenance, calibration=record)
    tables = dict.fromkeys(quantizer.tables, quantizer.table_layout)
    return Sizes(quantizer.spec, quantizer.targets, tables, msgspec.structs.replace(draft, provenance=origin))


def _unmeasured(quantizer: Quantizer) -> list[Sensitivity]:
    """The table as it will be at best: every linear in its smallest forms, at no cost."""
    table = []
    for tower, found in zip(_towers(quantizer), _candidates(quantizer).values(), strict=True):
        names = [name for stage in tower.stages for tap in tower.build(stage, {}).taps.values() for name in tap]
        for name in names:
            shape = shape_of(tower, name)
            layouts = {precision: scheme.layout(shape[1]) for precision, scheme in found.items()}
            forms = {
                precision: replace(form, per_tensor=tower.per_tensor and form.integer)
                for precision, form in layouts.items()
            }
            table.append(Sensitivity(name, shape, dict.fromkeys(forms, 0.0), forms))
    return table


def _towers(quantizer: Quantizer) -> tuple[Tower, Tower]:
    spec, tensors, targets = quantizer.spec, quantizer.tensors, quantizer.targets
    return (
        vision_tower(spec, targets["vision"], tensors, lambda _: None),
        llm_tower(spec, targets["llm"], tensors, lambda _: None),
    )


def sensitivities(quantizer: Quantizer, draft: Manifest, directory: Path, report: Report) -> list[Sensitivity]:
    """Of all linears in both towers; measured once, and kept for an export that goes on, with another limit too."""
    key = quantizer.measured_key(draft, report)
    kept = Work(quantizer.work / "sensitivities", key).directory / "table.json"
    if not kept.is_file():
        works = {tower: Work(quantizer.work / f"sensitivities.{tower}", key) for tower in CANDIDATES}
        report(f"measuring sensitivities on {len(quantizer.pages)} pages of {', '.join(quantizer.pages.names)}")
        sampler = quantizer.sampler(draft, directory, report)
        works["vision"].begin(sampler.patches())
        works["llm"].begin(_tokens(quantizer, sampler, draft, works["llm"].directory))
        table = sensitivity.measure(_chain(quantizer, works["llm"]), works, _candidates(quantizer), report)
        with written(kept) as file:
            file.write(msgspec.json.encode(table))
        for work in works.values():
            shutil.rmtree(work.directory)
    return msgspec.json.decode(kept.read_bytes(), type=list[Sensitivity])


def _tokens(quantizer: Quantizer, sampler: Sampler, draft: Manifest, directory: Path) -> Iterator[Sample]:
    """Samples of the language model; the vision graph is only written where the first of them is asked for."""
    vision = _float_vision(quantizer, draft, directory)
    yield from sampler.tokens(vision, quantizer.tensors["model.embed_tokens.weight"])


def _candidates(quantizer: Quantizer) -> dict[str, dict[str, schemes.Scheme]]:
    return {
        tower: {name: schemes.find(name, quantizer.options) for name in names} for tower, names in CANDIDATES.items()
    }


def _chain(quantizer: Quantizer, work: Work) -> Chain:
    _write(head_stage(quantizer.spec.text, quantizer.targets["llm"]), quantizer, work.directory / "head.onnx")
    session = open_session(work.directory / "head.onnx")

    def head(hidden: Floats, sample: Sample) -> Floats:
        feeds = {"hidden": hidden, "logits_positions": sample.feeds["logits_positions"]}
        return np.asarray(session.run(["logits"], feeds)[0][0])

    def splice(features: Floats, sample: Sample) -> Floats:
        hidden = sample.hidden.copy()
        hidden[0, sample.feeds["image_positions"][:, 1]] = features
        return hidden

    return Chain(*_towers(quantizer), head, splice)


def _float_vision(quantizer: Quantizer, draft: Manifest, directory: Path) -> CpuVision:
    """The vision graph with float weights, for the features that the language model starts from."""
    graph = build_vision(quantizer.spec, quantizer.targets["vision"])
    written = _write(graph, quantizer, directory / "vision.onnx")
    entry = describe.graph_entry(graph, written, search.FLOAT)
    return open_vision(directory, msgspec.structs.replace(draft, graphs={"vision": entry}), thread_limit())


def _write(graph: Graph, quantizer: Quantizer, path: Path) -> weights.Written:
    data = path.with_suffix(".onnx.data")
    sources = weights.float_sources(graph, quantizer.tensors)
    written = weights.write(graph, sources, data, hashlib.sha256(), lambda _: None)
    ir.save(graph.model, path)
    return written
