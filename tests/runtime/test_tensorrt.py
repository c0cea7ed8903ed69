"""The TensorRT sessions up to the last call: a fake library computes the same graphs on a fake GPU's memory.

Real engines run only in the tests marked `gpu`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qvl_export import ExportError, ExportPlan, export
from qvl_runtime.bundle import read_manifest
from qvl_runtime.errors import BundleError, EngineError, InstallError, PromptError
from qvl_runtime.model import Model, load
from qvl_runtime.positions import Grid
from qvl_runtime.sessions._tensorrt import cuda_driver as cudas
from qvl_runtime.sessions._tensorrt.cuda_driver import Cuda
from qvl_runtime.sessions.tensorrt_rtx import KernelCache
from tests.exporter.test_parity import assert_close
from tests.oracles.fake_cuda import FakeCuda
from tests.oracles.fake_tensorrt import ExecutionContext, library
from tests.oracles.tiny import ATTENTION
from tests.plans import changed

Checkpoints = Callable[[str, str], Path]
TARGETS = ("tensorrt", "tensorrt_rtx")
VERSIONS = {"tensorrt": "10.15.1", "tensorrt_rtx": "1.7.1"}
TRTEXEC = """#!{python}
import sys
import onnx
from tests.oracles import fake_tensorrt
options = [word.lstrip("-").partition("=") for word in sys.argv[1:]]
version, old = {version}, {version} < 100000
if options[0][0] == "help":
    print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{{version}}] [b1] # trtexec --help")
    sys.exit(print("--skipInference" if old else "--stronglyTyped --decomposableAttentions=spec") or 0)
named = {{name: value for name, _, value in options}}
assert "skipInference" in named and ("stronglyTyped" in named) != old and ("fp16" in named) == old
assert old or named["decomposableAttentions"] == "*"
assert named["memPoolSize"] == "workspace:2048"
profiles = [] if "profile" in named else [{{}}]
for name, _, value in options:
    if name == "profile":
        assert not old
        assert int(value) == len(profiles)
        profiles.append({{}})
    elif name.endswith("Shapes"):
        for word in value.split(","):
            tensor, _, shape = word.partition(":")
            profiles[-1].setdefault(tensor, []).append(tuple(map(int, shape.split("x"))))
open(named["saveEngine"], "wb").write(fake_tensorrt.serialize(onnx.load(named["onnx"]), profiles))
"""


@dataclass(frozen=True)
class Gpu:
    """The installed fakes, and the directory of exports."""

    cuda: FakeCuda
    monkeypatch: pytest.MonkeyPatch
    work: Path

    def install(self, versions: dict[str, str]) -> None:
        for name, version in versions.items():
            self.monkeypatch.setitem(sys.modules, name, library(self.cuda, version))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gpu:
    """Both libraries and an Ampere GPU."""
    cuda = FakeCuda(86)
    monkeypatch.setattr(cudas, "runtime", lambda: cuda)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = Gpu(cuda, monkeypatch, tmp_path)
    found.install(VERSIONS)
    return found


def make(source: Path, out: Path, target: str, **changes: Any) -> Path:
    pixels = None if "qwen-" in source.name else 512 * 512  # Qwen-VL's images have one size
    plan = ExportPlan(source, out, target=target, max_pixels=pixels, max_length=1024)
    export(changed(plan, **changes))
    return out


def pages(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    sizes = ((84, 84), (196, 112), (56, 280))
    images = [Image.fromarray(rng.integers(0, 256, (*sizes[i], 3), np.uint8)) for i in range(count)]
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "Read the text."}]}]


def answers(model: Model) -> tuple[str, str, np.ndarray, np.ndarray]:
    """Two prompts that share a prefix, teacher-forced logits of more tokens than one call gives, and features."""
    first = model.generate(pages(2), max_new_tokens=12)
    model.clear()
    second = model.generate(pages(3), max_new_tokens=12)
    forced = model.logits(pages(1), "0123456789" * 9)
    return first, second, forced, model.encode(pages(1)[0]["content"][0]["image"])


@pytest.mark.slow
@pytest.mark.parametrize("family", ATTENTION)
@pytest.mark.parametrize("target", TARGETS)
def test_answers_are_those_of_the_portable_bundle(checkpoint: Checkpoints, gpu: Gpu, family: str, target: str) -> None:
    """The same graphs, once with arrays in ONNX Runtime and once by buffers, profiles and a cache of fixed size."""
    source = checkpoint(family, "small")
    expected = answers(load(make(source, gpu.work / "portable", "portable"), threads=1))
    with load(make(source, gpu.work / "engines", target)) as model:
        found = answers(model)
    assert found[:2] == expected[:2]
    for ours, theirs in zip(found[2:], expected[2:], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert not gpu.cuda.buffers and not gpu.cuda.streams  # all that was allocated is freed


def test_answers_are_replayed_as_cuda_graphs(checkpoint: Checkpoints, gpu: Gpu) -> None:
    """The first token runs, the second is recorded, and clearing the cache, whose buffers move, starts afresh."""
    with load(make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt")) as model:
        first = model.stream(pages(1), max_new_tokens=8, ignore_eos=True)
        text = "".join(first)
        assert gpu.cuda.launched == 6  # of 7 steps
        model.clear()
        again = model.stream(pages(1), max_new_tokens=8, ignore_eos=True)
        assert "".join(again) == text and again.run.tokens == first.run.tokens


def test_a_step_that_fails_while_it_is_recorded_does_not_spoil_the_next(checkpoint: Checkpoints, gpu: Gpu) -> None:
    out = make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt")
    execute = ExecutionContext.execute_async_v3

    def failing(context: ExecutionContext, stream: int) -> bool:
        return gpu.cuda.captured is None and execute(context, stream)

    def read(model: Model) -> str:
        return "".join(model.stream(pages(1), max_new_tokens=8, ignore_eos=True))

    with load(out) as model:
        expected = read(model)
    with load(out) as model:
        with gpu.monkeypatch.context() as patch:
            patch.setattr(ExecutionContext, "execute_async_v3", failing)
            with pytest.raises(EngineError, match="failed to run"):
                read(model)
        assert gpu.cuda.captured is None and not gpu.cuda.graphs
        model.clear()
        assert read(model) == expected


def test_kernels_that_cannot_be_kept_do_not_keep_memory(checkpoint: Checkpoints, gpu: Gpu) -> None:
    model = load(make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt_rtx"))
    model.generate(pages(1), max_new_tokens=2)

    def broken(_: object) -> None:
        raise RuntimeError("serialize")

    gpu.monkeypatch.setattr(KernelCache, "save", broken)
    with pytest.raises(RuntimeError, match="serialize"):
        model.close()
    assert not gpu.cuda.buffers and not gpu.cuda.streams


def test_a_video_takes_the_profile_of_videos(checkpoint: Checkpoints, gpu: Gpu) -> None:
    frames = [np.random.default_rng(i).integers(0, 256, (84, 112, 3), np.uint8) for i in range(6)]
    parts = [{"type": "video", "video": frames, "fps": 2.0}, {"type": "text", "text": "Read the text."}]
    messages, source = [{"role": "user", "content": parts}], checkpoint("qwen2_5_vl", "small")
    expected = load(make(source, gpu.work / "portable", "portable"), threads=1).generate(messages, max_new_tokens=8)
    with load(make(source, gpu.work / "video", "tensorrt", profile="video")) as model:
        assert model.generate(messages, max_new_tokens=8) == expected
    with (
        load(make(source, gpu.work / "pages", "tensorrt")) as model,
        pytest.raises(
            PromptError, match=r"vision\.engine: 3 temporal patches per video; it was built for 1 \(.*--profile video"
        ),
    ):
        model.generate(messages, max_new_tokens=8)


@pytest.mark.slow
def test_a_hybrid_has_one_cache_for_both_engines(checkpoint: Checkpoints, gpu: Gpu) -> None:
    page = gpu.work / "page.png"
    pages(1)[0]["content"][0]["image"].save(page)
    source, hybrid = checkpoint("qwen2_vl", "small"), {"precision": "hybrid", "calib": page}
    expected = load(make(source, gpu.work / "portable", "portable", **hybrid), threads=1).generate(pages(1))
    with load(make(source, gpu.work / "out", "tensorrt", **hybrid)) as model:
        assert set(model.manifest.graphs) == {"vision", "llm", "llm_decode"}
        assert model.generate(pages(1)) == expected


def test_several_tokens_of_an_answer_run_in_one_call(checkpoint: Checkpoints, gpu: Gpu) -> None:
    options = {"json_schema": {"enum": ["paid in full"]}, "max_new_tokens": 40}
    with load(make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt")) as model:
        alone = [model.generate(pages(1), 40, lookup=False), model.generate(pages(1), lookup=False, **options)]
        assert [model.generate(pages(1), 40, lookup=True), model.generate(pages(1), lookup=True, **options)] == alone


def test_a_page_beyond_the_profile_is_refused_in_one_line(checkpoint: Checkpoints, gpu: Gpu) -> None:
    """As when a manifest's pixel bound is larger than what the engine was built for."""
    with load(make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt_rtx")) as model:
        patches = np.zeros((1, 60 * 60, model.manifest.image.patch_dim), np.float32)
        with pytest.raises(
            PromptError, match=r"vision\.engine: 3,600 patches per page; it was built for 16 to 1,336 \(resize it"
        ) as caught:
            model.engine.encode(patches, Grid(1, 60, 60))
        assert "\n" not in str(caught.value) and "--max-pixels" in str(caught.value)


def test_a_gpu_that_is_too_small_or_not_meant_or_missing(checkpoint: Checkpoints, gpu: Gpu) -> None:
    out = make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt_rtx", compute_capability="86,120")
    gpu.cuda.memory = 200_000
    model = load(out)
    for _ in range(2):
        with pytest.raises(EngineError, match=r"not enough GPU memory \(use smaller pages"):
            model.generate(pages(1))
    gpu.cuda.memory = 1 << 30
    assert model.generate(pages(1), max_new_tokens=2)
    model.close()
    gpu.cuda.memory, gpu.cuda.capability = 1 << 30, 75
    with pytest.raises(BundleError, match=r"built for compute capability 86, 120; this GPU has 75 \(export with"):
        load(out)
    gpu.cuda.memory = 0
    with pytest.raises(EngineError, match=r"no CUDA GPU was found: .*cudaErrorNoDevice \(install the NVIDIA driver"):
        load(out)


@pytest.mark.parametrize(
    ("target", "fix"), [("tensorrt", "qvl-runtime[tensorrt]"), ("tensorrt_rtx", "qvl-runtime[tensorrt-rtx]")]
)
def test_missing_packages_are_named(checkpoint: Checkpoints, gpu: Gpu, target: str, fix: str) -> None:
    out = make(checkpoint("qwen2_vl", "small"), gpu.work / "out", target)
    gpu.monkeypatch.setitem(sys.modules, target, None)
    with pytest.raises(InstallError) as caught:
        load(out)
    assert fix in str(caught.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"jetpack": "6"}, "the TensorRT of JetPack 6"), ({"tensorrt_version": "10.3"}, "TensorRT 10.3 or later")],
)
def test_a_bundle_for_an_older_release_names_it(
    checkpoint: Checkpoints, gpu: Gpu, options: dict[str, str], named: str
) -> None:
    gpu.monkeypatch.setitem(sys.modules, "tensorrt", None)
    out = make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt", **options)
    with pytest.raises(BundleError, match=rf"not built yet \(run build_engines\.sh of .*, with {named}\)"):
        load(out)
    for name in ("vision.engine", "llm.engine"):
        (out / name).write_bytes(b"built")
    with pytest.raises(InstallError) as caught:
        load(out)
    assert f"(install the release that built the engines: {named}; and pip install" in str(caught.value)
    assert "10.15" not in str(caught.value)


def test_an_engine_of_another_version_is_refused(checkpoint: Checkpoints, gpu: Gpu) -> None:
    out = make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt_rtx")
    engine = out / "vision.engine"
    engine.write_bytes(b"x" * engine.stat().st_size)
    with pytest.raises(BundleError, match=r"TensorRT-RTX 1\.7\.1 rejects the engine, .* built: magic tag"):
        load(out)
    assert not gpu.cuda.streams


@pytest.mark.parametrize(
    ("bounds", "says"),
    [({"min": 0, "opt": 0, "max": 0}, r"max"), ({"min": 9, "opt": 4, "max": 16}, "9 ≤ 4 ≤ 16 does not hold")],
    ids=["no tokens", "out of order"],
)
def test_profiles_that_no_call_fits_are_refused(
    checkpoint: Checkpoints, gpu: Gpu, bounds: dict[str, int], says: str
) -> None:
    out = make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt_rtx")
    manifest = json.loads((out / "bundle.json").read_bytes())
    manifest["graphs"]["llm"]["engine"]["profiles"][0]["axes"]["sequence"] = bounds
    (out / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=says):
        load(out)


def test_a_closed_model_says_so(checkpoint: Checkpoints, gpu: Gpu) -> None:
    model = load(make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt"))
    model.close()
    model.close()
    with pytest.raises(EngineError, match="the model is closed"):
        model.generate(pages(1))


def test_compiled_kernels_are_kept_for_the_next_start(checkpoint: Checkpoints, gpu: Gpu) -> None:
    out = make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt_rtx")
    for start in (1, 2):
        with load(out) as model:
            model.generate(pages(1), max_new_tokens=2)
        kept = sorted((gpu.work / "cache" / "qvl-runtime").rglob("*.engine"))
        assert [(file.name, file.read_bytes()) for file in kept] == [
            ("llm.engine", b"kernel" * start),
            ("vision.engine", b"kernel" * start),
        ]


@pytest.mark.parametrize("version", ["10.15.1", "11.1.0"])
def test_the_builder_on_a_machine_with_a_gpu(checkpoint: Checkpoints, gpu: Gpu, version: str) -> None:
    """Strongly typed by a flag before version 11; timings are cached for the next build."""
    gpu.install({"tensorrt": version})
    flags = []
    fake: Any = sys.modules["tensorrt"]
    builder = fake.Builder

    class Watched(builder):
        def create_network(self, given: int) -> SimpleNamespace:
            flags.append(given)
            return super().create_network(given)

    fake.Builder = Watched
    manifest = read_manifest(make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt"))
    engine = manifest.graphs["llm"].engine
    assert engine and (engine.builder, engine.compute_capabilities) == (f"TensorRT {version}", [86])
    assert flags == [2 if version.startswith("10.") else 0] * 2
    (kept,) = (gpu.work / "cache" / "qvl-export").iterdir()
    assert (kept.name, kept.read_bytes()) == (f"tensorrt-{version}-sm86.timing", b"measured" * 2)


def test_an_old_tensorrt_is_refused(checkpoint: Checkpoints, gpu: Gpu) -> None:
    gpu.install({"tensorrt": "10.3.0"})
    with pytest.raises(ExportError, match=r"TensorRT 10\.3\.0 is too old \(install 10\.15 or later, or name"):
        make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "version", "number"),
    [
        ({}, "10.15.1", 101501),
        ({"tensorrt_version": "10.3"}, "10.3.0", 100300),
        ({"jetpack": "7"}, "10.13.3", 101303),
        ({"jetpack": "6"}, "8.6.2", 8602),
        ({"jetpack": "6"}, "10.3.0", 100300),
    ],
    ids=lambda value: str(value),
)
def test_the_device_builds_its_own_engines(
    checkpoint: Checkpoints, gpu: Gpu, options: dict[str, str], version: str, number: int
) -> None:
    """Exported without TensorRT; `build_engines.sh` and a fake trtexec then build the engines for the session."""
    source = checkpoint("qwen2_5_vl", "small")
    expected = load(make(source, gpu.work / "portable", "portable"), threads=1).generate(pages(2), max_new_tokens=8)
    gpu.monkeypatch.setitem(sys.modules, "tensorrt", None)
    out = make(source, gpu.work / "out", "tensorrt", profile="video", **options)
    gpu.install({"tensorrt": version})
    entry = read_manifest(out).graphs["llm"]
    assert entry.model == "llm.onnx" and entry.engine and entry.engine.builder is None
    with pytest.raises(BundleError, match=r"vision\.engine: is not built yet \(run build_engines\.sh"):
        load(out)
    assert run_script(out, gpu, number).returncode == 0
    with load(out) as model:
        assert model.generate(pages(2), max_new_tokens=8) == expected


@pytest.mark.slow
@pytest.mark.parametrize("family", ATTENTION)
@pytest.mark.parametrize(("release", "number"), [("8.6", 8602), ("10.3", 100300), ("10.13", 101300)])
def test_graphs_of_older_releases_compute_the_same(
    checkpoint: Checkpoints, gpu: Gpu, family: str, release: str, number: int
) -> None:
    source = checkpoint(family, "small")
    with load(make(source, gpu.work / "portable", "portable"), threads=1) as model:
        expected = model.logits(pages(1), "0123456789" * 3)
    out = make(source, gpu.work / "out", "tensorrt", tensorrt_version=release)
    assert run_script(out, gpu, number).returncode == 0
    gpu.install({"tensorrt": f"{release}.0"})
    with load(out) as model:
        assert_close(model.logits(pages(1), "0123456789" * 3), expected, "fp16")


def run_script(out: Path, gpu: Gpu, number: int) -> subprocess.CompletedProcess[str]:
    """Runs a bundle's `build_engines.sh` with a fake trtexec that shows the version `number`."""
    trtexec = gpu.work / "trtexec"
    trtexec.write_text(TRTEXEC.format(python=sys.executable, version=number))
    trtexec.chmod(0o755)
    here = {**os.environ, "TRTEXEC": str(trtexec), "PYTHONPATH": os.pathsep.join([*sys.path, os.getcwd()])}
    script = ["sh", out / "build_engines.sh"]
    return subprocess.run(script, env=here, capture_output=True, text=True, cwd="/", timeout=300)


def test_an_older_trtexec_is_refused(checkpoint: Checkpoints, gpu: Gpu) -> None:
    gpu.monkeypatch.setitem(sys.modules, "tensorrt", None)
    out = make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt", tensorrt_version="10.13")
    done = run_script(out, gpu, 100300)
    assert done.returncode == 2 and not (out / "vision.engine").exists()
    assert done.stderr == (
        f"error: {gpu.work}/trtexec is of TensorRT v100300, the graphs need 10.13 "
        "(export with --tensorrt-version 10.3)\n"
    )
    assert run_script(out, gpu, 8503).stderr.endswith(" the graphs need 10.13\n")


def test_the_script_finds_a_relative_trtexec_and_leaves_nothing_of_a_failed_build(
    checkpoint: Checkpoints, gpu: Gpu
) -> None:
    gpu.monkeypatch.setitem(sys.modules, "tensorrt", None)
    out = make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt")
    tools = gpu.work / "tools"
    tools.mkdir()
    (tools / "trtexec").write_text(
        "#!/bin/sh\n[ $1 = --help ] && exit\n"
        'for word; do case $word in --saveEngine=*) file=${word#*=} ;; esac; done\necho engine > "$file"\n'
        "[ $file = vision.engine.partial ]\n"
    )
    (tools / "trtexec").chmod(0o755)
    done = subprocess.run(
        ["sh", "out/build_engines.sh"], env={**os.environ, "TRTEXEC": "tools/trtexec"}, cwd=gpu.work, timeout=60
    )
    assert done.returncode == 1
    assert [path.name for path in out.glob("*.engine*")] == ["vision.engine"]


def test_the_script_without_trtexec(checkpoint: Checkpoints, gpu: Gpu) -> None:
    gpu.monkeypatch.setitem(sys.modules, "tensorrt", None)
    out = make(checkpoint("qwen2_vl", "small"), gpu.work / "out", "tensorrt")
    here = {**os.environ, "TRTEXEC": str(gpu.work / "nothing")}
    done = subprocess.run(["sh", out / "build_engines.sh"], env=here, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "install TensorRT" in done.stderr and done.stderr.count("\n") == 1


def has_gpu() -> bool:
    try:
        Cuda().close()
    except (EngineError, InstallError):
        return False
    return True


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="NO GPU HERE: engines are built but never run; see docs/deploying.md")
@pytest.mark.parametrize("target", TARGETS)
def test_real_engines_answer_as_the_portable_bundle(checkpoint: Checkpoints, tmp_path: Path, target: str) -> None:
    pytest.importorskip(target)
    source = checkpoint("qwen2_5_vl", "small")
    expected = answers(load(make(source, tmp_path / "portable", "portable")))
    capability = {"compute_capability": str(Cuda().compute_capability)} if target == "tensorrt_rtx" else {}
    with load(make(source, tmp_path / "out", target, **capability)) as model:
        found = answers(model)
    assert found[:2] == expected[:2]
    for ours, theirs in zip(found[2:], expected[2:], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.05)
