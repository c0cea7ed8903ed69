"""Engine files built for real by TensorRT-RTX, which needs no GPU for it; what cannot be built is said in one line."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvl_export import ExportError, ExportPlan, export
from qvl_export.checkpoint.directory import Checkpoint
from qvl_export.checkpoint.quantized.detect import quantized_linears
from qvl_export.cli import main as cli
from qvl_export.common.progress import NullProgress
from qvl_export.engines import BuildOptions, building, capabilities, check
from qvl_export.engines.profiles import profiles
from qvl_export.evaluate.trace.expose_graph import expose
from qvl_export.qtensor import QuantFormat
from qvl_export.targets.tensorrt_rtx import _configure
from qvl_runtime.bundle import read_manifest
from qvl_runtime.errors import BundleError, EngineError, InstallError, QvlError
from qvl_runtime.model import load
from qvl_runtime.sessions._tensorrt.cuda_driver import Cuda
from tests.oracles.tiny import ATTENTION, FREE_SIZES
from tests.plans import changed, export_plan
from tests.quant.test_gptq_checkpoint import EXAMPLES

Checkpoints = Callable[[str, str], Path]
CAPABILITIES = "8.6,120"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calib") / "page.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (112, 168, 3), np.uint8)).save(path)
    return path


def plan(checkpoint: Path, out: Path, page: Path, precision: str = "fp16") -> ExportPlan:
    calib = () if precision.startswith("fp") else page
    return export_plan(
        checkpoint,
        out,
        target="tensorrt-rtx",
        precision=precision,
        max_pixels=512 * 512,
        max_length=1024,
        calib=calib,
        compute_capability=CAPABILITIES,
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ATTENTION)
@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_engines_of_every_family_and_precision(
    checkpoint: Checkpoints, page: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], family: str, precision: str
) -> None:
    asked = plan(checkpoint(family, "small"), tmp_path / "out", page, precision)
    export(asked if family in FREE_SIZES else changed(asked, max_pixels=None))
    manifest = read_manifest(tmp_path / "out")
    assert manifest.target == "tensorrt_rtx"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "bundle.json",
        "tokenizer.json",
        "chat_template.jinja",
        "vision.engine",
        "llm.engine",
    }
    for name, graph in manifest.graphs.items():
        assert graph.engine and graph.model == graph.engine.file == f"{name}.engine" and graph.data is None
        assert graph.engine.compute_capabilities == [86, 120]
        assert manifest.files[graph.model].size > 1_000_000  # kernels for the GPUs named, beside the tiny weights
    said = capfd.readouterr()
    assert "CUDA" not in said.out + said.err and "Error" not in said.out + said.err
    with pytest.raises((EngineError, InstallError)):
        Cuda()  # the engines above were built without a GPU
    with pytest.raises((EngineError, InstallError), match=r"no CUDA GPU was found|cuda-python is not installed"):
        load(tmp_path / "out")


@pytest.mark.slow
def test_the_engines_of_videos(checkpoint: Checkpoints, page: Path, tmp_path: Path) -> None:
    export(changed(plan(checkpoint("qwen2_5_vl", "small"), tmp_path / "out", page), profile="video"))
    engine = read_manifest(tmp_path / "out").graphs["vision"].engine
    assert engine and [profile.name for profile in engine.profiles] == ["page", "video-768", "video-384", "video-192"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute_capability": "86,87"}, r"does not build for compute capability 87 \(it does for 75, 80, 86"),
        ({"compute_capability": "Ada"}, "'Ada' are not numbers"),
        ({"precision": "int4", "compute_capability": "75"}, r"int4 weights need compute capability 80 .*not 75"),
        ({"precision": "fp32"}, "no attention in fp32"),
        ({"profile": "books"}, "profile 'books' is not known"),
        ({"target": "cpu"}, "target 'cpu' builds no engines"),
        ({"target": "tensorrt"}, "builds for the GPU it runs on"),
        (
            {"vision_precision": "int4", "calib": "page"},
            r"linears of \d+ columns are not made of whole blocks of 64 \(another --block-size",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(
    checkpoint: Checkpoints, page: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    source = checkpoint("qwen2_5_vl", "small")
    asked = changed(plan(source, tmp_path / "out", page), **changes)
    if asked.calibration.calib:
        asked = changed(asked, calib=page, block_size=64)
    with pytest.raises(ExportError, match=message) as caught:
        export(asked)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_symmetric_gptq_checkpoints_are_built(example: Path, page: Path, tmp_path: Path) -> None:
    asked = plan(example, tmp_path / "out", page)
    if any(linear.format().asymmetric for linear in quantized_linears(Checkpoint(example)).values()):
        with pytest.raises(
            ExportError, match=r"not symmetric int4, the only form that TensorRT-RTX supports \(export the"
        ):
            export(asked)
        return
    assert "int4 in blocks of" in export(asked).graphs["llm"].precision
    with pytest.raises(ExportError, match="int4 weights need compute capability 80"):
        export(changed(asked, out=tmp_path / "old", compute_capability="75"))


@pytest.mark.parametrize("format", [QuantFormat(4, 32, asymmetric=True), QuantFormat(8, 32)])
def test_other_forms_of_stored_weights_are_refused(format: QuantFormat) -> None:
    with pytest.raises(ExportError, match="not symmetric int4"):
        check(BuildOptions(stored=frozenset({QuantFormat(4, 32), format})), "TensorRT")
    check(BuildOptions(stored=frozenset({QuantFormat(4, 32)})), "TensorRT")


@pytest.mark.slow
def test_engines_show_nothing_of_their_inside(checkpoint: Checkpoints, page: Path, tmp_path: Path) -> None:
    export(plan(checkpoint("qwen2_vl", "small"), tmp_path / "out", page))
    with pytest.raises(BundleError, match=r"contains engines.*export with --target portable"):
        expose(tmp_path / "out", None, tmp_path)


def test_a_missing_library_is_named(
    checkpoint: Checkpoints, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(ExportError, match=r"not installed .pip install .tensorrt-rtx.*qvl-export\[tensorrt-rtx\]\)"):
        export(plan(checkpoint("qwen2_vl", "small"), tmp_path / "out", page))


def test_what_the_parser_says_is_reported(
    checkpoint: Checkpoints, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that the library refuses: one line with its message, and no bundle."""
    from qvl_export.targets import portable

    monkeypatch.setattr(portable.PortableTarget, "rotary", lambda self, op, x, *_: op.Unheard(x))
    with pytest.raises(QvlError, match=r"vision\.onnx: TensorRT-RTX refuses the graph: .*Unheard"):
        export(plan(checkpoint("qwen2_vl", "small"), tmp_path / "out", page))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_an_error_and_no_crash(checkpoint: Checkpoints, tmp_path: Path) -> None:
    """What a callback raises inside the library would end the process."""
    import tensorrt_rtx

    limits = {"max_pixels": 100_000, "max_length": 512}
    export(export_plan(checkpoint("qwen2_vl", "small"), tmp_path / "out", target="portable", **limits))
    manifest = read_manifest(tmp_path / "out")
    entry, model = manifest.graphs["vision"], tmp_path / "out" / "vision.onnx"
    with pytest.raises(OSError, match="No space left"):
        building.build(
            model,
            Path("/dev/full"),
            entry,
            profiles("vision", manifest, "pages"),
            building.Library(tensorrt_rtx, "TensorRT-RTX", (86,), partial(_configure, tensorrt_rtx, (86,))),
            NullProgress(),
        )


def test_a_build_can_be_interrupted(checkpoint: Checkpoints, page: Path, tmp_path: Path) -> None:
    """An exception in a callback would be lost in the library: the callback returns that the build must end."""

    class Interrupting(NullProgress):
        building, updates = False, 0

        def stage(self, text: str, total: int = 0) -> None:
            self.building = text.startswith("building vision.engine")

        def advance(self, count: int) -> None:
            if self.building:
                self.updates += 1
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)  # as a build is long

    progress = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        export(plan(checkpoint("qwen2_vl", "small"), tmp_path / "out", page), progress)
    assert progress.updates == 1 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_line_takes_both_spellings(
    checkpoint: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for target in ("tensorrt-rtx", "tensorrt_rtx"):
        arguments = [str(checkpoint("qwen2_vl", "small")), str(tmp_path / target), "--target", target, "--force"]
        limits = ["--compute-capability", "89", "--max-pixels", "100000", "--max-length", "512", "--profile", "pages"]
        monkeypatch.setattr(sys, "argv", ["qvl-export", "export", *arguments, *limits])
        cli.main()
        printed = capsys.readouterr().out
        assert "for compute capability 8.9" in printed and "profile page" in printed


def test_spellings_of_compute_capabilities() -> None:
    assert capabilities("8.6, 89,12.0,86") == (86, 89, 120) and capabilities(None) == ()
