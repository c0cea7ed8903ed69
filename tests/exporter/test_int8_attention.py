"""Attention with int8 products on `cpu`: close to float for any number of patches and frames, in every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnxscript import GraphBuilder

from qvl_export import ExportPlan, export
from qvl_export.cli.commands import cli
from qvl_export.errors import ExportError
from qvl_export.graph.build import FLOAT, add_input, add_output, empty_graph, finished
from qvl_export.graph.layers import Linear
from qvl_export.targets import _int8_attention as attention
from qvl_export.targets import cpu, lower, with_int8_attention
from qvl_runtime.bundle import read_manifest
from qvl_runtime.model import Model, load
from qvl_runtime.positions import Grid
from tests.conftest import Bundles
from tests.heldout import items
from tests.oracles.tiny import FAMILIES, FREE_SIZES, REFERENCE
from tests.plans import export_plan

HEADS, SIZE = 3, 24
FOR_INT8 = (
    "--int8-attention is for a vision tower in int8 (add --precision int8 or --vision-precision int8, or leave it out)"
)
INT8 = with_int8_attention(lower("cpu", "fp32"), "cpu")


def session(integer: bool) -> ort.InferenceSession:
    """Attention alone, q, k, v [frames, patches, features] → y; in float if the products before it are not integer."""
    graph = empty_graph("attention", INT8)
    axes: list[int | str] = ["frames", "patches", HEADS * SIZE]
    q, k, v = (add_input(graph, name, FLOAT, axes) for name in "qkv")
    y = INT8.vision_attention(GraphBuilder(graph).op, q, k, v, HEADS, None, integer)
    add_output(graph, y, "y", axes)
    model = ir.to_proto(finished(graph, INT8))
    onnx.checker.check_model(model)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def inputs(frames: int, patches: int, scale: float = 3) -> dict[str, np.ndarray]:
    """Queries and keys whose scores differ, all of them with means that are not 0."""
    draw = np.random.default_rng(patches)
    return {
        name: (draw.standard_normal((frames, patches, HEADS * SIZE)) * times + mean).astype(np.float32)
        for name, times, mean in (("q", 1, 0.5), ("k", scale, 7), ("v", 1, 4))
    }


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """‖ours − theirs‖ / ‖theirs without its mean‖."""
    spread = theirs - theirs.mean(axis=tuple(range(theirs.ndim - 1)))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(spread))


@pytest.fixture(scope="module")
def both() -> tuple[ort.InferenceSession, ort.InferenceSession]:
    return session(True), session(False)


@pytest.mark.parametrize(("frames", "patches"), [(1, 1024), (1, 1141), (1, 2300), (2, 1100), (3, 1204)])
def test_it_is_close_to_float_attention(
    both: tuple[ort.InferenceSession, ort.InferenceSession], frames: int, patches: int
) -> None:
    """In one chunk and in several, in whole chunks and in padded ones."""
    ours, theirs = (found.run(None, inputs(frames, patches))[0] for found in both)
    assert ours.shape == theirs.shape and error(ours, theirs) < 0.05


@pytest.mark.parametrize("patches", [4, 1023])
def test_few_patches_have_float_attention(
    both: tuple[ort.InferenceSession, ort.InferenceSession], patches: int
) -> None:
    ours, theirs = (found.run(None, inputs(1, patches))[0] for found in both)
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    "change", ["no keys", "equal keys", "no values", "equal values", "no queries", "one key", "loud"]
)
def test_extremes(both: tuple[ort.InferenceSession, ort.InferenceSession], change: str) -> None:
    """Nothing is divided by zero, and a query that sees one key alone gets its value."""
    feeds = inputs(1, 1200)
    name = {"keys": "k", "values": "v", "queries": "q"}.get(change.rpartition(" ")[2], "k")
    if change.startswith("no "):
        feeds[name][:] = 0
    elif change.startswith("equal "):
        feeds[name][:] = feeds[name][:, :1]
    elif change == "one key":
        feeds["k"][:, 7] = 40
        feeds["q"] = np.abs(feeds["q"])
    else:
        feeds["q"] *= 1e4
    ours, theirs = (found.run(None, feeds)[0] for found in both)
    assert np.isfinite(ours).all()
    if change != "loud":  # where the order of two scores decides everything
        assert np.abs(ours - theirs).max() < 0.05


def test_probabilities_that_round_to_zero_are_not_lost(both: tuple[ort.InferenceSession, ort.InferenceSession]) -> None:
    """One key has a tenth of the probability of each query, each other one a thousandth of that."""
    feeds = inputs(1, 1200, scale=0)
    feeds["q"][:] = 1
    feeds["k"][:, 0] += np.log(1200 / 9) / SIZE**0.5
    ours, theirs = (found.run(None, feeds)[0] for found in both)
    assert np.abs(ours - theirs).max() < 0.02


def test_codes_of_keys_and_values_cannot_saturate() -> None:
    """255 · 64 · 2 fits into 16 bits; the runs above would not show more, on a processor whose products are exact."""
    graph = empty_graph("codes", INT8)
    k, v = (add_input(graph, name, FLOAT, ["patches", SIZE]) for name in "kv")
    op = GraphBuilder(graph).op
    head, _ = attention._rounded(op, k, v, op.Constant(value_float=1.0))
    add_output(graph, head.keys, "keys", [SIZE, "patches"], attention.INT8)
    add_output(graph, head.values, "values", ["patches", SIZE], attention.INT8)
    model = ir.to_proto(finished(graph, INT8)).SerializeToString()
    run = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run
    feeds = {name: np.random.default_rng(3).standard_normal((50, SIZE)).astype(np.float32) * 100 for name in "kv"}
    assert [np.abs(codes.astype(int)).max() for codes in run(None, feeds)] == [64, 64]


@pytest.fixture(scope="module")
def rounded(checkpoint: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Loads a family's fp32 bundle whose attention, and nothing else, has int8 products for any number of patches."""

    def get(family: str) -> Model:
        out = tmp_path_factory.mktemp("rounded") / family
        with (
            mock.patch.object(attention, "LEAST", 1),
            mock.patch.object(attention, "SCORES", 30_000),
            mock.patch.object(Linear, "integer", True),
            mock.patch.object(cpu, "lower", lambda *given: with_int8_attention(cpu.CpuTarget(FLOAT, given[1]), "cpu")),
        ):
            export(ExportPlan(checkpoint(family, "small"), out, precision="fp32"))
        return load(out, threads=1)

    return get


@pytest.mark.parametrize("family", FAMILIES)
def test_features_of_every_family(family: str, bundle: Bundles, rounded: Callable[[str], Model]) -> None:
    ours, theirs = rounded(family), load(bundle(family, "small", "fp32"), threads=1)
    grids = [Grid(1, 26, 34), Grid(1, 4, 38), Grid(3, 18, 8)] if family in FREE_SIZES else [fixed(ours)]
    for grid in grids:
        shape = grid.t, grid.h * grid.w, ours.manifest.image.patch_dim
        patches = np.random.default_rng(grid.h).standard_normal(shape).astype(np.float32)
        pairs = zip(ours.engine.encode(patches, grid), theirs.engine.encode(patches, grid), strict=True)
        assert all(0 < error(a, b) < 0.05 for a, b in pairs)


def fixed(model: Model) -> Grid:
    """The only grid of a family with images of one size."""
    side = model.manifest.image.square // model.manifest.image.patch_size
    return Grid(1, side, side)


@pytest.mark.slow
def test_an_int8_bundle_with_it_reads_and_records_it(tmp_path: Path) -> None:
    export(export_plan(REFERENCE, tmp_path / "b", precision="int8", samples=2, int8_attention=True))
    assert read_manifest(tmp_path / "b").provenance.options["int8_attention"] is True
    kinds = {node.op_type for node in onnx.load(tmp_path / "b" / "vision.onnx", load_external_data=False).graph.node}
    assert {"If", "Attention"} <= kinds and "MultiHeadAttention" not in kinds
    item = next(items("ocr"))
    assert load(tmp_path / "b", threads=1).generate(item.messages, max_new_tokens=4).strip() == item.answer[:4].strip()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], FOR_INT8),
        (["--precision", "int4", "--vision-precision", "fp16"], FOR_INT8),
        (["--max-kl", "0.1"], FOR_INT8),
        (["--precision", "int8", "--target", "cuda"], "target cuda has no int8 attention (leave --int8-attention out)"),
        (
            ["--precision", "int8", "--target", "portable"],
            "target portable has no int8 attention (leave --int8-attention out)",
        ),
    ],
)
def test_it_is_refused_without_int8_linears_or_operators(options: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["export", str(REFERENCE), str(tmp_path / "b"), "--int8-attention", *options])
    assert isinstance(done.exception, ExportError) and str(done.exception) == said
    assert not list(tmp_path.iterdir())
