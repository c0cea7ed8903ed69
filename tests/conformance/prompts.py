"""Vectors of texts: chat templates, token ids, timestamps, and whole prompts with their images and videos."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image
from tokenizers import Tokenizer

from qvl_export.families.qwen import CHATML
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.answers.stream import Stream
from qvl_runtime.grounding import MARKS
from qvl_runtime.prompts.prompt import build_prompt
from qvl_runtime.prompts.timestamps import patch_times, write_times
from qvl_runtime.templates.chat import ChatTemplate
from qvl_runtime.templates.tokenizer import encode, parse_tokenizer
from tests.runtime.templates import QWEN2_5_TOOLS, QWEN2_5_VL, QWEN3_5, QWEN3_VL

from .document import Case, Document
from .geometries import IMAGES, TIMINGS, described, manifest

REFERENCE = Path(__file__).parents[1] / "checkpoints" / "reference"
TOKENIZER = "tests/checkpoints/reference/tokenizer.json"
TEMPLATES: Mapping[str, str] = {
    "reference": (REFERENCE / "chat_template.jinja").read_text("utf-8"),
    "qwen": CHATML,
    "qwen2_5_vl": QWEN2_5_VL,
    "qwen2_5_text": QWEN2_5_TOOLS,
    "qwen3_vl": QWEN3_VL,
    "qwen3_5": QWEN3_5,
}
IMAGE, VIDEO = {"type": "image"}, {"type": "video"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Says <how> it "is" & will be — überall',
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2}}}


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def says(role: str, *content: Any) -> dict[str, Any]:
    return {"role": role, "content": content[0] if isinstance(content[0], str) else list(content)}


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "a question": [says("user", IMAGE, text("Read the text."))],
    "texts": [says("system", "Be brief."), says("user", text("What is "), text("the date?"))],
    "two images": [says("user", IMAGE, text("Compare "), IMAGE, text("with this."))],
    "turns": [says("user", IMAGE, text("Total?")), says("assistant", "12.50"), says("user", "And the tax?")],
    "markup": [says("user", "<b>a & b</b> \"q\" 'q' {{ 7 * 7 }} {% if %} \\n 读出文字 😀")],
    "space": [says("user", "  a \n\n b\t\n"), says("assistant", "\n"), says("user", "b")],
}
TURN_WITH_TOOLS = [
    says("user", text("Weather in Köln?")),
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    says("tool", '{"rain": true}'),
]


def templates() -> Document:
    return Document(
        "Chat templates: the text of a prompt up to the assistant's turn.",
        {
            "template": "name of the Jinja source in `shared.templates`",
            "messages": "parts of type image and video have no content here: only their place counts",
            "tools": "given to the template as they are; if its source never has the word `tools`, they are "
            "described in the system message instead",
            "template_args": "further variables of the template",
        },
        {"text": "`add_generation_prompt` is true; blocks are trimmed (`trim_blocks`, `lstrip_blocks`)"},
        _templates(),
        {"templates": TEMPLATES},
    )


def _templates() -> Iterator[Case]:
    for template in ("reference", "qwen", "qwen2_5_vl", "qwen3_vl", "qwen3_5"):
        for name, messages in CONVERSATIONS.items():
            yield _rendered(f"{template}: {name}", template, messages)
        if template != "qwen":
            yield _rendered(f"{template}: a video", template, [says("user", VIDEO, IMAGE, text("What happens?"))])
    for template in ("qwen2_5_vl", "qwen3_vl", "qwen3_5"):
        yield _rendered(f"{template}: tools", template, [says("user", IMAGE, text("Weather?"))], [WEATHER])
        yield _rendered(f"{template}: a call and its result", template, TURN_WITH_TOOLS, [WEATHER])
        yield _rendered(
            f"{template}: numbered images", template, CONVERSATIONS["two images"], template_args={"add_vision_id": True}
        )
    yield _rendered("qwen2_5_text: tools", "qwen2_5_text", [says("user", "Weather?")], [WEATHER])
    yield _rendered(
        "qwen3_5: without thinking",
        "qwen3_5",
        CONVERSATIONS["a question"],
        template_args={"enable_thinking": False},
    )


def _rendered(
    name: str,
    template: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    template_args: Mapping[str, Any] | None = None,
) -> Case:
    given: dict[str, Any] = {"template": template, "messages": messages}
    given |= {"tools": tools} if tools else {}
    given |= {"template_args": template_args} if template_args else {}
    rendered = ChatTemplate(TEMPLATES[template], Path("chat_template.jinja")).render(messages, tools, template_args)
    return Case(name, given, {"text": rendered})


@cache
def tokenizer() -> Tokenizer:
    """That of the reference checkpoints."""
    return parse_tokenizer((REFERENCE / "tokenizer.json").read_text("utf-8"))


def tokens() -> Document:
    return Document(
        f"Token ids of texts and texts of token ids, with the tokenizer `{TOKENIZER}`.",
        {"text": "to encode, without further special tokens", "ids": "to decode, as they are generated"},
        {
            "ids": "of the text",
            "pieces": "that an answer of these ids is streamed in: whole characters; special tokens are skipped, "
            "except for the marks of boxes",
        },
        _tokens(),
    )


TEXTS = (
    "Read the text.",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "Invoice No. 2023-0042: 1,234.50 €",
    "读出文字 发票 №1",
    "😀👩‍👩‍👧 Ça où l'été  I'm we'LL",
    "  a \n\n\tb\r\n   c   ",
    "e\u0301 \u00e9 \u212b ﬁ",
    "<|vision_start|><|image_pad|><|vision_end|>Total?",
    "<|im_start|not a token|>",
    "",
)


def _tokens() -> Iterator[Case]:
    for given in TEXTS:
        yield Case(f"encode {given[:20]!r}", {"text": given}, {"ids": tokenizer().encode(given).ids})
    for given in (*TEXTS[:6], "<|object_ref_start|>a<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"):
        ids = tokenizer().encode(given).ids
        yield Case(f"decode {given[:20]!r}", {"ids": ids}, {"pieces": _pieces(ids)})
    broken = tokenizer().encode("😀").ids[:-1]
    yield Case("a character that was cut off", {"ids": broken}, {"pieces": _pieces(broken)})


def _pieces(ids: Sequence[int]) -> list[str]:
    marks = {found: mark for mark in MARKS if (found := tokenizer().token_to_id(mark)) is not None}
    return list(Stream(iter(ids), tokenizer(), GenerationStats(), marks=marks))


def timestamps() -> Document:
    return Document(
        "Videos with `video.timestamps`: the time of each temporal patch, and the prompt with a vision block for each.",
        {
            "times": "seconds of each frame, video by video",
            "temporal_patch_size": "frames per temporal patch",
            "text": "the rendered template, with a placeholder per video",
        },
        {"seconds": "of each temporal patch, video by video", "text": "with the vision blocks of the manifest"},
        _timestamps(),
    )


def _timestamps() -> Iterator[Case]:
    block = "<|vision_start|><|video_pad|><|vision_end|>"
    videos = (
        ("two a second", [[0.0, 0.5, 1.0, 1.5]], f"What?{block}"),
        ("an odd number of frames", [[0.0, 0.5, 1.0]], block),
        ("two videos", [[0.0, 0.25], [0.0, 4.35, 8.7, 13.05]], f"{block} and {block}"),
        ("rounded to even in binary", [[0.05, 0.05, 0.25, 0.25, 0.35, 0.35, 0.45, 0.45]], block),
    )
    for name, times, given in videos:
        seconds = [patch_times(each, 2) for each in times]
        yield Case(
            name,
            {"times": times, "temporal_patch_size": 2, "text": given},
            {"seconds": seconds, "text": write_times(given, seconds)},
        )


def prompts() -> Document:
    return Document(
        "Whole prompts: from messages with images and videos of given sizes to token ids and positions, with the "
        f"chat template `reference` of templates.json and the tokenizer `{TOKENIZER}`.",
        {
            "family": "whose `image` and `video` are in `shared.manifests`; tokens are those of the tokenizer",
            "max_length": "of the bundle",
            "reserve": "tokens that are left for the answer",
            "messages": "an image has width and height, a video frames too (and fps unless it is 2); "
            "their pixels do not count",
        },
        {
            "ids": "[tokens]",
            "positions": "[3, tokens]",
            "grids": "[t, h, w] in patches of each image and video, or of each temporal patch with timestamps",
            "spans": "[first token, tokens] of each of them",
        },
        _prompts(),
        {
            "manifests": {
                family: {"image": described(IMAGES[family]), "video": described(TIMINGS[family])}
                for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
            }
        },
    )


def _prompts() -> Iterator[Case]:
    question = text("Read the text.")
    small, wide = _image(90, 60), _image(200, 56)
    for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        yield _placed(f"{family}: an image", family, [says("user", small, question)])
        yield _placed(
            f"{family}: two images of two turns",
            family,
            [says("user", small, text("a")), says("assistant", "b"), says("user", wide, question)],
        )
        yield _placed(f"{family}: a video", family, [says("user", _video(84, 56, 5, max_pixels=12544), question)])
        slow = _video(84, 56, 4, fps=0.75, max_pixels=9408)
        yield _placed(f"{family}: a slow video and an image", family, [says("user", slow, small)])
    yield _placed("qwen2_5_vl: scaled down", "qwen2_5_vl", [says("user", _image(800, 600), question)], 100, 30)
    yield _placed("qwen2_5_vl: a requested size", "qwen2_5_vl", [says("user", _sized(84, 112), question)])
    yield _placed("qwen2_5_vl: bounds", "qwen2_5_vl", [says("user", {**_image(300, 300), "max_pixels": 8000})])
    yield _placed("qwen2_vl: text", "qwen2_vl", [says("user", "What is the date?")])


def _image(width: int, height: int) -> dict[str, Any]:
    return {"type": "image", "width": width, "height": height}


def _sized(width: int, height: int) -> dict[str, Any]:
    return {**_image(640, 480), "resized_width": width, "resized_height": height}


def _video(width: int, height: int, frames: int, **options: Any) -> dict[str, Any]:
    return {"type": "video", "width": width, "height": height, "frames": frames, **options}


def _placed(
    name: str, family: str, messages: Sequence[Mapping[str, Any]], max_length: int = 4096, reserve: int = 16
) -> Case:
    template = ChatTemplate(TEMPLATES["reference"], Path("chat_template.jinja"))
    bundle = manifest(family, max_length)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of images that are scaled down
        built = build_prompt(
            [_loaded(message) for message in messages],
            bundle,
            template.render,
            lambda source: encode(tokenizer(), source, bundle.llm.vocab_size),
            reserve,
        )
    found = {
        "ids": built.ids,
        "positions": built.positions,
        "grids": [[item.grid.t, item.grid.h, item.grid.w] for item in built.placed],
        "spans": [[item.span.start, item.span.tokens] for item in built.placed],
    }
    return Case(name, {"family": family, "max_length": max_length, "reserve": reserve, "messages": messages}, found)


def _loaded(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with blank pictures of the sizes that its parts give."""
    if isinstance(message["content"], str):
        return dict(message)
    parts = []
    for part in message["content"]:
        given = {key: value for key, value in part.items() if key not in ("width", "height", "frames")}
        if part["type"] != "text":
            frame = Image.new("RGB", (part["width"], part["height"]))
            given |= {"video": [frame] * part["frames"]} if part["type"] == "video" else {"image": frame}
        parts.append(given)
    return {**message, "content": parts}
