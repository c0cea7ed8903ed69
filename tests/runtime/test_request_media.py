"""Media of requests: what they carry is read, what they name is confined, unknown parts are refused."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qvl_runtime.errors import MediaError
from qvl_runtime.pdf import PdfPage
from qvl_runtime.requests.errors import ApiError
from qvl_runtime.requests.media import MediaReader


def picture(kind: str = "PNG", pages: int = 1) -> bytes:
    file, images = io.BytesIO(), [Image.new("RGB", (40, 30), (index, 0, 0)) for index in range(pages)]
    images[0].save(file, kind, **({"save_all": True, "append_images": images[1:]} if pages > 1 else {}))
    return file.getvalue()


def url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def parts(reader: MediaReader, *content: Any) -> list[dict[str, Any]]:
    (message,) = reader.messages([{"role": "user", "content": list(content)}])
    found: list[dict[str, Any]] = message["content"]
    return found


def refused(reader: MediaReader, part: Any, status: int = 400) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parts(reader, part)
    assert caught.value.status == status and "\n" not in str(caught.value)
    return caught.value


def image(address: Any, **options: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": address}, **options}


def file(**fields: Any) -> dict[str, Any]:
    return {"type": "file", "file": fields}


def test_what_a_request_carries_is_read(pdf: Path) -> None:
    reader, png = MediaReader(16), picture()
    assert parts(reader, image(url(png), max_pixels=5000)) == [{"type": "image", "image": png, "max_pixels": 5000}]
    assert parts(reader, {"type": "image_url", "image_url": url(png)}) == [{"type": "image", "image": png}]
    video = {"type": "video_url", "video_url": {"url": url(b"clip", "video/mp4")}, "fps": 1}
    assert parts(reader, video) == [{"type": "video", "video": b"clip", "fps": 1}]
    for data in (url(pdf.read_bytes(), "application/pdf"), base64.b64encode(pdf.read_bytes()).decode()):
        pages = parts(reader, file(file_data=data, filename="letter.pdf", pages="2-3"))
        assert [page["image"].index for page in pages] == [1, 2]
        assert isinstance(pages[0]["image"], PdfPage) and pages[0]["image"].draw().size == (150, 300)
    tiff = picture("TIFF", 3)
    assert parts(reader, file(file_data=url(tiff, "image/tiff"))) == [{"type": "image", "image": tiff}]


def test_pages_and_images_are_bounded_together(pdf: Path) -> None:
    letter = file(file_data=url(pdf.read_bytes()), filename="letter.pdf")
    assert len(parts(MediaReader(4), letter, image(url(picture())))) == 4
    for content in ([letter, letter], [letter, image(url(picture("TIFF", 2)))], [image(url(picture()))] * 5):
        with pytest.raises(ApiError, match=r"pages and images or more, this server takes 4") as caught:
            parts(MediaReader(4), *content)
        assert caught.value.code == "too_many_pages"


def test_messages_become_those_of_the_runtime() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "2"}]},
    ]
    system, assistant, tool = MediaReader(1).messages(messages)
    assert system == {"role": "system", "content": "Be brief."}
    assert assistant["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert tool["content"] == [{"type": "text", "text": "2"}]
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}', "the request is as it was"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "media" / "deep").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(picture())
    (tmp_path / "media" / "deep" / "a b.png").write_bytes(picture())
    (tmp_path / "media" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "media" / "up").symlink_to(tmp_path)
    (tmp_path / "media-other").mkdir()
    (tmp_path / "media-other" / "c.png").write_bytes(picture())
    return tmp_path / "media"


def test_files_below_the_root(root: Path) -> None:
    found = (root / "deep" / "a b.png").resolve()
    for name in ("deep/a b.png", "./deep/../deep/a b.png", str(found), f"file://{root}/deep/a%20b.png"):
        assert parts(MediaReader(1, root), image(name)) == [{"type": "image", "image": found}]


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "link.png", "up/secret.png", "{top}/secret.png", "file://{top}/secret.png", "deep", "", "."]
    + ["deep/../../secret.png", "..\\secret.png", "{top}/media-other/c.png", "/etc/passwd", "file:///etc/passwd"]
    + ["file://host/etc/passwd", "%2e%2e/secret.png", "file://{top}/media/%2e%2e/secret.png", "a\0b", "x" * 5000]
    + ["/dev/zero", "/proc/self/environ", "nothing.png"],
)
def test_nothing_else_is_read(root: Path, name: str) -> None:
    """Not even whether a file outside exists is told."""
    wanted = name.format(top=root.parent)
    errors = {
        str(refused(MediaReader(1, root), {"type": kind, kind: {"url": wanted}})) for kind in ("image_url", "video_url")
    }
    assert errors == {"no such file below the server's media root"}


@pytest.mark.parametrize("name", ["/etc/passwd", "file:///etc/passwd", "page.png", "", "~/x.png", "\\\\host\\share"])
def test_without_a_root_no_file_is_named(name: str) -> None:
    assert "naming a file of the server is not supported" in str(refused(MediaReader(1), image(name)))


@pytest.mark.parametrize("name", ["http://example.org/a.png", "https://10.0.0.1/", "ftp://example.org/", "s3://b/k"])
def test_urls_are_refused_unless_allowed(root: Path, name: str) -> None:
    for reader in (MediaReader(1), MediaReader(1, root)):
        assert "fetching this URL is not supported (send" in str(refused(reader, image(name)))


def test_urls_are_fetched_if_allowed() -> None:
    asked, png = list[str](), picture()

    def fetch(address: str) -> bytes:
        asked.append(address)
        return png

    reader = MediaReader(2, None, fetch)
    assert parts(reader, image("HTTPS://e.org/a.png")) == [{"type": "image", "image": png}]
    assert asked == ["HTTPS://e.org/a.png"]
    for other in ("ftp://e.org/", "gopher://e.org/", "jar://x"):
        assert "use http, https or data" in str(refused(reader, image(other)))


@pytest.mark.parametrize(
    "part",
    [{"type": "image", "image": "/etc/passwd"}, {"type": "video", "video": ["/etc/passwd"]}, {"type": "input_audio"}]
    + [{"type": "text", "text": "x", "image": "/etc/passwd"}, {"type": "text"}, {"type": "text", "text": {"a": 1}}]
    + [image(url(picture()), image="/etc/passwd"), image(url(picture()), video="/etc/passwd"), image(7), image(None)]
    + [{"type": "image_url"}, {"type": "image_url", "image_url": {"url": url(picture()), "detail": "low"}}]
    + [{"type": "image_url", "image_url": {"url": url(picture()), "path": "/etc/passwd"}}, "text", None, 3, []]
    + [file(file_id="f"), file(filename="x.pdf"), file(file_data=3), file(file_data="***"), {"type": "file"}]
    + [file(file_data="data:x"), file(file_data=url(picture()), pages="1"), {"type": ["text"]}, {}],
    ids=lambda part: str(part)[:50],
)
def test_other_parts_are_refused(part: Any, root: Path) -> None:
    refused(MediaReader(9, root, lambda _: b""), part)


@pytest.mark.parametrize("content", [b"", b"no image", b"%PDF-1.7 damaged", b"\x89PNG\r\n\x1a\n" + b"x" * 50])
def test_damaged_media(content: bytes) -> None:
    for part in (image(url(content)), file(file_data=url(content), filename="x")):
        with pytest.raises((MediaError, ApiError)) as caught:
            parts(MediaReader(9), part)
        assert "\n" not in str(caught.value)


def test_decompression_bombs_are_refused_before_they_are_decoded() -> None:
    bomb = io.BytesIO()
    Image.fromarray(np.zeros((20_000, 20_000), bool)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 100_000
    with pytest.raises(MediaError, match="decompression bomb"):
        parts(MediaReader(9), image(url(bomb.getvalue())))
