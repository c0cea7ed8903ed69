"""The types of `bundle.json`, shared by exporter and runtime; `bundle` reads the file.

The JSON schema in `bundle.schema.json` is generated from these types (`python -m qvl_runtime.manifest`).
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec

SCHEMA_VERSION = 10
MANIFEST = "bundle.json"
GENAI_CONFIG = "genai_config.json"
"""A directory with this file is not a bundle but a model for ONNX Runtime GenAI."""
GRAPHS = ("vision", "llm")
DECODE = "llm_decode"
"""A second graph of the language model, which runs the tokens of answers; only hybrid bundles have it."""
TEXT_FILES = ("tokenizer.json", "chat_template.jinja")
Cpu = Literal["any", "avx2", "vnni", "amx", "arm"]
"""Processors that int8 codes are chosen for: any; x86 with AVX2 and not VNNI, with VNNI, with AMX; ARM."""
CPUS: tuple[str, ...] = get_args(Cpu)
ANY = "any"
EXACT_EVERYWHERE = (ANY, "avx2")
"""Processors whose codes keep sums of two byte products within 16 bits, so that no processor saturates them."""

CacheForm = Literal["scatter", "concat"]
CACHE_FORMS: tuple[CacheForm, ...] = get_args(CacheForm)
"""How a graph adds new tokens to its KV cache: it writes them into a buffer, or returns past and new ones together."""
MAX_STOP_TOKENS = 1 << 10
MAX_FLOAT = 3.4028234663852886e38
"""The largest float32."""
Positive = Annotated[int, msgspec.Meta(gt=0, le=1 << 31)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
Few = Annotated[int, msgspec.Meta(gt=0, le=16)]
Width = Annotated[int, msgspec.Meta(gt=0, le=1 << 20)]
Layers = Annotated[int, msgspec.Meta(gt=0, le=1 << 10)]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 24)]
TokenText = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Mean = Annotated[float, msgspec.Meta(ge=-1e4, le=1e4)]
Deviation = Annotated[float, msgspec.Meta(ge=1e-4, le=1e4)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=1e4)]
GraphName = Annotated[str, msgspec.Meta(pattern=f"^({'|'.join((*GRAPHS, DECODE))})$")]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class _Frozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class FileEntry(_Frozen, frozen=True):
    """Size in bytes and SHA-256 of a file of the bundle."""

    size: Bytes
    sha256: Sha256


class Port(_Frozen, frozen=True):
    """An input or output of a graph: element type and dimensions; a string names a dynamic axis."""

    name: str
    dtype: str
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=1 << 31)] | str], msgspec.Meta(max_length=8)]

    @property
    def dynamic(self) -> bool:
        """Whether any axis is dynamic."""
        return any(isinstance(axis, str) for axis in self.shape)


class Bounds(_Frozen, frozen=True):
    """Minimum and maximum size of an axis, and the size (`opt`) that kernels are selected for."""

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
        """Returns the shape of an input at `min`, `opt` or `max`."""
        return [axis if isinstance(axis, int) else int(getattr(self.axes[axis], which)) for axis in port.shape]


class EngineEntry(_Frozen, frozen=True):
    """The engine file of a graph, with the compute capabilities (86 for 8.6) and shapes that `builder` built it for.

    If `builder` is None, `file` must still be built on the device, from the graph's model.
    """

    file: str
    builder: str | None
    compute_capabilities: list[Positive]
    profiles: Annotated[list[Profile], msgspec.Meta(min_length=1)]


class GraphEntry(_Frozen, frozen=True):
    """One graph: its files, its inputs and outputs, weight bytes per tensor type, and the formats of quantized linears.

    `data` is None if the weights are stored in the model file itself, as in an engine's.
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
        """The files that make up the graph, without the further ones of its weights, see `Manifest.graph_files`."""
        return (self.model,) if self.data is None else (self.model, self.data)


class CacheTensor(_Frozen, frozen=True):
    """A tensor that a layer keeps between calls: `past` is the input, `present` the output of the graphs.

    The axis `"past"` is the capacity of keys and values in tokens.
    """

    past: str
    present: str
    dtype: Literal["float", "float16"]
    shape: Annotated[list[Annotated[int, msgspec.Meta(gt=0, le=1 << 31)] | Literal["past"]], msgspec.Meta(max_length=4)]

    def dims(self, capacity: int) -> tuple[int, ...]:
        """Returns the shape with room for `capacity` tokens."""
        return tuple(capacity if axis == "past" else axis for axis in self.shape)


class CacheSpec(_Frozen, frozen=True):
    """What one layer keeps between calls.

    Of `kv`, keys and values of every token, any prefix can be kept. A `recurrent` state sums up all tokens so far: it
    cannot be cut, and continues from a copy that was made after the same tokens.
    """

    kind: Literal["kv", "recurrent"]
    tensors: Annotated[list[CacheTensor], msgspec.Meta(min_length=1, max_length=4)]


class ImageGeometry(_Frozen, frozen=True):
    """How pixels become patches.

    `window` is the side of an attention window in merged cells, `position_table` the side of the square table of
    learned position embeddings that is interpolated. If `square` is set, every image is resized to a square of that
    many pixels per side and becomes `queries` image tokens without a grid. 0 means that the model has none of these.
    `prune` is the rule by which blocks are left out by default (`prune.rule`): a name or a tolerance; None is "off".
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
    prune: Annotated[float, msgspec.Meta(ge=0, le=255)] | Literal["off", "exact", "scan"] | None = None

    @property
    def factor(self) -> int:
        """Side of one image token in pixels; image sides are multiples of it."""
        return self.patch_size * self.spatial_merge_size

    @property
    def patch_dim(self) -> int:
        """Length of a flattened patch: channels · frames · rows · columns."""
        return len(self.image_mean) * self.temporal_patch_size * self.patch_size**2


class LlmGeometry(_Frozen, frozen=True):
    """Sizes of the language model; `max_length` limits prompt and answer together, in tokens.

    The first `deepstack_layers` layers have their own image features as inputs (DeepStack). Hidden states and image
    features are multiplied by the orthogonal matrix of `rotation_seed` (`qvl_runtime.rotation`); None: not rotated.
    With `flat_positions` image tokens get the positions of text tokens. Prompts longer than `ntk_length` tokens use a
    larger RoPE base (dynamic NTK, `positions.ntk_alpha`); 0 disables this.
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
    """Ids of the special tokens; `video` is None if the model takes no videos; generation stops at any of `stop`."""

    image: TokenId
    video: TokenId | None
    stop: Annotated[list[TokenId], msgspec.Meta(max_length=MAX_STOP_TOKENS)]


class ImageTokens(_Frozen, frozen=True):
    """How an image stands in a prompt: the special token `start`, its image tokens, the special token `end`.

    In `layout` "grid" an image token is a cell of spatial_merge_size × spatial_merge_size patches; cells follow one
    another row by row, temporal patch by temporal patch. In "queries" every image is `image.queries` tokens, whose
    order says nothing about places in it.
    """

    start: TokenText
    end: TokenText
    layout: Literal["grid", "queries"]


class BoxNotation(_Frozen, frozen=True):
    """How answers write boxes and points.

    With `syntax` "json" they are JSON objects with `bbox_2d` or `point_2d`, with "marks" they are text:
    `<ref>label</ref><box>(x1,y1),(x2,y2)</box>`, or the same with `<|object_ref_start|>` … `<|box_end|>`. The `unit` of
    coordinates is a "thousandth" of each side, or a "pixel" of the resized image.
    """

    syntax: Literal["json", "marks"]
    unit: Literal["thousandth", "pixel"]


class VideoTiming(_Frozen, frozen=True):
    """Temporal positions advance by `tokens_per_second` · seconds per temporal patch, or by one if it is None.

    With `timestamps` every temporal patch has its own vision block, preceded by its time as text.
    """

    tokens_per_second: Rate | None = None
    timestamps: bool = False


class GenerationDefaults(_Frozen, frozen=True):
    """Sampling options of the checkpoint's `generation_config.json`; missing ones have transformers' defaults.

    They apply only on request. A `max_new_tokens` of None means that the file does not set it.
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
    """The calibration data of quantization: names of sources, number of pages, and a hash of pages and prompts."""

    sources: list[str]
    pages: Positive
    sha256: Sha256


class Provenance(_Frozen, frozen=True):
    """The origin of the weights and the producer of the bundle; `options` are the export options that differ from their
    defaults, by their names in `ExportPlan`."""

    checkpoint: str
    revision: str | None
    config_sha256: Sha256
    weights_sha256: Sha256
    producer: str
    created: str
    calibration: Calibration | None = None
    options: dict[str, str | int | float | bool] = {}


class Manifest(_Frozen, frozen=True):
    """The content of `bundle.json`.

    If `graphs` has `llm_decode` beside `llm`, answers are generated with it and the two share one KV cache.
    `special_tokens` are the named tokens of the tokenizer's configuration (`eos_token`, …), variables of the template.
    `generation` is None in bundles made before it was recorded. `cpu` names the processors that int8 codes were chosen
    for; None if there are no such codes or the bundle was made before it was recorded. `cache` has
    one entry per layer; in bundles made before it was recorded it is empty, and `cache_specs` has the keys and values
    of all layers. `cache_form` is how the graphs extend keys and values. `boxes` and `image_tokens` are None in bundles
    made before they were recorded, whose family says it.
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
    cpu: Cpu | None = None
    cache: Annotated[list[CacheSpec], msgspec.Meta(max_length=1 << 10)] = []
    cache_form: CacheForm = "scatter"
    boxes: BoxNotation | None = None
    image_tokens: ImageTokens | None = None

    def graph_files(self, name: str) -> list[str]:
        """The files that make up a graph; weights of more than a file may hold go on in `data`.1, `data`.2 …"""
        entry = self.graphs[name]
        more = [f"{entry.data}.{number}" for number in range(1, len(self.files))]
        return [*entry.files, *(file for file in more if file in self.files)]

    @property
    def cache_specs(self) -> list[CacheSpec]:
        """What each layer keeps between calls."""
        return self.cache or _keys_and_values(self.llm, self.graphs["llm"])

    def cache_tensors(self, kind: str | None = None) -> list[CacheTensor]:
        """What layers of one kind keep, layer by layer; None: of both kinds."""
        return [tensor for spec in self.cache_specs if kind in (None, spec.kind) for tensor in spec.tensors]

    @property
    def recurrent(self) -> bool:
        """Whether any layer has a state that cannot be cut."""
        return any(spec.kind == "recurrent" for spec in self.cache)


def _keys_and_values(llm: LlmGeometry, graph: GraphEntry) -> list[CacheSpec]:
    """Returns the entries of a bundle that was made before `cache` was recorded."""
    found = next((port for port in graph.inputs if port.name == "past_key_values.0.key"), None)
    fixed = found is not None and found.shape[2:3] == [llm.max_length]  # engines have a fixed capacity
    dtype: Literal["float", "float16"] = "float16" if found is not None and found.dtype == "float16" else "float"
    capacity: int | Literal["past"] = llm.max_length if fixed else "past"
    shape = [1, llm.num_key_value_heads, capacity, llm.head_dim]
    return [
        CacheSpec(kind="kv", tensors=[cache_tensor(index, part, dtype, shape) for part in ("key", "value")])
        for index in range(llm.num_layers)
    ]


def cache_tensor(
    layer: int, name: str, dtype: Literal["float", "float16"], shape: list[int | Literal["past"]]
) -> CacheTensor:
    """Returns the tensor `name` of a layer, whose input and output have the names of ONNX Runtime GenAI."""
    return CacheTensor(
        past=f"past_key_values.{layer}.{name}", present=f"present.{layer}.{name}", dtype=dtype, shape=shape
    )


def json_schema() -> bytes:
    """Returns the JSON schema of `bundle.json`."""
    schema = msgspec.json.schema(Manifest)
    for definition in schema["$defs"].values():  # docstrings; not every version of msgspec and Python dedents them
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
    return msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=1) + b"\n"


if __name__ == "__main__":
    (Path(__file__).parent / "bundle.schema.json").write_bytes(json_schema())
