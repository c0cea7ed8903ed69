"""`--max-kl` and `--max-size`: measures sensitivities on the plan's pages and chooses precisions by them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from qvl_runtime.common.counted import counted
from qvl_runtime.manifest import Calibration, Manifest
from qvl_runtime.sessions.cpu import CpuVision, open_vision

from ...bundle import manifest as describe
from ...common.arrays import Floats
from ...common.atomic_output import atomic_file
from ...common.threads import thread_limit
from ...graph import weights
from ...graph.build import Graph, build_vision
from ...graph.layer_graphs import head_stage
from .. import schemes
from ..calibration.layer_session import open_session
from ..calibration.tower import Tower
from ..calibration.work_dir import Sample, Work
from ..context import CalibrationContext, CalibrationSetup
from ..precision import CANDIDATES
from ..towers import llm_tower, vision_tower
from . import measure, search, size_limit
from .bundle_size import NO_HASH, Sizes
from .measure import Chain
from .pinned_scheme import PinnedScheme
from .sensitivity_table import Sensitivity


def choose(context: CalibrationContext) -> dict[str, schemes.Scheme | None]:
    """Returns the scheme of every linear by name, None if it stays float; ExportError if no choice keeps the limit."""
    setup = context.setup
    assert setup.limit is not None
    table = sensitivities(context)
    chosen = size_limit.choose(table, setup.limit, _sizes(setup, context.manifest))
    context.report(f"expected KL of the chosen precisions: {search.predicted(table, chosen):.2g}")
    available = {name: schemes.find(name, setup.options) for name in schemes.available()}
    formats = size_limit.formats(table, chosen)
    return {
        name: PinnedScheme(available[precision.split()[0]], formats[name]) if name in formats else None
        for name, precision in chosen.items()
    }


def check_size(setup: CalibrationSetup, manifest: Manifest) -> None:
    """Raises ExportError if no choice keeps the size limit; nothing is measured. `manifest` lists no graphs yet."""
    assert setup.limit is not None
    size_limit.check(_unmeasured(setup), setup.limit, _sizes(setup, manifest))


def _sizes(setup: CalibrationSetup, manifest: Manifest) -> Sizes:
    """Sizes of the plan's bundles; the placeholder for the pages' entry has the length of the final entry."""
    record = Calibration(sources=setup.pages.names, pages=len(setup.pages), sha256=NO_HASH)
    origin = msgspec.structs.replace(manifest.provenance, calibration=record)
    tables = dict.fromkeys(setup.tables, setup.table_format)
    return Sizes(setup.spec, setup.targets, tables, msgspec.structs.replace(manifest, provenance=origin))


def _unmeasured(setup: CalibrationSetup) -> list[Sensitivity]:
    """The most favorable table possible: every linear in its smallest formats, at zero cost."""
    table = []
    for tower, candidates in zip(_towers(setup), _candidates(setup).values(), strict=True):
        names = [name for stage in tower.stages for name in tower.build(stage, {}).linears]
        for name in names:
            shape = tower.shape(name)
            formats = {precision: scheme.format(shape[1]) for precision, scheme in candidates.items()}
            smallest = {
                precision: format.with_inputs_per_tensor() if tower.per_tensor and format.integer else format
                for precision, format in formats.items()
            }
            table.append(Sensitivity(name, shape, dict.fromkeys(smallest, 0.0), smallest))
    return table


def _towers(setup: CalibrationSetup) -> tuple[Tower, Tower]:
    spec, tensors, targets = setup.spec, setup.tensors, setup.targets
    return (
        vision_tower(spec, targets["vision"], tensors, lambda _: None),
        llm_tower(spec, targets["llm"], tensors, lambda _: None),
    )


def sensitivities(context: CalibrationContext) -> list[Sensitivity]:
    """Sensitivities of all linears in both towers, measured once and saved for a resumed export, with any limit."""
    setup, key, report = context.setup, context.measured_key, context.report
    kept = Work(setup.work / "sensitivities", key).directory / "table.json"
    if not kept.is_file():
        works = {tower: Work(setup.work / f"sensitivities.{tower}", key) for tower in CANDIDATES}
        report(f"measuring sensitivities on {counted(len(setup.pages), 'page')} of {', '.join(setup.pages.names)}")
        works["vision"].begin(context.sampler.patches())
        works["llm"].begin(_tokens(context, works["llm"].directory))
        table = measure.measure(_chain(setup, works["llm"]), works, _candidates(setup), report)
        with atomic_file(kept) as file:
            file.write(msgspec.json.encode(table))
        for work in works.values():
            shutil.rmtree(work.directory)
    return msgspec.json.decode(kept.read_bytes(), type=list[Sensitivity])


def _tokens(context: CalibrationContext, directory: Path) -> Iterator[Sample]:
    """Yields samples of the language model; the vision graph is written only when the first is requested."""
    vision = _float_vision(context, directory)
    yield from context.sampler.tokens(vision, context.setup.tensors["model.embed_tokens.weight"])


def _candidates(setup: CalibrationSetup) -> dict[str, dict[str, schemes.Scheme]]:
    return {tower: {name: schemes.find(name, setup.options) for name in names} for tower, names in CANDIDATES.items()}


def _chain(setup: CalibrationSetup, work: Work) -> Chain:
    _write(head_stage(setup.spec.text, setup.targets["llm"]), setup, work.directory / "head.onnx")
    session = open_session(work.directory / "head.onnx")

    def head(hidden: Floats, sample: Sample) -> Floats:
        feeds = {"hidden": hidden, "logits_positions": sample.feeds["logits_positions"]}
        return np.asarray(session.run(["logits"], feeds)[0][0])

    def splice(features: Floats, sample: Sample) -> Floats:
        hidden = sample.hidden.copy()
        hidden[0, sample.feeds["image_positions"][:, 1]] = features
        return hidden

    return Chain(*_towers(setup), head, splice)


def _float_vision(context: CalibrationContext, directory: Path) -> CpuVision:
    """Writes and opens the vision graph with float weights, which computes the language model's image features."""
    setup = context.setup
    graph = build_vision(setup.spec, setup.targets["vision"])
    written = _write(graph, setup, directory / "vision.onnx")
    entry = describe.graph_entry(graph, written, search.FLOAT)
    return open_vision(directory, msgspec.structs.replace(context.manifest, graphs={"vision": entry}), thread_limit())


def _write(graph: Graph, setup: CalibrationSetup, path: Path) -> weights.Written:
    data = path.with_suffix(".onnx.data")
    sources = weights.float_sources(graph, setup.tensors)
    written = weights.write(graph, sources, data, hashlib.sha256(), lambda _: None)
    ir.save(graph.model, path)
    return written
