"""`bundle.json`: the types that exporter and runtime share. `bundle` reads them.

The JSON schema in `bundle.schema.json` is generated from these types (`python -m qvl_runtime.manifest`).
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated

import msgspec

SCHEMA_VERSION = 7
MANIFEST = "bundle.json"
GENAI_CONFIG = "genai_config.json"
"""Where this lies there is no bundle but a directory for ONNX Runtime GenAI."""
GRAPHS = ("vision", "llm")
DECODE = "llm_decode"
"""The language model once more, for the tokens of answers; only hybrid bundles have it."""
TEXT_FILES = ("tokenizer.json", "chat_template.jinja")

MAX_FLOAT = 3.4028234663852886e38
"""The largest float32."""
Positive = Annotated[int, msgspec.Meta(gt=0, le=1 << 31)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
Few = Annotated[int, msgspec.Meta(gt=0, le=16)]
Width = Annotated[int, msgspec.Meta(gt=0, le=1 << 20)]
Layers = Annotated[int, msgspec.Meta(gt=0, le=1 << 10)]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 24)]
Mean = Annotated[float, msgspec.Meta(ge=-1e4, le=1e4)]
Deviation = Annotated[float, msgspec.Meta(ge=1e-4, le=1e4)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=1e4)]
GraphName = Annotated[str, msgspec.Meta(pattern=f"^({'|'.join((*GRAPHS, DECODE))})$")]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class _Frozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class FileEntry(_Frozen, frozen=True):
    """Size in bytes and hash of a file of the bundle."""

    size: Bytes
    sha256: Sha256


class Port(_Frozen, frozen=True):
    """An input or output of a graph: element type and dimensions, where a name is a dynamic axis."""

    name: str
    dtype: str
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=1 << 31)] | str], msgspec.Meta(max_length=8)]

    @property
    def dynamic(self) -> bool:
        """Whether any of its axes is."""
        return any(isinstance(axis, str) for axis in self.shape)


class Bounds(_Frozen, frozen=True):
    """What an axis may be, and what kernels are chosen for."""

    min: Count
    opt: Count
    max: Positive

    def __post_init__(self) -> None:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"{self.min} ≤ {self.opt} ≤ {self.max} does not hold")

    def __contains__(self, size: object) -> bool:
        return isinstance(size, int) and self.min <= size <= self.max


class Profile(_Frozen, frozen=True):
    """An optimization profile of an engine: the bounds of every dynamic axis of the graph's inputs, by name."""

    name: str
    axes: dict[str, Bounds]

    def shape(self, port: Port, which: str) -> list[int]:
        """The shape of an input at `min`, `opt` or `max`."""
        return [axis if isinstance(axis, int) else int(getattr(self.axes[axis], which)) for axis in port.shape]


class EngineEntry(_Frozen, frozen=True):
    """The engine file of a graph: the compute capabilities (8.6 is 86) and shapes that `builder` made it for.

    Where `builder` is None, `file` is still to be built on the device, from the graph's model.
    """

    file: str
    builder: str | None
    compute_capabilities: list[Positive]
    profiles: Annotated[list[Profile], msgspec.Meta(min_length=1)]


class GraphEntry(_Frozen, frozen=True):
    """One graph: its files, its contract, bytes of weights by tensor type, and the forms of quantized linears.

    `data` is None where the weights lie in the model's own file, as in an engine's.
    """

    model: str
    data: str | None
    inputs: list[Port]
    outputs: list[Port]
    precision: str
    weight_bytes: dict[str, Bytes]
    linears: dict[str, str] = {}
    engine: EngineEntry | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the bundle that it consists of."""
        return (self.model,) if self.data is None else (self.model, self.data)


class ImageGeometry(_Frozen, frozen=True):
    """How pixels become patches.

    `window` is the side of an attention window in merged cells, `position_table` the side of the square table of
    learned positions that is interpolated. Where `square` is set, every image is resized to that many pixels a side
    whatever its shape, and becomes `queries` image tokens, in no grid. 0 where there is none of these.
    """

    patch_size: Annotated[int, msgspec.Meta(gt=0, le=256)]
    temporal_patch_size: Few
    spatial_merge_size: Few
    min_pixels: Positive
    max_pixels: Positive
    image_mean: Annotated[list[Mean], msgspec.Meta(min_length=3, max_length=3)]
    image_std: Annotated[list[Deviation], msgspec.Meta(min_length=3, max_length=3)]
    window: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    position_table: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    square: Annotated[int, msgspec.Meta(ge=0, le=1 << 14)] = 0
    queries: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)] = 0

    @property
    def factor(self) -> int:
        """Image sides are multiples of this many pixels: the side of one image token."""
        return self.patch_size * self.spatial_merge_size

    @property
    def patch_dim(self) -> int:
        """Numbers in a flattened patch: channels · frames · rows · columns."""
        return len(self.image_mean) * self.temporal_patch_size * self.patch_size**2


class LlmGeometry(_Frozen, frozen=True):
    """Sizes of the language model; `max_length` bounds prompt and answer together, in tokens.

    The first `deepstack_layers` layers take image features of their own (DeepStack). Hidden states and image features
    are multiplied by the orthogonal matrix of `rotation_seed` (`qvl_runtime.rotation`); None: as in the checkpoint.
    With `flat_positions` image tokens are counted as text is. Prompts of more than `ntk_length` tokens turn more slowly
    (`positions.ntk_alpha`); 0: never.
    """

    hidden_size: Width
    vocab_size: Annotated[int, msgspec.Meta(gt=0, le=1 << 24)]
    num_layers: Layers
    num_key_value_heads: Width
    head_dim: Width
    max_length: Annotated[int, msgspec.Meta(gt=0, le=1 << 24)]
    deepstack_layers: Annotated[int, msgspec.Meta(ge=0, le=1 << 10)] = 0
    rotation_seed: Count | None = None
    flat_positions: bool = False
    ntk_length: Count = 0


class Tokens(_Frozen, frozen=True):
    """Ids of the special tokens, None for a model that takes no videos; generation stops at any of `stop`."""

    image: TokenId
    video: TokenId | None
    stop: Annotated[list[TokenId], msgspec.Meta(max_length=1 << 10)]


class VideoTiming(_Frozen, frozen=True):
    """Temporal positions advance by `tokens_per_second` · seconds a temporal patch; by one where it is None.

    With `timestamps` every temporal patch has a vision block of its own, after its time as text.
    """

    tokens_per_second: Rate | None = None
    timestamps: bool = False


class GenerationDefaults(_Frozen, frozen=True):
    """How the checkpoint's authors would have answers drawn: its `generation_config.json`, with the defaults of
    transformers where that says nothing. Used only where it is asked for; a `max_new_tokens` of None: not said.
    """

    do_sample: bool = False
    temperature: Annotated[float, msgspec.Meta(ge=0, le=MAX_FLOAT)] = 1.0
    top_k: Count = 50
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=MAX_FLOAT)] = 1.0
    no_repeat_ngram_size: Count = 0
    max_new_tokens: Positive | None = None


class Calibration(_Frozen, frozen=True):
    """What quantization was calibrated on: names of its sources, pages used, and a hash of these with their prompts."""

    sources: list[str]
    pages: Positive
    sha256: Sha256


class Provenance(_Frozen, frozen=True):
    """Where the weights came from, and by what they were made into this bundle: `options` are those of the export that
    were not left as they are by default, by their names in `ExportPlan`."""

    checkpoint: str
    revision: str | None
    config_sha256: Sha256
    weights_sha256: Sha256
    producer: str
    created: str
    calibration: Calibration | None = None
    options: dict[str, str | int | float | bool] = {}


class Manifest(_Frozen, frozen=True):
    """A bundle's description of itself.

    Where `graphs` has `llm_decode` beside `llm`, the two share one KV cache: answers are generated with it.
    `special_tokens` are the named ones of the tokenizer's configuration (`eos_token`, …), variables of the template.
    `generation` is None in bundles made before it was kept.
    """

    schema_version: Positive
    family: str
    target: str
    image: ImageGeometry
    llm: LlmGeometry
    tokens: Tokens
    video: VideoTiming
    graphs: dict[GraphName, GraphEntry]
    files: dict[str, FileEntry]
    provenance: Provenance
    special_tokens: dict[str, str] = {}
    generation: GenerationDefaults | None = None


def json_schema() -> bytes:
    """The JSON schema of `bundle.json`."""
    schema = msgspec.json.schema(Manifest)
    for definition in schema["$defs"].values():  # docstrings, which not every version of msgspec and Python dedents
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
    return msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=1) + b"\n"


if __name__ == "__main__":
    (Path(__file__).parent / "bundle.schema.json").write_bytes(json_schema())
