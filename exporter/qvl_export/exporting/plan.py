"""What to export and how: a plan, and what it says of precisions, bounds and limits."""

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
    """What reads an option: graphs in certain precisions. `what` they are and the `fix` are for the error."""

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
    "--vision-weight": Reader("vision_weight", _INT4_LLM, "int4 of the language model", _ADD_INT4),
    "--no-gptq-experts": Reader("gptq_experts", _INT4_LLM, "int4 of the language model", _ADD_INT4),
}
"""Options that nothing reads unless a graph has a certain precision."""
RECORDED = (
    *("precision", "vision_precision", "llm_precision", "max_kl", "max_size", "min_pixels", "max_pixels", "max_length"),
    *("accuracy_level", "reduce_range", "block_size", "samples", "vision_weight", "rotate", "gptq_experts"),
)
"""What a bundle tells of how it was made."""


@dataclass(frozen=True)
class ExportPlan:
    """What to export, where to, and how.

    `checkpoint` is a directory or a Hugging Face id; `min_pixels` and `max_pixels` override the checkpoint's;
    `max_length` bounds prompt and answer together (8,192, or the model's limit if that is lower); `accuracy_level` 4
    multiplies 4- and 8-bit weights with activations rounded to int8, 0 keeps activations float32. Linears that the
    checkpoint holds quantized (GPTQ, AWQ) are used as they are. `precision` "int8" multiplies integers in both towers
    (W8A8), "int4" does so in the vision tower and has the language model's weights in int4 by GPTQ, `block_size`
    columns a scale, "hybrid" holds the language model twice, in int8 for prompts and in int4 for answers;
    `vision_precision` and `llm_precision` choose for one tower. Both are calibrated on up to `samples`
    pages spread over `calib`, one path or several: calibration sets (directories with `labels.jsonl`), images, PDFs,
    directories of these; the built-in set where there are none. `reduce_range` makes int8 weights fast on x86
    without VNNI, at some accuracy. `max_kl` (mean divergence of answers from the checkpoint's, nats a token) or
    `max_size` (bytes) instead of a precision chooses one for every linear, by what each costs on the pages.
    `vision_weight` is what an image token counts in the Hessians of GPTQ, a text token counting one. The directory
    `save_gptq` gets the int4 language model as a GPTQ checkpoint too. `rotate` folds a rotation of hidden states into
    the weights of the language model, which changes no answer of a float bundle and makes a quantized
    one more accurate where few channels are far larger than the others (see docs/decisions.md). Without `gptq_experts`
    int4 experts are rounded to nearest, which is several times as fast. `layout` "genai" makes a directory for ONNX
    Runtime GenAI instead of a bundle (see docs/interop.md). Targets that build engines do so for the GPUs of
    `compute_capability`, such as "86,89,120", and for what `profile` says they are to read: "pages", or "video" too.
    Calibration pages are run on the machines of the Ray cluster at the address `ray`, or here on `threads` cores (all
    where None). `given` names fields that were asked for even where they are as by default: an option that nothing
    reads is refused.
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
    vision_weight: float = 1.0
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
        """Targets may be written as they are on a command line: `tensorrt-rtx` is `tensorrt_rtx`."""
        object.__setattr__(self, "target", self.target.replace("-", "_"))

    @cached_property
    def limit(self) -> Limit | None:
        """What the precisions of single linears are to keep; raises ExportError where the plan says several things."""
        given = [value for value in (self.max_kl, self.max_size) if value is not None]
        if not given:
            return None
        if len(given) > 1 or self.vision_precision or self.llm_precision or self.precision != ExportPlan.precision:
            raise ExportError(
                "--max-kl, --max-size and precisions exclude one another",
                fix="give one of --max-kl, --max-size, --precision",
            )
        if not 0 < given[0] < math.inf:  # nor what is no number
            raise ExportError(f"a limit of {given[0]} cannot be kept", fix="--max-kl and --max-size are above 0")
        return Limit(self.max_kl, self.max_size)

    @property
    def options(self) -> schemes.Options:
        return schemes.Options(self.block_size, self.reduce_range, self.gptq_experts)

    def precisions(self) -> dict[str, str]:
        """The precision of every graph by name; raises ExportError for unknown ones."""
        if self.limit:
            return dict.fromkeys(precision.TOWERS, MIXED)
        return precision.of_towers(self.precision, self.vision_precision, self.llm_precision)

    def recorded(self) -> dict[str, str | int | float | bool]:
        """What is not as it is by default, of what decides numbers; paths say something of the machine."""
        return {name: getattr(self, name) for name in RECORDED if getattr(self, name) != getattr(ExportPlan, name)}

    def adjusted(self, spec: ModelSpec) -> ModelSpec:
        """The spec with the plan's pixel bounds, length and basis; raises ExportError when they make no sense."""
        if self.rotate and (self.save_gptq is not None or self.limit):
            raise ExportError("--save-gptq, --max-kl and --max-size want the own basis", fix="use --no-rotate")
        low, high = self._pixels(spec)
        image = msgspec.structs.replace(spec.image, min_pixels=low, max_pixels=high)
        text = replace(spec.text, rotation_seed=rotate.SEED if self.rotate else None)
        return replace(spec, image=image, max_positions=self._length(spec), text=text)

    def check(self) -> None:
        """Refuse what makes no sense with any checkpoint, before one is looked for; raises ExportError."""
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
        if not 0 <= self.vision_weight <= 1000:
            raise ExportError(f"--vision-weight is {self.vision_weight}", fix="0 to 1000; text tokens count 1")
        for chosen in set(wanted.values()):
            schemes.find("int4" if chosen == MIXED else chosen, self.options)

    def _check_read(self, precisions: Mapping[str, str]) -> None:
        """Refuse options that nothing reads: to take them in silence would promise something."""
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
        """Refuse options that the target or the checkpoint gives no meaning; raises ExportError."""
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
        """Whether a field was given, or is not as it is by default."""
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
    """Those of precisions by graph that are no float type."""
    return {name: chosen for name, chosen in precisions.items() if chosen not in precision.FLOATS}
