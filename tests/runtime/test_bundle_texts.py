"""A bundle's tokenizer and template are read within limits, and damaged ones are refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qvl_runtime.errors import BundleError
from qvl_runtime.templates import bundle_texts
from qvl_runtime.templates.bundle_texts import open_texts, read_text

BUNDLE = Path(__file__).parents[1] / "checkpoints" / "bundles" / "v6"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    for name in bundle_texts.MAX_BYTES:
        shutil.copyfile(BUNDLE / name, tmp_path / name)
    return tmp_path


def test_both_are_opened(texts: Path) -> None:
    tokenizer, template = open_texts(texts, {})
    assert tokenizer.decode(tokenizer.encode("Read.").ids) == "Read."
    assert "Read." in template.render([{"role": "user", "content": "Read."}])


def test_a_byte_order_mark_is_left_out(texts: Path) -> None:
    path = texts / "chat_template.jinja"
    path.write_text("\ufeffx", "utf-8")
    assert read_text(path) == "x"


@pytest.mark.parametrize(
    ("name", "message"),
    [("tokenizer.json", "is not a tokenizer"), ("chat_template.jinja", r"chat_template\.jinja: cannot be read")],
)
def test_other_encodings_missing_and_large_files_are_refused(
    name: str, message: str, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (texts / name).write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(BundleError, match=message):
        open_texts(texts, {})
    monkeypatch.setitem(bundle_texts.MAX_BYTES, name, 2)
    with pytest.raises(BundleError, match=name):
        open_texts(texts, {})
    (texts / name).unlink()
    with pytest.raises(BundleError, match=name):
        open_texts(texts, {})


def test_a_text_that_is_not_a_tokenizer_is_refused(texts: Path) -> None:
    (texts / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json: is not a tokenizer"):
        open_texts(texts, {})
