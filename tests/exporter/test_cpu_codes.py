"""`export --cpu`: what a bundle records, what it needs on which processor, and that the exporting machine has no say.

`saturates()` is forced both ways, so that any processor stands for those with and without VNNI.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from qvl_export import export
from qvl_export.cli.commands import cli
from qvl_export.errors import ExportError
from qvl_runtime import SlowProductsWarning, load
from qvl_runtime.__main__ import main
from qvl_runtime.bundle import read_manifest
from qvl_runtime.cli.describe import describe
from qvl_runtime.manifest import CPUS, EXACT_EVERYWHERE, MANIFEST, Manifest
from tests.heldout import HELDOUT
from tests.plans import export_plan

PAGES = [HELDOUT / f"simple_{number:04}.png" for number in range(2)]
MESSAGES = [{"role": "user", "content": [{"type": "image", "image": str(PAGES[0])}, {"type": "text", "text": "Read."}]}]
OPTION = "session.x64quantprecision"
Force = Callable[[bool], None]


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Force:
    """Makes sessions believe that byte products saturate, or that they do not."""

    def force(saturating: bool) -> None:
        for module in ("sessions.cpu", "_onnxruntime.saturation"):
            monkeypatch.setattr(f"qvl_runtime.{module}.saturates", lambda: saturating)

    return force


@pytest.fixture(scope="module")
def coded(checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny int8 bundle with the codes for a processor."""
    made: dict[str, Path] = {}

    def get(cpu: str) -> Path:
        if cpu not in made:
            made[cpu] = tmp_path_factory.mktemp(cpu) / "bundle"
            export(export_plan(checkpoint("qwen2_5_vl", "small"), made[cpu], precision="int8", calib=PAGES, cpu=cpu))
        return made[cpu]

    return get


def codes(bundle: Path) -> Iterator[np.ndarray]:
    """The signed codes [K, N] of all W8A8 linears."""
    for name in read_manifest(bundle).graphs:
        for tensor in onnx.load(bundle / f"{name}.onnx").graph.initializer:
            if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2:
                yield numpy_helper.to_array(tensor).astype(np.int64)


def largest_sum(matrix: np.ndarray) -> int:
    """The largest magnitude of a sum of two products that bytes from 0 to 255 make of rows 2i and 2i + 1."""
    pairs = np.pad(matrix, ((0, len(matrix) % 2), (0, 0))).reshape(-1, 2, matrix.shape[1])
    return 255 * int(max(np.maximum(pairs, 0).sum(axis=1).max(), -np.minimum(pairs, 0).sum(axis=1).min()))


@pytest.mark.parametrize("cpu", ["any", "vnni"])
def test_the_manifest_and_inspect_say_it(coded: Any, cpu: str) -> None:
    manifest = read_manifest(coded(cpu))
    assert manifest.cpu == cpu
    assert manifest.provenance.options.get("cpu") == (None if cpu == "any" else cpu)
    assert ("fast on every processor" if cpu == "any" else "slow on x86 without VNNI") in describe(manifest)


@pytest.mark.parametrize("cpu", ["any", "vnni"])
def test_stored_codes_fit_sixteen_bits_or_need_not(coded: Any, cpu: str) -> None:
    sums = [largest_sum(matrix) for matrix in codes(coded(cpu))]
    assert len(sums) > 10
    assert (max(sums) <= 32767) == (cpu in EXACT_EVERYWHERE)


@pytest.mark.parametrize("cpu", ["any", "vnni"])
def test_answers_are_equal_on_processors_of_both_kinds(coded: Any, processor: Force, cpu: str) -> None:
    """The default needs no option; other codes get it where products saturate, and the same answers by it."""
    found = {}
    for saturating in (False, True):
        processor(saturating)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowProductsWarning)
            model = load(coded(cpu), threads=1)
        with model:
            engine: Any = model.engine
            sessions = [engine.vision.session, *engine.llm.sessions]
            asked = {session.get_session_options().get_session_config_entry(OPTION) for session in sessions}
            assert asked == {str(int(saturating and cpu not in EXACT_EVERYWHERE))}
            found[saturating] = model.logits(MESSAGES, answer="Total: 12")
    assert np.array_equal(found[False], found[True])


@pytest.mark.slow
def test_the_exporting_machine_has_no_influence(
    checkpoint: Any, coded: Any, processor: Force, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All weights and graphs are equal to the bit, whatever the calibration's sessions believe."""
    for saturating in (False, True):
        processor(saturating)
        out = tmp_path / str(saturating)
        export(export_plan(checkpoint("qwen2_5_vl", "small"), out, precision="int8", calib=PAGES))
        ours, other = read_manifest(coded("any")), read_manifest(out)
        assert ours.files == other.files and ours.graphs == other.graphs and other.cpu == "any"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"precision": "fp16"}, None),
        ({"precision": "int4"}, "any"),
        ({"vision_precision": "int8"}, "any"),
        ({"llm_precision": "int4"}, None),
        ({"precision": "int8", "target": "portable"}, None),
    ],
    ids=str,
)
@pytest.mark.slow
def test_only_bundles_with_byte_products_record_it(
    checkpoint: Any, tmp_path: Path, options: dict[str, Any], expected: str | None
) -> None:
    calib = {} if options == {"precision": "fp16"} else {"calib": PAGES}
    manifest = export(export_plan(checkpoint("qwen2_5_vl", "small"), tmp_path / "b", **options, **calib))
    assert manifest.cpu == expected
    assert ("  cpu  " in describe(manifest)) == (expected is not None)
    assert all(largest_sum(matrix) <= 32767 for matrix in codes(tmp_path / "b")) or expected is None


def warned(bundle: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(bundle, threads=1).close()
    found = [item for item in caught if item.category is SlowProductsWarning]
    assert all(item.filename == __file__ for item in found)  # the caller of `load`
    return [str(item.message) for item in found]


@pytest.mark.parametrize("cpu", ["any", "vnni"])
@pytest.mark.parametrize("saturating", [False, True])
def test_loading_says_what_is_slow_here(coded: Any, processor: Force, cpu: str, saturating: bool) -> None:
    processor(saturating)
    found = warned(coded(cpu))
    assert len(found) == (saturating and cpu == "vnni")
    assert not found or "(export the checkpoint with --cpu any, the default)" in found[0]


@pytest.mark.parametrize("version", [1, 4, 6, 7])
def test_bundles_from_before_say_it_too(processor: Force, version: int) -> None:
    """Of float, int8, portable int8 and int4 with an int8 tower."""
    processor(True)
    bundle = Path(__file__).parents[1] / "checkpoints" / "bundles" / f"v{version}"
    assert len(warned(bundle)) == (version in (4, 7))


def test_bench_says_it_once(coded: Any, processor: Force, capsys: pytest.CaptureFixture[str]) -> None:
    processor(True)
    assert main(["bench", str(coded("vnni")), "--repeat", "2", "--max-new-tokens", "1"]) == 0
    assert capsys.readouterr().err.count("note: the int8 products of this bundle are slow on this processor") == 1


class Recorder:
    """Keeps the lines of an export."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, text: str, total: int = 0) -> None:
        self.lines.append(text)
        if text.startswith("calibrating"):
            raise KeyboardInterrupt  # the rest is not needed

    def advance(self, count: int) -> None: ...


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("saturating", [False, True])
def test_exports_say_where_their_bundle_is_slow(
    checkpoint: Any, processor: Force, tmp_path: Path, cpu: str, saturating: bool
) -> None:
    processor(saturating)
    recorder = Recorder()
    plan = export_plan(checkpoint("qwen2_5_vl", "small"), tmp_path / "b", precision="int8", calib=PAGES, cpu=cpu)
    with pytest.raises(KeyboardInterrupt):
        export(plan, recorder)
    notes = [line for line in recorder.lines if line.startswith(f"note: --cpu {cpu}: on x86 without VNNI")]
    assert len(notes) == (cpu not in EXACT_EVERYWHERE)
    assert all(("such as this machine" in note) == saturating for note in notes)


def test_processors_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"--cpu sse is not supported \(supported: any, avx2, vnni, amx, arm\)"):
        export(export_plan("no-such-checkpoint", tmp_path / "b", precision="int8", cpu="sse"))
    done = CliRunner().invoke(cli, ["export", "no-such-checkpoint", str(tmp_path / "b"), "--reduce-range"])
    assert done.exit_code == 2 and "--reduce-range is gone: --cpu any, the default" in done.output
    assert not list(tmp_path.iterdir())


def test_manifests_from_elsewhere_are_checked(bundle: Any, tmp_path: Path) -> None:
    text = (bundle("qwen2_5_vl", "small", "fp32") / MANIFEST).read_text("utf-8")
    assert '"cpu": null' in text or '"cpu":null' in text
    earlier = json.loads(text)
    del earlier["cpu"]
    assert msgspec.convert(earlier, Manifest).cpu is None
