"""The command line before hostile files, careless users and broken streams: one line, exit code 2, nothing lost."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from qvl_export import ExportPlan, export
from qvl_export.cli.main import main as export_main
from qvl_export.cli.progress import ItemProgress, RichProgress
from qvl_export.errors import ExportError
from qvl_runtime import __main__ as cli
from qvl_runtime.cli import options
from qvl_runtime.cli import run as answering
from qvl_runtime.common import standard_streams
from qvl_runtime.errors import BundleError
from qvl_runtime.manifest import MANIFEST
from qvl_runtime.model import load
from qvl_runtime.printable import one_line, printable
from tests.conftest import Bundles
from tests.plans import export_plan

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
HOSTILE = "a\x1b[2J\x9b1m\u202egpj.\r\x07b"
SPELT = r"a\x1b[2J\x9b1m\u202egpj.\x0d\x07b"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def path(bundle: Bundles) -> Path:
    return bundle("qwen2_5_vl", "small", "fp32")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of twelve frames, `f1.png` to `f12.png`, a hidden file and a text."""
    directory = tmp_path_factory.mktemp("frames") / "my frames"
    directory.mkdir()
    for index in range(1, 13):
        Image.new("RGB", (60, 60), (10 * index, 0, 0)).save(directory / f"f{index}.png")
    (directory / "notes.txt").write_text("no frame")
    (directory / ".hidden.png").write_text("no frame")
    return directory


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Exit code, standard output and standard error of a command, in this process."""

    def run(*arguments: object) -> tuple[int, str, str]:
        return cli.main([str(argument) for argument in arguments]), *capsys.readouterr()

    return run


@pytest.fixture
def parts(path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> Callable[..., list[dict[str, Any]]]:
    """The parts of the user's message that a command line asks the model with."""

    def of(*arguments: object) -> list[dict[str, Any]]:
        kept: list[Any] = []
        monkeypatch.setattr(answering, "answer", lambda model, messages, *_: kept.extend(messages))
        code, _, errors = call("run", path, *arguments)
        assert code == 0, errors
        return list(kept[-1]["content"])

    return of


def refused(result: tuple[int, str, str]) -> str:
    """The one line of a command that must have failed."""
    code, out, errors = result
    assert (code, out, errors.count("\n")) == (2, "", 1), result
    assert errors.startswith("error: "), errors
    return errors


# --video


def test_every_video_is_one(parts: Any, frames: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    first, second, question = parts("--video", tmp_path / "a.mp4", "--video", tmp_path / "b.mp4", "What happens?")
    assert (first["video"], second["video"]) == (str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"))
    assert first["fps"] == second["fps"] == 2.0 and "max_frames" not in first
    assert question == {"type": "text", "text": "What happens?"}


@pytest.mark.parametrize("how", ["directory", "pattern", "file: URL"])
def test_images_are_the_frames_of_a_video_in_natural_order(parts: Any, frames: Path, how: str) -> None:
    name = {"directory": frames, "pattern": frames / "f*.png", "file: URL": frames.as_uri()}[how]
    video, _ = parts("What?", "--video", name, "--fps", 4)
    assert video["video"] == [str(frames / f"f{index}.png") for index in range(1, 13)]
    assert (video["fps"], video["max_frames"]) == (4.0, 768)


def test_a_single_image_is_a_video_of_one_frame(parts: Any, frames: Path) -> None:
    (video,) = parts("--video", frames / "f1.png", "--max-frames", 2)
    assert (video["video"], video["max_frames"]) == ([str(frames / "f1.png")], 2)


def test_frames_of_a_directory_reach_the_model(call: Call, path: Path, frames: Path) -> None:
    code, out, _ = call("run", path, "--video", frames, "--max-frames", 4, "--max-new-tokens", 1, "--json", "What?")
    assert (code, json.loads(out)["counts"]["image"]) == (0, 2 * 12 * 12), "128 tokens a frame at least"


OLD_FORMS = {
    "two frames": ["--video", "f1.png", "f2.png"],
    "and a question": ["--video", "f1.png", "f2.png", "What happens?"],
    "a pattern that the shell wrote out": ["--video", *[f"f{index}.png" for index in range(1, 13)], "What?"],
    "after a question": ["What?", "--video", "f1.png", "f2.png"],
    "two films": ["--video", "a.mp4", "b.mp4"],
    "frames that are missing": ["--video", "x1.png", "x2.png", "What?"],
}


@pytest.mark.parametrize("arguments", OLD_FORMS.values(), ids=OLD_FORMS)
def test_several_names_after_video_are_refused_with_the_fix(
    call: Call, path: Path, frames: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(frames)
    errors = refused(call("run", path, *arguments))
    assert "--video takes one name" in errors
    assert "--video a.mp4 --video b.mp4 for two videos, --video 'frames/*.png' or --video frames for images" in errors


def test_a_file_instead_of_the_question_is_refused(
    call: Call, parts: Any, path: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(frames)
    assert "f1.png is a file and not a question: give it with --image" in refused(call("run", path, "f1.png"))
    assert parts("--", "f1.png") == [{"type": "text", "text": "f1.png"}], "after -- it is a text"
    assert parts("What is in page.png")[0]["text"] == "What is in page.png"


def test_what_holds_no_frames_is_refused(call: Call, path: Path, frames: Path, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"")
    for name, reason in (
        (tmp_path, "is a directory without images"),
        (tmp_path / "*.png", "matches no file"),
        (tmp_path / "*.mp4", "film.mp4: is a video, not a frame of a video"),
        (frames / "*", "notes.txt: is a file of another kind, not a frame of a video"),
    ):
        assert reason in refused(call("run", path, "What?", "--video", name))
    url = "https://x.y/a.mp4?part=[1]"  # which is not a pattern
    assert "https://x.y/a.mp4: is a URL (URLs are not fetched" in refused(call("run", path, "What?", "--video", url))


def test_a_pdf_given_as_a_url(call: Call, path: Path, frames: Path, tmp_path: Path) -> None:
    pdf = tmp_path / "my letter.pdf"
    Image.open(frames / "f1.png").save(pdf)
    options = ["x", "--max-new-tokens", 1, "--json"]
    given = [json.loads(call("run", path, "--pdf", name, *options)[1]) for name in (pdf, pdf.as_uri())]
    assert given[0]["counts"]["image"] == given[1]["counts"]["image"] > 0
    assert "data:application/pdf;…: is not a path" in refused(call("run", path, "--pdf", "data:application/pdf,x", "x"))


# options that do nothing


@pytest.mark.parametrize("number", ["0", "-1", "²", "9" * 5000, "1.0"])
def test_numbers_of_any_length(call: Call, path: Path, number: str) -> None:
    for option in ("--max-new-tokens", "--threads"):
        errors = refused(call("run", path, "x", option, number))
        assert "is not a positive whole number" in errors
        assert len(errors) < 300


IDLE = {
    "fps": (["--fps", "1"], "--fps needs --video"),
    "max-frames": (["--max-frames", "4"], "--max-frames needs --video"),
    "pages": (["--pages", "1"], "--pages needs --pdf"),
    "prune": (["--prune", "off"], "--prune needs --image, --pdf or --video"),
    "prune alone": (["--prune"], "--prune needs --image, --pdf or --video"),
    "top-p": (["--top-p", "0.9"], "--top-p does nothing at temperature 0 (add --temperature 0.7)"),
    "top-k": (["--top-k", "5", "--temperature", "0"], "--top-k does nothing at temperature 0"),
    "min-p": (["--min-p", "0.1"], "--min-p does nothing at temperature 0"),
    "seed": (["--seed", "0"], "--seed does nothing at temperature 0"),
}


@pytest.mark.parametrize(("arguments", "reason"), IDLE.values(), ids=IDLE)
def test_options_that_do_nothing_are_refused(call: Call, path: Path, arguments: list[str], reason: str) -> None:
    assert reason in refused(call("run", path, "x", *arguments))


def test_values_that_say_what_is_so_anyway_are_not(parts: Any) -> None:
    assert parts("x", "--top-p", 1, "--top-k", 0, "--temperature", 0)
    assert parts("x", "--top-p", 0.5, "--use-generation-config"), "which may bring a temperature"
    assert parts("x", "--top-p", 0.5, "--top-k", 3, "--temperature", 1, "--seed", 0)


def test_an_empty_system_message_is_one(call: Call, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(answering, "answer", lambda model, messages, *_: kept.extend(messages))
    call("run", path, "x", "--system", "")
    assert kept[0] == {"role": "system", "content": ""}


# --draw


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the bundle is opened at all."""
    monkeypatch.setattr("qvl_runtime.model.load", lambda *_: pytest.fail("the bundle was loaded"))


def test_images_that_cannot_be_drawn_on_are_refused_early(
    call: Call, path: Path, frames: Path, tmp_path: Path, unloaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.png"
    shutil.copyfile(frames / "f1.png", page)
    (tmp_path / "dir.png").mkdir()
    run = ["run", path, "x", "--image", page, "--draw"]
    for place, reason in (
        (tmp_path / "none" / "x.png", "none: directory not found (create it first)"),
        (tmp_path / "dir.png", "dir.png: is a directory"),
        (tmp_path / "x.ico", "x.ico: does not have the extension of an image format"),
        (tmp_path / "x.xbm", "x.xbm: does not have the extension of an image format"),
        (tmp_path / f"{'x' * 300}.png", "File name too long"),
        (page, "page.png: is the input image and would be overwritten"),
    ):
        assert reason in refused(call(*run, place))
    assert "would be overwritten" in refused(call("run", path, "x", "--image", page.as_uri(), "--draw", page))

    def deny(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", deny)  # what a read-only directory says, also to an administrator
    assert "x.png: cannot be written: Permission denied" in refused(call(*run, tmp_path / "x.png"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dir.png", "page.png"]


# errors while it runs


STOPPED = {
    "interrupt": (KeyboardInterrupt(), 130, "\ninterrupted\n"),
    "memory": (
        MemoryError(),
        2,
        "error: not enough memory; take fewer or smaller images, or a smaller bundle\n",
    ),
}


@pytest.mark.parametrize(("error", "code", "line"), STOPPED.values(), ids=STOPPED)
def test_what_stops_an_answer_is_one_line(
    call: Call, path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def answer(*_: object) -> None:
        raise error

    monkeypatch.setattr(answering, "answer", answer)
    assert call("run", path, "x") == (code, "", line)


# bundles


def test_a_checkpoint_instead_of_a_bundle(call: Call, checkpoint: Any) -> None:
    place = checkpoint("qwen2_5_vl", "small")
    for command in (["run", place, "x"], ["inspect", place], ["bench", place]):
        assert refused(call(*command)) == (
            f"error: {place}: is a checkpoint, not a bundle (export it first: qvl-export export {place} BUNDLE)\n"
        )


def test_a_bundle_is_read_where_it_was_found(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grammars read the tokenizer long after the bundle was opened."""
    pytest.importorskip("llguidance")
    monkeypatch.chdir(path.parent)
    model = load(path.name, threads=1)
    monkeypatch.chdir(tmp_path)
    answer = model.generate([{"role": "user", "content": "x"}], 8, json_schema={"type": "boolean"})
    assert answer in ("true", "false")


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
def test_names_that_are_not_utf_8(call: Call, path: Path, checkpoint: Any, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    odd.mkdir()
    shutil.copytree(path, odd / "bundle")
    Image.new("RGB", (60, 60)).save(odd / "page.png")
    assert r"\udcff/bundle: its path is not UTF-8; engines cannot open it" in refused(call("run", odd / "bundle", "x"))
    assert call("inspect", odd / "bundle", "--verify", "--json")[0] == 0
    assert r"\udcff/none.png: no such file" in refused(call("run", path, "x", "--image", odd / "none.png"))
    run = ["run", path, "x", "--image", odd / "page.png", "--draw", odd / "out.png", "--max-new-tokens", 1, "--json"]
    code, out, errors = call(*run)
    assert (code, json.loads(out)["counts"]["image"] > 0, r"\udcff/out.png" in errors) == (0, True, True)
    shutil.copytree(checkpoint("qwen2_5_vl", "small"), odd / "\udcfe")
    export(ExportPlan(odd / "\udcfe", tmp_path / "out", precision="fp32"))
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["provenance"]["checkpoint"] == r"\udcfe"
    for plan in (
        ExportPlan(path, odd / "out"),
        export_plan(path, tmp_path / "x", precision="int4", save_gptq=odd / "gptq"),
    ):
        with pytest.raises(ExportError, match="is not UTF-8, so no engine can open it"):
            export(plan)
    assert not (odd / "out").exists()


# what files say


def hostile(path: Path, place: Path) -> Path:
    """A copy of a bundle whose manifest speaks to the terminal."""
    shutil.copytree(path, place)
    manifest = json.loads((place / MANIFEST).read_text())
    manifest["provenance"].update(checkpoint=f"{HOSTILE}\n  made      by us", producer=HOSTILE, options={"a": HOSTILE})
    (place / MANIFEST).write_text(json.dumps(manifest))
    return place


def test_inspect_prints_no_escape_codes(call: Call, path: Path, tmp_path: Path) -> None:
    place = hostile(path, tmp_path / "hostile")
    code, out, _ = call("inspect", place)
    lines = [line for line in out.splitlines() if SPELT in line]
    assert (code, len(lines), printable(out) == out) == (0, 3, True)
    assert lines[0] == f"  from      {SPELT}   made      by us", "nor lines of its own"
    code, out, _ = call("inspect", place, "--json")
    assert (code, printable(out) == out) == (0, True)
    assert json.loads(out)["provenance"]["producer"] == HOSTILE, "JSON says it with escapes"


def test_errors_print_no_escape_codes(call: Call, path: Path, tmp_path: Path) -> None:
    file = tmp_path / f"{HOSTILE}.png"
    file.write_text("no image")
    for arguments in (
        ["run", path, "x", "--image", file],
        ["run", path, "x", "--tools", file],
        ["run", path, "x", "--tools", f"{file}.none"],
        ["inspect", file],
        ["run", path, "x", f"--{HOSTILE}"],
    ):
        errors = refused(call(*arguments))
        assert SPELT.partition(r"\x0d")[0] in errors and printable(errors) == errors, "on one line"


def test_errors_of_exports_print_no_escape_codes(capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = str(tmp_path / "[/bold]")  # what rich takes for markup
    for arguments in (["export", HOSTILE, out], ["export", "[/x]", out], [HOSTILE], ["export", "--precision", HOSTILE]):
        monkeypatch.setattr(sys, "argv", ["qvl-export", *arguments])
        with pytest.raises(SystemExit):
            export_main()
        errors = capsys.readouterr().err
        assert "\x1b" not in errors and "\u202e" not in errors and errors.count("error: ") == 1


def test_names_are_not_markup_of_progress(capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (RichProgress(quiet=False), ItemProgress(quiet=False)):
        progress.stage(f"locating [/x] [bold]{HOSTILE}")
        assert capsys.readouterr().err == f"locating [/x] [bold]{SPELT}\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_answers_send_no_escape_codes_to_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    """A reader of a pipe gets the answer unchanged."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    stream: Any = ["a\n", HOSTILE]
    assert answering.print_pieces(stream, quiet=False) == "a\n" + HOSTILE
    assert capsys.readouterr().out == "a\n" + (SPELT if terminal else HOSTILE) + "\n"


def test_what_is_printable_stays() -> None:
    text = "Größe 12 €\t读出 😀 \u200fعربى\n"
    assert printable(text) == text
    assert one_line(" a\n b\t c ") == "a b c"


# files of JSON


def test_files_of_tools_and_schemas(call: Call, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools.json"
    tools.write_bytes(b"\xef\xbb\xbf" + json.dumps([{"name": "f", "parameters": {}}]).encode())
    assert call("run", path, "x", "--tools", tools, "--max-new-tokens", 1)[0] == 0, "an editor's byte order mark"
    tools.write_bytes(b"\xff\xfe[")
    assert "is not JSON" in refused(call("run", path, "x", "--tools", tools))
    assert f"{tmp_path}: is a directory" in refused(call("run", path, "x", "--tools", tmp_path))
    monkeypatch.setattr(options, "MAX_JSON_BYTES", 1 << 10)
    with tools.open("wb") as big:
        big.write(b" " * 2000 + b"[]")
    assert "tools.json: is larger than" in refused(call("run", path, "x", "--tools", tools))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "pipe: is not a regular file" in refused(call("run", path, "x", "--json-schema", tmp_path / "pipe"))


@pytest.mark.skipif(not os.path.exists("/dev/stdin"), reason="there is no /dev/stdin")
def test_tools_may_come_through_a_pipe(path: Path) -> None:
    done = shell(
        """-m qvl_runtime run "$1" x --max-new-tokens 1 --json --tools /dev/stdin <<'END'
[]
END""",
        path,
    )
    assert (done.returncode, json.loads(done.stdout)["tool_calls"]) == (0, [])
    done = shell('-m qvl_runtime run "$1" x --tools /dev/stdin </dev/zero', path)
    refusal = b"error: /dev/stdin: is not a regular file (named pipes and devices are not read)\n"
    assert (done.returncode, done.stderr) == (2, refusal)


# standard streams


def shell(command: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    script = f'"$PYTHON" {command}'
    environment = {**ENVIRONMENT, "PYTHON": sys.executable, **options}
    words = ["sh", "-c", script, "sh", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, env=environment, timeout=60)


CLOSED = {
    "error": ("2>&-", b"", b""),
    "output": (">&-", b"", b"error: nowhere: is not a bundle directory"),
    "both": (">&- 2>&-", b"", b""),
    "all": ("<&- >&- 2>&-", b"", b""),
}


@pytest.mark.skipif(os.name == "nt", reason="sh")
@pytest.mark.parametrize("module", ["qvl_runtime", "qvl_export.cli.main"])
@pytest.mark.parametrize(("closed", "out", "errors"), CLOSED.values(), ids=CLOSED)
def test_closed_streams(module: str, closed: str, out: bytes, errors: bytes) -> None:
    """An error goes to standard error or nowhere."""
    done = shell(f"-m {module} inspect nowhere {closed}")
    assert (done.returncode, done.stdout) == (2, out)
    assert done.stderr.startswith(errors) and bool(done.stderr) == bool(errors)


@pytest.mark.skipif(os.name == "nt", reason="sh")
def test_closed_streams_of_commands_that_work(path: Path, tmp_path: Path, checkpoint: Any) -> None:
    """A file that is opened does not take the descriptor of a closed stream, and does not get the output."""
    assert shell('-m qvl_runtime run "$1" x --max-new-tokens 2 >&- 2>&- <&-', path).returncode == 0
    done = shell(
        '-m qvl_export.cli.main export "$1" "$2" --precision fp32 >&- 2>&- <&-',
        checkpoint("qwen2_5_vl", "small"),
        tmp_path / "out",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    for file in path.iterdir():
        if file.name != MANIFEST:
            assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_one_line(path: Path) -> None:
    done = shell('-m qvl_runtime inspect "$1" >/dev/full', path)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert done.stderr.startswith(b"error: the output cannot be written: ") and b"No space left" in done.stderr
    assert shell("-m qvl_runtime inspect nowhere 2>/dev/full").returncode == 2


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("unread", ["2>/dev/full", "2>&1 | true"], ids=["full", "gone"])
def test_an_export_whose_progress_cannot_be_written_continues(unread: str, tmp_path: Path, checkpoint: Any) -> None:
    out = tmp_path / "out"
    shell(f'-m qvl_export.cli.main export "$1" "$2" --precision fp32 {unread}', checkpoint("qwen2_5_vl", "small"), out)
    assert (out / MANIFEST).is_file()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_json_is_valid_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"text": "é 😀 读 € \ud800 \x9b\x7f\u2028\u202e\x00", "n": [1.5, float("nan"), float("inf")], "é": (True,)}
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding, errors="backslashreplace"))
    standard_streams.print_json(value)
    found = json.loads(buffer.getvalue().decode(encoding), parse_constant=lambda name: pytest.fail(name))
    assert found == {**value, "n": [1.5, None, None], "é": [True]}
    assert ("😀" in buffer.getvalue().decode(encoding)) == (encoding == "utf-8")


def test_the_question_may_come_after_options_and_after_two_dashes(path: Path) -> None:
    def parsed(*words: str) -> dict[str, Any]:
        return answering.run.make_context("run", ["b", *words]).params

    for words in (["What?"], ["--", "What?"], ["--fps", "1", "What?"]):
        found = parsed("--video", "a.mp4", *words)
        assert (found["prompt"], found["video"]) == ("What?", ("a.mp4",))
    assert parsed("--", "--json")["prompt"] == "--json" and not parsed("--", "--json")["as_json"]
    assert parsed()["prompt"] is None
    with pytest.raises(BundleError):
        load(path / "none")


def test_a_film_given_as_a_url(call: Call, path: Path, tmp_path: Path) -> None:
    film = tmp_path / "my film.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for index in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((96, 160, 3), 20 * index, np.uint8))))
        container.mux(stream.encode())
    options = ["What?", "--max-new-tokens", 2, "--json"]
    given = [json.loads(call("run", path, "--video", name, *options)[1]) for name in (film, film.as_uri())]
    assert given[0]["tokens"] == given[1]["tokens"] and given[0]["counts"]["image"] > 0
