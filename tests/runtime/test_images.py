"""Every image source arrives as the RGB a person would see, or is refused by name before it does harm."""

from __future__ import annotations

import contextlib
import io
import os
import random
import socket
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from qvl_runtime.common import files
from qvl_runtime.errors import MediaError
from qvl_runtime.media import images as media
from qvl_runtime.media.images import count_pages, load_frames, load_image, load_pages
from qvl_runtime.media.video import FrameSampling, load_clip
from qvl_runtime.pdf import Pdf
from tests.pdfs import text_pdf

SIZE = 24, 16


def picture(size: tuple[int, int] = SIZE) -> Image.Image:
    """A smooth gradient, of which no two corners are alike."""
    rows, columns = np.indices(size[::-1])
    stacked = np.stack((rows * 255 // size[1], columns * 255 // size[0], np.full_like(rows, 90)), -1)
    return Image.fromarray(stacked.astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    """The stored picture is turned so that applying its EXIF tag gives the upright one."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose members
    stored = picture().transpose(Image.Transpose(undo[orientation])) if orientation > 1 else picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(pixels(load_image(encoded(stored, kind, exif=exif))), pixels(picture()))


def transparent(mode: str) -> Image.Image:
    """Black, the left half fully transparent."""
    alpha = np.zeros(SIZE[::-1], np.uint8)
    alpha[:, SIZE[0] // 2 :] = 255
    image = Image.new("RGBA", SIZE)
    image.putalpha(Image.fromarray(alpha))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    shown = pixels(load_image(transparent(mode)))
    assert (shown[:, : SIZE[0] // 2] == 255).all()
    assert (shown[:, SIZE[0] // 2 :] == 0).all()


def test_a_palette_with_a_transparent_entry_is_laid_on_white() -> None:
    image = Image.new("P", SIZE, 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(0, (0, 0, 4, 4))
    for kind in ("PNG", "GIF"):
        shown = pixels(load_image(encoded(image, kind, transparency=0)))
        assert shown[0, 0].tolist() == [255, 255, 255]
        assert shown[8, 8].tolist() == [40, 50, 60]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_upper_byte(kind: str) -> None:
    gray = (np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE[::-1]) * 150).astype(np.uint16)
    shown = pixels(load_image(encoded(Image.fromarray(gray), kind)))
    assert np.array_equal(shown[..., 0], gray // 256)
    assert np.array_equal(shown[..., 0], shown[..., 2])


def test_thirty_two_bit_grey_is_clipped() -> None:
    gray = np.array([[-5, 0, 256, 70000]], np.int32)
    assert pixels(load_image(encoded(Image.fromarray(gray), "TIFF")))[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(
    ("values", "shown"),
    [([0, 127.6, 300, np.nan], [0, 127, 255, 0]), ([0, 0.5, 1, np.nan], [0, 127, 255, 0])],
    ids=["bytes", "fractions"],
)
def test_float_tiff(values: list[float], shown: list[int]) -> None:
    data = encoded(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert pixels(load_image(data))[0, :, 1].tolist() == shown


def test_one_bit_and_grey() -> None:
    assert set(np.unique(pixels(load_image(encoded(picture().convert("1"), "PNG"))))) == {0, 255}
    gray = picture().convert("L")
    assert np.array_equal(pixels(load_image(encoded(gray, "BMP")))[..., 1], np.asarray(gray))


def test_cmyk_jpeg() -> None:
    shown = pixels(load_image(encoded(picture().convert("CMYK"), "JPEG", quality=95)))
    assert np.abs(shown - pixels(picture())).mean() < 6


def test_every_page_of_a_tiff_is_an_image() -> None:
    pages = [picture(), picture((30, 40)).convert("L"), picture((9, 5)).convert("1")]
    found = load_pages(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert [page.size for page in found] == [page.size for page in pages]
    for page, original in zip(found, pages, strict=True):
        assert np.array_equal(pixels(page), pixels(original.convert("RGB")))


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", SIZE, color) for color in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        (page,) = load_pages(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
        assert pixels(page)[3, 3, 0] > 200, kind


def test_the_same_picture_from_every_kind_of_source(tmp_path: Path) -> None:
    path = tmp_path / "картинка 图.png"
    picture().save(path)
    array = np.asarray(picture())
    opaque = np.dstack((array, np.full(array.shape[:2], 255, np.uint8)))
    for source in (path, str(path), path.read_bytes(), picture(), array, opaque, array[::1]):
        assert np.array_equal(pixels(load_image(source)), array)
    gray = np.asarray(picture().convert("L"))
    assert np.array_equal(pixels(load_image(gray))[..., 2], gray)


def test_a_callers_image_is_neither_changed_nor_closed(tmp_path: Path) -> None:
    picture().save(tmp_path / "p.tif", save_all=True, append_images=[picture((8, 8))])
    with Image.open(tmp_path / "p.tif") as image:
        image.seek(1)
        (page,) = load_pages(image)  # what the image shows, not what its file holds
        assert page.size == (8, 8)
        assert image.tell() == 1
        image.seek(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.open(io.BytesIO(encoded(picture(), "PNG", exif=exif)))
    assert load_image(turned).size == SIZE[::-1]
    assert turned.size == SIZE
    assert turned.getexif()[0x0112] == 6
    drawn = picture()
    load_image(drawn).paste(0, (0, 0, 9, 9))
    assert np.array_equal(np.asarray(drawn), np.asarray(picture()))


def test_files_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "p.tif"
    picture().save(path, save_all=True, append_images=[picture()])
    before = len(os.listdir("/proc/self/fd"))
    kept = [load_pages(path) for _ in range(5)]
    assert len(kept) == 5
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint16),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((3, 40, 40), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_wrong_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(MediaError, match=r"array of shape .*use uint8 \[H, W, 3\]"):
        load_image(array)


@pytest.mark.parametrize("array", [np.zeros((0, 4, 3), np.uint8), np.zeros((4, 0), np.uint8)], ids=str)
def test_images_without_pixels_are_refused(array: np.ndarray) -> None:
    with pytest.raises(MediaError, match="given as ndarray"):
        load_image(array)
    with pytest.raises(MediaError, match="no pixels"):
        load_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("source", [None, 7, {"path": "x"}, [1, 2]], ids=str)
def test_other_types_are_refused(source: Any) -> None:
    with pytest.raises(MediaError, match="give a path, bytes, a PIL image or a uint8 array"):
        load_image(source)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP"])
def test_truncated_files_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = encoded(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    path = tmp_path / f"scan.{kind.lower()}"
    for share in (0.02, 0.3, 0.7):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(MediaError, match="scan"):
            load_image(path)


BASES = [
    encoded(picture(), "JPEG"),
    encoded(picture(), "PNG"),
    encoded(picture(), "TIFF", save_all=True, append_images=[picture()]),
    encoded(picture(), "TIFF", compression="tiff_lzw"),
    encoded(picture(), "GIF"),
    encoded(picture(), "WEBP"),
    encoded(picture(), "BMP"),
]


@pytest.mark.filterwarnings("ignore")  # Pillow's remarks on damaged metadata
@settings(deadline=None, max_examples=150)
@given(st.sampled_from(BASES), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4))
def test_damaged_files_are_read_or_refused(data: bytes, damage: list[tuple[int, int]]) -> None:
    """Nothing but MediaError comes out of a damaged file."""
    broken = bytearray(data)
    for place, value in damage:
        broken[place % len(broken)] = value
    with contextlib.suppress(MediaError):
        assert all(page.mode == "RGB" for page in load_pages(bytes(broken)))


@pytest.mark.filterwarnings("ignore")
def test_damaged_chunks_of_a_png_are_read_or_refused() -> None:
    """Damage that its checksums do not show."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data, rng, refused = encoded(picture(), "PNG", exif=exif, dpi=(72, 72)), random.Random(0), 0
    for _ in range(300):
        chunks = [(name, bytearray(body)) for name, body in png_chunks(data)]
        for _, body in rng.sample(chunks, 2):
            if body:
                place = rng.randrange(len(body))
                body[place : place + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\0\0\x20\0", rng.randbytes(1)])
        try:
            assert all(page.mode == "RGB" for page in load_pages(png(*chunks)))
        except MediaError:
            refused += 1
    assert 50 < refused < 290


@pytest.mark.parametrize(
    "content", [b"", b"just text", b"%PDF-1.7", b"\0" * 4096], ids=["empty", "text", "pdf", "zeros"]
)
def test_files_that_are_not_images(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"notes\.txt: is not an image in a known format"):
        load_image(path)
    with pytest.raises(MediaError, match="no such file"):
        load_image(tmp_path / "missing.png")
    with pytest.raises(MediaError, match="is a directory"):
        load_image(tmp_path)
    with pytest.raises(MediaError, match="URLs are not fetched"):
        load_image("https://example.org/page.png")


def test_urls_are_named_not_quoted() -> None:
    with pytest.raises(MediaError, match=r"is a URL \(URLs are not fetched") as error:
        load_image("https://example.org/page.png?" + "A" * 5000)
    assert len(str(error.value)) < 100


def test_an_open_file_can_be_read_twice(tmp_path: Path) -> None:
    file = io.BytesIO(encoded(picture(), "PNG"))
    assert pixels(load_image(file)).tolist() == pixels(load_image(file)).tolist()
    (tmp_path / "a.txt").write_text("text")
    with (tmp_path / "a.txt").open() as text, pytest.raises(MediaError, match=r"open as text \(open it with mode"):
        load_image(text)


def test_greys_of_eight_bits_in_a_wider_mode_keep_their_light() -> None:
    gray = Image.new("L", (9, 9), 200)
    assert pixels(load_image(gray.convert("I"))).tolist() == pixels(load_image(gray)).tolist()


def test_open_files_are_images_too() -> None:
    data = encoded(picture(), "PNG")
    assert pixels(load_image(io.BytesIO(data))).tolist() == pixels(load_image(data)).tolist()
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(data)
    with os.fdopen(reader, "rb", buffering=0) as file:  # whose reads are short, as those of a socket
        assert load_image(file).size == picture().size


def test_pipes_of_the_shell_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--image <(…)` and `… | run --image /dev/stdin`."""
    text_pdf(tmp_path / "a.pdf", [["one"]])
    for data, read in (
        (encoded(picture(), "PNG"), load_image),
        ((tmp_path / "a.pdf").read_bytes(), lambda path: Pdf(path).draw(0)),
    ):
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb") as file:
            file.write(data)
        assert read(f"/dev/fd/{reader}").size in (SIZE, (417, 209))
        os.close(reader)
    monkeypatch.setattr(files, "MAX_PIPE_BYTES", 1 << 20)
    with subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE) as endless:
        assert endless.stdout is not None
        with pytest.raises(MediaError, match="is larger than 1 MiB"):
            load_image(f"/dev/fd/{endless.stdout.fileno()}")
        endless.kill()


def named_pipe(directory: Path) -> Path:
    os.mkfifo(directory / "pipe")
    return directory / "pipe"


def named_socket(directory: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory / "socket"))
    return directory / "socket"


def linked_device(directory: Path) -> Path:
    (directory / "link").symlink_to("/dev/zero")
    return directory / "link"


@pytest.mark.parametrize("make", [lambda _: Path("/dev/zero"), linked_device, named_pipe, named_socket])
@pytest.mark.parametrize(
    "read", [load_pages, count_pages, Pdf, lambda path: load_clip(path, FrameSampling(), lambda *_: (56, 56))]
)
def test_only_regular_files_are_read(make: Any, read: Any, tmp_path: Path) -> None:
    """A device never ends, and a pipe without a writer never begins."""
    path = make(tmp_path)
    with pytest.raises(MediaError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: is not a regular file")


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.png"
    picture().save(path)
    monkeypatch.setattr(media, "MAX_IMAGE_BYTES", 20)
    with pytest.raises(MediaError, match=r"page\.png: is larger than"):
        load_image(path)
    monkeypatch.setattr(media, "MAX_IMAGE_BYTES", 3 << 20)
    monkeypatch.setattr(media, "CHUNK", 1 << 16)
    with open("/dev/zero", "rb") as endless, pytest.raises(MediaError, match="has more than 3 MiB"):
        load_image(endless)


def test_arrays_are_measured_before_they_are_copied() -> None:
    """A view that repeats one pixel is as large as it likes, and takes no memory until it is copied."""
    wide = np.broadcast_to(np.uint8(255), (40_000, 40_000, 3))
    with pytest.raises(MediaError, match="40000 × 40000 pixels; more than"):
        load_image(wide)
    with pytest.raises(MediaError, match=r"more than .* are refused"):
        load_image(np.broadcast_to(np.uint8(255), (1 << 40, 1 << 20)))
    with pytest.raises(MediaError, match="12000 × 12000 pixels; more than"):
        load_image(Image.new("1", (12_000, 12_000)))


@pytest.mark.parametrize("shape", [(10**6, 640, 480, 3), (1 << 20, 2, 2, 3), (2, 40_000, 40_000, 3), (10**12, 0, 8, 3)])
def test_arrays_of_frames_are_measured_too(shape: tuple[int, ...]) -> None:
    with pytest.raises(MediaError, match=r"video: is an array of shape .* pixels \(give fewer or smaller frames"):
        load_clip(np.broadcast_to(np.uint8(255), shape), FrameSampling(), lambda *_: (56, 56))


def test_lists_of_frames_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_CLIP_PIXELS", 3 * SIZE[0] * SIZE[1])
    assert len(load_frames([picture()] * 3)) == 3
    with pytest.raises(MediaError, match=r"the first 4 frames of the video have .* \(give fewer"):
        load_frames([picture()] * 1000)
    with pytest.raises(MediaError, match=r"the video has 70,000 frames"):
        load_frames([picture()] * 70_000)


def scans(count: int) -> bytes:
    """A progressive JPEG of 4096² gray pixels, whose last scan comes again and again."""
    data = encoded(Image.new("L", (4096, 4096), 128), "JPEG", progressive=True)
    tables = data.rindex(b"\xff\xc4")
    return data[:-2] + data[tables:-2] * count + b"\xff\xd9"


def test_a_jpeg_of_a_thousand_scans_is_refused(tmp_path: Path) -> None:
    """A minute of reading in a file of 100 kB."""
    (tmp_path / "slow.jpg").write_bytes(scans(1000))
    with pytest.raises(MediaError, match=r"slow\.jpg: its 1,0\d\d scans take too long"):
        load_image(tmp_path / "slow.jpg")
    assert load_image(scans(2)).size == (4096, 4096)


def test_a_tiff_of_thousands_of_pages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_TIFF_PAGES", 3)
    dot = Image.new("L", (1, 1))
    assert len(load_pages(encoded(dot, "TIFF", save_all=True, append_images=[dot] * 2))) == 3
    with pytest.raises(MediaError, match="its first 4 pages have 4 pixels, which is too many"):
        load_pages(encoded(dot, "TIFF", save_all=True, append_images=[dot] * 9))


def test_several_pages_instead_of_one_image() -> None:
    tiff = io.BytesIO()
    picture().save(tiff, "TIFF", save_all=True, append_images=[picture()])
    with pytest.raises(MediaError, match="has 2 pages; one image is expected"):
        load_image(tiff.getvalue())


def test_postscript_is_refused() -> None:
    """Pillow would run Ghostscript on it."""
    with pytest.raises(MediaError, match="not an image in a known format"):
        load_image(encoded(picture(), "EPS"))


def png(*chunks: tuple[bytes, bytes | bytearray]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        place += size + 12


def png_bomb(side: int) -> bytes:
    """A PNG whose header promises side² pixels and whose data is short."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return png((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a large image is decoded, not when it is looked at."""
    original = Image.Image.load

    def load(image: Image.Image) -> Any:
        assert image.width * image.height < 1 << 20, "decoded before it was refused"
        return original(image)

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [17_000, 30_000, 2**31 - 1])
def test_a_bomb_is_refused_by_its_header(side: int, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bomb(side))
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(MediaError, match=r"bomb\.png: .*decompression bomb"):
        load_image(path)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_bomb_on_the_second_page_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_IMAGE_PIXELS", 1000)
    path = tmp_path / "fax.tif"
    picture().save(path, save_all=True, append_images=[picture((60, 60))])
    seen: list[tuple[int, int]] = []
    transpose = ImageOps.exif_transpose
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda image: (seen.append(image.size), transpose(image))[1])
    with pytest.raises(MediaError, match=r"fax\.tif: has 60 × 60 pixels"):
        load_pages(path)
    assert (60, 60) not in seen


def test_many_large_pages_are_refused_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_PAGES_PIXELS", 3 * SIZE[0] * SIZE[1])
    path = tmp_path / "book.tif"
    picture().save(path, save_all=True, append_images=[picture()] * 2)
    assert len(load_pages(path)) == 3
    picture().save(path, save_all=True, append_images=[picture()] * 3)
    with pytest.raises(MediaError, match=r"book\.tif: .*pages"):
        load_pages(path)


def test_frames_of_a_video() -> None:
    assert [frame.size for frame in load_frames([picture(), np.asarray(picture())])] == [SIZE, SIZE]
    with pytest.raises(MediaError, match="at least one frame"):
        load_frames([])
    with pytest.raises(MediaError, match=r"differ in size: \[\(8, 8\), \(24, 16\)\].*resize"):
        load_frames([picture(), picture((8, 8))])


def test_pages_are_counted_without_decoding(tmp_path: Path) -> None:
    picture().save(tmp_path / "book.tif", save_all=True, append_images=[picture()] * 2)
    picture().save(tmp_path / "page.png")
    assert [count_pages(tmp_path / name) for name in ("book.tif", "page.png")] == [3, 1]
    (tmp_path / "page.png").write_bytes(b"no pixels")
    with pytest.raises(MediaError, match=r"page\.png: is not an image"):
        count_pages(tmp_path / "page.png")
