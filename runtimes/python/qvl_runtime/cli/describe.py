"""Describes a bundle as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from .._onnxruntime.nodes import opset
from ..common.counted import counted
from ..manifest import (
    EXACT_EVERYWHERE,
    Bounds,
    CacheForm,
    Calibration,
    EngineEntry,
    GenerationDefaults,
    ImageGeometry,
    Manifest,
    Port,
)
from ..printable import printable

_CACHE_FORMS: Mapping[CacheForm, str] = {
    "scatter": "cache scatter: new tokens are written into it",
    "concat": "cache concat: new tokens are appended to it",
}
_NEUTRAL_DRAWN = {"temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0}
_NEUTRAL = {"repetition_penalty": 1, "no_repeat_ngram_size": 0, "max_new_tokens": None}
"""Generation settings and their neutral values: those of sampling (_NEUTRAL_DRAWN), and those that always apply."""


def describe(manifest: Manifest, ports: bool = True, bundle: Path | None = None) -> str:
    """Describes a bundle in a few lines that are safe to print; with `ports`, includes inputs and outputs of graphs.

    The directory `bundle` says which engines were built on the device, and the opset of standard graphs.
    """
    image, llm, origin = manifest.image, manifest.llm, manifest.provenance
    size = sum(entry.size for entry in manifest.files.values())
    lines = [
        f"{manifest.family} for {manifest.target}, {size / 1e6:,.1f} MB, schema {manifest.schema_version}",
        f"  from      {origin.checkpoint}" + (f" @ {origin.revision}" if origin.revision else ""),
        f"  made      {origin.created} by {origin.producer}",
        *([f"  options   {_options(origin.options)}"] if origin.options else []),
        f"  images    {_images(image)}",
        f"  length    {llm.max_length:,} tokens of prompt and answer",
        *([f"  answers   {_recommended(manifest.generation)}"] if manifest.generation else []),
    ]
    if manifest.target == "portable":
        lines.append(f"  form      {_form(manifest, bundle)}")
    if manifest.cpu:
        lines.append(f"  cpu       {manifest.cpu}: {_products(manifest.cpu)}")
    if origin.calibration:
        lines.append(f"  calib     {_calibrated(origin.calibration)}")
    for name, graph in manifest.graphs.items():
        weights = manifest.graph_files(name)[graph.data is not None :]
        total = sum(manifest.files[file].size for file in weights)
        kinds = ", ".join(f"{kind} {count / 1e6:,.1f} MB" for kind, count in graph.weight_bytes.items())
        lines.append(f"  {name:9} {graph.precision}, {total / 1e6:,.1f} MB ({kinds})")
        if graph.engine:
            lines += _engine(graph.engine, bundle is not None and (bundle / graph.engine.file).is_file())
        if ports:
            lines += _ports("in ", graph.inputs) + _ports("out", graph.outputs)
    return "\n".join(" ".join(printable(line).splitlines()) for line in lines)


def _form(manifest: Manifest, bundle: Path | None) -> str:
    """Describes the form of standard graphs: their opset, if the bundle's directory is known, and their cache."""
    cache = _CACHE_FORMS[manifest.cache_form]
    with suppress(OSError, ValueError):  # a damaged graph is not for `inspect` to refuse
        if bundle and (number := opset((bundle / manifest.graphs["vision"].model).read_bytes())):
            return f"opset {number}, {cache}"
    return cache


def _products(cpu: str) -> str:
    """Describes where the int8 codes for `cpu` are fast."""
    return (
        "int8 products are exact and fast on every processor" if cpu in EXACT_EVERYWHERE else "slow on x86 without VNNI"
    )


def _images(image: ImageGeometry) -> str:
    if image.queries:
        return f"{image.square} × {image.square} pixels whatever their shape, {image.queries} tokens each"
    size = f"{image.min_pixels:,} to {image.max_pixels:,} pixels, a token is {image.factor} × {image.factor}"
    return size if image.prune is None else f"{size}, --prune {image.prune} by default"


def _recommended(generation: GenerationDefaults) -> str:
    """Describes the settings of `--use-generation-config` that differ from the neutral ones."""
    neutral = (_NEUTRAL_DRAWN if generation.do_sample and generation.temperature else {}) | _NEUTRAL
    settings = {name: getattr(generation, name) for name in neutral}
    chosen = {name: value for name, value in settings.items() if value != neutral[name]}
    return (
        f"greedy; with --use-generation-config {_options(chosen)}" if chosen else "greedy, as the checkpoint recommends"
    )


def _options(options: Mapping[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in options.items())


def _calibrated(calibration: Calibration) -> str:
    names = ", ".join(calibration.sources)
    return f"{counted(calibration.pages, 'page')} of {names} (sha256 {calibration.sha256[:12]})"


def _engine(engine: EngineEntry, built: bool) -> list[str]:
    """Describes what an engine was built for, with one line per profile; `built` says that its file is there."""
    on_device = "built on the device" if built else "to be built on the device"
    made = f"built by {engine.builder}" if engine.builder else on_device
    places = [f"{number // 10}.{number % 10}" for number in engine.compute_capabilities]
    devices = f" for compute capability {', '.join(places)}" if places else ""
    lines = [f"    {engine.file} {made}{devices}"]
    for profile in engine.profiles:
        axes = (f"{name} {_bounds(axis)}" for name, axis in profile.axes.items())
        lines.append(f"    profile {profile.name:9} {', '.join(axes)}")
    return lines


def _bounds(axis: Bounds) -> str:
    return f"{axis.min:,}" if axis.min == axis.max else f"{axis.min:,} to {axis.max:,} (best {axis.opt:,})"


def _ports(direction: str, ports: Sequence[Port]) -> list[str]:
    """One line per input or output; what all layers of a kind keep between calls shares one line."""
    kept = [port for port in ports if port.name.startswith(("past_key_values.", "present."))]
    lines = [_port(direction, port.name, port) for port in ports if port not in kept]
    parts = Counter(port.name.rpartition(".")[2] for port in kept)
    for names in [("key", "value"), *((name,) for name in parts if name not in ("key", "value"))]:
        if count := sum(parts[name] for name in names):
            example = next(port for port in kept if port.name.endswith(names))
            name = f"{example.name.split('.')[0]}.N.{', .'.join(names)}"
            lines.append(f"{_port(direction, name, example)}, {count} in all")
    return lines


def _port(direction: str, name: str, port: Port) -> str:
    return f"    {direction} {name:27} {port.dtype:8} {_axes(port.shape)}"


def _axes(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"
