"""Names of media: `file:` and `data:` URLs wherever an image or a video is taken, and nothing secret in an error."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import numpy as np
import pytest
from PIL import Image

from qvl_runtime.errors import MediaError, PromptError, QvlError
from qvl_runtime.media import sources
from qvl_runtime.media.images import load_image
from qvl_runtime.media.sources import describe_source, file_path, resolve_source
from qvl_runtime.model import Model
from tests.conftest import Loader

PAYLOAD = "SECRETsecretSECRETsecret"


@pytest.fixture
def tiny(model: Loader) -> Model:
    return model("qwen2_5_vl", "small", "fp32")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture whose name has a space, a percent sign, a hash and letters beyond ASCII."""
    path = tmp_path_factory.mktemp("pages") / "Rechnung #7 ä 100%.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(path)
    return path


def data_url(path: Path, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def names(page: Path) -> dict[str, str]:
    plain = base64.b64encode(page.read_bytes()).decode()
    return {
        "uri": page.as_uri(),
        "one slash": "file:" + quote(str(page)),
        "localhost": "FILE://LOCALHOST" + quote(str(page)),
        "not encoded": f"file://{page}",
        "data": data_url(page),
        "no media type": f"data:;base64,{plain}",
        "half a media type": f"data:image;base64,{plain}",
        "parameters": f"DATA:image/png;name=a.png;Base64,{quote(plain, safe='')}",
        "percent": f"data:image/png,{quote(page.read_bytes())}",
    }


@pytest.mark.parametrize("kind", names(Path(__file__)))
def test_urls_are_the_file(page: Path, kind: str) -> None:
    assert np.array_equal(np.asarray(load_image(names(page)[kind])), np.asarray(Image.open(page)))


def test_urls_are_taken_wherever_an_image_is(tiny: Model, page: Path) -> None:
    expected = tiny.encode(page)
    for url in (page.as_uri(), data_url(page)):
        assert np.array_equal(tiny.encode(url), expected)
        part = {"type": "video", "video": [url, url]}
        (placed,) = tiny.prompt([{"role": "user", "content": [part]}]).placed
        assert [np.array_equal(np.asarray(frame), np.asarray(Image.open(page))) for frame in placed.media.frames] == [
            True,
            True,
        ]
        assert tiny.regions("nothing", url) == []


def test_urls_are_taken_for_a_video_file(tiny: Model, tmp_path: Path) -> None:
    film = tmp_path / "my film.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for index in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((96, 160, 3), 20 * index, np.uint8))))
        container.mux(stream.encode())

    def digest(video: Any) -> bytes:
        (placed,) = tiny.prompt([{"role": "user", "content": [{"type": "video", "video": video}]}]).placed
        return placed.media.digest

    assert digest(film) == digest(film.as_uri()) == digest(data_url(film, "video/mp4"))


WINDOWS = {
    "file:///C:/Scans/page%201.png": "C:/Scans/page 1.png",
    "file:///c|/Scans/p.png": "c:/Scans/p.png",
    "file://localhost/D:/p.png": "D:/p.png",
    "file:/C:/p.png": "C:/p.png",
    r"file:///C:\Scans\p.png": "C:\\Scans\\p.png",
    "file://server/share/p.png": "//server/share/p.png",
    "file:///C:/%C3%A4.png": "C:/ä.png",
}


@pytest.mark.parametrize(("url", "path"), WINDOWS.items())
def test_file_urls_on_windows(url: str, path: str) -> None:
    assert file_path(url, windows=True) == path


def test_file_urls_elsewhere() -> None:
    assert file_path("file:///a/b%20c.png", windows=False) == "/a/b c.png"
    assert file_path("file:///a/%ff.png", windows=False) == "/a/\udcff.png", "a name that is no UTF-8"
    with pytest.raises(MediaError, match=r"^/a\\ud800: no such file$"):
        load_image("file:///a\ud800")
    with pytest.raises(MediaError, match=r"^file://page\.png: has no absolute path \(write file:///directory/name"):
        resolve_source("file://page.png")
    with pytest.raises(MediaError, match="names a file on another machine, server"):
        resolve_source("file://server/share/p.png")


def test_backslashes_are_slashes_if_that_is_a_file(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(page.parent.parent)
    name = f"{page.parent.name}\\{page.name}"
    assert load_image(name).size == (90, 60)
    Path(name).write_bytes(b"no image")  # a file that is really called so comes first
    with pytest.raises(MediaError, match="is not an image"):
        load_image(name)
    with pytest.raises(MediaError, match="no such file"):
        load_image(r"nowhere\page.png")


BAD_DATA = {
    "no base64": ("data:image/png;base64,%%%" + PAYLOAD, "is not base64"),
    "cut": (f"data:image/png;base64,{PAYLOAD}A", "is not base64"),
    "letters of no alphabet": (f"data:image/png;base64,{PAYLOAD}-_-_", "is not base64"),
    "empty": ("data:image/png;base64,", "is empty"),
    "no image": (f"data:image/png;base64,{PAYLOAD}", "is not an image"),
    "no comma": (f"data:image/png;base64{PAYLOAD}", "is a data: URL without data"),
    "a secret parameter": (f"data:image/png;{PAYLOAD}", "is a data: URL without data"),
    "no base64 mark": (f"data:image/png,{PAYLOAD}", "is not an image"),
}


@pytest.mark.parametrize(("url", "reason"), BAD_DATA.values(), ids=BAD_DATA)
@pytest.mark.parametrize("kind", ["image", "video", "frame", "image_url"])
def test_damaged_data_urls_are_refused_and_not_quoted(tiny: Model, kind: str, url: str, reason: str) -> None:
    part = {
        "image": {"type": "image", "image": url},
        "video": {"type": "video", "video": url},
        "frame": {"type": "video", "video": [url]},
        "image_url": {"type": "image_url", "image_url": {"url": url}},
    }[kind]
    with pytest.raises(MediaError, match=reason if kind != "video" else "data:image/png;…") as caught:
        tiny.prompt([{"role": "user", "content": [part]}])
    assert str(caught.value).startswith("data:image/png;…") and "secret" not in str(caught.value).lower()


def test_no_error_quotes_a_data_url(tiny: Model) -> None:
    url = f"data:image/png;base64,{PAYLOAD}"
    for message in (
        {"role": "user", "content": [{"type": "picture", "picture": url}]},
        {"role": "user", "content": [{"type": "text", "text": "x", "picture": url}]},
        {"role": "assistant", "content": "", "tool_calls": [url]},
        {"role": url, "content": "x"},
    ):
        with pytest.raises(PromptError) as caught:
            tiny.prompt([message])
        assert "secret" not in str(caught.value).lower()
    assert str(QvlError("x", where=url, fix=f"see '{url}'.")) == "data:image/png;…: x (see 'data:image/png;…'.)"


def test_data_urls_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_DATA_BYTES", 1 << 20)
    monkeypatch.setattr(sources, "MAX_ESCAPES", 1000)
    whole = "data:;base64," + "A" * (4 << 20)
    for url in (whole, "data:," + "x" * ((1 << 20) + 1), "data:," + "%41" * 1001, "data:," + "%" * (1 << 22)):
        with pytest.raises(MediaError, match=r"^data:;…: has more than 1 MiB \(give the path of a file\)$"):
            resolve_source(url)
    assert len(resolve_source("data:," + "x" * (1 << 20))) == 1 << 20


def test_remote_urls_are_refused_without_what_they_keep_secret(tiny: Model) -> None:
    url = f"https://me:{PAYLOAD}@x.y/a.png?signature={PAYLOAD}"
    for part in (
        {"type": "image", "image": url},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "video", "video": [url]},
    ):
        with pytest.raises(MediaError, match=r"^https://x\.y/a\.png: is a URL \(URLs are not fetched") as caught:
            tiny.prompt([{"role": "user", "content": [part]}])
        assert "\n" not in str(caught.value)


def test_texts_that_are_not_names_are_left_alone() -> None:
    for source in (b"data:,x", io.BytesIO(), 7, None):
        assert resolve_source(source) is source
    assert resolve_source("page.png") == "page.png" and describe_source("page.png") == "page.png"
    assert describe_source(Path("C:/x.png")) == os.path.join("C:", "x.png")
