"""Work that is given up between its steps, in its own thread alone."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from time import monotonic

import pytest
from PIL import Image

from qvl_runtime.common.interruption import Deadline, check_interrupted, interruptible
from qvl_runtime.errors import Interrupted
from qvl_runtime.media.images import count_pages, load_pages
from qvl_runtime.pdf import Pdf
from tests.pdfs import text_pdf

LATER = 3600.0
OVER = Deadline(0).check


def test_nothing_is_interrupted_outside() -> None:
    check_interrupted("while working")
    with interruptible(Deadline(monotonic() + LATER).check):
        check_interrupted("while working")


def test_work_ends_at_its_next_step() -> None:
    deadline = Deadline(monotonic() + LATER)
    with interruptible(deadline.check):
        check_interrupted("while working")
        deadline.until = monotonic()
        with pytest.raises(Interrupted, match=r"^the time of the request was over while working$") as given_up:
            check_interrupted("while working")
    assert given_up.value.late
    check_interrupted("while working")


def test_who_left_was_not_too_late() -> None:
    deadline = Deadline(monotonic() + LATER)
    deadline.give_up()
    with interruptible(deadline.check), pytest.raises(Interrupted, match=r"^the request was cancelled while w") as left:
        check_interrupted("while working")
    assert not left.value.late


def test_blocks_within_blocks_end_with_the_inner_one() -> None:
    with interruptible(OVER):
        with interruptible(Deadline(monotonic() + LATER).check):
            check_interrupted("while working")
        with pytest.raises(Interrupted):
            check_interrupted("while working")


def test_other_threads_go_on() -> None:
    seen: list[str] = []

    def other() -> None:
        check_interrupted("while working")
        seen.append("went on")

    with interruptible(OVER):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == ["went on"]


class AfterSteps:
    """Time that is over after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def check(self, when: str) -> None:
        if not self.left:
            raise Interrupted(f"the time of the request was over {when}")
        self.left -= 1


def test_a_tiff_ends_between_two_pages() -> None:
    file = io.BytesIO()
    page = Image.new("L", (8, 8))
    page.save(file, "TIFF", save_all=True, append_images=[page] * 9)
    for read, steps in ((count_pages, 5), (load_pages, 15)):  # loading counts first
        with interruptible(AfterSteps(steps).check), pytest.raises(Interrupted, match="while the pages of its image"):
            read(file.getvalue())
    assert len(load_pages(file.getvalue())) == 10


def test_a_pdf_ends_between_two_requests_to_pdfium(tmp_path: Path) -> None:
    with Pdf(text_pdf(tmp_path / "two.pdf", [["First"], ["Second"]])) as pdf:
        with interruptible(AfterSteps(1).check), pytest.raises(Interrupted, match=r"while its PDF was read$"):
            pdf.draw(0)
        assert pdf.draw(0)
