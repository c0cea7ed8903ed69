"""The page at `/`, used in a real browser as a person does, against a server with the trained reader."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from qvl_runtime.bundle import read_manifest
from qvl_runtime.model import load
from qvl_runtime.serve.web_page import web_page
from tests.chromium import Browser, Tab
from tests.heldout import HELDOUT
from tests.pdfs import text_pdf
from tests.serving import Server, serving

PAGE = HELDOUT / "simple_0033.png"
WHERE = "Locate the total."
READ = "Read the text."
ALL = "[...document.querySelectorAll('body, body *')]"
WIDER = f"{ALL}.filter((each) => !each.closest('.wide table') && each.getBoundingClientRect().right > innerWidth)"
PASTE = """(async () => {
    const canvas = new OffscreenCanvas(56, 56), data = new DataTransfer();
    canvas.getContext("2d").fillRect(0, 0, 56, 56);
    data.items.add(new File([await canvas.convertToBlob()], "shot.png", { type: "image/png" }));
    dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
})()"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file; while it is there, answers pause before every token."""
    return tmp_path_factory.mktemp("hold") / "hold"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def server(reference_bundle: Path, hold: Path, browser: Browser) -> Iterator[Server]:
    with serving(reference_bundle, hold=hold) as running:
        yield running


@pytest.fixture
def tab(browser: Browser, server: Server) -> Iterator[Tab]:
    """The page in a window of a desk; whatever a test does with it, the console has no error afterwards."""
    opened = browser.tab(server.url)
    opened.wait("model === 'tiny'")
    yield opened
    assert opened.errors() == []


def choose(tab: Tab, file: Path = PAGE) -> None:
    tab.choose("#file", file)
    tab.wait("document.querySelector('#page').checkVisibility()")


def send(tab: Tab, question: str) -> None:
    """Asks with the keyboard alone: an opened file gives the question the focus."""
    tab.wait("document.activeElement.id === 'question'")
    tab.type(question)
    tab.press("Enter")


def ask(tab: Tab, question: str) -> None:
    count = tab.count(".answer")
    send(tab, question)
    tab.wait(f"!running && document.querySelectorAll('.answer').length === {count + 1}")


def alone(tab: Tab) -> None:
    """Questions go without earlier answers, which this reader was not trained for."""
    tab.click("#earlier")


def test_it_loads_nothing_but_itself(tab: Tab, server: Server) -> None:
    assert tab.text("#model") == "tiny"
    assert tab.requested() == {f"{server.url}/v1/models"}


def test_the_policy_runs_no_other_script(browser: Browser, server: Server) -> None:
    """An answer that found its way into the page as HTML would still do nothing."""
    tab = browser.tab(server.url)
    tab.wait("model")
    refused = "(() => {try {document.body.innerHTML = '<b>x</b>'; return 'taken'} catch (error) {return error.name}})()"
    assert tab.value(refused) == "TypeError"
    script = "const made = document.createElement('script'); made.text = 'window.ran = 1'; document.body.append(made)"
    with pytest.raises(AssertionError):
        tab.value(script)
    assert tab.value("window.ran") is None
    page, headers = web_page()
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert not re.search(rb"https?://(?!www\.w3\.org)|\son\w+=|\sstyle=|innerHTML", page)
    assert tab.errors(), "tests of other tabs would see a violation"


def test_an_image_is_read(tab: Tab, reference_bundle: Path) -> None:
    tab.drop("#view", PAGE)
    tab.wait("document.querySelector('#page').checkVisibility()")
    ask(tab, READ)
    with load(reference_bundle, threads=1) as model:
        content = [{"type": "image", "image": PAGE}, {"type": "text", "text": READ}]
        expected = model.generate([{"role": "user", "content": content}])
    assert tab.text(".answer pre") == expected
    assert re.search(r"^\d+\.\d s · \d+ tokens · prompt \d+", tab.text(".meta"))
    assert (tab.text(".about"), tab.text(".question"), tab.text("#name")) == (PAGE.name, READ, PAGE.name)


def test_boxes_are_drawn_where_the_answer_says(tab: Tab) -> None:
    choose(tab)
    ask(tab, WHERE)
    box = json.loads(str(tab.value("document.querySelector('.answer details pre').textContent")))["bbox_2d"]
    drawn = tab.value(
        "(() => {const [page, box] = ['#picture', '.region'].map((name) => document.querySelector(name)"
        ".getBoundingClientRect()); const scale = picture.width / page.width;"
        " return [box.left - page.left, box.top - page.top, box.right - page.left, box.bottom - page.top]"
        ".map((side) => side * scale)})()"
    )
    assert drawn == pytest.approx(box, abs=1)
    assert tab.text(".chips button").endswith(", ".join(map(str, box)))
    assert "bbox_2d" in tab.text(".answer table th") and tab.text(".answer td") == ", ".join(map(str, box))
    ask(tab, READ)
    assert tab.count(".region") == 0, "boxes are those of the last answer"
    tab.click(".chips button")
    assert tab.count(".region.lit") == 1


def test_json_is_a_table(tab: Tab) -> None:
    """Text alone, whatever it says."""
    rows = [{"item": "<img src=x onerror=alert(1)>", "count": 2}, {"item": "tea", "price": [1, 2]}]
    tab.value(f"document.body.append(table({json.dumps(rows)}, 0))")
    assert tab.value("[...document.querySelectorAll('body > table th')].map((cell) => cell.innerText)") == [
        *("item", "count", "price")
    ]
    cells = tab.value("[...document.querySelectorAll('body > table td')].map((cell) => cell.innerText)")
    assert cells == ["<img src=x onerror=alert(1)>", "2", "", "tea", "", "1, 2"]
    assert tab.count("table img") == 0
    deep = "[" * 5000 + "{}" + "]" * 5000
    assert "…" in str(tab.value(f"table(jsonOf({json.dumps(deep)}), 0).textContent"))
    assert tab.value("[jsonOf('```json\\n[1]\\n```'), jsonOf('{\"a\": '), jsonOf('Total: 3')]") == [[1], None, None]


def test_an_answer_in_json_is_asked_for(tab: Tab) -> None:
    choose(tab)
    tab.click("#json")
    ask(tab, "Fields?")
    assert tab.count(".error") == 0 and tab.count(".answer table") == 1


def test_escape_stops_an_answer_and_frees_its_slot(tab: Tab, server: Server, hold: Path) -> None:
    choose(tab)
    hold.touch()
    try:
        send(tab, READ)
        tab.wait("document.querySelector('.running pre')?.textContent.length > 2")
        assert tab.value("$('talk').getAttribute('aria-busy')") == "true"
        tab.press("Escape")
        tab.wait("!running")
        server.wait_for_metric("qvl_requests_running 0.0")
    finally:
        hold.unlink()
    assert tab.text(".meta").endswith("stopped") and tab.text(".answer pre") and tab.count(".running") == 0
    assert tab.text("#status") == "Stopped." and tab.count(".error") == 0
    alone(tab)
    ask(tab, READ)
    assert "stopped" not in tab.text(".meta")


def test_the_stop_button(tab: Tab, hold: Path) -> None:
    hold.touch()
    try:
        choose(tab)
        send(tab, READ)
        tab.wait("document.querySelector('.running') && !$('stop').disabled")
        tab.click("#stop")
        tab.wait("!running && $('stop').disabled && !$('send').disabled")
    finally:
        hold.unlink()


def test_a_conversation_about_a_page(tab: Tab, server: Server) -> None:
    tab.value("sent = []; plain = fetch; fetch = (path, options) => (sent.push(options), plain(path, options)); 0")
    choose(tab)
    ask(tab, READ)
    ask(tab, WHERE)
    alone(tab)
    ask(tab, WHERE)
    bodies = [json.loads(body) for body in tab.value("sent.map((options) => options.body)")]
    roles = [[message["role"] for message in body["messages"]] for body in bodies]
    assert roles == [["user"], ["user", "assistant", "user"], ["user"]]
    assert all(body["messages"][0]["content"][0]["type"] == "image_url" for body in bodies)
    assert re.search(r"\d+ of them cached", tab.text(".meta"))
    tab.click("#clear")
    assert tab.count(".answer") == 0 and tab.text("#empty")


def test_pages_of_a_pdf(tab: Tab, tmp_path: Path) -> None:
    choose(tab, text_pdf(tmp_path / "two.pdf", [["Total: 12"], ["Qty: 34"]]))
    assert tab.text("#place") == "Page 1 of 2" and tab.value("$('before').disabled")
    alone(tab)
    ask(tab, READ)
    tab.click("#after")
    tab.wait("$('place').innerText === 'Page 2 of 2'")
    ask(tab, READ)
    assert tab.text(".about") == "two.pdf, page 2" and tab.count(".error") == 0
    first, second = tab.value("[...document.querySelectorAll('.answer pre')].map((each) => each.textContent)")
    assert first != second


def test_a_tiff_which_browsers_do_not_show(tab: Tab, tmp_path: Path) -> None:
    with Image.open(PAGE) as image:
        image.convert("RGB").save(tmp_path / "page.tiff")
    choose(tab, tmp_path / "page.tiff")
    ask(tab, WHERE)
    assert tab.count(".region") == 1


def test_a_large_scan_is_shown_and_asked_about_as_large_as_the_model_takes_it(
    tab: Tab, tmp_path: Path, reference_bundle: Path
) -> None:
    with Image.open(PAGE) as image:
        image.convert("RGB").resize((10 * image.width, 10 * image.height)).save(tmp_path / "scan.tiff")
        size = 100 * image.width * image.height
    most = read_manifest(reference_bundle).image.max_pixels
    choose(tab, tmp_path / "scan.tiff")
    width, height = tab.value("[picture.width, picture.height]")
    assert width * height <= most < size
    ask(tab, WHERE)
    assert tab.count(".error") == 0 and tab.count(".answer") == 1


def test_a_picture_is_pasted(tab: Tab) -> None:
    tab.value(PASTE)
    tab.wait("document.querySelector('#page').checkVisibility()")
    assert tab.text("#name") == "shot.png"


def test_a_file_that_is_no_page(browser: Browser, server: Server, tmp_path: Path) -> None:
    tab = browser.tab(server.url)
    tab.wait("model")
    (tmp_path / "notes.pdf").write_text("no PDF")
    tab.choose("#file", tmp_path / "notes.pdf")
    tab.wait("$('status').innerText.includes('is not an image')")
    assert not tab.value("$('page').checkVisibility()")


def test_errors_of_the_server_are_shown(browser: Browser, server: Server) -> None:
    tab = browser.tab(server.url)
    tab.wait("model")
    tab.value("model = 'other', $('question').focus()")
    ask(tab, "Hi")
    assert tab.text(".error").startswith("there is no such model")
    tab.value("model = 'tiny', $('question').focus()")
    ask(tab, "Hi")
    assert tab.count(".error") == 1, "what failed is no part of the conversation"


def test_the_keyboard_reaches_everything_and_shows_where_it_is(tab: Tab) -> None:
    choose(tab)
    ask(tab, WHERE)
    tab.value("document.activeElement.blur(), getSelection().removeAllRanges()")
    reached = set()
    for _ in range(20):
        tab.press("Tab")
        focused = "(document.activeElement.closest('.file') ?? document.activeElement)"
        reached.add(tab.value("document.activeElement.id || document.activeElement.parentElement.className"))
        if tab.value("document.activeElement !== document.body"):
            assert tab.value(f"getComputedStyle({focused}).outlineStyle") == "solid"
    assert {"file", "zoom", "talk", "chips", "question", "earlier", "json", "clear", "send"} <= reached
    tab.value("$('question').focus()")
    tab.type("one")
    tab.press("Enter", shift=True)
    assert tab.value("$('question').value") == "one\n" and tab.count(".answer") == 1


def test_every_control_has_a_name(tab: Tab) -> None:
    choose(tab)
    tab.send("Accessibility.enable")
    nodes = tab.send("Accessibility.getFullAXTree")["nodes"]
    controls = [
        node for node in nodes if node.get("role", {}).get("value") in ("button", "checkbox", "textbox", "image")
    ]
    assert len(controls) >= 8
    assert [node for node in controls if not node.get("name", {}).get("value")] == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_dark(browser: Browser, server: Server, dark: bool) -> None:
    """At least 4.5 to 1, as WCAG 2 wants."""
    tab = browser.tab(server.url, dark=dark)
    tab.wait("model")
    choose(tab)
    ask(tab, WHERE)
    colors = tab.value(
        "['#model', '#name', '.question', '.meta', 'th', '#send', '.about'].map((name) => {"
        "let back = document.querySelector(name); const text = getComputedStyle(back).color;"
        "while (getComputedStyle(back).backgroundColor === 'rgba(0, 0, 0, 0)') back = back.parentElement;"
        "return [text, getComputedStyle(back).backgroundColor]})"
    )
    for text, back in colors:
        light, deep = sorted((luminance(text), luminance(back)), reverse=True)
        assert (light + 0.05) / (deep + 0.05) >= 4.5, (text, back)
    assert (luminance(tab.value("getComputedStyle(document.body).backgroundColor")) < 0.1) is dark
    assert tab.errors() == []


def luminance(color: str) -> float:
    """The relative luminance of `rgb(…)`."""
    shares = [int(number) / 255 for number in re.findall(r"\d+", color)[:3]]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_has_no_sideways_scrolling(browser: Browser, server: Server, width: int, tmp_path: Path) -> None:
    tab = browser.tab(server.url, width, 800)
    tab.wait("model")
    name = tmp_path / f"{'a very long name of a file' * 4}.png"
    name.write_bytes(PAGE.read_bytes())
    choose(tab, name)
    ask(tab, WHERE)
    ask(tab, "w" * 200)
    cells = [{"a column": "some words", "another column": "w" * 80}]
    tab.value(f"shown = begin({{question: 'q', picture}}), shown.text.append({json.dumps(json.dumps(cells))})")
    tab.value("end(shown, turns.at(-1), {seconds: 1})")
    assert (
        tab.value(f"{WIDER}.filter((each) => !each.closest('.wide')).map((each) => each.outerHTML.slice(0, 80))") == []
    )
    assert tab.value("document.scrollingElement.scrollWidth") == width
    assert tab.value("$('send').getBoundingClientRect().bottom <= innerHeight"), "the question stays in reach"


def test_a_server_with_a_key_asks_for_it(browser: Browser, reference_bundle: Path) -> None:
    with serving(reference_bundle, "--api-key", "sesame") as server:
        assert httpx.get(server.url, timeout=300).status_code == 200, "the page itself has nothing to hide"
        tab = browser.tab(server.url)
        tab.wait("$('login').checkVisibility() && !$('ask').checkVisibility()")
        assert tab.text("#status") == "", "nobody has made a mistake yet"
        for key, reply in (("wrong", "the API key is missing or wrong"), ("sesame", "")):
            tab.wait("document.activeElement.id === 'key'")
            tab.type(key)
            tab.press("Enter")
            tab.wait(f"$('status').innerText === {reply!r} && sessionStorage.length === 1")
            assert tab.value("$('status').checkVisibility()")
        tab.wait("model === 'tiny' && $('ask').checkVisibility()")
        ask(tab, "Hi")
        assert tab.count(".error") == 0 and tab.count(".answer") == 1
        assert tab.value("localStorage.length") == 0 and tab.value("document.cookie") == ""


def test_a_server_that_is_gone_leaves_the_question(browser: Browser, reference_bundle: Path) -> None:
    with serving(reference_bundle) as server:
        tab = browser.tab(server.url)
        tab.wait("model === 'tiny'")
        choose(tab)
        server.process.kill()
        server.process.wait()
        ask(tab, "Anybody there?")
    assert tab.text(".error") == "the server does not answer: does it still run?"
    assert tab.value("$('question').value") == "Anybody there?"


def test_the_headers_of_the_page(server: Server) -> None:
    answer = httpx.get(server.url, timeout=300)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert httpx.get(server.url, headers={"Host": "evil.example"}, timeout=300).status_code == 421
    assert answer.content == web_page()[0]
