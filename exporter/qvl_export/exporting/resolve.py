"""Opens a checkpoint for a plan, and refuses one that does not fit before any long work begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from qvl_runtime.manifest import DECODE, GenerationDefaults

from .. import engines, families, targets
from ..bundle import manifest as describe
from ..bundle.text_files import texts as text_files
from ..checkpoint import generation_config as generation
from ..checkpoint import unused_tensors as leftovers
from ..checkpoint.directory import HEAD, Checkpoint
from ..checkpoint.quantized import detect as stored
from ..checkpoint.safetensors_reader import Tensor
from ..common.log import log
from ..common.progress import Progress
from ..errors import ConfigError, ExportError
from ..families.spec import ModelSpec
from ..graph import build, weights
from ..graph.packed_sources import packed_parts
from ..graph.weight_matching import match
from ..quant import precision, schemes
from ..quant import rotation as rotate
from ..quant.calibration.work_dir import Quantized
from ..quant.precision import MIXED
from . import hub
from .plan import ExportPlan

BUILD: dict[str, Callable[..., build.Graph]] = {
    "vision": build.build_vision,
    "llm": build.build_llm,
    DECODE: partial(build.build_llm, name=DECODE),
}
Linears = Mapping[str, stored.QuantizedSource]


@dataclass(frozen=True)
class Opened:
    """A checkpoint that fits a plan; its spec and tensors have the plan's bounds and basis.

    `precisions` and `targets` are by graph name, `own` the linears that the checkpoint stores quantized, `sources` the
    values of every parameter, `texts` the files that prompts are built from, `generation` the checkpoint's recommended
    generation settings.
    """

    plan: ExportPlan
    precisions: Mapping[str, str]
    targets: Mapping[str, targets.Target]
    checkpoint: Checkpoint
    source: describe.Source
    spec: ModelSpec
    tensors: Mapping[str, Tensor]
    own: Linears
    sources: Mapping[str, weights.Source]
    texts: text_files.Texts
    generation: GenerationDefaults

    def floats(self, name: str) -> str:
        """Returns the precision of a graph's unquantized values."""
        return precision.of_floats(self.precisions[name], self.plan.precision)

    @property
    def options(self) -> schemes.Options:
        """The options of quantization schemes for this plan and target."""
        return replace(self.plan.options, static=self.targets["vision"].static_activations)

    @property
    def engine_options(self) -> engines.EngineOptions:
        """The options of engines that follow from the plan and its weights."""
        stored = frozenset(linear.layout() for linear in self.own.values())
        int4 = any(layout.bits == 4 for layout in stored) or not {"int4", MIXED}.isdisjoint(self.precisions.values())
        return engines.EngineOptions(
            engines.capabilities(self.plan.compute_capability), self.plan.profile, int4, stored
        )

    def linears(self, quantized: Quantized) -> dict[str, stored.QuantizedSource]:
        """Returns the checkpoint's own quantized linears and those of `quantized`."""
        return {**self.own, **quantized.linears}


def open_checkpoint(plan: ExportPlan, precisions: Mapping[str, str], progress: Progress) -> Opened:
    """Finds, reads and checks the plan's checkpoint.

    Raises ExportError (HubError, ConfigError, CheckpointError).
    """
    lowered = {
        name: targets.lower(plan.target, precision.of_floats(chosen, plan.precision), plan.accuracy_level)
        for name, chosen in precisions.items()
    }
    progress.stage(f"locating {plan.checkpoint}")
    checkpoint, revision = hub.locate(str(plan.checkpoint), plan.revision)
    source = describe.Source(str(plan.checkpoint), checkpoint.directory, revision)
    own = stored.quantized_linears(checkpoint)
    if own and plan.rotate:
        raise ExportError("the checkpoint is already quantized", where=checkpoint.directory, fix="use --no-rotate")
    if own:
        forms = ", ".join(sorted({str(linear.layout()) for linear in own.values()}))
        progress.stage(f"{len(own)} linears stay as the checkpoint has them: {forms}")
    spec = plan.adjusted(families.read_spec(checkpoint))
    _check_depth(spec, checkpoint)
    recommended, dropped = generation.read(checkpoint)
    if dropped:
        progress.stage(f"note: {generation.FILE}: {', '.join(dropped)} left out, not supported")
    tensors = rotate.rotated(_used(checkpoint, spec), spec)
    progress.stage(f"building the graphs of {spec.family}")
    sources = _match(spec, tensors, checkpoint.directory, lowered, own)
    for note in (*checkpoint.notes, *leftovers.notes(checkpoint.tensors), *_headless(spec, checkpoint)):
        progress.stage(f"note: {note}")
    texts = text_files.read(checkpoint, spec, lambda note: progress.stage(f"note: {note}"))
    size = sum(tensor.nbytes for tensor in tensors.values())
    log.debug("checkpoint read: %s, %s, %d tensors, %d bytes", checkpoint.directory, spec.family, len(tensors), size)
    return Opened(plan, precisions, lowered, checkpoint, source, spec, tensors, own, sources, texts, recommended)


def build_graph(name: str, spec: ModelSpec, target: targets.Target, linears: Linears) -> build.Graph:
    """Returns the graph called `name` with `linears` quantized."""
    return BUILD[name](spec, target, {name: linear.layout() for name, linear in linears.items()})


def _used(checkpoint: Checkpoint, spec: ModelSpec) -> dict[str, Tensor]:
    """Returns the tensors by their names in the graphs, without those that an export does not need."""
    left = {*leftovers.heads(checkpoint.tensors), *leftovers.buffers(checkpoint.tensors)}
    return {name: tensor for name, tensor in families.tensors(checkpoint, spec).items() if name not in left}


def _headless(spec: ModelSpec, checkpoint: Checkpoint) -> list[str]:
    """Returns a note if the model should have a head of its own but has none."""
    if not spec.text.tied or HEAD in checkpoint.tensors or checkpoint.ties_embeddings:
        return []
    return [f"there is no {HEAD}, and config.json ties none: the table of embeddings serves as head"]


def _match(
    spec: ModelSpec, tensors: Mapping[str, Tensor], where: Path, lowered: Mapping[str, targets.Target], own: Linears
) -> dict[str, weights.Source]:
    """Returns the checkpoint's tensor for every parameter; raises CheckpointError if tensors do not fit."""
    graphs = [build_graph(name, spec, target, own) for name, target in lowered.items()]
    tied = ("lm_head.weight",) if spec.text.tied else ()
    unused = (*leftovers.COMPUTED, *tied, *stored.stored_names(own), *stored.zero_biases(own, tensors))
    parts = packed_parts(own, lowered["llm"])
    return match(graphs, tensors, parts, unused, where)


def _check_depth(spec: ModelSpec, checkpoint: Checkpoint) -> None:
    """Raises ConfigError if there are more layers than tensors, before a graph of them is built."""
    for name, depth in (("vision_config.depth", spec.vision.depth), ("num_hidden_layers", spec.text.num_layers)):
        if depth > len(checkpoint.tensors):
            raise ConfigError(
                f"{name} {depth} is more than the checkpoint's {len(checkpoint.tensors)} tensors",
                where=checkpoint.directory / "config.json",
                fix="weights and config.json are of different models",
            )
