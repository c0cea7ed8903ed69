"""`compare --endpoint`: our own server agrees with its bundle, a broken one fails on items, a missing one ends it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from qvl_export.cli.commands import cli
from tests.evaluate.stub_server import SSE, Reply, StubServer, failure, serving, text
from tests.heldout import first_pages

PAGES = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_pages(tmp_path_factory.mktemp("set"), PAGES)


@pytest.fixture(scope="module")
def url(reference_bundle: Path) -> Iterator[str]:
    """A server process of the reference."""
    command = [sys.executable, "-m", "qvl_runtime", "serve", str(reference_bundle), "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = re.search(r"http://\S+/v1", process.stderr.readline())
        assert found
        yield found[0].removesuffix(",")
        process.terminate()


def compare(reference: Path, *arguments: object, data: Path, out: Path) -> Result:
    options = ["--data", str(data), "--out", str(out), "--threads", "1", "--max-new-tokens", "40", "--quiet"]
    return CliRunner().invoke(cli, ["compare", str(reference), *map(str, arguments), *options])


@pytest.mark.slow
def test_our_server_answers_like_its_bundle(reference_bundle: Path, url: str, data: Path, tmp_path: Path) -> None:
    done = compare(reference_bundle, "--endpoint", f"ours={url}", "--json", data=data, out=tmp_path / "out")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    [ours] = report["bundles"]
    assert ours["verdict"]["outcome"] == "identical" and ours["is_server"] and ours["failed"] == 0
    assert ours["answers"]["identical"] == ours["answers"]["items"] == report["items"]
    assert ours["answers"]["edit_distance"] == 0 and ours["answers"]["prefix"]["same"] == 1
    assert 0 <= ours["answers"]["prefix"]["kl_mean"] < 1e-3
    assert ours["answers"]["prefix"]["logprob_difference"] < 1e-2
    assert ours["speed"]["tokens_per_second"] > 0 and ours["speed"]["first_token_ms"] > 0
    assert ours["agreement"] is None and report["recommendation"] is None
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "100.0 % of the tokens are the same" in page and url in (tmp_path / "out" / "report.json").read_text()
    again = compare(reference_bundle, "--endpoint", f"ours={url}", data=data, out=tmp_path / "out")
    assert f"{report['items']} of {report['items']} answers are identical" in again.output


@pytest.mark.slow
def test_failures_are_items_and_tried_again(reference_bundle: Path, data: Path, tmp_path: Path) -> None:
    broken = True

    def answer(number: int, _: dict[str, Any]) -> Reply:
        return failure(500) if broken and number % 2 else (200, SSE, text("Tota", "l"))

    copy = shutil.copytree(reference_bundle, tmp_path / "copy")
    with serving(StubServer(answer)) as stub:
        given = (copy, "--endpoint", f"stub={stub.url}", "--json")
        report = json.loads(compare(reference_bundle, *given, data=data, out=tmp_path / "out").stdout)
        found = {each["title"]: each for each in report["bundles"]}
        assert found["stub"]["failed"] > 0 and found["stub"]["answers"]["prefix"] is None
        assert any("status 500: broken" in item["error"] for item in found["stub"]["worst"])
        assert found["stub"]["answers"]["identical"] == 0 and found["stub"]["answers"]["edit_distance"] > 0
        assert found["copy"]["answers"]["identical"] == report["items"] and report["recommendation"] is not None
        asked, broken = len(stub.requests), False
        report = json.loads(compare(reference_bundle, *given, data=data, out=tmp_path / "out").stdout)
        assert next(each for each in report["bundles"] if each["title"] == "stub")["failed"] == 0
        assert asked < len(stub.requests) < asked + report["items"]


def refused(bundle: Path, endpoint: str, data: Path, out: Path, *more: str) -> str:
    done = compare(bundle, "--endpoint", endpoint, *more, data=data, out=out)
    assert done.exit_code != 0 and done.exception is not None
    return str(done.exception)


def test_what_cannot_be_asked_ends_it_before_anything_runs(
    bundle: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    tiny, out = bundle("qwen2_vl", "small", "fp32"), tmp_path / "out"
    assert "no server answers: Connection refused" in refused(tiny, "down=http://127.0.0.1:1/v1", data, out)
    with serving(StubServer(lambda *_: failure(500))) as stub:
        assert "is the name of two models" in refused(tiny, f"{tiny.name}={stub.url}", data, out)
        recommended = refused(tiny, f"a={stub.url}", data, out, "--use-generation-config")
        assert "servers answer greedily" in recommended
        assert "no bundle to compare" in refused(tiny, f"a={stub.url}", data, out, "--reference", "hf")
        assert stub.requests == []
    assert "no bundle to compare" in str(compare(tiny, data=data, out=out).exception)
    assert not [*tmp_path.rglob("*.jsonl")]


@pytest.mark.slow
def test_a_server_that_has_no_such_model_ends_the_run_with_its_words(
    reference_bundle: Path, data: Path, tmp_path: Path
) -> None:
    with serving(StubServer(lambda *_: failure(404, "no such model"))) as stub:
        said = refused(reference_bundle, f"a={stub.url},model=nope", data, tmp_path / "out")
    assert "status 404: no such model (check the address and ,model=MODEL)" in said
    assert not (tmp_path / "out" / "report.json").exists()
