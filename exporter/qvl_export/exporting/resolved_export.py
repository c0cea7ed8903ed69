"""`ResolvedExport`: a plan with everything that it names found, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

from qvl_runtime.manifest import DECODE, Calibration, Cpu, FileEntry, GenerationDefaults, GraphEntry, Manifest

from .. import targets
from ..bundle import manifest as describe
from ..bundle.text_files.texts import Texts
from ..checkpoint.directory import Checkpoint
from ..checkpoint.quantized.detect import QuantizedSource
from ..checkpoint.safetensors_reader import Tensor
from ..common.atomic_output import OutputKind
from ..engines import Finisher
from ..families.spec import ModelSpec
from ..graph import build, weights
from ..quant import precision
from ..quant.calibration.work_dir import TowerResult
from ..quant.context import CalibrationSetup
from .option_checks import any_reads
from .plan import ExportPlan

BUILD: dict[str, Callable[..., build.Graph]] = {
    "vision": build.build_vision,
    "llm": build.build_llm,
    DECODE: partial(build.build_llm, name=DECODE),
}
Linears = Mapping[str, QuantizedSource]


class DirectoryLayout(Protocol):
    """Interface of a module of `layouts`; `OUTPUT_KIND` is the kind of directory that `--force` may replace."""

    OUTPUT_KIND: OutputKind

    def check(self, resolved: ResolvedExport) -> None:
        """Raises ExportError if the layout cannot hold this export; called before any long work."""

    def finish(
        self, directory: Path, resolved: ResolvedExport, graphs: Mapping[str, build.Graph], manifest: Manifest
    ) -> None:
        """Completes the layout from what is already written: text files, `graphs` and their weights."""


@dataclass(frozen=True)
class ResolvedExport:
    """A plan that can be carried out, and its inputs; spec and tensors have the plan's bounds and rotation.

    `precisions` and `targets` are by graph name, `own` the linears that the checkpoint stores quantized, `sources` the
    values of every parameter, `texts` the files that prompts are built from, `generation` the checkpoint's recommended
    generation settings. `calibration` is None if no graph is quantized, `finisher` None if no engines are built.
    """

    plan: ExportPlan
    layout: DirectoryLayout
    precisions: Mapping[str, str]
    targets: Mapping[str, targets.Target]
    checkpoint: Checkpoint
    source: describe.CheckpointSource
    spec: ModelSpec
    tensors: Mapping[str, Tensor]
    own: Linears
    sources: Mapping[str, weights.WeightSource]
    texts: Texts
    generation: GenerationDefaults
    calibration: CalibrationSetup | None = None
    finisher: Finisher | None = None

    def floats(self, name: str) -> str:
        """Returns the precision of a graph's unquantized values."""
        return precision.of_floats(self.precisions[name], self.plan.precision)

    @property
    def cpu(self) -> Cpu | None:
        """The processors that int8 codes are for; None if no graph has byte products on a CPU."""
        if not self.targets["vision"].byte_products or not any_reads("cpu", self.precisions):
            return None
        return cast(Cpu, self.plan.quant.cpu)  # `check_options` refuses others

    def linears(self, tower_result: TowerResult) -> dict[str, QuantizedSource]:
        """Returns the checkpoint's own quantized linears and those of `tower_result`."""
        return {**self.own, **tower_result.linears}

    def manifest(
        self,
        graphs: Mapping[str, GraphEntry],
        files: Mapping[str, FileEntry],
        read_hash: Any,
        calibration: Calibration | None = None,
    ) -> Manifest:
        """Returns the manifest of a bundle with these graphs and files; `read_hash` is a hash of the weights read."""
        origin = describe.origin(self.source, read_hash, calibration, self.plan.recorded())
        llm, special, generation = self.targets["llm"], self.texts.special_tokens, self.generation
        cache = build.bundle_cache(self.spec, llm)
        return describe.manifest(
            self.spec,
            self.plan.target,
            llm.cache_form,
            graphs,
            files,
            origin,
            special,
            generation,
            self.cpu,
            cache,
        )


def build_graph(name: str, spec: ModelSpec, target: targets.Target, linears: Linears) -> build.Graph:
    """Returns the graph called `name` with `linears` quantized."""
    return BUILD[name](spec, target, {name: linear.format() for name, linear in linears.items()})
