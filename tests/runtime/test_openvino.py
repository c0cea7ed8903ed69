"""Bundles of target `openvino`: what OpenVINO's plugin for CPUs executes, prefix reuse, devices, and refusals."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qvl_export import ExportPlan, export
from qvl_runtime.__main__ import main
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.bundle import read_manifest
from qvl_runtime.errors import BundleError, EngineError, InstallError, PromptError
from qvl_runtime.manifest import MANIFEST
from qvl_runtime.model import Model, load
from qvl_runtime.positions import Grid
from qvl_runtime.sessions import openvino
from qvl_runtime.sessions._openvino.compiler import DEVICES, core, library, raising_engine_errors
from tests.conftest import Bundles
from tests.exporter.test_parity import MIN_COSINE, cosine, one_image
from tests.oracles import tiny
from tests.oracles.tiny import SHAPES
from tests.plans import export_plan

FAMILY = "qwen2_5_vl"
RECURRENT = "qwen3_5"
MESSAGES = [{"role": "user", "content": one_image()}]
LONG, SHORT = "Total: 12.50 EUR", "Total: 12"
CLOSE = 1e-3


def executed(request: Any) -> Counter[str]:
    """How often the compiled graph of a request has each kind of node."""
    nodes = request.get_compiled_model().get_runtime_model().get_ordered_ops()
    return Counter(node.get_rt_info()["layerType"].value for node in nodes)


def products(request: Any) -> list[str]:
    """The types that the matrix products of a compiled graph read their weights in."""
    nodes = [node.get_rt_info() for node in request.get_compiled_model().get_runtime_model().get_ordered_ops()]
    return [node["runtimePrecision"].value for node in nodes if node["layerType"].value == "FullyConnected"]


@pytest.fixture(autouse=True)
def user_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "qvl-runtime" / "openvino"


@pytest.fixture
def tiny_bundle(bundle: Bundles) -> Path:
    return bundle(FAMILY, "small", "fp16", "openvino")


def logits(model: Model, answer: str) -> np.ndarray:
    return model.logits(MESSAGES, answer=answer)


def fresh(model: Model, answer: str) -> np.ndarray:
    model.clear()
    return logits(model, answer)


def test_attention_is_fused_with_its_cache(tiny_bundle: Path) -> None:
    with load(tiny_bundle, threads=1) as model:
        kinds = executed(model.engine.llm.requests[0])
    assert kinds["ScaledDotProductAttention"] == SHAPES["small"].layers
    assert kinds["RoPE"] == 2 * SHAPES["small"].layers
    assert not kinds["Softmax"]


@pytest.mark.parametrize("family", [FAMILY, RECURRENT])
def test_a_cached_prefix_gives_the_same_logits(bundle: Bundles, family: str) -> None:
    with load(bundle(family, "small", "fp32", "openvino"), threads=1) as model:
        long, short = logits(model, LONG), logits(model, SHORT)
        assert np.abs(logits(model, LONG) - long).max() < CLOSE
        assert np.abs(fresh(model, SHORT) - short).max() < CLOSE
        other = model.prompt(MESSAGES)
        stats = GenerationStats()
        again = model.decoder.prefill(other, np.array([len(other.ids) - 1]), stats)
        assert stats.counts.reused > len(other.ids) // 2
        assert np.abs(again[-1] - short[0]).max() < CLOSE


@pytest.mark.parametrize("family", [FAMILY, RECURRENT])
def test_guesses_leave_the_answer_as_it_is(bundle: Bundles, family: str) -> None:
    """Refused guesses shorten the cache, or go back to an earlier state."""
    with load(bundle(family, "small", "fp32", "openvino"), threads=1) as model:
        answers = []
        for lookup in (False, True):
            model.clear()
            answers.append(model.generate(MESSAGES, max_new_tokens=24, lookup=lookup))
    assert answers[0] == answers[1]


class Failing:
    """A request whose inference fails after it was computed, when it has changed the cache."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    def infer(self, feeds: Any) -> None:
        self._request.infer(feeds)
        raise RuntimeError("Exception from src/file.cpp:1:\nout of memory")


def test_a_failed_call_leaves_the_cached_tokens_usable(bundle: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(bundle(FAMILY, "small", "fp32", "openvino"), threads=1) as model:
        whole, prompt = logits(model, LONG), model.prompt(MESSAGES)
        model.decoder.prefill(prompt, np.array([len(prompt.ids) - 1]), GenerationStats())
        language = model.engine.llm
        with monkeypatch.context() as patch:
            patch.setattr(language, "requests", [Failing(language.requests[0])])
            with pytest.raises(EngineError, match=r"^OpenVINO failed: out of memory$"):
                model.decoder.step(5, prompt.next_position)
        stats = GenerationStats()
        ids = model.token_ids(LONG)
        wanted = np.arange(len(prompt.ids) - 1, len(prompt.ids) + len(ids) - 1)
        again = model.decoder.prefill(prompt.followed_by(ids[:-1]), wanted, stats)
        assert stats.counts.reused > 0
    assert np.abs(again - whole).max() < CLOSE


def test_tokens_that_are_not_cached_cannot_be_continued(tiny_bundle: Path) -> None:
    with load(tiny_bundle, threads=1) as model:
        logits(model, SHORT)
        model.engine.clear()
        with pytest.raises(EngineError, match=r"the cache has 0 tokens, and \d+ are to be continued"):
            logits(model, SHORT)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference checkpoint with W8A8 for prompts and for its vision tower, and int4 for answers."""
    out = tmp_path_factory.mktemp("hybrid") / "b"
    export(export_plan(tiny.REFERENCE, out, target="openvino", precision="hybrid", samples=2, max_pixels=50176))
    return out


def test_both_graphs_of_a_hybrid_continue_one_cache(hybrid: Path) -> None:
    with load(hybrid, threads=1) as model:
        assert len(model.engine.llm.requests) == 2
        answer = model.generate(MESSAGES, max_new_tokens=8)
        assert model.generate(MESSAGES, max_new_tokens=8) == answer
        model.clear()
        assert model.generate(MESSAGES, max_new_tokens=8) == answer


def test_quantized_weights_are_multiplied_as_they_are_stored(hybrid: Path) -> None:
    """By what the plugin executes: all 4-bit codes, all W8A8 linears of prompts, and most of those of the tower."""
    graphs = read_manifest(hybrid).graphs
    with load(hybrid, threads=1) as model:
        requests = (model.engine.vision.request, *model.engine.llm.requests)
        vision, prompts, answers = (Counter(products(request)) for request in requests)
    formats = {name: Counter(format.split()[0] for format in graph.linears.values()) for name, graph in graphs.items()}
    assert answers["i4"] == formats["llm_decode"]["int4"] > 0
    assert answers.keys() == {"i4", "i8"}
    assert prompts["i8"] >= formats["llm"]["int8"] > 0
    assert prompts.keys() == {"i8"}
    assert vision["i8"] > formats["vision"]["int8"] / 2


def test_a_second_load_computes_the_same(tiny_bundle: Path, user_cache: Path) -> None:
    """After single tokens and a shorter prefix too, where graphs from OpenVINO's own cache fail: it stays off."""
    found = []
    for _ in range(2):
        with load(tiny_bundle, threads=1) as model:
            found.append(logits(model, LONG))
            for position in (60, 61):
                model.decoder.step(5, position)
            found += [logits(model, LONG), fresh(model, LONG)]
    assert min(cosine(found[0], other) for other in found[1:]) > MIN_COSINE["fp16"]
    assert not user_cache.exists()


def test_bundles_of_equal_shapes_keep_their_own_weights(tiny_bundle: Path, tmp_path: Path) -> None:
    """OpenVINO's own cache takes a compiled graph for that of another one whose weights alone differ."""
    checkpoint = tiny.save(tiny.build(FAMILY, SHAPES["small"], seed=1), tmp_path / "checkpoint")
    other, page = tmp_path / "other", np.ones((1, 16, read_manifest(tiny_bundle).image.patch_dim), np.float32)
    export(ExportPlan(checkpoint, other, target="openvino", precision="fp16"))
    features = []
    for path in (tiny_bundle, other):
        with load(path, threads=1) as model:
            features.append(model.engine.encode(page, Grid(1, 4, 4)))
    assert np.abs(features[0] - features[1]).max() > 0.1


@pytest.mark.parametrize(
    ("device", "problem"),
    [
        ("NPU", "an NPU needs graphs of fixed shapes, which bundles do not have (one of CPU, GPU, AUTO)"),
        ("TPU", "OpenVINO finds no device 'TPU' here (one of CPU, AUTO)"),
        ("", "no device is named (one of CPU, AUTO)"),
        ("HETERO:CPU", "'HETERO:CPU' is a list of devices, and graphs are compiled for one (one of CPU, AUTO)"),
        ("auto:cpu", "'AUTO:CPU' is a list of devices, and graphs are compiled for one (one of CPU, AUTO)"),
    ],
)
def test_a_device_that_cannot_run_it(
    tiny_bundle: Path, device: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(tiny_bundle), "Hello", "--device", device]) == 2
    assert capsys.readouterr().err == f"error: {problem}\n"


def test_auto_finds_a_device(tiny_bundle: Path) -> None:
    answers = []
    for device in (None, "AUTO"):
        with load(tiny_bundle, threads=1, device=device) as model:
            answers.append(model.generate(MESSAGES, max_new_tokens=4))
    assert answers[0] == answers[1]


SIGNALED = """
import gc, signal, sys
from qvl_runtime import load
older, newer = load(sys.argv[1], threads=1), load(sys.argv[1], threads=1)
for model in (older, newer):
    model.close()
del older, newer, model
gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("alive"))
signal.raise_signal(signal.SIGINT)
"""


def test_signals_are_handled_after_models_were_closed(tiny_bundle: Path) -> None:
    """In the order in which they were loaded, which left the thread without its stack for signals."""
    found = subprocess.run([sys.executable, "-c", SIGNALED, str(tiny_bundle)], capture_output=True, text=True)
    assert (found.stdout, found.returncode) == ("alive\n", 0)


@pytest.mark.slow
@pytest.mark.parametrize("family", [FAMILY, RECURRENT])
def test_a_gpu_answers_as_the_cpu(bundle: Bundles, family: str) -> None:
    if not any(name.startswith("GPU") for name in core().available_devices):
        pytest.skip("NO INTEL GPU HERE: bundles of target openvino were never run on one; see docs/deploying.md")
    path, found = bundle(family, "small", "fp16", "openvino"), []
    for device in DEVICES[:2]:
        with load(path, device=device) as model:
            found.append(logits(model, LONG))
    assert cosine(*found) > MIN_COSINE["fp16"]


def test_other_targets_have_no_choice_of_a_device(bundle: Bundles) -> None:
    with pytest.raises(PromptError, match="target cpu has no choice of a device"):
        load(bundle(FAMILY, "small", "fp16"), device="CPU")


def zeroed(content: bytes) -> bytes:
    """The same with 400 bytes in the middle zeroed."""
    middle = len(content) // 2
    return content[:middle] + bytes(400) + content[middle + 400 :]


@pytest.mark.parametrize(
    ("name", "damage", "problem"),
    [
        (
            "llm.onnx",
            lambda content: bytes(len(content)),
            "llm.onnx: is damaged, or not an ONNX model (copy or export it again)",
        ),
        (
            "llm.onnx",
            lambda content: content[: len(content) // 2],
            "llm.onnx: is damaged, or not an ONNX model (copy or ",
        ),
        (
            "vision.onnx",
            lambda _: b"<!DOCTYPE html>\n<html>Not found</html>\n",
            "vision.onnx: is damaged, or not an ONNX model",
        ),
        ("llm.onnx", zeroed, "llm.onnx: OpenVINO rejects it: Model can't be parsed (check the bundle with "),
        ("llm.onnx.data", lambda content: content[:-4096], "llm.onnx.data: does not hold all weights of llm.onnx ("),
        (
            "vision.onnx",
            lambda content: content.replace(b"Attention", b"Attantion"),
            "vision.onnx: OpenVINO rejects it: No conversion rule found for operations: Attantion-24",
        ),
    ],
    ids=["zeros", "half", "html", "zeros inside", "weights", "operator"],
)
def test_a_damaged_file(
    tiny_bundle: Path,
    tmp_path: Path,
    name: str,
    damage: Callable[[bytes], bytes],
    problem: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One line says which file, and why; OpenVINO prints nothing of its own."""
    for path in tiny_bundle.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(damage(content) if path.name == name else content)
    with pytest.raises(BundleError) as caught:
        openvino.open(tmp_path, read_manifest(tiny_bundle), 1)
    assert str(caught.value).startswith(f"{tmp_path}/{problem}")
    assert capfd.readouterr() == ("", "")


def test_a_graph_of_another_bundle(bundle: Bundles, tmp_path: Path) -> None:
    one, other = bundle(FAMILY, "small", "fp16", "openvino"), bundle("qwen3_vl", "small", "fp16", "openvino")
    for path in (other / "vision.onnx", other / "vision.onnx.data", one / MANIFEST):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(BundleError, match=r"vision.onnx: inputs and outputs differ from the manifest"):
        openvino.open(tmp_path, read_manifest(one), 1)


def test_a_closed_model(tiny_bundle: Path) -> None:
    model = load(tiny_bundle, threads=1)
    model.close()
    with pytest.raises(EngineError, match="the model is closed"):
        logits(model, SHORT)


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (None, "OpenVINO is not installed"),
        (SimpleNamespace(__version__="2025.4.1-20426-abc"), "OpenVINO 2025.4.1-20426-abc is too old: 2026.2 is needed"),
    ],
)
def test_a_library_that_is_missing_or_old(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, module: Any, problem: str
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", module)
    with pytest.raises(InstallError, match=problem):
        openvino.open(tiny_bundle, read_manifest(tiny_bundle), 1)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (
            "raise ImportError('libopenvino.so.2620: cannot open shared object file')",
            "OpenVINO cannot be loaded: libopenvino.so.2620: cannot open shared object file (install it again)",
        ),
        ("import no_such_part", "OpenVINO needs no_such_part, which is missing (pip install "),
    ],
)
def test_a_broken_library_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, problem: str
) -> None:
    (tmp_path / "openvino.py").write_text(code)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InstallError) as caught:
        library()
    assert str(caught.value).startswith(problem)


def test_a_library_that_was_built_here_has_a_version_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    own = SimpleNamespace(__version__="custom_master_0123456789a")
    monkeypatch.setitem(sys.modules, "openvino", own)
    assert library() is own


HEAD = "Exception from src/core.cpp:84:\nCheck 'false' failed at src/report.cpp:151:\n"
RULE = "No conversion rule found for operations: TensorScatter-24"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (f"FrontEnd API failed:\nSummary:\n-- {RULE}\n\n", RULE),
        (
            f"Failed:\n-- Add-14 with a message:\nbad rank\n\nSummary:\n-- {RULE}\n-- Failed for: Add-14\n",
            f"{RULE}; Failed for: Add-14",
        ),
        ("FrontEnd API failed with GeneralFailure:\nModel can't be parsed\n\n\n", "Model can't be parsed"),
        ("", "RuntimeError"),
    ],
    ids=["summary", "details and summary", "last line", "nothing"],
)
def test_an_error_says_why_and_not_where(said: str, why: str) -> None:
    with pytest.raises(EngineError) as caught, raising_engine_errors():
        raise RuntimeError(HEAD + said)
    assert str(caught.value) == f"OpenVINO failed: {why}"


def test_its_cache_is_concatenated(tiny_bundle: Path) -> None:
    assert read_manifest(tiny_bundle).cache_form == "concat"
