"""PDFs are drawn in a process of their own: no PDF takes the host down, and no process stays behind."""

from __future__ import annotations

import copy
import errno
import importlib.util
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qvl_runtime._pdf import process as pdf_process
from qvl_runtime._pdf.limits import PdfLimits
from qvl_runtime._pdf.process import PdfProcess
from qvl_runtime.errors import InstallError, MediaError
from qvl_runtime.pdf import PDF_MAX_PAGES, Pdf, pdf_pages
from tests.alarms import interrupt_after
from tests.conftest import Loader
from tests.pdf_attacks import ATTACKS, PAGE, nested_forms
from tests.pdfs import pdf_source, text_pdf
from tests.processes import gone

LIMITS = PdfLimits(memory=256 << 20, seconds=1.5)
"""Enough for a page, and soon over."""
PARENT_MIB = 100
"""What an attack may add to the process that asks: a page of pixels, twice."""


@pytest.fixture
def letter(tmp_path: Path) -> Path:
    return text_pdf(tmp_path / "letter.pdf", [["Total: 12"], ["Paid"]])


@pytest.fixture
def attack(tmp_path: Path) -> Path:
    path = tmp_path / "attack.pdf"
    path.write_bytes(nested_forms())
    return path


@pytest.fixture
def fresh() -> Any:
    """A process that no other test has asked, and its limits."""
    process, limits = PdfProcess(LIMITS), PdfLimits(LIMITS.memory, 1.25)
    yield process, limits
    process.close()


def peak_mib() -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def seconds_of_children() -> float:
    """Of computing by those that have ended: a busy machine makes it no longer."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_ended_within_their_limits(name: str, tmp_path: Path, letter: Path) -> None:
    path = tmp_path / "attack.pdf"
    path.write_bytes(ATTACKS[name]())
    expected = array(Pdf(letter).draw(0))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before, computed = peak_mib(), seconds_of_children()
    with pytest.raises(MediaError, match=r"attack\.pdf: (page 1 cannot be drawn|cannot be read as a PDF): it takes"):
        pdf_pages(path, limits=LIMITS)[0].draw()
    assert seconds_of_children() - computed < 3 * LIMITS.seconds + 2, "ended, and started twice at most"
    assert peak_mib() - before < PARENT_MIB
    assert np.array_equal(array(Pdf(letter, LIMITS).draw(0)), expected), "the next PDF is read as ever"


def test_the_time_limit_holds_for_text_too(attack: Path) -> None:
    with Pdf(attack, LIMITS) as pdf, pytest.raises(MediaError, match=r"the text of page 1 cannot be read: it takes"):
        pdf.text(0)


def test_the_error_names_file_page_and_limit(tmp_path: Path) -> None:
    page = PAGE.format("<</XObject <</X 5 0 R>>>>")
    source = nested_forms().replace(b"/Kids [3 0 R] /Count 1", b"/Kids [3 0 R 3 0 R 3 0 R] /Count 3")
    assert page.encode() in source
    (tmp_path / "bill.pdf").write_bytes(source)
    with pytest.raises(MediaError) as caught:
        pdf_pages(tmp_path / "bill.pdf", "3", limits=PdfLimits(seconds=0.5))[0].draw()
    assert str(caught.value) == f"{tmp_path}/bill.pdf: page 3 cannot be drawn: it takes longer than 0.5 s"


def test_a_model_continues_to_serve(model: Loader, attack: Path, letter: Path) -> None:
    reader = model("qwen2_5_vl", "small", "fp32")

    def ask(path: Path, page: str) -> str:
        (found,) = pdf_pages(path, page, limits=LIMITS)
        return reader.generate([{"role": "user", "content": [{"type": "image", "image": found}]}], max_new_tokens=3)

    answer = ask(letter, "1")
    reader.clear()
    with pytest.raises(MediaError, match=r"attack\.pdf: page 1 cannot be drawn"):
        ask(attack, "1")
    assert ask(letter, "1") == answer


def test_a_million_pages_are_refused(tmp_path: Path) -> None:
    page = "<</Type /Page /Parent 2 0 R /MediaBox [0 0 9 9]>>"
    pages = "<</Type /Pages /Kids [3 0 R] /Count 1000000>>"
    (tmp_path / "book.pdf").write_bytes(pdf_source(["<</Type /Catalog /Pages 2 0 R>>", pages, page]))
    with pytest.raises(MediaError, match=r"book\.pdf: has 1,000,000 pages, more than 100,000"):
        Pdf(tmp_path / "book.pdf")
    assert PDF_MAX_PAGES < 1_000_000


def test_without_resource_the_process_watches_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letter: Path
) -> None:
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "resource.py").write_text("raise ImportError('not on this system')")
    (tmp_path / "attack.pdf").write_bytes(ATTACKS["nested flate"]())
    monkeypatch.syspath_prepend(tmp_path / "blocked")
    limits = PdfLimits(memory=200 << 20, seconds=30)
    with pytest.raises(MediaError, match="it takes more than 200 MiB of memory"):  # and not 30 s
        pdf_pages(tmp_path / "attack.pdf", limits=limits)[0].draw()
    assert Pdf(letter, limits).text(0) == "Total: 12"


def test_documents_are_copied_and_pickled(letter: Path) -> None:
    (page,) = pdf_pages(letter, "2", limits=LIMITS)
    for other in (copy.deepcopy(page), pickle.loads(pickle.dumps(page))):
        assert (other.size, other.tobytes()) == (page.size, page.tobytes())
        assert np.array_equal(array(other.draw()), array(page.draw()))


def test_documents_take_turns(letter: Path, tmp_path: Path) -> None:
    """One is open at a time; which one is asked decides, in any order, and after it was closed."""
    other = text_pdf(tmp_path / "other.pdf", [["Other"]])
    first, second = Pdf(letter, LIMITS), Pdf(other, LIMITS)
    assert [first.text(0), second.text(0), first.text(1)] == ["Total: 12", "Other", "Paid"]
    first.close(), second.close(), second.close()
    assert [second.text(0), first.text(1)] == ["Other", "Paid"]


def test_a_process_that_died_is_replaced(letter: Path, fresh: Any) -> None:
    _, limits = fresh
    pdf, before = Pdf(letter, limits), children()
    process = pdf_process.pdf_process(limits)
    pid = process.pid
    assert pid is not None and pid in before
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert pdf.text(0) == "Total: 12"
    assert pid not in children(), "no zombie"
    process.close()
    assert not children() - (before - {pid}), "closed, it leaves nothing"


def test_what_other_documents_left_behind_ends_no_page(
    letter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: Any
) -> None:
    """A process that has served others is replaced, and the page drawn by a fresh one."""
    _, limits = fresh
    (tmp_path / "other.pdf").write_bytes(letter.read_bytes())
    Pdf(tmp_path / "other.pdf", limits)
    process, pdf = pdf_process.pdf_process(limits), Pdf(letter, limits)
    send, asked, first = pdf_process.send, list[str](), process.pid
    assert first is not None

    def dying(pipe: Any, head: Any, body: Any = b"") -> None:
        asked.append(head["do"])
        if process.pid == first:
            os.kill(first, signal.SIGKILL)
        send(pipe, head, body)

    monkeypatch.setattr(pdf_process, "send", dying)
    assert pdf.text(0) == "Total: 12"
    assert asked == ["text", "open", "text"]


def test_an_interrupt_in_the_middle_of_a_page(attack: Path, letter: Path, fresh: Any) -> None:
    """The rest of its reply is not taken for the next reply."""
    pages = pdf_pages(attack, limits=PdfLimits(seconds=60))
    with pytest.raises(KeyboardInterrupt), interrupt_after(0.5):
        pages[0].draw()
    assert Pdf(letter, PdfLimits(seconds=60)).text(1) == "Paid"


def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)


def no_executable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")


@pytest.mark.parametrize("arrange", [frozen, no_executable])
def test_if_no_process_can_be_started_pdfium_runs_in_this_one(
    arrange: Callable[[pytest.MonkeyPatch], None], letter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn, text, before = array(Pdf(letter).draw(1)), Pdf(letter).text(1), children()
    arrange(monkeypatch)
    limits = PdfLimits(seconds=1 + len(arrange.__name__))
    with Pdf(letter, limits) as pdf:
        assert np.array_equal(array(pdf.draw(1)), drawn)
        assert (len(pdf), pdf.text(1)) == (2, text)
        with pytest.raises(MediaError, match=r"letter\.pdf: page 3 cannot be drawn"):
            pdf.draw(2)
    (tmp_path / "no.pdf").write_bytes(b"%PDF-1.7 no")
    with pytest.raises(MediaError, match=r"no\.pdf: cannot be read as a PDF"):
        Pdf(tmp_path / "no.pdf", limits)
    assert children() <= before


def test_an_application_is_not_started_again(letter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that embeds Python would open a second window instead of running pdfium."""
    kiosk = tmp_path / "kiosk"
    kiosk.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexec sleep 600\n")
    kiosk.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(kiosk))
    with pytest.warns(UserWarning, match=r"PDFs are read without limits .*kiosk is not a Python interpreter"):
        pdf = Pdf(letter, PdfLimits(seconds=5))
    assert pdf.text(0) == "Total: 12"
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("program", ["/bin/false", "/no/such/python"])
def test_a_program_that_is_not_python(program: str, letter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that embeds Python may name itself as the interpreter."""
    monkeypatch.setattr(sys, "executable", program)
    with pytest.warns(UserWarning, match="PDFs are read without limits on memory and time"):
        pdf = Pdf(letter, PdfLimits(seconds=2 + len(program)))
    assert pdf.text(0) == "Total: 12"


def test_a_busy_system_does_not_lift_the_limits(letter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: Any, **__: Any) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", busy)
    with pytest.raises(MediaError, match=r"letter\.pdf: .*no process can be started: Resource temporarily"):
        Pdf(letter, PdfLimits(seconds=3))


def test_no_page_is_drawn_without_a_limit_on_its_time(letter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pdf = Pdf(letter, LIMITS)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Timer, "start", busy)
        with pytest.raises(MediaError, match=r"letter\.pdf: the text of page 1 .*: can't start new thread"):
            pdf.text(0)
    assert pdf.text(0) == "Total: 12"


def test_a_broken_pdfium_is_an_install_error(letter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pypdfium2.py").write_text("raise OSError('libpdfium.so: no such file')")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    with pytest.raises(InstallError, match=r"pypdfium2 cannot be loaded: libpdfium\.so: no such file"):
        Pdf(letter, PdfLimits(seconds=4))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InstallError, match=r"PDFs need pypdfium2 .*qvl-runtime\[pdf\]"):
        Pdf(letter)


MODULES = """
import sys
before = set(sys.modules)
from qvl_runtime._pdf.reader import Reader
Reader()
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""


def run(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options.pop("flags", ()), "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def test_the_process_imports_pdfium_alone() -> None:
    found = set(run(MODULES).stdout.split())
    assert "pypdfium2" in found
    assert not found & {"numpy", "PIL", "onnxruntime", "tokenizers", "minijinja", "msgspec"}


READ = "import sys; from qvl_runtime.pdf import Pdf; print(Pdf(sys.argv[1]).text(0)); print(sys.stdin.read())"


@pytest.mark.parametrize("flags", [(), ("-P",), ("-s", "-B")], ids=str)
def test_how_the_host_was_started_does_not_matter(flags: tuple[str, ...], letter: Path, tmp_path: Path) -> None:
    """Its standard input is its own; nothing is imported from its directory unless that is requested."""
    (tmp_path / "pypdfium2.py").write_text("raise SystemExit('imported')") if "-P" in flags else None
    done = run(READ, letter, cwd=tmp_path, input="mine", flags=flags)
    assert (done.stdout.split("\n")[:2], done.stderr) == (["Total: 12", "mine"], "")


FORKED = """
import os, sys
from qvl_runtime.pdf import Pdf
pdf = Pdf(sys.argv[1])
first = pdf.draw(0).tobytes()
child = os.fork()
for _ in range(20):
    assert pdf.draw(0).tobytes() == first and pdf.text(1) == "Paid"
if not child:
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
"""


def test_after_a_fork_each_has_its_own_process(letter: Path) -> None:
    done = run(FORKED, letter)
    assert (done.returncode, done.stderr) == (0, "")


KILLED = """
import sys, threading, time
from qvl_runtime.pdf import Pdf, PdfLimits
from qvl_runtime._pdf.process import pdf_process
limits = PdfLimits(seconds=120)
pdf = Pdf(sys.argv[1], limits)
print(pdf_process(limits).pid, flush=True)
pdf.draw(0)
"""


def test_the_process_ends_with_the_one_that_asks(attack: Path) -> None:
    """Also when that is killed while a page is being drawn."""
    host = subprocess.Popen([sys.executable, "-c", KILLED, str(attack)], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    pid = int(host.stdout.readline())
    time.sleep(0.5)
    assert not gone(pid, 0.1), "it is drawing"
    host.kill()
    host.wait()
    host.stdout.close()
    assert gone(pid)


def test_a_host_that_exits_leaves_nothing(letter: Path) -> None:
    code = KILLED + "\npdf.text(0)"
    done = run(code, letter, flags=("-X", "dev"))
    assert done.stderr == "", "no warning of a process that still runs, none of an open pipe"
    assert gone(int(done.stdout), 0.5)


def test_an_answer_that_makes_no_sense_is_refused(letter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a PDF took over may answer anything."""
    pdf, fresh = Pdf(letter, LIMITS), Pdf(letter, PdfLimits(seconds=6))
    wrong: list[dict[str, Any]] = [
        {},
        {"size": [2**31, 2**31], "stride": 8},
        {"size": [10, 10], "stride": "x"},
        {"size": [10, 10], "stride": 30},
        {"size": "ab", "stride": 30},
        {"size": [-1, -1], "stride": -3},
    ]
    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", lambda _, loads=json.loads: loads("[" * 200_000))
        with pytest.raises(MediaError, match=r"the text of page 1 cannot be read: it .* is damaged and crashes pdfium"):
            fresh.text(0)
    for head in wrong:
        real = {"size": [200.0, 100.0]}
        monkeypatch.setattr(PdfProcess, "ask", lambda _, __, do, h=head, r=real, **___: (r if do == "size" else h, b""))
        with pytest.raises(MediaError, match=r"page 1 cannot be drawn: pdfium's reply is invalid"):
            pdf.draw(0)
