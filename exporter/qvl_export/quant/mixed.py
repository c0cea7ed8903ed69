"""`--max-kl` and `--max-size`: sensitivities measured on the plan's pages, and the precisions chosen by them."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnx_ir as ir

from qvl_runtime.manifest import Manifest
from qvl_runtime.sessions.cpu import CpuVision, open_vision

from .. import describe
from ..atomic import written
from ..errors import ExportError
from ..graph import weights
from ..graph.build import Graph, build_llm, build_vision
from ..graph.stages import head_stage
from . import schemes, search, sensitivity
from .qtensor import Layout
from .question import Report
from .running import open_session
from .samples import Sampler
from .sensitivities import Sensitivity
from .sensitivity import Chain
from .towers import llm_tower, vision_tower
from .work import Floats, Sample, Work

if TYPE_CHECKING:
    from .quantizer import Quantizer

CANDIDATES = {"vision": ("int8",), "llm": ("int4", "int8")}
"""What the linears of each tower may be beside float, coarsest first."""
NODE_BYTES = 1500
"""Of a graph's file for each node of the float graph, more than a quantized one was seen to take."""


def choose(quantizer: Quantizer, draft: Manifest, directory: Path, report: Report) -> dict[str, str]:
    """The precision of every linear by name; raises ExportError where no choice keeps the limit."""
    assert quantizer.limit is not None
    if quantizer.spec.text.moe:
        raise ExportError("the sensitivity of experts cannot be measured", fix="give --precision int4 or int8")
    table = sensitivities(quantizer, draft, directory, report)
    forms = {name: schemes.find(name, quantizer.options) for name in schemes.available()}

    def nbytes(shape: tuple[int, int], precision: str) -> int:
        if precision == search.FLOAT:
            return 2 * shape[0] * shape[1]
        return _nbytes(quantizer, shape, forms[precision].layout(shape[1]))

    texts = sum(path.stat().st_size for path in directory.iterdir())
    chosen = search.solve(table, quantizer.limit, nbytes, texts + _fixed(quantizer, table))
    report(f"KL of {search.predicted(table, chosen):.2g} expected of the precisions chosen")
    return chosen


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
    spec, tensors, targets = quantizer.spec, quantizer.tensors, quantizer.targets
    _write(head_stage(spec.text, targets["llm"]), quantizer, work.directory / "head.onnx")
    session = open_session(work.directory / "head.onnx")

    def head(hidden: Floats, sample: Sample) -> Floats:
        feeds = {"hidden": hidden, "logits_positions": sample.feeds["logits_positions"]}
        return np.asarray(session.run(["logits"], feeds)[0][0])

    def splice(features: Floats, sample: Sample) -> Floats:
        hidden = sample.hidden.copy()
        hidden[0, sample.feeds["image_positions"][:, 1]] = features
        return hidden

    towers = (
        vision_tower(spec, targets["vision"], tensors, lambda _: None),
        llm_tower(spec, targets["llm"], tensors, lambda _: None),
    )
    return Chain(*towers, head, splice)


def _float_vision(quantizer: Quantizer, draft: Manifest, directory: Path) -> CpuVision:
    """The vision graph with float weights, for the features that the language model starts from."""
    graph = build_vision(quantizer.spec, quantizer.targets["vision"])
    written = _write(graph, quantizer, directory / "vision.onnx")
    entry = describe.graph_entry(graph, written, search.FLOAT)
    return open_vision(directory, msgspec.structs.replace(draft, graphs={"vision": entry}), None)


def _write(graph: Graph, quantizer: Quantizer, path: Path) -> weights.Written:
    data = path.with_suffix(".onnx.data")
    sources = weights.float_sources(graph, quantizer.tensors)
    written = weights.write(graph, sources, data, hashlib.sha256(), lambda _: None)
    ir.save(graph.model, path)
    return written


def _nbytes(quantizer: Quantizer, shape: tuple[int, int], layout: Layout) -> int:
    """Bytes of a weight in a form."""
    form = quantizer.targets["llm"].packed_form(*shape, layout)
    return int(sum(np.prod(size) * dtype.itemsize for size, dtype in form.values()))


def _fixed(quantizer: Quantizer, table: list[Sensitivity]) -> int:
    """Bytes of the bundle that no choice changes: tables, norms, biases, graphs, text files."""
    spec, tensors = quantizer.spec, quantizer.tensors
    chosen = {f"{row.name}.weight" for row in table}
    tables = {f"{name}.weight": tensors[f"{name}.weight"].shape for name in quantizer.tables}
    quantized = sum(_nbytes(quantizer, (rows, columns), quantizer.table_layout) for rows, columns in tables.values())
    others = sum(
        4 * math.prod(tensor.shape) for name, tensor in tensors.items() if name not in chosen and name not in tables
    )
    graphs = (build_vision(spec, quantizer.targets["vision"]), build_llm(spec, quantizer.targets["llm"]))
    aligned = weights.ALIGNMENT * (len(tensors) + len(chosen) + len(tables))  # quantized ones are codes and scales
    return quantized + others + aligned + NODE_BYTES * sum(len(graph.model.graph) for graph in graphs)
