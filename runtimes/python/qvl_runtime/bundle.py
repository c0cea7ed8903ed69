"""Reads a bundle directory: decodes its manifest strictly, finds and checks its files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec

from .common.log import log
from .errors import BundleError
from .manifest import (
    DECODE,
    GENAI_CONFIG,
    GRAPHS,
    MANIFEST,
    SCHEMA_VERSION,
    TEXT_FILES,
    CacheTensor,
    FileEntry,
    GraphEntry,
    LlmGeometry,
    Manifest,
    Port,
)

MAX_MANIFEST_BYTES = 16 << 20
Shapes = dict[str, list[int | str]]


def has_utf8_name(path: Path) -> bool:
    """Whether the absolute path is valid UTF-8: engines cannot open files with other names."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True


class _Version(msgspec.Struct):
    schema_version: int


def read_manifest(bundle: Path) -> Manifest:
    """Returns the manifest of a bundle directory and checks presence and size of every file.

    Raises BundleError naming the file and the likely cause.
    """
    try:
        manifest = _parse(bundle)
        for name, entry in manifest.files.items():
            _check_size(inside(bundle, name), entry)
    except OSError as error:  # no read permission, a name too long, a disk that is gone
        raise BundleError(f"cannot be read: {error.strerror}", where=error.filename or bundle) from error
    for name in GRAPHS:
        if name not in manifest.graphs:
            raise BundleError(f"has no graph {name}", where=bundle / MANIFEST, fix="export again")
    used = [name for graph in manifest.graphs.values() for name in graph.files]
    for name in (*TEXT_FILES, *used):
        if name not in manifest.files:
            raise BundleError("is used but not listed under files", where=bundle / name, fix="export again")
    _check_geometry(manifest, bundle / MANIFEST)
    size, version = sum(entry.size for entry in manifest.files.values()), manifest.schema_version
    log.debug("bundle read: %s, schema %d, target %s, %d bytes", bundle, version, manifest.target, size)
    return manifest


def _parse(bundle: Path) -> Manifest:
    path = bundle / MANIFEST
    if not bundle.is_dir():
        raise BundleError("is not a bundle directory", where=bundle, fix="create one with `qvl-export export`")
    if not path.is_file() and (bundle / GENAI_CONFIG).is_file():
        raise BundleError(
            "is a directory for ONNX Runtime GenAI, not a bundle",
            where=bundle,
            fix="load it with onnxruntime_genai, or export without --layout genai",
        )
    if not path.is_file() and (bundle / "config.json").is_file():
        import shlex  # only needed for errors

        raise BundleError(
            "is a checkpoint, not a bundle",
            where=bundle,
            fix=f"export it first: qvl-export export {shlex.quote(str(bundle))} BUNDLE",
        )
    if not path.is_file():
        raise BundleError("is missing: this is not a bundle, or copying was interrupted", where=path)
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"is larger than {MAX_MANIFEST_BYTES} bytes", where=path)
    raw = path.read_bytes()
    try:
        version = msgspec.json.decode(raw, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise BundleError(
                f"has schema version {version}, this runtime reads up to {SCHEMA_VERSION}",
                where=path,
                fix="install the qvl-runtime that matches the qvl-export that wrote it",
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


def _check_geometry(manifest: Manifest, where: Path) -> None:
    """Raises BundleError unless the geometry matches the manifest's ports, which engines check against the graphs."""
    vision, language = manifest.graphs["vision"], manifest.graphs["llm"]
    shapes = {port.name: port.shape for graph in (vision, language) for port in (*graph.inputs, *graph.outputs)}
    wrong = [*_wrong_shapes(manifest, shapes), *_wrong_options(manifest, shapes)]
    wrong += [f"{name}'s profiles" for name, graph in manifest.graphs.items() if not _profiles_fit(graph)]
    decode = manifest.graphs.get(DECODE, language)
    if (decode.inputs, decode.outputs) != (language.inputs, language.outputs):
        wrong.append(DECODE)
    wrong += [*_wrong_sizes(manifest), *_wrong_cache(manifest)]
    if wrong:
        raise BundleError(f"geometry and graphs disagree: {', '.join(wrong)}", where=where)


def _wrong_shapes(manifest: Manifest, shapes: Shapes) -> Iterator[str]:
    """Returns the names of required ports that are missing or have an unexpected shape."""
    llm = manifest.llm
    expected: Shapes = {
        "pixel_values": ["frames", "patches", manifest.image.patch_dim],
        "image_features": ["image_tokens", llm.hidden_size],
        "logits": [1, "wanted", llm.vocab_size],
    }
    return (name for name, shape in expected.items() if shapes.get(name) != shape)


def _wrong_cache(manifest: Manifest) -> Iterator[str]:
    """Yields `layers`, or names of what layers keep between calls if the graph has it otherwise or not at all; and
    `cache_form` if the graph has another one, or if layers would append to a state."""
    graph, llm, specs = manifest.graphs["llm"], manifest.llm, manifest.cache_specs
    ports = {port.name: port for port in (*graph.inputs, *graph.outputs)}
    known = {tensor.past for spec in specs for tensor in spec.tensors}
    if len(specs) != llm.num_layers or known != {name for name in ports if name.startswith("past_key_values.")}:
        yield "layers"
        return
    appended = manifest.cache_form == "concat"
    if (appended and manifest.recurrent and manifest.target != "openvino") or (
        manifest.target == "portable" and ("write_indices" in ports) == appended
    ):
        yield "cache_form"
    for spec in specs:
        for tensor in spec.tensors:
            present = ["total" if axis == "past" else axis for axis in tensor.shape]
            fits = ports.get(tensor.past) == Port(name=tensor.past, dtype=tensor.dtype, shape=[*tensor.shape])
            fits &= ports.get(tensor.present) == Port(name=tensor.present, dtype=tensor.dtype, shape=present)
            if not (fits and _is_possible(spec.kind, tensor, llm)):
                yield tensor.past


def _is_possible(kind: str, tensor: CacheTensor, llm: LlmGeometry) -> bool:
    """Whether a tensor has the sizes of keys and values, or the fixed sizes of a recurrent state."""
    if kind == "recurrent":
        return "past" not in tensor.shape
    return any(tensor.shape == [1, llm.num_key_value_heads, room, llm.head_dim] for room in ("past", llm.max_length))


def _wrong_options(manifest: Manifest, shapes: Shapes) -> Iterator[str]:
    """Yields optional inputs and outputs that only one of geometry and graphs has."""
    image, llm = manifest.image, manifest.llm
    optional = {
        "patch_positions": not image.queries,
        "window_gather": image.window,
        "interpolation_indices": image.position_table,
        "ntk_alpha": llm.ntk_length,
    }
    yield from (name for name, wanted in optional.items() if bool(wanted) != (name in shapes))
    if bool(image.square) != bool(image.queries):
        yield "square"
    deepstack = {f"deepstack_features.{index}" for index in range(llm.deepstack_layers)}
    for ports in (manifest.graphs["vision"].outputs, manifest.graphs["llm"].inputs):
        yield from sorted({port.name for port in ports if port.name.startswith("deepstack_features.")} ^ deepstack)


def _wrong_sizes(manifest: Manifest) -> Iterator[str]:
    """Yields names of sizes that contradict each other."""
    image, llm, tokens = manifest.image, manifest.llm, manifest.tokens
    if not max(image.min_pixels, image.factor**2) <= image.max_pixels and not image.square:
        yield "pixel bounds"
    if image.square % image.patch_size:
        yield "square"
    if manifest.image_tokens and (manifest.image_tokens.layout == "queries") != bool(image.queries):
        yield "image_tokens"
    if llm.deepstack_layers > llm.num_layers:
        yield "deepstack_layers"
    if max(tokens.image, tokens.video or 0, *tokens.stop) >= llm.vocab_size:
        yield "tokens"


def _profiles_fit(graph: GraphEntry) -> bool:
    axes = {axis for port in graph.inputs for axis in port.shape if isinstance(axis, str)}
    return graph.engine is None or all(set(profile.axes) == axes for profile in graph.engine.profiles)


def verify(bundle: Path, manifest: Manifest) -> Iterator[tuple[str, bool]]:
    """Yields each file's name and whether its SHA-256 matches the manifest."""
    for name, entry in manifest.files.items():
        yield name, sha256(inside(bundle, name)) == entry.sha256


def sha256(path: Path) -> str:
    """Returns the hex SHA-256 of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(bundle: Path, name: str) -> Path:
    """Returns the path of a bundle's file; raises BundleError if the name or a link leads outside the bundle."""
    pure = PurePosixPath(name)
    path = bundle / name
    if pure.is_absolute() or ".." in pure.parts or not name or any(sign in name for sign in "\\:\0"):
        raise BundleError(f"names a file outside the bundle: {name[:200]!r}", where=bundle / MANIFEST)
    try:
        stays = path.resolve().is_relative_to(bundle.resolve())
    except (OSError, RuntimeError) as error:  # a symlink loop is a RuntimeError before Python 3.13
        raise BundleError("is a broken link", where=path, fix="copy the file itself into the bundle") from error
    if not stays:
        raise BundleError("is a link that leads outside the bundle", where=path, fix="copy the file itself")
    return path
