"""The plan of an export: what to export and how, with its precisions, bounds and limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec

from qvl_runtime.bundle import has_utf8_name
from qvl_runtime.manifest import DECODE

from ..errors import ExportError
from ..families.spec import ModelSpec
from ..quant import precision, schemes
from ..quant import rotation as rotate
from ..quant.limit import Limit
from ..quant.precision import MIXED
from ..targets import Target

DEFAULT_MAX_LENGTH = 8192
QUANTIZED = ("int8", "int4", "mixed")
_LLM = ("llm", DECODE)


class Reader(NamedTuple):
    """The precisions per graph in which an option has an effect. `what` and `fix` are parts of the error message."""

    field: str
    precisions: Mapping[str, tuple[str, ...]]
    what: str = "quantization"
    fix: str = "add --precision int8 or int4"


_ANY = dict.fromkeys(("vision", *_LLM), QUANTIZED)
_INT4_LLM = dict.fromkeys(_LLM, ("int4", "mixed"))
_ADD_INT4 = "add --precision int4"
READ_BY = {
    "--calib": Reader("calib", _ANY),
    "--samples": Reader("samples", _ANY),
    "--threads": Reader("threads", _ANY),
    "--ray": Reader("ray", _ANY),
    "--block-size": Reader(
        "block_size",
        {"vision": ("int4", "mixed"), **dict.fromkeys(_LLM, QUANTIZED)},
        "quantization of the language model, or to int4",
    ),
    "--reduce-range": Reader("reduce_range", dict.fromkeys(_ANY, ("int8", "mixed")), "int8", "add --precision int8"),
    "--no-gptq-experts": Reader("gptq_experts", _INT4_LLM, "int4 of the language model", _ADD_INT4),
}
"""Options that have no effect unless a graph has a certain precision."""
RECORDED = (
    *("precision", "vision_precision", "llm_precision", "max_kl", "max_size", "min_pixels", "max_pixels", "max_length"),
    *("accuracy_level", "reduce_range", "block_size", "samples", "rotate", "gptq_experts"),
)
"""Fields that a bundle records about its export."""


@dataclass(frozen=True)
class ExportPlan:
    """What to export, where to, and how.

    `checkpoint` is a directory or a Hugging Face id; `min_pixels` and `max_pixels` override the checkpoint's;
    `max_length` bounds prompt and answer together (8,192, or the model's limit if that is lower). `accuracy_level` 4
    multiplies 4- and 8-bit weights with activations rounded to int8; 0 keeps activations float32. Linears that the
    checkpoint stores quantized (GPTQ, AWQ) are used as they are. `precision` "int8" multiplies integers in both towers
    (W8A8); "int4" does so in the vision tower and quantizes the language model's weights to int4 by GPTQ with one scale
    per `block_size` columns; "hybrid" stores the language model twice, in int8 for prefill and in int4 for decode.
    `vision_precision` and `llm_precision` override it for one tower. Quantization is calibrated on up to `samples`
    pages spread over `calib`, one path or several: calibration sets (directories with `labels.jsonl`), images, PDFs,
    or directories of these; the built-in set if empty. `reduce_range` makes int8 weights fast on x86 without VNNI, at
    some cost in accuracy. `max_kl` (mean KL divergence of answers from the checkpoint's, in nats per token) or
    `max_size` (bytes) replaces a precision: each linear gets one by what it costs on the calibration pages.
    The int4 language model is also saved as a GPTQ checkpoint in the directory `save_gptq`. `rotate` folds a rotation of hidden states
    into the weights of the language model, which changes no answer of a float bundle and makes a quantized one more
    accurate if a few channels are far larger than the others (see docs/decisions.md). Without `gptq_experts`, int4
    experts are rounded to nearest, which is several times faster. `layout` "genai" writes a directory for ONNX Runtime
    GenAI instead of a bundle (see docs/interop.md). Targets that build engines build them for the GPUs of
    `compute_capability`, such as "86,89,120", and for the inputs of `profile`: "pages", or "video" for videos too.
    Calibration runs on the machines of the Ray cluster at the address `ray`, or on `threads` local cores (all if None).
    `given` names fields that were set explicitly, even to their default: an option without effect is refused.
    """

    checkpoint: str | Path
    out: str | Path
    target: str = "cpu"
    precision: str = "fp16"
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_length: int | None = None
    revision: str | None = None
    force: bool = False
    accuracy_level: int = 4
    vision_precision: str | None = None
    llm_precision: str | None = None
    reduce_range: bool = False
    max_kl: float | None = None
    max_size: int | None = None
    block_size: int = 32
    calib: str | Path | Sequence[str | Path] = ()
    samples: int = 128
    save_gptq: str | Path | None = None
    rotate: bool = False
    gptq_experts: bool = True
    layout: str = "qvl"
    compute_capability: str | None = None
    profile: str = "pages"
    ray: str | None = None
    threads: int | None = None
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Accepts targets as written on a command line: `tensorrt-rtx` becomes `tensorrt_rtx`."""
        object.__setattr__(self, "target", self.target.replace("-", "_"))

    @cached_property
    def limit(self) -> Limit | None:
        """The limit for choosing a precision per linear; raises ExportError if it is invalid or one of several."""
        given = [value for value in (self.max_kl, self.max_size) if value is not None]
        if not given:
            return None
        if len(given) > 1 or self.vision_precision or self.llm_precision or self.precision != ExportPlan.precision:
            raise ExportError(
                "--max-kl, --max-size and precisions exclude one another",
                fix="give one of --max-kl, --max-size, --precision",
            )
        if not 0 < given[0] < math.inf:  # False for NaN too
            raise ExportError(f"a limit of {given[0]} cannot be kept", fix="--max-kl and --max-size are above 0")
        return Limit(self.max_kl, self.max_size)

    @property
    def options(self) -> schemes.Options:
        return schemes.Options(self.block_size, self.reduce_range, self.gptq_experts)

    def precisions(self) -> dict[str, str]:
        """Returns the precision of every graph by name; raises ExportError for unknown precisions."""
        if self.limit:
            return dict.fromkeys(precision.TOWERS, MIXED)
        return precision.of_towers(self.precision, self.vision_precision, self.llm_precision)

    def recorded(self) -> dict[str, str | int | float | bool]:
        """Returns the non-default fields that affect numbers; paths are left out, as they describe the machine."""
        return {name: getattr(self, name) for name in RECORDED if getattr(self, name) != getattr(ExportPlan, name)}

    def adjusted(self, spec: ModelSpec) -> ModelSpec:
        """Returns the spec with the plan's pixel bounds, length and basis; raises ExportError if they are invalid."""
        if self.rotate and (self.save_gptq is not None or self.limit):
            raise ExportError("--save-gptq, --max-kl and --max-size want the own basis", fix="use --no-rotate")
        low, high = self._pixels(spec)
        image = msgspec.structs.replace(spec.image, min_pixels=low, max_pixels=high)
        text = replace(spec.text, rotation_seed=rotate.SEED if self.rotate else None)
        return replace(spec, image=image, max_positions=self._length(spec), text=text)

    def check(self) -> None:
        """Raises ExportError for options that are invalid with any checkpoint, before one is located."""
        precisions = self.precisions()
        wanted = quantized(precisions)
        for path in (self.out, self.save_gptq):
            if path is not None and not has_utf8_name(Path(path)):
                raise ExportError(
                    f"{path}: is not UTF-8, so that no engine could open it", fix="give another directory"
                )
        if self.save_gptq is not None and precisions["llm"] != "int4":
            raise ExportError("--save-gptq writes int4 alone", fix="add --llm-precision int4, or leave it out")
        if self.samples < 1:
            raise ExportError(f"--samples is {self.samples}", fix="calibrate on at least one page")
        self._check_read(precisions)
        for chosen in set(wanted.values()):
            schemes.find("int4" if chosen == MIXED else chosen, self.options)

    def _check_read(self, precisions: Mapping[str, str]) -> None:
        """Refuses options without effect: accepting them silently would be misleading."""
        for option, reader in READ_BY.items():
            read = any(chosen in reader.precisions.get(graph, ()) for graph, chosen in precisions.items())
            if self.asked(reader.field) and not read:
                raise ExportError(f"{option} is for {reader.what}", fix=f"{reader.fix}, or leave it out")
        if self.vision_precision and self.llm_precision and self.precision not in precision.FLOATS:
            raise ExportError(
                "--precision is not read where both towers have their own",
                fix="leave it out, or --vision-precision or --llm-precision",
            )

    def check_opened(self, lowered: Mapping[str, Target], own: bool, experts: bool) -> None:
        """Raises ExportError for options that have no effect with this target or checkpoint."""
        precisions = self.precisions()
        wanted = set(precisions.values())
        if self.asked("accuracy_level"):
            if not any(hasattr(target, "accuracy_level") for target in lowered.values()):
                raise ExportError(f"--accuracy-level is not read by target {self.target}", fix="leave it out")
            if not own and not quantized({name: precisions[name] for name in precisions if name != "vision"}):
                fix = f"{_ADD_INT4}, or leave it out"
                raise ExportError("--accuracy-level is for a quantized language model", fix=fix)
        if self.asked("block_size") and wanted.isdisjoint(("int4", MIXED)) and not lowered["llm"].quantized_tables:
            raise ExportError(f"--block-size is for int4: target {self.target} keeps tables float", fix="leave it out")
        if self.asked("gptq_experts") and not experts:
            raise ExportError("--no-gptq-experts is for models with experts", fix="leave it out")

    def asked(self, field: str) -> bool:
        """Whether a field was set explicitly or differs from its default."""
        return field in self.given or getattr(self, field) != getattr(ExportPlan, field)

    def _pixels(self, spec: ModelSpec) -> tuple[int, int]:
        if spec.image.square and (self.min_pixels or self.max_pixels):
            raise ExportError(
                f"family {spec.family} sees every image in {spec.image.square} × {spec.image.square} pixels",
                fix="leave --min-pixels and --max-pixels out",
            )
        low, high = self.min_pixels or spec.image.min_pixels, self.max_pixels or spec.image.max_pixels
        if self.max_pixels and not self.min_pixels:
            low = min(low, high)
        if low < 1 or low > high or high < spec.image.factor**2:
            raise ExportError(
                f"{low} to {high} pixels are no bounds of images",
                fix=f"at least {spec.image.factor**2} (one image token), min not above max",
            )
        return low, high

    def _length(self, spec: ModelSpec) -> int:
        length = self.max_length or min(DEFAULT_MAX_LENGTH, spec.max_positions)
        if not 1 < length <= spec.max_positions:
            raise ExportError(
                f"--max-length {length} is not within the model's {spec.max_positions} positions", fix="give fewer"
            )
        return length


def quantized(precisions: Mapping[str, str]) -> dict[str, str]:
    """Returns the entries of `precisions` that are not float types."""
    return {name: chosen for name, chosen in precisions.items() if chosen not in precision.FLOATS}
