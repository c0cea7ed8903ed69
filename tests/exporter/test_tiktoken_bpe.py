"""tiktoken vocabularies become tokenizers that give the same tokens: against tiktoken itself."""

from __future__ import annotations

import base64
import json
import unicodedata
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from qvl_export.bundle.text_files.tiktoken_bpe import PATTERN, convert, recovered_merges
from qvl_export.errors import ConfigError
from qvl_export.families.qwen import SPECIAL_TOKENS
from tests.heldout import HELDOUT
from tests.oracles.families.qwen import reference_ranks
from tests.oracles.tiny import REFERENCE

Ranks = dict[bytes, int]
TEXTS = [
    "Invoice no. 12345\r\n\r\n\tTotal:  €9,99 (incl. VAT)  ",
    "请识别出图中所有的文字。上海环球金融中心",
    "<|im_start|>user\nPicture 1: <img><imgpad></img>\nWhat's this?<|im_end|>\n<ref>a</ref><box>(1,2),(3,4)</box>",
    "😀 naïve café 'll 'RE don'T\u00a0x",
    "e\u0301 decomposed, and \ud55c\uad6d\uc5b4",
]


def written(ranks: Ranks) -> str:
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())


def parsed(text: str) -> Ranks:
    return {base64.b64decode(token): int(rank) for token, rank in map(str.split, text.splitlines())}


@pytest.fixture(scope="module")
def trained() -> Ranks:
    """A vocabulary of 3,000 tokens trained on documents and labels, of several scripts."""
    files = [*REFERENCE.parents[2].glob("../docs/*.md"), *REFERENCE.parents[2].glob("runtime/*.py")]
    texts = [path.read_text("utf-8") for path in files] + [(HELDOUT / "labels.jsonl").read_text("utf-8"), *TEXTS * 9]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=3000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    byte_of = {name: byte for byte, name in bytes_to_unicode().items()}
    return {bytes(byte_of[char] for char in token): rank for token, rank in tokenizer.get_vocab().items()}


def pair(ranks: Ranks) -> tuple[Tokenizer, tiktoken.Encoding]:
    """Ours, and tiktoken's."""
    special = {token: len(ranks) + index for index, token in enumerate(SPECIAL_TOKENS)}
    theirs = tiktoken.Encoding("qwen", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)
    return Tokenizer.from_str(convert(written(ranks), SPECIAL_TOKENS, len(ranks), Path("qwen.tiktoken"))), theirs


def assert_same(ours: Tokenizer, theirs: tiktoken.Encoding, text: str) -> None:
    """Tokens, and the text they stand for; Qwen normalises before it splits."""
    normal = unicodedata.normalize("NFC", text)
    ids = ours.encode(text, add_special_tokens=False).ids
    assert ids == theirs.encode(normal, allowed_special="all")
    assert ours.decode(ids, skip_special_tokens=False) == normal


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_of_texts(trained: Ranks, text: str) -> None:
    for ranks in (trained, parsed(reference_ranks())):
        assert_same(*pair(ranks), text)


def test_tokens_of_any_text(trained: Ranks) -> None:
    ours, theirs = pair(trained)
    alphabet = st.sampled_from("abcdeinorst  \n\t.,'-()<>|/0123ABéüßж中文字符，。😀\u0301")

    @settings(deadline=None, max_examples=400)
    @given(st.one_of(st.text(alphabet, max_size=80), st.text(st.characters(codec="utf-8"), max_size=40)))
    def check(text: str) -> None:
        assert_same(ours, theirs, text)

    check()


def test_ids_of_special_tokens(trained: Ranks) -> None:
    """Those of the published checkpoints count on from the ranks: 151,643 of them."""
    ours, _ = pair(trained)
    places = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "<|extra_204|>": 207, "<ref>": 208, "<img>": 214}
    assert {token: ours.token_to_id(token) for token in places} == {t: 3000 + place for t, place in places.items()}
    assert 151643 + places["<img>"] == 151857


def test_merges_are_those_of_the_vocabulary() -> None:
    merges = json.loads((REFERENCE / "tokenizer.json").read_text())["model"]["merges"]
    names = bytes_to_unicode()
    recovered = recovered_merges(parsed(reference_ranks()))
    assert [["".join(names[byte] for byte in piece) for piece in pieces] for pieces in recovered] == merges


def test_a_token_no_merge_leads_to_is_a_whole_word() -> None:
    """`abc` without `ab` or `bc`: found as a word, never inside one."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"abc": 256}
    ours, theirs = pair(ranks)
    assert recovered_merges(ranks) == []
    assert ours.encode("abc", add_special_tokens=False).ids == [256]
    for text in ("abc", "abcd", "xabc", "abc 1"):
        assert_same(ours, theirs, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("YQ== zero\n", "is not a tiktoken vocabulary"),
        ("*** 0\n", "is not a tiktoken vocabulary"),
        ("YQ==\n", "is not a tiktoken vocabulary"),
        ("YQ== 0\n", "lacks 255 of the 256 bytes"),
        ("".join(reference_ranks().splitlines(True)[:-5]), "has 346 tokens, but the special tokens .* start at 351"),
    ],
)
def test_damaged_vocabularies(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"qwen.tiktoken: {message}"):
        convert(text, SPECIAL_TOKENS, 351, Path("qwen.tiktoken"))
