"""`POST /v1/pages`: a page of a file as the picture that the model would see."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from PIL import Image

from qvl_runtime.common.interruption import Deadline
from qvl_runtime.errors import Interrupted, MediaError
from qvl_runtime.manifest import ImageGeometry
from qvl_runtime.model import Model
from qvl_runtime.pdf import Pdf
from qvl_runtime.preprocess import patchify
from qvl_runtime.requests.errors import ApiError
from qvl_runtime.requests.media import MediaReader
from qvl_runtime.serve.app import Service
from qvl_runtime.serve.options import ServeOptions
from qvl_runtime.serve.pages import MAX_PNG_BYTES, PageRequest, read_page_request, rendered
from tests.pdfs import text_pdf
from tests.serving import Server, serving

GEOMETRY = ImageGeometry(
    patch_size=14,
    temporal_patch_size=2,
    spatial_merge_size=2,
    min_pixels=4 * 28 * 28,
    max_pixels=4096 * 28 * 28,
    image_mean=[0.5] * 3,
    image_std=[0.5] * 3,
)


@pytest.fixture
def pdf(tmp_path: Path) -> Path:
    return text_pdf(tmp_path / "two.pdf", [["First"], ["Second"]])


def page(content: bytes, number: int = 1, geometry: ImageGeometry = GEOMETRY) -> dict[str, Any]:
    file = {"file_data": base64.b64encode(content).decode()}
    request = read_page_request(httpx.Request("POST", "http://h", json={"file": file, "page": number}).content)
    return rendered(request, MediaReader(1), geometry)


def picture(answer: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(answer["image_url"]["url"].partition(",")[2])))


def test_a_page_of_a_pdf_is_what_the_model_would_see(pdf: Path) -> None:
    answer = page(pdf.read_bytes(), 2)
    with Pdf(pdf) as opened:
        expected = opened.draw(1)
    assert (answer["page"], answer["pages"]) == (2, 2)
    assert (answer["width"], answer["height"]) == expected.size
    assert np.array_equal(np.asarray(picture(answer)), np.asarray(expected))


def test_a_page_of_a_tiff() -> None:
    file = io.BytesIO()
    colors = [Image.new("RGB", (20, 10), color) for color in ("red", "blue")]
    colors[0].save(file, "TIFF", save_all=True, append_images=colors[1:])
    answer = page(file.getvalue(), 2)
    assert answer["pages"] == 2 and picture(answer).getpixel((0, 0)) == (0, 0, 255)


def scan(width: int, height: int) -> tuple[bytes, Image.Image]:
    """A colored scan as a scanner saves it, and its pixels: noise, of which no PNG is small."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue(), Image.open(file)


def test_a_page_has_no_more_pixels_than_the_model_takes() -> None:
    """Sent back, it gives the model the same patches as the file would."""
    content, pixels = scan(900, 500)
    geometry = msgspec.structs.replace(GEOMETRY, max_pixels=100 * 28 * 28)
    answer = page(content, geometry=geometry)
    shown = picture(answer)
    assert shown.size == (answer["width"], answer["height"]) and shown.width * shown.height <= geometry.max_pixels
    assert (patchify([shown], geometry).pixel_values == patchify([pixels], geometry).pixel_values).all()


def test_a_large_page_of_photographed_paper_is_a_jpeg() -> None:
    answer = page(scan(2000, 1600)[0])
    assert answer["image_url"]["url"].startswith("data:image/jpeg;") and picture(answer).size == (2000, 1600)
    assert len(answer["image_url"]["url"]) < MAX_PNG_BYTES * 4 / 3 + 100


def test_other_pages_of_a_tiff_are_not_decoded() -> None:
    """A small TIFF may have gigabytes of pixels; here, a page that cannot be decoded is in nobody's way."""
    file = io.BytesIO()
    pages = [Image.new("RGB", (20, 10), color) for color in ("red", "blue")]
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    with Image.open(file) as opened:
        opened.seek(1)
        start, length = opened.tag_v2[273][0], opened.tag_v2[279][0]
    content = bytearray(file.getvalue())
    content[start : start + length] = bytes(length)
    assert picture(page(bytes(content), 1)).getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(MediaError, match="cannot be read"):
        page(bytes(content), 2)


@pytest.mark.parametrize("number", [0, 3, -1])
def test_pages_that_are_not_there(pdf: Path, number: int) -> None:
    with pytest.raises(ApiError, match="the file has 2 pages") as refusal:
        page(pdf.read_bytes(), number)
    assert refusal.value.status == 400 and refusal.value.param == "page"


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"file": 1}', b'{"file": {}, "page": "1"}', b'{"file": {}, "dpi": 9}'])
def test_bodies_that_are_no_request(body: bytes) -> None:
    with pytest.raises(ApiError) as refusal:
        read_page_request(body)
    assert refusal.value.status == 400


@pytest.fixture(scope="module")
def server(deep_path: Path) -> Iterator[Server]:
    with serving(deep_path, "--api-key", "sesame") as running:
        yield running


def test_the_server_draws_pages_for_those_with_the_key(server: Server, pdf: Path) -> None:
    body = {"file": {"file_data": base64.b64encode(pdf.read_bytes()).decode(), "filename": "two.pdf"}, "page": 2}
    key = {"Authorization": "Bearer sesame"}
    answer = httpx.post(f"{server.url}/v1/pages", json=body, headers=key, timeout=300)
    assert answer.status_code == 200 and answer.json()["pages"] == 2
    assert httpx.post(f"{server.url}/v1/pages", json=body, timeout=300).status_code == 401
    assert 'qvl_requests_total{status="200"} 1.0' in metrics(server, key)
    damaged = {"file": {"file_data": base64.b64encode(b"%PDF-1.7 nothing").decode(), "filename": "d.pdf"}}
    answer = httpx.post(f"{server.url}/v1/pages", json=damaged, headers=key, timeout=300)
    assert answer.status_code == 400 and answer.json()["error"]["message"].startswith("d.pdf: cannot be read as a PDF")
    assert 'qvl_requests_total{status="400"} 1.0' in metrics(server, key)
    server._wait(lambda: len(server.logged()) >= 2)
    assert [(each["event"], each["status"]) for each in server.logged()] == [("page", 200), ("refused", 400)]
    assert not [line for line in server.lines if "two.pdf" in line or "d.pdf" in line]


def metrics(server: Server, key: dict[str, str]) -> str:
    return httpx.get(f"{server.url}/metrics", headers=key, timeout=300).text


def test_a_page_ends_with_the_time_of_its_request(deep_model: Model, pdf: Path) -> None:
    service = Service(deep_model, ServeOptions(model_name="tiny"))
    file = {"file_data": base64.b64encode(pdf.read_bytes()).decode()}
    with pytest.raises(Interrupted, match="the time of the request was over while its PDF was read"):
        service._rendered(PageRequest(file=file), Deadline(0))
    assert msgspec.json.decode(service._rendered(PageRequest(file=file), Deadline(math.inf)))["pages"] == 2
