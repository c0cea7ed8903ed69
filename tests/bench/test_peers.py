"""The measurement beside other runtimes: environments, turns, the table and the plot, from canned runs."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from qvl_export import families
from qvl_export.checkpoint.directory import Checkpoint
from tests.bench.peers import __main__ as command
from tests.bench.peers import cost_model, table
from tests.bench.peers.checkpoint import SIZE, pages
from tests.bench.peers.measure import PEERS, Ready, prepared, ready, row, take_turns
from tests.bench.peers.peer import RUNNERS, Peer, Setting
from tests.bench.peers.plot import svg
from tests.bench.peers.venvs import PeerUnavailable, Venv, reason
from tests.bench.random_checkpoint import make

RUN = {
    "first": 10.0, "tower": 8.0, "prompt": 2.0, "speed": 40.0, "peak_mb": 1500.0, "load": 1.0, "stolen": 0.0,
    "load_average": 0.5, "prompt_tokens": 1280, "answer_tokens": 64, "pruned_tokens": 0, "versions": {"lib": "1.2"},
}  # fmt: skip
RUNNER = """
import json, sys
job = json.loads(sys.argv[1])
if job["model"].endswith("broken"):
    raise SystemExit("error: no such shape")
print("a line before"); print(json.dumps(job))
"""


def entry(peer: Peer, *runs: dict[str, Any], reason: str = "") -> Ready:
    return Ready(peer, Path("python"), Path("model"), list(runs), reason)


def peer(name: str, **changes: Any) -> Peer:
    return replace(Peer(name, "int8", "runner.py", lambda *_: None), **changes)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting({"scan": tmp_path / "scan.png"}, tmp_path / "warmup.png", "Read.", 4, 1)


@pytest.fixture
def results() -> dict[str, Any]:
    ours, theirs = peer("ours", ours=True), peer("theirs")
    pruned = replace(ours, options={"prune": "scan"}, page="clean")
    rows = [
        row(entry(ours, RUN, RUN | {"first": 12.0}, RUN | {"first": 11.0})),
        row(entry(pruned, RUN | {"first": 3.0, "pruned_tokens": 700})),
        row(entry(theirs, RUN | {"tower": None, "prompt": None})),
        row(entry(peer("broken"), reason="error: wants | an engine")),
    ]
    machine = {"processor": "CPU", "cores": 2, "memory_gb": 24, "date": "2026-11-29"}
    peaks = {"float32_gflops": 200.0, "int8_gops": 700.0, "memory_gb_per_second": 30.0}
    return {"machine": machine, "peaks": peaks, "shapes": {"qwen2-vl-2b, 8 + 8 layers": rows}}


def test_the_table_has_medians_splits_and_reasons(results: dict[str, Any]) -> None:
    shown = table.markdown(results)
    assert "| ours int8 | 11.0 (8.0 + 2.0) | 40.0 | 1,500 |" in shown
    assert "| theirs int8 | 10.0 | 40.0 | 1,500 |" in shown
    assert "| broken int8 | not measured: error: wants / an engine | | |" in shown
    assert "(700 of 1980 tokens left out) | 3.0" in shown
    assert "lib 1.2" in shown and "200 GFLOP/s" in shown


def test_the_plot_is_svg_with_a_bar_for_each_figure(results: dict[str, Any]) -> None:
    rows = results["shapes"]["qwen2-vl-2b, 8 + 8 layers"]
    tree = ElementTree.fromstring(svg("a title & more", rows))
    bars = [each for each in tree.iter() if each.tag.endswith("rect") and "fill" in each.attrib]
    assert len(bars) == 3 * 3 + 2  # the first tokens of two are divided
    assert "broken" not in ElementTree.tostring(tree, "unicode")


def test_results_are_written_together(results: dict[str, Any], tmp_path: Path) -> None:
    command.write(results, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "table.md", "qwen2-vl-2b-8+8-layers.svg"}


def test_an_environment_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    found = ready(
        [peer("other", venv=Venv("other", ()))], tmp_path, tmp_path, tmp_path, Path(sys.executable), False, print
    )
    assert found[0].reason == f"other: no environment in {tmp_path}; run `make bench-peers` to build it"
    assert row(found[0])["reason"] == found[0].reason


def test_an_unknown_peer_is_refused_in_one_line() -> None:
    with pytest.raises(SystemExit, match=r"error: no peer is called nobody; there are .*llama\.cpp"):
        command.chosen(["nobody"])
    assert len({each.name for each in PEERS}) == len(PEERS)


def test_an_environment_is_built_once_and_again_if_it_changes(tmp_path: Path) -> None:
    venv = Venv("small", ())
    assert venv.build(tmp_path).exists()
    assert venv.require(tmp_path) == venv.build(tmp_path)
    assert not replace(venv, variables={"A": "B"}).is_complete(tmp_path)
    with pytest.raises(PeerUnavailable, match=r"No matching distribution|Could not find"):
        replace(venv, installs=(("--no-index", "no-such-distribution"),)).build(tmp_path)


def test_a_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    def fail(_: Peer, __: Path, out: Path, ___: Path) -> None:
        out.mkdir()
        raise PeerUnavailable("no such shape")

    with pytest.raises(PeerUnavailable, match="no such shape"):
        prepared(peer("other", prepare=fail), tmp_path, tmp_path / "models", Path(sys.executable))
    assert not (tmp_path / "models" / "other-int8").exists()


def test_peers_take_turns_and_one_that_fails_is_left_out(
    tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = tmp_path / "runner.py"
    runner.write_text(RUNNER.replace("json.dumps(job)", f"json.dumps(job | {RUN})"))
    said: list[str] = []
    names = ("one", "two", "broken")
    entries = [Ready(peer(name, runner=str(runner)), Path(sys.executable), tmp_path / name) for name in names]
    assert list(take_turns(entries, setting, 2, (), said.append)) == [1, 2]
    assert [len(each.runs) for each in entries] == [2, 2, 0]
    assert entries[2].reason == "error: no such shape"
    assert [line.split()[:2] for line in said if "/2 " in line] == [
        ["1/2", "one"], ["1/2", "two"], ["2/2", "one"], ["2/2", "two"],
    ]  # fmt: skip
    assert entries[0].runs[0]["image"] == str(setting.pages["scan"])


class SlowBetweenCalls:
    """A stream of five tokens whose graph takes no time, and whose other work takes 20 ms a token."""

    run = SimpleNamespace(
        counts=SimpleNamespace(prompt=9, generated=5, pruned=0),
        times=SimpleNamespace(first_token=0.0, prefill=0.0, decode=1e-6),
    )

    def __iter__(self) -> Iterator[str]:
        for _ in range(4):
            time.sleep(0.02)
            yield "a"


def test_our_tokens_are_timed_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of other runtimes are."""
    monkeypatch.syspath_prepend(RUNNERS)
    runner = importlib.import_module("run_ours")
    model = SimpleNamespace(clear=lambda: None, stream=lambda *_, **__: SlowBetweenCalls())
    monkeypatch.setattr(runner, "load", lambda *_: model)
    found = runner.open_bundle(SimpleNamespace(model="b", threads=1, options={}))("page.png", "Read.", 5)
    assert 0 < found.speed <= 4 / 0.08 and found.first < 0.02


def test_the_reason_is_the_last_error() -> None:
    assert reason("a\nERROR: no wheel\nnote: an error of pip\n") == "ERROR: no wheel"
    assert reason("killed\n") == "killed" and reason("") == ""


def test_the_pages_have_the_tokens_of_the_table(tmp_path: Path) -> None:
    found = pages(tmp_path)
    assert found.keys() == {"clean", "scan", "warmup"}
    assert SIZE[0] * SIZE[1] // 28**2 == 1260


def test_the_cost_model_counts_the_published_shape(tmp_path: Path) -> None:
    """Against sums by hand for Qwen2-VL-2B with one layer and one block."""
    spec = families.read_spec(Checkpoint(make("qwen2-vl-2b", tmp_path / "c", layers=1, blocks=1)))
    assert cost_model.decoder_weights(spec) == 1536 * (2 * 1536 + 2 * 256 + 3 * 8960)
    patches = 5040
    found = cost_model.tower(spec, patches)
    block = 4 * 1280**2 + 2 * 1280 * 5120
    merger = 5120 * (5120 + 1536) // 4
    assert found.linear == 2 * patches * (3 * 2 * 14 * 14 * 1280 + block + merger)
    assert found.attention == 4 * 1280 * patches**2
    assert cost_model.prompt(spec, 1).linear == 2 * (cost_model.decoder_weights(spec) + 151936 * 1536)
    assert cost_model.token_bytes(spec, "int8", 0) == cost_model.decoder_weights(spec) + 151936 * 1536
