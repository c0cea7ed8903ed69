"""The models of a comparison: checked, named, and identified by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from qvl_runtime.bundle import read_manifest
from qvl_runtime.grounding import notation_of
from qvl_runtime.prune.rule import OFF, Rule

from ...checkpoint.directory import WHOLE
from ...errors import ExportError
from .answerers import HF
from .bundle_names import BundleName, check_name, parse_name
from .model_keys import model_keys
from .model_result import ModelResult
from .records import Cost, Records


@dataclass(frozen=True)
class Model:
    """A bundle or checkpoint to run: its path, engine, name in the report, and the key that identifies it.

    `prune` replaces the bundle's default.
    """

    path: Path
    engine: str
    title: str
    key: str
    prune: str | float | None = None

    def rule(self) -> Rule:
        """Returns the rule by which blocks of images are left out."""
        return OFF if self.engine == HF else BundleName(self.path, self.prune).rule()

    def result(self, work: Path, name: str) -> ModelResult:
        """Returns the model's cost and answers; its records have the name `name` in the directory `work`."""
        cost, records = Cost.load(work, name) or Cost(0.0, 0.0), Records(work, name)
        if self.engine == HF:
            whole = self.path / WHOLE  # transformers ignores shards beside it
            weights = [whole] if whole.is_file() else self.path.glob("*.safetensors")
            size = sum(file.stat().st_size for file in weights) / 1e6
            return ModelResult(self.title, str(self.path), "PyTorch", "", None, size, cost, records)
        manifest = read_manifest(self.path)
        precisions = ", ".join(f"{graph} {entry.precision}" for graph, entry in manifest.graphs.items())
        precisions += "" if self.rule() == OFF else f", prune {self.rule()}"
        size = sum(file.size for file in manifest.files.values()) / 1e6
        return ModelResult(
            self.title, str(self.path), precisions, manifest.family, notation_of(manifest), size, cost, records
        )


def open_models(reference: Path, bundles: Sequence[Path], hf: bool) -> list[Model]:
    """Checks and returns the reference and the bundles, whose names may have options (`bundle_names`).

    Equal names are prefixed with their parent directories, and a model that is named again gets a number. Raises
    ExportError and BundleError.
    """
    if not bundles:
        raise ExportError("no bundle to compare with the reference", fix="name at least one")
    first, *others = names = [parse_name(name) for name in (reference, *bundles)]
    if hf and first.suffix:
        raise ExportError("PyTorch always sees whole pages", where=reference, fix=f"leave {first.suffix} out")
    paths = [name.path for name in names]
    keys = model_keys(paths[0], paths[1:], hf)
    for name in others if hf else names:
        check_name(name)
    engines = [HF if hf else "bundle", *["bundle"] * len(bundles)]
    titles = _numbered([f"{title}{name.suffix}" for title, name in zip(_titles(paths), names, strict=True)])
    return [
        Model(name.path, engine, title, _key(key, name), name.prune)
        for name, engine, title, key in zip(names, engines, titles, keys, strict=True)
    ]


def _key(key: str, name: BundleName) -> str:
    """Returns the key of a bundle with its options; without options it stays `key`."""
    return hashlib.sha256(f"{key}{name.suffix}".encode()).hexdigest()[:12] if name.suffix else key


def check_generation(models: Sequence[Model]) -> None:
    """Raises ExportError for bundles of earlier versions, which lack the checkpoint's generation settings."""
    for model in models:
        if model.engine != HF and read_manifest(model.path).generation is None:
            raise ExportError(
                "does not contain the checkpoint's generation settings",
                where=model.path,
                fix="export it again, or leave --use-generation-config out",
            )


def _titles(paths: Sequence[Path]) -> list[str]:
    """Returns the shortest path suffixes that distinguish the paths."""
    resolved = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in resolved)):
        titles = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(titles)) == len(set(resolved)):
            return titles
    return [str(path) for path in resolved]


def _numbered(titles: Sequence[str]) -> list[str]:
    """Returns the titles, with ` (2)`, ` (3)` … behind those that occurred before: reports find bundles by them."""
    found: list[str] = []
    for title in titles:
        others = (f"{title} ({number})" for number in count(2))
        found.append(next(each for each in chain([title], others) if each not in found))
    return found
