"""The layout: imports run downwards, from later rooms to earlier ones, and no two folders import each other.

Every module that has logic has a test file of its name.
"""

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
        *(
            "printable",
            "errors",
            "packing",
            "common",
            "rotation",
            "manifest",
            "bundle",
            "positions",
            "prune",
            "_onnxruntime",
        ),
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
        *("drawing", "model", "requests", "serve", "read", "cli", "__main__"),
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


TESTS = {"qvl_export": ("exporter", "quant", "evaluate"), "qvl_runtime": ("runtime",)}
"""The directories of each package's tests, the first one for all parts that have none of their own."""
COVERED = {
    "qvl_export.bundle.manifest": "exporter/test_bundle.py",
    "qvl_export.bundle.text_files.tokenizer": "exporter/test_texts.py",
    "qvl_export.checkpoint.directory": "exporter/test_checkpoint.py",
    "qvl_export.checkpoint.quantized.detect": "quant/test_gptq_checkpoint.py",
    "qvl_export.checkpoint.quantized.gptq": "quant/test_gptq_checkpoint.py",
    "qvl_export.cli": "exporter/test_broken_inputs.py",
    "qvl_export.cli.calib": "exporter/test_calib_cli.py",
    "qvl_export.cli.evaluate": "evaluate/test_refusals.py",
    "qvl_export.cli.sensitivity": "quant/test_mixed.py",
    "qvl_export.common.libraries": "exporter/test_without_torch.py",
    "qvl_export.engines.building": "exporter/test_engines.py",
    "qvl_export.evaluate.analysis.results": "evaluate/test_significance.py",
    "qvl_export.evaluate.trace.transformers_trace": "evaluate/test_blame.py",
    "qvl_export.exporting": "exporter/test_resolve.py",
    "qvl_export.exporting.bundle_builder": "exporter/test_bundle.py",
    "qvl_export.families": "exporter/test_checkpoint.py",
    "qvl_export.families.config.vision": "exporter/test_zoo.py",
    "qvl_export.graph": "exporter/test_parity.py",
    "qvl_export.graph.genai_graphs": "exporter/test_genai.py",
    "qvl_export.graph.quantized": "quant/test_parts.py",
    "qvl_export.graph.weights": "exporter/test_memory.py",
    "qvl_export.jobs.worker": "evaluate/test_pool.py",
    "qvl_export.quant.calibration": "quant/test_layerwise.py",
    "qvl_export.quant.calibration.cluster": "quant/test_shards.py",
    "qvl_export.quant.calibration.encode_images": "quant/test_ray_calibration.py",
    "qvl_export.quant.calibration_data.prompts": "quant/test_layer_graphs.py",
    "qvl_export.quant.context": "exporter/test_resolve.py",
    "qvl_export.quant.format_checks": "exporter/test_resolve.py",
    "qvl_export.quant.mixed_precision": "quant/test_mixed.py",
    "qvl_export.quant.quantizer": "quant/test_hybrid.py",
    "qvl_export.quant.schemes.int4": "quant/test_schemes.py",
    "qvl_export.quant.towers": "quant/test_layerwise.py",
    "qvl_export.targets": "quant/test_schemes.py",
    "qvl_export.targets._linear_attention": "exporter/test_linear_attention_kernels.py",
    "qvl_export.targets._subgraphs": "exporter/test_int8_attention.py",
    "qvl_export.targets.tensorrt": "exporter/test_engines.py",
    "qvl_export.targets.tensorrt_rtx": "exporter/test_engines.py",
    "qvl_runtime.__main__": "runtime/test_cli.py",
    "qvl_runtime._pdf.reader": "runtime/test_pdf_process.py",
    "qvl_runtime.answers.encode": "exporter/test_pruned_parity.py",
    "qvl_runtime.answers.lookup": "runtime/test_known_tokens.py",
    "qvl_runtime.answers.pending": "runtime/test_known_tokens.py",
    "qvl_runtime.bundle": "runtime/test_hostile_bundles.py",
    "qvl_runtime.cli": "runtime/test_cli.py",
    "qvl_runtime.prompts.selection": "runtime/test_prune.py",
    "qvl_runtime.prune": "runtime/test_prune.py",
    "qvl_runtime.read": "runtime/test_read.py",
    "qvl_runtime.requests": "runtime/test_serve.py",
    "qvl_runtime.serve": "runtime/test_serve.py",
    "qvl_runtime.sessions": "exporter/test_parity.py",
    "qvl_runtime.sessions._openvino": "runtime/test_openvino.py",
    "qvl_runtime.sessions._tensorrt": "runtime/test_tensorrt.py",
    "qvl_runtime.sessions.engine": "runtime/test_sessions.py",
    "qvl_runtime.sessions.layer_states": "runtime/test_cuts.py",
    "qvl_runtime.sessions.portable": "runtime/test_sessions.py",
    "qvl_runtime.sessions.snapshots": "runtime/test_cuts.py",
    "qvl_runtime.sessions.tensorrt_rtx": "runtime/test_tensorrt.py",
    "qvl_runtime.templates.vet_child": "runtime/test_vetting.py",
}
"""Modules whose logic is tested in a file of another name; a folder stands for its modules that are not listed."""


def has_logic(path: Path) -> bool:
    """Whether a function of the module has a statement; those of protocols have docstrings alone."""
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    statements = (statement for function in functions for statement in function.body)
    return any(not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)) for each in statements)


def own_files(name: Name, package: str) -> set[str]:
    """The files that may hold the tests of a module: `test_MODULE.py`, or `test_FOLDER_MODULE.py`.

    FOLDER may be in the singular. If several modules share the name, the first form counts in the directory of the
    module's part alone.
    """
    module, folder = name[-1].lstrip("_"), name[-2].lstrip("_")
    part = name[1] if name[1] in TESTS[package] else TESTS[package][0]
    alone = sum(other[-1].lstrip("_") == module for other in modules(package) if len(other) > 1) == 1
    files = {f"{directory}/test_{module}.py" for directory in (TESTS[package] if alone else (part,))}
    for directory in TESTS[package]:
        files |= {f"{directory}/test_{word}_{module}.py" for word in (folder, folder.removesuffix("s"))}
    return files


def listed(name: Name) -> str | None:
    """The entry of COVERED for a module: its own, or that of the nearest folder."""
    names = (".".join(name[:length]) for length in range(len(name), 1, -1))
    return next((found for found in names if found in COVERED), None)


def untested() -> Iterator[Name]:
    """The modules that have logic and no test file of their name."""
    for package in PACKAGES:
        for name, path in modules(package).items():
            files = own_files(name, package) if len(name) > 1 else set()
            if files and has_logic(path) and not any((ROOT / "tests" / file).is_file() for file in files):
                yield name


def test_every_module_with_logic_has_a_test_file() -> None:
    assert not [".".join(name) for name in untested() if listed(name) is None]


def test_the_table_names_what_is_needed_and_there() -> None:
    assert {listed(name) for name in untested()} == COVERED.keys()
    assert not [file for file in COVERED.values() if not (ROOT / "tests" / file).is_file()]
