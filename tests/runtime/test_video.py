"""Frames of videos: counts, indices and sizes as `qwen-vl-utils` gives them, and files read frame by frame."""

from __future__ import annotations

import builtins
import io
import random
import re
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from qvl_runtime.common.interruption import interruptible
from qvl_runtime.errors import InstallError, Interrupted, MediaError, PromptError
from qvl_runtime.media import images as media
from qvl_runtime.media import video
from qvl_runtime.media.video import FrameSampling, PixelBudget, evenly_spaced, load_clip
from qvl_runtime.model import Model
from qvl_runtime.resize import smart_resize
from tests.conftest import Loader

COUNTS = [
    (300, 30.0, {}, 20),
    (2, 30, {}, 2),
    (3, 24, {}, 2),
    (9, 30, {}, 4),
    (10, 29.97, {}, 4),
    (7200, 23.976, {}, 600),
    (90000, 25, {}, 768),
    (300, 30, {"fps": 1}, 10),
    (300, 30, {"fps": 30}, 300),
    (300, 30, {"fps": 60}, 300),
    (300, 30, {"fps": 0.1}, 4),
    (300, 30, {"max_frames": 7}, 6),
    (300, 30, {"min_frames": 41}, 42),
    (300, 30, {"fps": 0.5, "min_frames": 5, "max_frames": 8}, 6),
    (300, 30, {"nframes": 9}, 8),
    (300, 30, {"nframes": 11}, 12),
    (50, 30, {"max_frames": 100, "fps": 60}, 50),
    (1000, 12.5, {"fps": 3}, 240),
]
"""Frames, frames per second, options, and what `smart_nframes` of qwen-vl-utils 0.0.14 returned."""
SIZES = [
    (8, (1920, 1080), 28, {}, (1008, 560)),
    (8, (1920, 1080), 32, {}, (1152, 640)),
    (2, (640, 480), 28, {}, (644, 476)),
    (4, (320, 240), 28, {}, (392, 280)),
    (768, (1920, 1080), 28, {}, (644, 336)),
    (768, (100, 100), 32, {}, (384, 384)),
    (60, (720, 1280), 28, {"max_pixels": 151200}, (280, 504)),
    (60, (1280, 720), 32, {"max_pixels": 10000000}, (1152, 640)),
    (60, (1280, 720), 28, {"min_pixels": 3136}, (1008, 560)),
    (60, (1280, 720), 28, {"total_pixels": 16056320}, (952, 532)),
    (100, (1280, 720), 28, {"total_pixels": 1568000}, (420, 224)),
    (100, (1280, 720), 28, {"total_pixels": 1568000, "min_pixels": 12544}, (224, 112)),
    (6, (50, 900), 28, {}, (84, 1344)),
    (6, (1000, 37), 32, {"min_pixels": 51200, "max_pixels": 307200}, (1184, 64)),
]
"""Frames, their size, side of a token, options, and the size in which its `fetch_video` gave them."""
MODEL_SEQ_LEN = 128_000


@pytest.mark.parametrize(("total", "rate", "options", "expected"), COUNTS, ids=str)
def test_as_many_frames_as_qwen_vl_utils(total: int, rate: float, options: dict[str, Any], expected: int) -> None:
    assert FrameSampling.from_part(options).count(total, rate) == expected


def test_a_video_of_one_frame_keeps_it() -> None:
    assert FrameSampling().count(1, 30) == 1
    with pytest.raises(PromptError, match="nframes 8 does not fit a video of 5 frames"):
        FrameSampling.from_part({"nframes": 8}).count(5, 30)


@pytest.mark.parametrize("total", [2, 3, 10, 299, 7200, 90001])
@pytest.mark.parametrize("count", [1, 2, 4, 20, 38, 600, 768])
def test_the_same_frames(total: int, count: int) -> None:
    count = min(count, total)
    assert evenly_spaced(total, count).tolist() == torch.linspace(0, total - 1, count).round().long().tolist()


@pytest.mark.parametrize(("frames", "size", "side", "options", "expected"), SIZES, ids=str)
def test_frames_as_large(
    frames: int, size: tuple[int, int], side: int, options: dict[str, Any], expected: tuple[int, int]
) -> None:
    low, high = PixelBudget.from_part(options).frame_bounds(frames, side, MODEL_SEQ_LEN)
    height, width = smart_resize(size[1], size[0], side, low, high)
    assert (width, height) == expected


RATE, TOTAL, SIZE = 10, 45, (320, 240)


def shade(index: int) -> int:
    return 10 + 5 * index


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 gray frames at 10 per second, each a little lighter than the last."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *SIZE, "yuv420p", 4_000_000
        for index in range(TOTAL):
            frame = np.full((SIZE[1], SIZE[0], 3), shade(index), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    return path


@pytest.fixture
def tiny(model: Loader) -> Model:
    return model("qwen2_5_vl", "small", "fp32")


def ask(**video: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "video", **video}, {"type": "text", "text": "What happens?"}]}]


def greys(frames: Any) -> list[float]:
    return [float(np.asarray(frame).mean()) for frame in frames]


@pytest.mark.parametrize("options", [{}, {"fps": 1.0}, {"fps": 4.0, "max_frames": 10}, {"nframes": 6}], ids=str)
def test_a_file_gives_the_requested_frames(tiny: Model, film: Path, options: dict[str, Any]) -> None:
    (placed,) = tiny.prompt(ask(video=film, **options)).placed
    count = FrameSampling.from_part(options).count(TOTAL, RATE)
    chosen = torch.linspace(0, TOTAL - 1, count).round().long().tolist()
    media = placed.media
    assert len(media.frames) == count
    assert np.abs(np.array(greys(media.frames)) - [shade(index) for index in chosen]).max() < 3
    assert media.fps == pytest.approx(count / TOTAL * RATE)
    assert media.times == pytest.approx([index / RATE for index in chosen])
    low, high = PixelBudget().frame_bounds(count, 28, tiny.manifest.llm.max_length)
    height, width = smart_resize(SIZE[1], SIZE[0], 28, low, high)
    assert media.frames[0].size == (width, height), "resized while decoding"
    assert (placed.grid.t, placed.grid.h * 14, placed.grid.w * 14) == (count // 2, height, width)


def test_frames_of_a_file_are_bounded_together(tiny: Model, film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large each is asked for, before the first is kept."""
    large = {"resized_height": 280, "resized_width": 280, "nframes": 20}
    monkeypatch.setattr("qvl_runtime.media.video.MAX_CLIP_PIXELS", 20 * 280 * 280 - 1)
    with pytest.raises(PromptError, match=r"20 frames of the video have 1,568,000 pixels, .* \(request fewer"):
        tiny.prompt(ask(video=film, **large))
    assert tiny.prompt(ask(video=film, **{**large, "nframes": 18})).placed


def test_a_file_answers_as_its_frames_do(tiny: Model, film: Path) -> None:
    """The same pixels by way of a file, of a list and of an array."""
    clip = tiny.prompt(ask(video=str(film))).placed[0].media
    given = {"video": list(clip.frames), "fps": clip.fps}
    array = {"video": np.stack([np.asarray(frame) for frame in clip.frames]), "fps": clip.fps}
    answers = {tiny.generate(ask(**video), 8) for video in ({"video": str(film)}, given, array)}
    assert len(answers) == 1


def test_urls_of_videos_are_named() -> None:
    with pytest.raises(MediaError, match=r"^https://x\.y/a\.mp4: is a URL \(URLs are not fetched"):
        load_clip("https://x.y/a.mp4", FrameSampling(), lambda *_: (56, 56))


def test_frames_given_one_by_one_are_thinned_out(tiny: Model) -> None:
    frames = [Image.new("RGB", (56, 56), (shade(index),) * 3) for index in range(10)]
    media = tiny.prompt(ask(video=frames, fps=5.0, max_frames=4)).placed[0].media
    assert greys(media.frames) == [shade(index) for index in (0, 3, 6, 9)]
    assert (media.fps, media.times) == (2.0, pytest.approx((0, 0.6, 1.2, 1.8)))
    assert len(tiny.prompt(ask(video=frames, fps=5.0)).placed[0].media.frames) == 10


def test_times_of_a_file_are_written_before_its_patches(model: Loader, film: Path) -> None:
    """If a family writes times; frames 0, 15, 29 and 44 at ten per second are not multiples of a rate."""
    timed = model("qwen3_vl", "small", "fp32")
    prompt = timed.prompt(ask(video=film, nframes=4))
    text = timed.tokenizer.decode(prompt.ids.tolist(), skip_special_tokens=True)
    assert re.findall(r"<([\d.]+) seconds>", text) == [f"{(0 + 1.5) / 2:.1f}", f"{(2.9 + 4.4) / 2:.1f}"]
    assert [item.first_row for item in prompt.placed] == [0, prompt.placed[0].span.tokens]


def test_pixel_budgets_reach_the_grid(tiny: Model, film: Path) -> None:
    def tokens(**options: Any) -> int:
        return tiny.prompt(ask(video=film, **options)).placed[0].span.tokens

    token, frames = 28 * 28, FrameSampling().count(TOTAL, RATE)
    assert tokens(max_pixels=20 * token) <= 20 * frames // 2 < tokens()
    assert tokens(total_pixels=100 * token, min_pixels=4 * token) <= 100
    assert tokens(nframes=4) < tokens()


def test_a_turned_film_is_upright(tmp_path: Path, film: Path) -> None:
    """A telephone held upright stores a lying picture and says so."""

    class Frame:
        rotation = -90

        def to_image(self) -> Image.Image:
            image = Image.new("RGB", (4, 2), "white")
            image.putpixel((0, 0), (255, 0, 0))
            return image

    image = video.upright(Frame())
    assert image.size == (2, 4)
    assert image.getpixel((1, 0)) == (255, 0, 0), "a quarter turn clockwise"


def test_files_that_are_not_a_video(tiny: Model, tmp_path: Path, film: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(film.read_bytes()[:200])
    (tmp_path / "playlist.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    for name, reason in {
        "missing.mp4": "no such file",
        "text.mp4": "cannot be read as a video",
        "cut.mp4": "cannot be read as a video",
        "playlist.m3u8": "cannot be read as a video|has no video stream|has no frames",
        "sound.wav": "has no video stream",
    }.items():
        with pytest.raises(MediaError, match=rf"{name}: ({reason})") as caught:
            tiny.prompt(ask(video=tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(MediaError, match="needs at least one frame"):
        tiny.prompt(ask(video=np.zeros((0, 8, 8, 3), np.uint8)))
    with pytest.raises(MediaError, match="float64 array"):
        tiny.prompt(ask(video=np.zeros((2, 8, 8, 3))))


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:4.5,\n{film}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile {film}\n",
    "list.mpd": '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT4S"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{film}</BaseURL>'
    "<SegmentBase/></Representation></AdaptationSet></Period></MPD>",
    "list.sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_files_that_name_other_files_are_not_videos(name: str, tmp_path: Path, film: Path) -> None:
    """Names in a video file are not opened, although FFmpeg would open them."""
    (tmp_path / "film.ts").write_bytes(transport_stream(film))
    (tmp_path / name).write_text(PLAYLISTS[name].format(film="film.ts"))
    with pytest.raises(MediaError, match=rf"{name}: cannot be read as a video: Invalid"):
        load_clip(tmp_path / name, FrameSampling(), lambda *_: (56, 56))
    assert load_clip(tmp_path / "film.ts", FrameSampling(), lambda *_: (56, 56)).frames


def transport_stream(film: Path) -> bytes:
    """The same film in the form of a broadcast."""
    content = io.BytesIO()
    with av.open(str(film)) as source, av.open(content, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in source.decode(video=0):
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    return content.getvalue()


def test_names_with_colons_and_metadata_in_latin(tmp_path: Path, film: Path) -> None:
    path = tmp_path / "http:film 50%d.mp4"
    source = film.read_bytes()
    at = source.index(b"Lavf")
    path.write_bytes(source[:at] + b"\xfc" + source[at + 1 :])
    assert load_clip(path, FrameSampling(), lambda *_: (56, 56)).frames


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Six small frames."""
    path = tmp_path_factory.mktemp("short") / "short.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for index in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade(index), np.uint8))))
        container.mux(stream.encode())
    return path.read_bytes()


def test_damaged_films_are_read_or_refused(short: bytes, tmp_path: Path) -> None:
    """Nothing but MediaError comes out of them; most damage is in the boxes at the end, which say what the film is."""
    rng, path, refused, read = random.Random(0), tmp_path / "damaged.mp4", 0, 0
    for _ in range(200):
        damaged = bytearray(short)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(damaged)) if rng.random() < 0.5 else len(damaged) - rng.randrange(1, 900)
            damaged[place : place + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", rng.randbytes(1)])
        path.write_bytes(damaged)
        try:
            clip = load_clip(path, FrameSampling(), lambda *_: (56, 56))
        except MediaError as error:
            refused += str(error).startswith(f"{path}: ") and len(str(error)) < 400
        else:
            read += {frame.size for frame in clip.frames} == {(56, 56)}
    assert refused + read == 200
    assert min(refused, read) > 20


def test_a_frame_larger_than_the_file_says_is_not_decoded(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size in the file is looked at before; a decoder may find another in the stream."""
    seen: list[dict[str, str]] = []
    inner = video.frames_and_rate

    def noting(container: Any, path: Path) -> tuple[int, float]:
        found = inner(container, path)
        seen.append(container.streams.video[0].codec_context.options)
        return found

    monkeypatch.setattr(video, "frames_and_rate", noting)
    load_clip(film, FrameSampling(), lambda *_: (56, 56))
    assert seen == [{"max_pixels": str(media.MAX_IMAGE_PIXELS)}]
    monkeypatch.setattr(video, "MAX_IMAGE_PIXELS", SIZE[0] * SIZE[1] - 1)
    with pytest.raises(MediaError, match=r"film\.mp4: 320 × 240 pixels are too many"):
        load_clip(film, FrameSampling(), lambda *_: (56, 56))


def test_as_many_frames_as_a_damaged_file_claims(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "frames_and_rate", lambda *_: (1 << 40, float(RATE)))
    with pytest.raises(PromptError, match="request at most 65,536"):
        load_clip(film, FrameSampling.from_part({"nframes": 1 << 39}), lambda *_: (56, 56))


def test_a_file_that_ends_too_soon_repeats_its_last_frame(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvl_runtime.media.video.frames_and_rate", lambda *_: (2 * TOTAL, float(RATE)))
    clip = load_clip(film, FrameSampling(), lambda frames, size: size)
    assert len(clip.frames) == FrameSampling().count(2 * TOTAL, RATE)
    assert greys(clip.frames[-1:])[0] == pytest.approx(shade(TOTAL - 1), abs=12)


def test_without_av_the_extra_is_named(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return imported(name, *arguments)

    monkeypatch.delitem(sys.modules, "av")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InstallError, match=r"qvl-runtime\[video\]"):
        load_clip(film, FrameSampling(), lambda frames, size: size)


def test_frames_given_one_by_one_are_not_sampled_by_number() -> None:
    frames, sampling = [Image.new("RGB", (56, 56))] * 8, FrameSampling.from_part({"nframes": 4})
    with pytest.raises(PromptError, match="nframes applies to video files only"):
        load_clip(frames, sampling, lambda *_: (56, 56))


def test_one_image_is_not_an_array_of_frames() -> None:
    with pytest.raises(MediaError, match=r"array of shape \[60, 40, 3\] \(give \[frames, H, W, 3\]"):
        load_clip(np.zeros((60, 40, 3), np.uint8), FrameSampling(), lambda *_: (56, 56))


@pytest.mark.parametrize("broadcast", [False, True])  # whose frames have to be counted first
def test_decoding_ends_when_its_time_is_over(film: Path, broadcast: bool) -> None:
    """Long before the last frame, and without a frame of it: nobody waits for those any more."""
    asked = 0

    def check(when: str) -> None:
        nonlocal asked
        asked += 1
        if asked > 5:
            raise Interrupted(f"the time of the request was over {when}")

    source: Any = transport_stream(film) if broadcast else film
    with interruptible(check), pytest.raises(Interrupted, match=r"over while its video was decoded$"):
        load_clip(source, FrameSampling(), lambda _, size: size)
    assert asked == 6
