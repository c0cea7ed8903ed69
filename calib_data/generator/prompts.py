"""Questions about a page whose answers its ground truth holds."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from .page import Page

READ = {"en": "Read the text.", "zh": "请识别出图中所有的文字。"}
WHAT_IS = {"en": "What is the {}?", "zh": "图中的“{}”是什么？"}
LOCATE = {"en": "Locate the {}.", "zh": "请定位图中的“{}”。"}
KIE = {"en": "Extract the key-value information in the format:{}", "zh": "提取图中的键值信息，格式为：{}"}
TABLE = {"en": "Parse the table in the image into HTML.", "zh": "请将图中的表格解析为HTML。"}
TASKS = ("ocr", "qa", "grounding", "kie", "table")


@dataclass(frozen=True)
class Question:
    """One line of a labels file without its image: the prompt, the task it measures, the accepted answers."""

    prompt: str
    task: str
    answers: tuple[str, ...]


def read(page: Page) -> Question:
    return Question(READ[page.language], "ocr", (page.text,))


def what_is(page: Page, key: str) -> Question:
    return Question(WHAT_IS[page.language].format(key.lower()), "qa", (page.fields[key].text,))


def locate(page: Page, key: str, relative: bool = False) -> Question:
    """The box in pixels of the page (Qwen2.5-VL), or with `relative` in thousandths of its sides (Qwen3-VL)."""
    box = list(page.fields[key].box)
    if relative:
        box = [round(1000 * place / page.image.size[index % 2]) for index, place in enumerate(box)]
    answer = json.dumps({"bbox_2d": box})
    return Question(LOCATE[page.language].format(key.lower()), "grounding", (answer,))


def kie(page: Page) -> Question:
    """All fields at once: the prompt names their keys, the answer is the same JSON object with its values."""
    empty = json.dumps({key.lower(): "" for key in page.fields}, ensure_ascii=False)
    answer = json.dumps({key.lower(): span.text for key, span in page.fields.items()}, ensure_ascii=False)
    return Question(KIE[page.language].format(empty), "kie", (answer,))


def table(page: Page) -> Question:
    """The only table of the page as HTML."""
    (html,) = page.tables
    return Question(TABLE[page.language], "table", (html,))


def ask(page: Page, rng: Random, tasks: Collection[str] = TASKS) -> list[Question]:
    """One question of each of `tasks` that the page can answer; fields are drawn at random."""
    keys = sorted(page.fields)
    about, where = (rng.choice(keys), rng.choice(keys)) if keys else ("", "")
    questions = [read(page)]
    if keys:
        questions += [what_is(page, about), locate(page, where)]
    if len(keys) > 1:
        questions.append(kie(page))
    if page.tables:
        questions.append(table(page))
    return [question for question in questions if question.task in tasks]
