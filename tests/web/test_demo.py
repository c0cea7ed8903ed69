"""The demo page, built with Vite and used in a real browser as a person does."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qvl_runtime.grounding import Box
from qvl_runtime.model import Model, load
from qvl_runtime.pdf import PDF_DPI, PdfPage, pdf_pages
from tests.chromium import Browser, Tab
from tests.heldout import HELDOUT
from tests.pdfs import text_pdf
from tests.web.conftest import PACKAGE

PAGE = HELDOUT / "simple_0033.png"
READ, WHERE = "Read the text.", "Locate the total."
WIDER = (
    "[...document.querySelectorAll('body, body *')].filter((each) => each.getBoundingClientRect().right > innerWidth)"
    ".map((each) => each.outerHTML.slice(0, 80))"
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(npm: str, run: Callable[..., str]) -> Path:
    """The folder of the built page."""
    run(npm, "run", "demo")
    return PACKAGE / "demo" / "dist"


@pytest.fixture(scope="module")
def bundle(reader_bundle: Callable[[str, str], Path]) -> Path:
    return reader_bundle("qwen2_5_vl", "fp32")


@pytest.fixture(scope="module")
def model(bundle: Path) -> Iterator[Model]:
    with load(bundle, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


class Handler(SimpleHTTPRequestHandler):
    """Serves one folder at `/`, and another one at `/bundle`."""

    def __init__(self, demo: Path, bundle: Path, *args: Any) -> None:
        self._bundle = bundle
        super().__init__(*args, directory=str(demo))

    def translate_path(self, path: str) -> str:
        inner = path.removeprefix("/bundle/")
        return str(self._bundle / inner) if inner != path else super().translate_path(path)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(demo: Path, bundle: Path) -> Iterator[str]:
    """The address of a server of static files, without any header that browsers want for threads."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, demo, bundle))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def address(demo: Path, bundle: Path) -> Iterator[str]:
    with served(demo, bundle) as url:
        yield url


def load_bundle(tab: Tab) -> None:
    tab.click("#load")
    tab.wait("!document.querySelector('#bundle').checkVisibility()")


def opened(browser: Browser, address: str, **window: Any) -> Tab:
    """The page with the bundle of its server."""
    tab = browser.tab(f"{address}?bundle=bundle", **window)
    load_bundle(tab)
    return tab


def ask(tab: Tab, question: str) -> str:
    """Asks about a page with the keyboard; returns the answer."""
    if not tab.value("document.querySelector('#page').checkVisibility()"):
        tab.choose("#file", PAGE)
        tab.wait("document.querySelector('#page').checkVisibility()")
    count = tab.count(".answer")
    tab.wait("document.activeElement.id === 'question'")
    tab.type(question)
    tab.press("Enter")
    tab.wait(f"document.querySelectorAll('.answer:not(.running)').length === {count + 1}")
    return str(tab.value("[...document.querySelectorAll('.answer pre')].at(-1).textContent"))


def python(model: Model, question: str, image: Path | PdfPage = PAGE) -> tuple[str, list[str]]:
    """The answer of Python, and its boxes as the page writes them."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    stream = model.stream([{"role": "user", "content": content}], max_new_tokens=1024)
    text = "".join(stream)
    boxes = [each for each in model.regions(text, stream.prompt.placed[0]) if isinstance(each, Box)]
    corners = [", ".join(str(round(side)) for side in (box.x1, box.y1, box.x2, box.y2)) for box in boxes]
    return text, [f"{box.label or 'box'} {numbers}" for box, numbers in zip(boxes, corners, strict=True)]


def test_a_page_is_read_and_its_boxes_are_shown(browser: Browser, address: str, model: Model) -> None:
    tab = opened(browser, address)
    assert ask(tab, READ) == python(model, READ)[0]
    assert re.search(r"^\d+\.\d s · \d+ tokens · prompt \d+", tab.text(".meta"))
    tab.click("#earlier")
    text, boxes = python(model, WHERE)
    assert ask(tab, WHERE) == text
    assert tab.value("[...document.querySelectorAll('.chips button')].map((chip) => chip.innerText)") == boxes
    assert tab.count(".region") == len(boxes) > 0
    assert tab.errors() == []


def test_a_page_of_a_pdf_is_read(browser: Browser, address: str, model: Model, tmp_path: Path) -> None:
    """On paper whose sides are whole points, so that pdf.js draws the pixels that pdfium draws."""
    file, pages = tmp_path / "letter.pdf", [Image.new("RGB", (200, 100), "white") for _ in range(2)]
    with Image.open(PAGE) as page:
        pages[1].paste(page.convert("RGB"))
    first, second = (page.quantize() for page in pages)
    first.save(file, save_all=True, append_images=[second], resolution=PDF_DPI)
    tab = opened(browser, address)
    tab.choose("#file", file)
    tab.wait("document.querySelector('#name').innerText === 'letter.pdf, page 1'")
    assert tab.text("#count") == "of 2"
    tab.value("document.querySelector('#number').value = '2', document.querySelector('#number').onchange()")
    tab.wait("document.querySelector('#name').innerText === 'letter.pdf, page 2'")
    assert tab.value("document.querySelector('#picture').naturalWidth") == 200
    assert ask(tab, READ) == python(model, READ, pdf_pages(file, "2")[0])[0]
    assert tab.errors() == []
    tab.choose("#file", PAGE)
    tab.wait("document.querySelector('#name').innerText.endsWith('.png')")
    assert not tab.value("document.querySelector('#pages').checkVisibility()")
    (tmp_path / "none.pdf").write_bytes(b"%PDF-1.7 and nothing more")
    tab.choose("#file", tmp_path / "none.pdf")
    tab.wait("document.querySelector('#status').innerText.startsWith('none.pdf: cannot be read as a PDF')")


def test_what_is_chosen_later_wins(browser: Browser, address: str, tmp_path: Path) -> None:
    """Over a PDF that takes longer to open."""
    tab = opened(browser, address)
    tab.choose("#file", text_pdf(tmp_path / "letter.pdf", [["Total: 12"], ["Page 2"]]))
    tab.choose("#file", PAGE)
    tab.wait("document.querySelector('#name').innerText.endsWith('.png')")
    tab.value("new Promise((done) => setTimeout(done, 3000))")
    assert tab.text("#name").endswith(".png")
    assert not tab.value("document.querySelector('#pages').checkVisibility()")


def test_it_works_without_a_network_after_the_first_time(
    browser: Browser, demo: Path, bundle: Path, model: Model, tmp_path: Path
) -> None:
    """Also with PDFs, and with the headers that threads need, which its service worker adds."""
    with served(demo, bundle) as address:
        tab = opened(browser, address)
        tab.wait("navigator.serviceWorker.ready.then((registration) => registration.active?.state === 'activated')")
    tab.send("Page.navigate", url=address)
    tab.wait("document.readyState === 'complete' && document.querySelector('#bundle')?.checkVisibility()")
    assert tab.value("crossOriginIsolated")
    assert tab.value("document.querySelector('#address').value") == f"{address}bundle"
    load_bundle(tab)
    assert ask(tab, READ) == python(model, READ)[0]
    assert tab.count(".error") == 0
    tab.choose("#file", text_pdf(tmp_path / "letter.pdf", [["Total: 12"]]))
    tab.wait("document.querySelector('#name').innerText === 'letter.pdf, page 1'")


def test_a_bundle_that_is_not_there(browser: Browser, address: str) -> None:
    tab = browser.tab(f"{address}?bundle=none")
    tab.click("#load")
    tab.wait("document.querySelector('#note').innerText.includes('cannot be fetched: HTTP 404')")
    assert tab.value("document.querySelector('#send').disabled")


def test_escape_stops_an_answer(browser: Browser, address: str) -> None:
    tab = opened(browser, address)
    tab.value("new MutationObserver(() => dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' })))"
              ".observe(document.querySelector('#talk'), { childList: true, subtree: true })")  # fmt: skip
    ask(tab, READ)
    assert tab.text(".meta").endswith("stopped") and tab.text("#status") == "Stopped."


def test_every_control_has_a_name(browser: Browser, address: str) -> None:
    tab = browser.tab(address)
    tab.send("Accessibility.enable")
    nodes = tab.send("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "checkbox", "textbox", "image", "progressbar")
    controls = [node for node in nodes if node.get("role", {}).get("value") in roles]
    assert len(controls) >= 8
    assert [node for node in controls if not node.get("name", {}).get("value")] == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_has_no_sideways_scrolling(browser: Browser, address: str, dark: bool) -> None:
    tab = opened(browser, address, width=320, height=800, dark=dark)
    ask(tab, WHERE)
    tab.click("#other")
    assert tab.value(WIDER) == []
    assert tab.value("document.scrollingElement.scrollWidth") == 320
    background = tab.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 384) is dark
