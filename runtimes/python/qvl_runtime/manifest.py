"""`bundle.json`: the types that exporter and runtime share, read strictly.

The JSON schema in `bundle.schema.json` is generated from these types (`python -m qvl_runtime.manifest`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec

from .errors import BundleError

SCHEMA_VERSION = 5
MANIFEST = "bundle.json"
GENAI_CONFIG = "genai_config.json"
"""Where this lies there is no bundle but a directory for ONNX Runtime GenAI."""
GRAPHS = ("vision", "llm")
DECODE = "llm_decode"
"""The language model once more, for the tokens of answers; only hybrid bundles have it."""
TEXT_FILES = ("tokenizer.json", "chat_template.jinja")
MAX_MANIFEST_BYTES = 16 << 20
CHUNK = 1 << 22

Positive = Annotated[int, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]
GraphName = Annotated[str, msgspec.Meta(pattern=f"^({'|'.join((*GRAPHS, DECODE))})$")]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class _Frozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class FileEntry(_Frozen, frozen=True):
    """Size in bytes and hash of a file of the bundle."""

    size: Count
    sha256: Sha256


class Port(_Frozen, frozen=True):
    """An input or output of a graph: element type and dimensions, where a name is a dynamic axis."""

    name: str
    dtype: str
    shape: list[int | str]

    @property
    def dynamic(self) -> bool:
        """Whether any of its axes is."""
        return any(isinstance(axis, str) for axis in self.shape)


class Bounds(_Frozen, frozen=True):
    """What an axis may be, and what kernels are chosen for."""

    min: Count
    opt: Count
    max: Count

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
    weight_bytes: dict[str, Count]
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

    patch_size: Positive
    temporal_patch_size: Positive
    spatial_merge_size: Positive
    min_pixels: Positive
    max_pixels: Positive
    image_mean: Annotated[list[float], msgspec.Meta(min_length=3, max_length=3)]
    image_std: Annotated[list[Annotated[float, msgspec.Meta(gt=0)]], msgspec.Meta(min_length=3, max_length=3)]
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

    hidden_size: Positive
    vocab_size: Positive
    num_layers: Positive
    num_key_value_heads: Positive
    head_dim: Positive
    max_length: Positive
    deepstack_layers: Count = 0
    rotation_seed: Count | None = None
    flat_positions: bool = False
    ntk_length: Count = 0


class Tokens(_Frozen, frozen=True):
    """Ids of the special tokens, None for a model that takes no videos; generation stops at any of `stop`."""

    image: Count
    video: Count | None
    stop: list[Count]


class VideoTiming(_Frozen, frozen=True):
    """Temporal positions advance by `tokens_per_second` · seconds a temporal patch; by one where it is None.

    With `timestamps` every temporal patch has a vision block of its own, after its time as text.
    """

    tokens_per_second: float | None = None
    timestamps: bool = False


class Calibration(_Frozen, frozen=True):
    """What quantization was calibrated on: names of its sources, pages used, and a hash of these with their prompts."""

    sources: list[str]
    pages: Positive
    sha256: Sha256


class Provenance(_Frozen, frozen=True):
    """Where the weights came from, and by what they were made into this bundle."""

    checkpoint: str
    revision: str | None
    config_sha256: Sha256
    weights_sha256: Sha256
    producer: str
    created: str
    calibration: Calibration | None = None


class Manifest(_Frozen, frozen=True):
    """A bundle's description of itself.

    Where `graphs` has `llm_decode` beside `llm`, the two share one KV cache: answers are generated with it.
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


class _Version(msgspec.Struct):
    schema_version: int


def read(bundle: Path) -> Manifest:
    """The manifest of a bundle directory, with the presence and size of every file checked.

    Raises BundleError naming the file and the likely cause.
    """
    manifest = _parse(bundle)
    for name, entry in manifest.files.items():
        _check_size(inside(bundle, name), entry)
    for name in GRAPHS:
        if name not in manifest.graphs:
            raise BundleError(f"has no graph {name}", where=bundle / MANIFEST, fix="export again")
    used = [name for graph in manifest.graphs.values() for name in graph.files]
    for name in (*TEXT_FILES, *used):
        if name not in manifest.files:
            raise BundleError("is used but not listed under files", where=bundle / name, fix="export again")
    _check_geometry(manifest, bundle / MANIFEST)
    return manifest


def _check_geometry(manifest: Manifest, where: Path) -> None:
    """The geometry must be that of the graphs' own inputs and outputs, which engines check against the graphs."""
    llm, image = manifest.llm, manifest.image
    vision, language = manifest.graphs["vision"], manifest.graphs["llm"]
    shapes = {port.name: port.shape for graph in (vision, language) for port in (*graph.inputs, *graph.outputs)}
    last = f"past_key_values.{llm.num_layers - 1}.key"
    capacity = next((port.shape[2] for port in language.inputs if port.name == last and len(port.shape) == 4), None)
    fixed = capacity == llm.max_length  # engines want to know the capacity when they are built
    layers = sum(name.startswith("past_key_values.") for name in shapes) // 2
    expected = {
        "pixel_values": ["frames", "patches", image.patch_dim],
        "image_features": ["image_tokens", llm.hidden_size],
        "logits": [1, "wanted", llm.vocab_size],
        last: [1, llm.num_key_value_heads, llm.max_length if fixed else "past", llm.head_dim],
    }
    wrong = [name for name, shape in expected.items() if shapes.get(name) != shape]
    optional = {
        "patch_positions": not image.queries,
        "window_gather": image.window,
        "interpolation_indices": image.position_table,
        "ntk_alpha": llm.ntk_length,
    }
    wrong += [name for name, side in optional.items() if bool(side) != (name in shapes)]
    wrong += ["square"] if bool(image.square) != bool(image.queries) else []
    deepstack = [f"deepstack_features.{index}" for index in range(llm.deepstack_layers)]
    for ports in (vision.outputs, language.inputs):
        wrong += sorted({port.name for port in ports if port.name.startswith("deepstack_features.")} ^ set(deepstack))
    wrong += [f"{name}'s profiles" for name, graph in manifest.graphs.items() if not _profiles_fit(graph)]
    decode = manifest.graphs.get(DECODE, language)
    if (decode.inputs, decode.outputs) != (language.inputs, language.outputs):
        wrong.append(DECODE)
    if wrong or layers != llm.num_layers:
        raise BundleError(f"geometry and graphs disagree: {', '.join(wrong) or 'layers'}", where=where)


def _profiles_fit(graph: GraphEntry) -> bool:
    axes = {axis for port in graph.inputs for axis in port.shape if isinstance(axis, str)}
    return graph.engine is None or all(set(profile.axes) == axes for profile in graph.engine.profiles)


def verify(bundle: Path, manifest: Manifest) -> Iterator[tuple[str, bool]]:
    """Each file's name and whether its sha256 is the recorded one."""
    for name, entry in manifest.files.items():
        yield name, sha256(inside(bundle, name)) == entry.sha256


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def inside(bundle: Path, name: str) -> Path:
    """The path of a bundle's file; raises BundleError when the name leaves the bundle."""
    pure = PurePosixPath(name)
    path = bundle / name
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or not name:
        raise BundleError(f"names a file outside the bundle: {name!r}", where=bundle / MANIFEST)
    if not path.resolve().is_relative_to(bundle.resolve()):
        raise BundleError("is a link that leaves the bundle", where=path, fix="copy the file itself into the bundle")
    return path


def _parse(bundle: Path) -> Manifest:
    path = bundle / MANIFEST
    if not bundle.is_dir():
        raise BundleError("is not a bundle directory", where=bundle, fix="make one with `qvl-export export`")
    if not path.is_file() and (bundle / GENAI_CONFIG).is_file():
        raise BundleError(
            "is a directory for ONNX Runtime GenAI, not a bundle",
            where=bundle,
            fix="load it with onnxruntime_genai, or export without --layout genai",
        )
    if not path.is_file():
        raise BundleError("is missing: not a bundle, or an interrupted copy", where=path)
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"is larger than {MAX_MANIFEST_BYTES} bytes", where=path)
    raw = path.read_bytes()
    try:
        version = msgspec.json.decode(raw, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise BundleError(
                f"has schema version {version}, this runtime reads up to {SCHEMA_VERSION}",
                where=path,
                fix="pip install -U qvl-runtime",
            )
        return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"is damaged: {error}", where=path, fix="export again or copy it again") from error


def _check_size(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise BundleError("is missing from the bundle", where=path, fix="copy the whole directory")
    if (size := path.stat().st_size) != entry.size:
        state = "truncated" if size < entry.size else "changed"
        raise BundleError(f"is {state}: {size} bytes, the manifest says {entry.size}", where=path, fix="copy it again")


def json_schema() -> bytes:
    """The JSON schema of `bundle.json`."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Manifest), order="sorted"), indent=1) + b"\n"


if __name__ == "__main__":
    (Path(__file__).parent / "bundle.schema.json").write_bytes(json_schema())
