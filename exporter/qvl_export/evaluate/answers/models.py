"""The models of a comparison: checked, named, and identified by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import msgspec

from qvl_runtime.answers.options import MAX_NEW_TOKENS, AnswerOptions
from qvl_runtime.bundle import read_manifest
from qvl_runtime.grounding import notation_of
from qvl_runtime.prune.rule import OFF, Rule

from ...checkpoint.directory import WHOLE
from ...errors import ExportError
from .answerers import ENDPOINT, HF
from .bundle_names import BundleName, check_name, parse_name
from .chat_client import resolve_model
from .endpoint_names import Endpoint
from .model_keys import model_keys
from .model_result import ModelResult
from .records import Cost, Records

BUNDLE = "bundle"
"""The engine of a bundle."""


@dataclass(frozen=True)
class Model:
    """A bundle or checkpoint to run: its path, engine, name in the report, and the key that identifies it.

    `prune` replaces the bundle's default. An `endpoint` is a server; its `path` is that of the reference, and `limit`
    the most tokens of its answers by default, as of the reference's.
    """

    path: Path
    engine: str
    title: str
    key: str
    prune: str | float | None = None
    endpoint: Endpoint | None = None
    limit: int | None = None

    def rule(self) -> Rule:
        """Returns the rule by which blocks of images are left out."""
        return OFF if self.engine != BUNDLE else BundleName(self.path, self.prune).rule()

    def result(self, work: Path, name: str) -> ModelResult:
        """Returns the model's cost and answers; its records have the name `name` in the directory `work`."""
        cost, records = Cost.load(work, name) or Cost(0.0, 0.0), Records(work, name)
        if self.endpoint is not None:  # what it costs is not seen from here
            served = f"{self.endpoint.model}, a server"
            return ModelResult(self.title, self.endpoint.url, served, "", None, 0.0, Cost(0.0, 0.0), records, True)
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


def open_models(reference: Path, bundles: Sequence[Path], hf: bool, endpoints: Sequence[Endpoint] = ()) -> list[Model]:
    """Checks and returns the reference, the bundles, whose names may have options (`bundle_names`), and the servers.

    Equal names are prefixed with their parent directories, and a model that is named again gets a number. Raises
    ExportError and BundleError, also if a server is down.
    """
    if not bundles and (hf or not endpoints):
        raise ExportError("no bundle to compare with the reference", fix="name at least one")
    first, *others = names = [parse_name(name) for name in (reference, *bundles)]
    if hf and first.suffix:
        raise ExportError("PyTorch always sees whole pages", where=reference, fix=f"leave {first.suffix} out")
    paths = [name.path for name in names]
    keys = model_keys(paths[0], paths[1:], hf)
    for name in others if hf else names:
        check_name(name)
    engines = [HF if hf else BUNDLE, *[BUNDLE] * len(bundles)]
    titles = _numbered([f"{title}{name.suffix}" for title, name in zip(_titles(paths), names, strict=True)])
    models = [
        Model(name.path, engine, title, _key(key, name), name.prune)
        for name, engine, title, key in zip(names, engines, titles, keys, strict=True)
    ]
    return [*models, *_servers(endpoints, models)]


def _servers(endpoints: Sequence[Endpoint], models: Sequence[Model]) -> Iterator[Model]:
    """Yields the servers, which answer; raises ExportError if one does not, or has the name of another model."""
    reference, titles = models[0], {model.title for model in models}
    limit = MAX_NEW_TOKENS
    if reference.engine == BUNDLE:
        limit = AnswerOptions().resolve(read_manifest(reference.path)).max_new_tokens
    for endpoint in endpoints:
        if endpoint.title in titles:
            raise ExportError("is the name of two models", where=endpoint.title, fix="give the endpoint another name")
        titles.add(endpoint.title)
        served = msgspec.structs.replace(endpoint, model=resolve_model(endpoint))
        named = "\n".join((served.title, served.url, served.model))  # a server may be asked twice, with two keys
        key = hashlib.sha256(named.encode()).hexdigest()[:12]
        yield Model(reference.path, ENDPOINT, served.title, key, endpoint=served, limit=limit)


def _key(key: str, name: BundleName) -> str:
    """Returns the key of a bundle with its options; without options it stays `key`."""
    return hashlib.sha256(f"{key}{name.suffix}".encode()).hexdigest()[:12] if name.suffix else key


def check_generation(models: Sequence[Model]) -> None:
    """Raises ExportError for bundles of earlier versions, which lack the checkpoint's generation settings."""
    for model in models:
        if model.engine == BUNDLE and read_manifest(model.path).generation is None:
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
