"""`read` as users run it: folders with whatever is in them, kills, requests, every format."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qvl_runtime import __main__ as cli
from qvl_runtime.answers.stream import Stream
from qvl_runtime.errors import PromptError
from qvl_runtime.model import Model, load
from qvl_runtime.read.answer import Answerer, parse_line, request_of, unfenced
from qvl_runtime.read.inputs import find_documents
from qvl_runtime.read.options import ReadOptions
from qvl_runtime.read.tasks import OpenPdfs, tasks_of
from qvl_runtime.requests.errors import ApiError

SHORT = ("--prompt", "Read.", "--max-new-tokens", "6", "--threads", "1")
SCHEMA = {
    "type": "object",
    "properties": {"of": {"type": "integer"}},
    "required": ["of"],
    "additionalProperties": False,
}


def page(seed: int, size: tuple[int, int] = (56, 84)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def tiny(bundle: Callable[..., Path]) -> Path:
    return bundle("qwen2_5_vl", "deep", "fp32")


@pytest.fixture
def scans(tmp_path: Path, pdf: Path) -> Path:
    """A folder of two images, a TIFF of two frames and a PDF of three pages."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in (1, 2):
        page(number).save(scans / f"{number}.png")
    page(3).save(scans / "3.tiff", save_all=True, append_images=[page(4)])
    pdf.rename(scans / "4.pdf")
    return scans


def read(*arguments: object) -> int:
    return cli.main(["read", *map(str, arguments)])


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def pages(path: Path) -> list[tuple[str, int | None]]:
    return [(Path(each["file"]).name, each.get("page", each.get("line"))) for each in records(path)]


ALL = [("1.png", 1), ("2.png", 1), ("3.tiff", 1), ("3.tiff", 2), ("4.pdf", 1), ("4.pdf", 2), ("4.pdf", 3)]


def test_every_page_is_answered_as_run_answers_it(
    tiny: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.jsonl"
    assert read(tiny, scans, "--out", out, *SHORT, "--json", "--quiet") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["answered"] == 7 and not printed.err
    assert pages(out) == ALL
    found = records(out)
    with load(tiny, threads=1) as model:
        for image, record in ((scans / "1.png", found[0]), (page(4), found[3])):
            messages = [
                {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "Read."}]}
            ]
            assert record["answer"] == model.generate(messages, 6)
    assert found[0]["tokens"]["generated"] <= 6 and found[0]["seconds"]["total"] > 0
    assert {record["finish_reason"] for record in found} <= {"stop", "length"}
    assert not any(record["json"] for record in found) and all(record["regions"] == [] for record in found)


def test_workers_give_the_same_answers_in_the_same_order(tiny: Path, scans: Path, tmp_path: Path) -> None:
    outs = [tmp_path / "1.jsonl", tmp_path / "3.jsonl"]
    for out, workers in zip(outs, (1, 3), strict=True):
        assert read(tiny, scans, "--out", out, *SHORT, "--workers", workers, "--quiet") == 0
    alone, together = ([(each["file"], each["page"], each["answer"]) for each in records(out)] for out in outs)
    assert alone == together


def test_a_second_run_reads_only_what_is_new(
    tiny: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.jsonl"
    assert read(tiny, scans, "--out", out, *SHORT, "--pages", "1", "--quiet") == 0
    before = out.read_bytes()
    (scans / "1.png").rename(scans / "renamed.png")
    assert read(tiny, scans, "--out", out, *SHORT, "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out) | {"generated_tokens": 0, "cut": 0} == {
        **{"out": str(out), "answered": 3, "known": 4, "copied": 0, "failed": 0},
        **{"loops": 0, "cut": 0, "generated_tokens": 0},
    }
    assert out.read_bytes().startswith(before) and len(records(out)) == 7
    assert read(tiny, scans, "--out", out, "--prompt", "Other.", "--threads", "1") == 2
    assert "has answers of other options or another bundle" in capsys.readouterr().err
    assert read(tiny, scans / "2.png", "--out", out, *SHORT, "--top-k", "1", "--temperature", "1", "--force") == 0
    assert pages(out) == [("2.png", 1)]


def test_broken_files_are_records_and_tried_again(
    tiny: Path, scans: Path, tmp_path: Path, pdf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, broken = tmp_path / "a.jsonl", scans / "0.png"
    broken.write_bytes((scans / "1.png").read_bytes()[:-2000])
    (scans / "empty.png").touch()
    (scans / "nothing.pdf").write_bytes(no_pages())
    assert read(tiny, scans, "--out", out, *SHORT) == 1
    assert "7 pages read, 3 failed (see `error` there)" in capsys.readouterr().err
    failed = {Path(each["file"]).name: each["error"] for each in records(out) if "error" in each}
    assert failed.keys() == {"0.png", "empty.png", "nothing.pdf"} and all(failed.values())
    page(9).save(broken)
    (scans / "empty.png").unlink()
    (scans / "nothing.pdf").unlink()
    assert read(tiny, scans, "--out", out, *SHORT, "--quiet") == 0
    assert len(records(out)) == 8 and not any("error" in each for each in records(out))


def no_pages() -> bytes:
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n"
        b"trailer<</Root 1 0 R>>\n%%EOF\n"
    )


def test_the_same_content_twice_is_read_once(tiny: Path, scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    for copy in ("5.png", "6.png"):
        shutil.copy(scans / "1.png", scans / copy)
    assert read(tiny, scans, scans / "1.png", "--out", out, *SHORT, "--quiet") == 0
    assert pages(out) == [*ALL, ("5.png", 1), ("6.png", 1)]
    first, copies = records(out)[0], records(out)[-2:]
    assert all(each["answer"] == first["answer"] and each["same_as"] == first["file"] for each in copies)
    before = out.read_bytes()
    assert read(tiny, scans, "--out", out, *SHORT, "--quiet") == 0
    assert out.read_bytes() == before


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="its file names are Unicode")
def test_names_that_are_not_utf_8_are_escaped(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    page(1).save(folder / "p.png")
    os.rename(folder / "p.png", os.fsencode(folder) + b"/p\xff.png")
    for form, out in (("jsonl", "a.jsonl"), ("md", "docs")):
        assert read(tiny, folder, "--out", tmp_path / out, *SHORT, "--quiet", "--format", form) == 0
    assert records(tmp_path / "a.jsonl")[0]["file"].endswith("p\\xff.png")
    assert [each.name for each in (tmp_path / "docs").glob("*.md")] == ["p\\xff.png.md"]


def test_a_killed_run_continues(tiny: Path, tmp_path: Path) -> None:
    """Killed by SIGKILL in the middle; the next run has every page once, and the answers of an undisturbed one."""
    folder, outs = tmp_path / "scans", [tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"]
    folder.mkdir()
    for number in range(30):
        page(number).save(folder / f"{number}.png")
    command = [sys.executable, "-m", "qvl_runtime", "read", str(tiny), str(folder), "--out", str(outs[0]), *SHORT]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not outs[0].exists() or outs[0].read_bytes().count(b"\n") < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    done = len(outs[0].read_bytes().splitlines())
    with outs[0].open("ab") as file:
        file.write(b'{"file": "torn')
    assert done < 30
    for out in outs:
        assert read(tiny, folder, "--out", out, *SHORT, "--quiet") == 0
    killed, whole = ([(each["file"], each["answer"]) for each in records(out)] for out in outs)
    assert killed == whole and len(whole) == 30


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to one process")
def test_an_interrupt_says_how_to_go_on(tiny: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "scans", tmp_path / "a.jsonl"
    folder.mkdir()
    for number in range(40):
        page(number).save(folder / f"{number}.png")
    command = [sys.executable, "-m", "qvl_runtime", "read", str(tiny), str(folder), "--out", str(out), *SHORT]
    with subprocess.Popen([*command, "--workers", "2"], stderr=subprocess.PIPE, text=True) as process:
        while not out.exists() or not out.read_bytes().count(b"\n"):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == f"interrupted; what is read is in {out}; the same command continues"
    assert records(out)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["{none}"], "is a directory without images and PDFs"),
        (["{none}/x.png"], "no such file"),
        (["{scans}", "--prompt", ""], "there is nothing to ask about the pages (give --prompt"),
        (["{scans}", "--pages", "2-1"], "page range 2-1 is reversed"),
        (["{scans}", "--top-k", "3"], "--top-k does nothing at temperature 0"),
        (["{scans}", "--format", "csv"], "--format csv needs a --json-schema"),
        (["{scans}", "--json-schema", "{scans}/bad.json"], "is not JSON"),
        (["{scans}", "--json-schema", "{scans}/odd.json"], "odd"),
        (["{scans}", "--prune", "much"], "much"),
        (["{scans}", "--max-pixels", "0"], "not a positive whole number"),
        (["{scans}", "--out", "{scans}"], "cannot be written"),
        (["{scans}", "--out", "{scans}/1.png"], "is not an answer that `read` wrote (choose another --out)"),
        (["{scans}", "--out", "{scans}/1.png/a.jsonl"], "cannot be written"),
        (["{scans}", "--max-new-tokens", "999999999"], "do not fit"),
    ],
)
def test_what_cannot_begin_is_one_line(
    tiny: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], problem: str
) -> None:
    (tmp_path / "none").mkdir()
    (scans / "bad.json").write_text("{")
    (scans / "odd.json").write_text('{"type": "odd"}')
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    given = [option.format(none=tmp_path / "none", scans=scans) for option in options]
    assert read(tiny, *SHORT, "--out", tmp_path / "new.jsonl", *given) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1
    assert {path: path.stat().st_size for path in tmp_path.rglob("*")} == before


def test_a_missing_bundle_is_one_line(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read(tmp_path / "no", scans, "--out", tmp_path / "a.jsonl", *SHORT) == 2
    assert "no" in capsys.readouterr().err and not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize(
    "late", [("--max-new-tokens", "999999999"), ("--json-schema", "odd.json"), ("--device", "CPU")]
)
def test_force_replaces_nothing_if_the_run_cannot_begin(
    tiny: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: tuple[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd.json").write_text('{"type": "odd"}')
    out = tmp_path / "a.jsonl"
    assert read(tiny, scans / "1.png", "--out", out, *SHORT) == 0
    before = out.read_bytes()
    assert read(tiny, scans / "1.png", "--out", out, *SHORT, "--force", *late) == 2
    assert out.read_bytes() == before


def test_tables_and_folders_that_read_did_not_write_are_kept(
    tiny: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    table, folder = tmp_path / "t.csv", tmp_path / "md"
    folder.mkdir()
    for foreign in (table, folder / "1.png.md"):
        foreign.write_text("precious")
    options = {table: ("--format", "csv", "--json-schema", tmp_path / "s.json"), folder: ("--format", "md")}
    for out, problem in ((table, "t.csv: exists (choose"), (folder, "md: is not empty (choose")):
        assert read(tiny, scans / "1.png", "--out", out, *SHORT, *options[out]) == 2
        assert problem in capsys.readouterr().err
    assert table.read_text() == (folder / "1.png.md").read_text() == "precious"
    for out in (table, folder):
        assert read(tiny, scans / "1.png", "--out", out, *SHORT, *options[out], "--force") == 0
        assert read(tiny, scans / "1.png", "--out", out, *SHORT, *options[out]) == 0, "continues"
    assert "precious" not in table.read_text() + (folder / "1.png.md").read_text()


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_pipe_is_not_replaced(
    tiny: Path, scans: Path, tmp_path: Path, force: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor `/dev/null`, which would be removed after a run that wrote nothing."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert read(tiny, scans / "1.png", "--out", pipe, *SHORT, *force) == 2
    assert "is a device or a pipe (choose another --out)" in capsys.readouterr().err and pipe.is_fifo()


def test_a_schema_gives_a_table(tiny: Path, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    out = tmp_path / "t.csv"
    options = ("--json-schema", tmp_path / "s.json", "--format", "csv", "--quiet")
    assert read(tiny, scans, "--out", out, *SHORT, *options) == 0
    rows = out.read_text("utf-8").splitlines()
    assert rows[0] == "file,page,of,error" and len(rows) == 8
    values = [each["json"]["of"] for each in records(tmp_path / "t.csv.jsonl")]
    assert [row.split(",")[2] for row in rows[1:]] == [str(value) for value in values]


def test_documents_have_prompts_of_their_own(tiny: Path, scans: Path, tmp_path: Path) -> None:
    for form in ("md", "html"):
        out = tmp_path / form
        assert read(tiny, scans, "--out", out, "--format", form, "--max-new-tokens", "4", "--threads", "1") == 0
        names = [f"1.png.{form}", f"2.png.{form}", f"3.tiff.{form}", f"4.pdf.{form}"]
        assert sorted(path.name for path in out.iterdir()) == [*names, "answers.jsonl"]


def test_workers_elsewhere_open_the_files_that_were_named(
    tiny: Path, pdf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers with another current directory, as that of a Ray worker is."""
    here = tmp_path / "here"
    here.mkdir()
    page(1).save(here / "p.png")
    shutil.copy(pdf, here / "d.pdf")
    about = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "p.png"}}]}]
    (here / "r.jsonl").write_text(json.dumps(request(messages=about)))
    monkeypatch.chdir(here)
    documents = find_documents(["p.png", "d.pdf", "r.jsonl"])
    tasks = [task for each in documents for task in tasks_of(each, "1", OpenPdfs(), lambda _: None)]
    monkeypatch.chdir(tmp_path)
    options = ReadOptions(prompt="Read.", settings={"max_new_tokens": 3})
    with load(tiny, threads=1) as model:
        found = [Answerer(model, options, OpenPdfs()).answer(task) for task in tasks]
    assert [each["file"] for each in found] == ["p.png", "d.pdf", "r.jsonl"]
    assert not [each["error"] for each in found if "error" in each]


def test_a_model_whose_boxes_are_not_known_has_answers_without_regions(
    tiny: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> Any:
        raise PromptError("no box notation is known")

    monkeypatch.setattr(Model, "regions", unknown)
    assert read(tiny, scans / "1.png", "--out", tmp_path / "a.jsonl", *SHORT, "--quiet") == 0
    assert records(tmp_path / "a.jsonl")[0]["regions"] == []


def test_max_pixels_makes_pages_smaller(tiny: Path, tmp_path: Path) -> None:
    page(1, (280, 280)).save(tmp_path / "p.png")
    tokens = []
    for number, options in enumerate(([], ["--max-pixels", "20000"])):
        out = tmp_path / f"{number}.jsonl"
        assert read(tiny, tmp_path / "p.png", "--out", out, *SHORT, *options, "--quiet") == 0
        tokens.append(records(out)[0]["tokens"]["image"])
    assert tokens[1] < tokens[0]


def request(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi."}], "max_tokens": 5, **more}


def test_requests_are_answered_as_the_server_would(tiny: Path, tmp_path: Path) -> None:
    file = io.BytesIO()
    page(1).save(file, "PNG")
    page(2).save(tmp_path / "local.png")
    inline = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

    def about(url: str) -> list[Any]:
        return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]

    lines = [
        {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": request(model="gpt")},
        request(messages=about(inline)),
        {"custom_id": "c", "body": request(messages=about("local.png"))},
        request(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}, max_tokens=40),
        {"custom_id": "e", "body": request(frequency_penalty=1)},
        {"custom_id": "f", "method": "POST", "url": "/v1/embeddings", "body": {}},
        request(messages=about("../outside.png")),
        request(messages=about("http://127.0.0.1/x.png")),
        request(stream=True),
        request(max_tokens=-1),
        {"custom_id": 7, "body": request()},
    ]
    source, out = tmp_path / "r.jsonl", tmp_path / "a.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)) + "\n\nnot json\n[]\n")
    assert read(tiny, source, "--out", out, "--threads", "1", "--quiet", "--workers", "2") == 1
    found = records(out)
    assert [each["line"] for each in found] == [*range(1, 12), 13, 14]
    assert ["error" in each for each in found] == [False] * 4 + [True] * 9
    assert [each.get("custom_id") for each in found[:6]] == ["a", None, "c", None, "e", "f"]
    assert "frequency_penalty" in found[4]["error"] and "only POST to" in found[5]["error"]
    assert isinstance(found[3]["json"]["of"], int)
    with load(tiny, threads=1) as model:
        assert found[0]["answer"] == model.generate([{"role": "user", "content": "Hi."}], 5)
        with_image = [{"role": "user", "content": [{"type": "image", "image": tmp_path / "local.png"}]}]
        assert found[2]["answer"] == model.generate(with_image, 5)


def test_a_forced_call_is_in_the_record(tiny: Path, tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "sum", "description": "Adds.", "parameters": SCHEMA}}
    (tmp_path / "r.jsonl").write_text(json.dumps(request(tools=[tool], tool_choice="required", max_tokens=60)))
    assert read(tiny, tmp_path / "r.jsonl", "--out", tmp_path / "a.jsonl", "--threads", "1", "--quiet") == 0
    assert records(tmp_path / "a.jsonl")[0]["tool_calls"][0]["function"]["name"] == "sum"


def test_lines_name_one_model_whatever_they_say() -> None:
    assert parse_line(json.dumps({"custom_id": "x", "body": request()}).encode())[0] == "x"
    with pytest.raises(ApiError, match="body must be an object"):
        request_of({"body": 1})
    with pytest.raises(ApiError, match="not a JSON object"):
        parse_line(b"\xff")


def test_fences_are_removed() -> None:
    assert unfenced("```json\n{}\n```\n") == "{}" and unfenced("a ```b``` c") == "a ```b``` c"


def test_an_answer_that_loops_is_tried_once_more(
    tiny: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard finds a loop in every answer without a penalty; the second try has one and ends otherwise."""
    penalties: list[float | None] = []
    original = Model.stream

    def looping(self: Model, messages: Any, *rest: Any, **settings: Any) -> Stream:
        penalty = settings["repetition_penalty"]
        penalties.append(penalty)
        stream = original(self, messages, *rest, **settings)
        if penalty is None:
            read_all = stream._tokens

            def tokens() -> Any:
                yield from read_all
                stream.run.finish_reason = "loop"

            stream._tokens = tokens()
        return stream

    monkeypatch.setattr(Model, "stream", looping)
    out = tmp_path / "a.jsonl"
    assert read(tiny, scans / "1.png", "--out", out, *SHORT, "--retry-loops", "--quiet") == 0
    assert penalties[-2:] == [None, 1.1]
    assert records(out)[0]["retried"] == "loop" and records(out)[0]["finish_reason"] in ("stop", "length")


def test_reading_needs_nothing_of_the_server(tiny: Path, scans: Path, tmp_path: Path) -> None:
    blocked = (
        "import sys\nfor name in ('starlette', 'uvicorn', 'prometheus_client', 'rich', 'ray'):\n"
        "    sys.modules[name] = None\nfrom qvl_runtime.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", blocked, "read", str(tiny), str(scans), "--out", str(tmp_path / "a.jsonl"), *SHORT]
    subprocess.run(command, check=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
def test_memory_does_not_grow_with_the_number_of_pages(tiny: Path, tmp_path: Path) -> None:
    """A page has 38 kB of pixels, so that 400 that were kept, in whatever form, would be 15 MB."""
    peaks, each = [], 100
    for frames in (each, 5 * each):
        folder = tmp_path / str(frames)
        folder.mkdir()
        for first in range(0, frames, each):
            some = [page(seed, (112, 112)) for seed in range(first, first + each)]
            some[0].save(folder / f"{first}.tiff", save_all=True, append_images=some[1:])
        script = (
            "import sys\nfrom qvl_runtime.__main__ import main\nmain(sys.argv[1:])\n"
            "print(open('/proc/self/status').read())"
        )
        options = ["--prompt", "?", "--max-new-tokens", "1", "--threads", "1", "--quiet", "--workers", "2"]
        command = [sys.executable, "-c", script, "read", str(tiny), str(folder), "--out", str(folder / "a.jsonl")]
        done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
        assert len(records(folder / "a.jsonl")) == frames
        peaks.append(int(done.stdout.partition("VmHWM:")[2].split()[0]) / 1000)
    assert peaks[1] - peaks[0] < 6, peaks
