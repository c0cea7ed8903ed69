"""The plan of an export: what to export, where to, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from qvl_runtime.errors import PromptError
from qvl_runtime.prune.rule import Rule, parse_option, recorded_rule

from ..common.field_types import Checked
from ..engines.tensorrt_releases import of_options
from ..errors import ExportError
from ..quant import precision, schemes
from ..quant.limit import Limit
from ..quant.precision import MIXED
from ..targets import GraphForm
from .options import CalibrationOptions, EngineOptions, GraphOptions, QuantOptions

GROUPS = {"quant": QuantOptions, "calibration": CalibrationOptions, "graph": GraphOptions, "engine": EngineOptions}
GROUP_OF = {option.name: group for group, options in GROUPS.items() for option in fields(options)}
"""The group of every grouped option; no two groups have options of the same name."""
RECORDED = (
    *("precision", "vision_precision", "llm_precision", "max_kl", "max_size", "min_pixels", "max_pixels", "max_length"),
    *("accuracy_level", "cpu", "block_size", "samples", "rotate", "gptq_experts"),
    *("int8_attention", "prune", "calib_prune", "opset", "cache", "tensorrt_version", "jetpack"),
)
"""Options that a bundle records about its export, under these names."""


@dataclass(frozen=True)
class ExportPlan(Checked):
    """What to export, where to, and how.

    Linears that the checkpoint stores quantized (GPTQ, AWQ) are used as they are.

    Raises ExportError for values of a wrong type; `export` raises it for values that it does not support.
    """

    checkpoint: str | Path
    """A directory, or an id on the Hugging Face hub."""
    out: str | Path
    """The directory to write."""
    target: str = "cpu"
    """The engine to export for; `tensorrt-rtx` may be written for `tensorrt_rtx`."""
    precision: str = "fp16"
    """"fp32" and "fp16" are float; "int8" multiplies integers in both towers (W8A8); "int4" does so in the vision tower
    and quantizes the language model's weights by GPTQ with one scale per block of columns; "hybrid" stores the language
    model twice, in int8 for prefill and in int4 for decode."""
    min_pixels: int | None = None
    """Smallest image after resizing (default: the checkpoint's)."""
    max_pixels: int | None = None
    """Largest image after resizing (default: the checkpoint's)."""
    max_length: int | None = None
    """Maximum tokens of prompt and answer together (default: 8,192, or the model's limit if that is lower)."""
    prune: str | float | bool | None = None
    """What the runtime leaves out of images by default: "off", "exact", "scan", a tolerance from 0 to 255, or True (see
    docs/pruning.md); None leaves out nothing."""
    revision: str | None = None
    """Branch, tag or commit of an id on the hub."""
    force: bool = False
    """Whether an existing output is replaced."""
    layout: str = "qvl"
    """"qvl" writes a bundle, "genai" a directory for ONNX Runtime GenAI (see docs/interop.md)."""
    quant: QuantOptions = field(default_factory=QuantOptions)
    """How linears are quantized."""
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    """The pages that quantization is calibrated on."""
    graph: GraphOptions = field(default_factory=GraphOptions)
    """The form of standard ONNX graphs."""
    engine: EngineOptions = field(default_factory=EngineOptions)
    """The engines of targets that build engines."""
    given: frozenset[str] = frozenset()
    """Options that were set explicitly, even to their default: one that has no effect is refused."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "target", self.target.replace("-", "_"))

    @property
    def limit(self) -> Limit | None:
        """The limit for choosing a precision per linear, None if there is none."""
        if self.quant.max_kl is None and self.quant.max_size is None:
            return None
        return Limit(self.quant.max_kl, self.quant.max_size)

    @property
    def form(self) -> GraphForm:
        """The form of the graphs, as targets take it; raises ExportError for an unknown TensorRT or JetPack."""
        tensorrt = of_options(self.engine.tensorrt_version, self.engine.jetpack)
        return GraphForm(self.graph.opset, self.graph.cache, tensorrt)

    @property
    def scheme_options(self) -> schemes.Options:
        """The options of quantization schemes; raises ExportError for a block size that is not supported."""
        return schemes.Options(self.quant.block_size, self.quant.cpu, self.quant.gptq_experts)

    @property
    def default_prune(self) -> str | float | None:
        """`prune` as bundles record it; raises ExportError for a rule that does not exist."""
        return recorded_rule(_parse_prune(self.prune, "--prune"))

    @property
    def calibration_prune(self) -> Rule | None:
        """The rule of `calib_prune`; raises ExportError for a rule that does not exist."""
        return _parse_prune(self.calibration.calib_prune, "--calib-prune")

    def precisions(self) -> dict[str, str]:
        """Returns the precision of every graph by name; raises ExportError for unknown precisions."""
        if self.limit:
            return dict.fromkeys(precision.TOWERS, MIXED)
        return precision.of_towers(self.precision, self.quant.vision_precision, self.quant.llm_precision)

    def option(self, name: str) -> Any:
        """Returns the value of an option, of this plan or of one of its groups."""
        return getattr(getattr(self, GROUP_OF[name]) if name in GROUP_OF else self, name)

    def is_asked(self, name: str) -> bool:
        """Whether an option was set explicitly or differs from its default."""
        return name in self.given or self._differs(name)

    def recorded(self) -> dict[str, str | int | float | bool]:
        """Returns the non-default options that affect numbers; paths are left out, as they describe the machine."""
        options = {name: self.option(name) for name in RECORDED if self._differs(name)}
        rules = {"prune": self.default_prune, "calib_prune": recorded_rule(self.calibration_prune)}
        return options | {name: rule for name, rule in rules.items() if rule is not None}

    def _differs(self, name: str) -> bool:
        owner = GROUPS[GROUP_OF[name]] if name in GROUP_OF else ExportPlan
        return bool(self.option(name) != getattr(owner, name))


def _parse_prune(value: str | float | bool | None, option: str) -> Rule | None:
    try:
        return parse_option(value, option)
    except PromptError as error:
        raise ExportError(str(error)) from error


def grouped(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `ExportPlan` for options in one flat mapping, such as those of a command line."""
    found = {name: value for name, value in options.items() if name not in GROUP_OF}
    for group, group_options in GROUPS.items():
        found[group] = group_options(**{name: value for name, value in options.items() if GROUP_OF.get(name) == group})
    return found
