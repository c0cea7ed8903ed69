"""The layout: imports run downwards, from later rooms to earlier ones, and no two folders import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"qvl_export": ROOT / "exporter" / "qvl_export", "qvl_runtime": ROOT / "runtimes" / "python" / "qvl_runtime"}
ORDER = {
    "qvl_export": (
        *("_version", "errors", "common", "qtensor", "checkpoint", "families", "engines", "targets", "graph", "bundle"),
        *("jobs", "quant", "exporting", "evaluate", "cli"),
    ),
    "qvl_runtime": (
        *("printable", "errors", "packing", "common", "rotation", "manifest", "bundle", "positions", "_onnxruntime"),
        *(
            "sessions",
            "_pdf",
            "pdf",
            "resize",
            "media",
            "preprocess",
            "grounding",
            "tools",
            "templates",
            "prompts",
            "answers",
        ),
        *("drawing", "model", "cli", "__main__"),
    ),
}
"""The rooms of each package, those that know of nobody first; `__init__` may look into all."""
Name = tuple[str, ...]


def modules(package: str) -> dict[Name, Path]:
    """Every module's file by its name; that of a package is its `__init__`."""
    found = {}
    for path in PACKAGES[package].rglob("*.py"):
        parts = path.relative_to(PACKAGES[package].parent).with_suffix("").parts
        found[parts[:-1] if parts[-1] == "__init__" else parts] = path
    return found


def imported(path: Path, package: str) -> Iterator[Name]:
    """All names that a module imports, in functions too, as absolute ones."""
    own = path.relative_to(PACKAGES[package].parent).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            start = own[: len(own) - node.level + 1] if node.level else ()
            start += tuple(node.module.split(".")) if node.module else ()
            yield from ((*start, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)


def arrows(package: str) -> Iterator[tuple[Name, str, str]]:
    """Folder, and the two different rooms in it of which one imports from the other."""
    known = modules(package)
    for name, path in known.items():
        for target in imported(path, package):
            if target[0] != package:
                continue
            while target not in known:
                target = target[:-1]
            depth = next((i for i, pair in enumerate(zip(name, target, strict=False)) if pair[0] != pair[1]), None)
            if depth is not None:
                yield name[:depth], name[depth], target[depth]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_order_names_every_room(package: str) -> None:
    assert {name[1] for name in modules(package) if len(name) > 1} == set(ORDER[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_runs_upwards(package: str) -> None:
    place = {room: index for index, room in enumerate(ORDER[package])}
    upwards = {(a, b) for folder, a, b in arrows(package) if folder == (package,) and place[a] < place[b]}
    assert not upwards


@pytest.mark.parametrize("package", PACKAGES)
def test_no_rooms_of_a_folder_import_each_other(package: str) -> None:
    """Neither do they in a longer circle, which raises CycleError."""
    graphs: dict[Name, dict[str, set[str]]] = {}
    for folder, importer, target in arrows(package):
        graphs.setdefault(folder, {}).setdefault(importer, set()).add(target)
    for graph in graphs.values():
        TopologicalSorter(graph).prepare()
    assert graphs
