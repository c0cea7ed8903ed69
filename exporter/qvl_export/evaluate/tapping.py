"""One model runs one input with its intermediate values kept: `python -m qvl_export.evaluate.tapping JOB.json`.

The graphs that ship get the residual streams as further outputs, in a temporary bundle whose weights are hard links.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from qvl_runtime import load
from qvl_runtime import manifest as manifests
from qvl_runtime.errors import BundleError
from qvl_runtime.prompt import Prompt
from qvl_runtime.rotation import Rotation

from ..bundle import file_entry
from ..job import serve
from .answering import HF
from .taps import Taps, file_name

STREAM = re.compile(r"(vision\.blocks|llm\.layers)\.(\d+)")
PRODUCTS = (
    "MatMul",
    "FusedMatMul",
    "Gemm",
    "MatMulNBits",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
)
AT_ONCE = 8
"""Streams of the vision tower that a run gives: all of a page's would be most of a gigabyte in a 3B model."""
FEATURES, LOGITS, PIXELS = "vision.merger", "logits", "preprocessing"


class TapJob(msgspec.Struct, frozen=True):
    """Run `prompt` about `images` and leave an array a stage in `out`; `into` adds the linears of a stage."""

    model: str
    engine: str
    images: tuple[str, ...]
    prompt: str
    out: str
    threads: int | None = None
    into: str | None = None


class Tapped:
    """An ONNX Runtime session that leaves further outputs of every run in a directory."""

    def __init__(self, session: Any, names: Sequence[str], directory: Path) -> None:
        self._session, self.names, self._directory = session, list(names), directory
        self._runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, outputs: Sequence[str] | None, feeds: Any, options: Any = None) -> list[np.ndarray]:
        """As the session does, again for every few of our outputs; all outputs are those of the contract."""
        if outputs is None:
            outputs = [port.name for port in self._session.get_outputs() if port.name not in self.names]
        found: list[np.ndarray] = []
        for start in range(0, max(len(self.names), 1), AT_ONCE):
            few = self.names[start : start + AT_ONCE]
            found = self._session.run([*outputs, *few], feeds, options)
            self._keep(few, found[len(outputs) :])
        self._runs += 1
        return found[: len(outputs)]

    def run_with_iobinding(self, binding: Any, *arguments: Any) -> None:
        for name in self.names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding, *arguments)
        last = binding.get_outputs()[-len(self.names) :]  # in the order they were bound in: ours after the engine's
        self._keep(self.names, (value.numpy() for value in last))
        self._runs += 1

    def _keep(self, names: Sequence[str], values: Iterable[np.ndarray]) -> None:
        for name, value in zip(names, values, strict=True):
            np.save(self._file(name, self._runs), value)

    def _file(self, name: str, run: int) -> Path:
        return self._directory / f"{file_name(name)}.run{run}.npy"

    def kept(self, name: str) -> list[np.ndarray]:
        """An output of all runs."""
        return [np.load(self._file(name, run)) for run in range(self._runs)]


def run(job: TapJob) -> Taps:
    """Every stage as `out/NAME.npy` [tokens, features]."""
    out = Path(job.out)
    parts = [*({"type": "image", "image": image} for image in job.images), {"type": "text", "text": job.prompt}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
    if job.engine == HF:
        from .hf import tap

        return tap(job.model, messages, out)
    with exposed(Path(job.model), job.into) as (directory, names):
        model: Any = load(directory, job.threads)
        engine = model._engine
        vision, language = engine.encode.__self__, engine.llm
        vision._session = Tapped(vision._session, names["vision"], directory)
        language._sessions[0] = Tapped(language._sessions[0], names["llm"], directory)
        prompt: Prompt = model.prompt(messages, 1)
        logits = model._decoder.prefill(prompt, np.arange(len(prompt.ids)), _run())
        return _save(out, model, prompt, vision._session, language._sessions[0], logits)


def _run() -> Any:
    from qvl_runtime.generate import Run

    return Run()


def _save(out: Path, model: Any, prompt: Prompt, vision: Tapped, language: Tapped, logits: np.ndarray) -> Taps:
    """Stages in the order of the chain; images and chunks of a prompt one after another."""
    placed = prompt.placed
    features = [FEATURES] if placed else []
    stages = [*([PIXELS] if placed else []), *(vision.names if placed else []), *features, *language.names, LOGITS]
    for name in stages:
        if name == PIXELS:
            values = [item.patches(model.manifest.image).pixel_values for item in placed]
        elif name == FEATURES:
            values = [model._encode(item) for item in placed]
        else:
            values = [logits] if name == LOGITS else (language if name in language.names else vision).kept(name)
        rows = np.concatenate([value.reshape(-1, value.shape[-1]) for value in values])
        np.save(out / f"{file_name(name)}.npy", _own_basis(name, rows, model.manifest).astype(np.float32))
    tokens = [place for item in placed for place in range(item.span.start, item.span.end)]
    return Taps(stages, tokens, len(prompt.ids))


def _own_basis(name: str, rows: np.ndarray, manifest: manifests.Manifest) -> np.ndarray:
    """What a rotated bundle has along its hidden states, as the checkpoint has it; other values as they are."""
    llm = manifest.llm
    hidden = name == FEATURES or (name.startswith("llm.") and name.endswith(("o_proj", "down_proj", *"0123456789")))
    if llm.rotation_seed is None or not hidden:
        return rows
    return Rotation(llm.hidden_size, llm.rotation_seed).undo(rows)


@contextlib.contextmanager
def exposed(bundle: Path, into: str | None) -> Iterator[tuple[Path, dict[str, list[str]]]]:
    """A temporary copy of a bundle whose graphs also give their residual streams, and the names of these."""
    manifest = manifests.read(bundle)
    if any(entry.engine for entry in manifest.graphs.values()):
        raise BundleError(
            "has engines, which show nothing of their inside", where=bundle, fix="export --target portable"
        )
    with _beside(bundle) as directory:
        names, files = {}, dict(manifest.files)
        for name in manifest.files:
            _link(bundle / name, directory / name)
        for graph, entry in manifest.graphs.items():
            names[graph] = _expose(directory / entry.model, into)
            files[entry.model] = file_entry(directory / entry.model)
        (directory / manifests.MANIFEST).write_bytes(
            msgspec.json.encode(msgspec.structs.replace(manifest, files=files))
        )
        yield directory, names


@contextlib.contextmanager
def _beside(bundle: Path) -> Iterator[Path]:
    """A temporary directory on the bundle's file system where that can be written, so that links are free."""
    try:
        temporary = tempfile.TemporaryDirectory(prefix=".blame-", dir=bundle.resolve().parent)
    except OSError:
        temporary = tempfile.TemporaryDirectory(prefix="blame-")
    with temporary as directory:
        yield Path(directory)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _expose(path: Path, into: str | None) -> list[str]:
    """Rewrite a graph with further outputs; returns their names in order."""
    model = onnx.load(path, load_external_data=False)
    inner = set(linears(model.graph, into))
    names = [name for node in model.graph.node for name in node.output if STREAM.fullmatch(name) or name in inner]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    path.unlink()  # a hard link: the bundle's own file must stay as it is
    path.write_bytes(model.SerializeToString())
    return names


def linears(graph: Any, stage: str | None) -> list[str]:
    """Rename the outputs of a stage's linears, bias and all, to `stage/linear`; their names in the order they run.

    Values carry the name of the module that made them; a linear is one that multiplies matrices.
    """
    match = STREAM.fullmatch(stage or "")
    if not match:
        return []
    prefix = f"{'visual.blocks' if match[1] == 'vision.blocks' else 'model.layers'}.{match[2]}."
    scope = re.compile(rf"v_{re.escape(prefix)}(.+)\.[^.]+")
    last: dict[str, str] = {}
    products = set()
    for node in graph.node:
        if found := scope.fullmatch(node.output[0]):
            last[found[1]] = node.output[0]
            if node.op_type in PRODUCTS:
                products.add(found[1])
    renamed = {value: f"{stage}/{module}" for module, value in last.items() if module in products}
    for node in graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                values[index] = renamed.get(value, value)
    return list(renamed.values())


def _keep(job: TapJob) -> None:
    (Path(job.out) / "taps.json").write_bytes(msgspec.json.encode(run(job)))


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], TapJob, _keep))
