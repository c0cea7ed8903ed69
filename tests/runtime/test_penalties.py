"""Penalties and recommended settings against transformers: its processors, their order, its `generate`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from qvl_export import ExportPlan, export
from qvl_runtime import __main__ as cli
from qvl_runtime.answers.options import AnswerOptions
from qvl_runtime.answers.penalties import Penalties
from qvl_runtime.answers.sampling import Sampling
from qvl_runtime.bundle import read_manifest
from qvl_runtime.cli.describe import describe
from qvl_runtime.errors import PromptError
from qvl_runtime.manifest import MANIFEST, GenerationDefaults
from qvl_runtime.model import Model, load
from tests.conftest import Loader
from tests.exporter.test_parity import oracle_inputs
from tests.oracles.tiny import IMAGE

VOCAB = 12
Oracle = Callable[[str, str], PreTrainedModel]
tokens = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=30)
rows = st.lists(st.floats(-30, 30, width=32), min_size=VOCAB, max_size=VOCAB, unique=True)


def processed(ids: list[int], logits: list[float], *processors: Any) -> np.ndarray:
    scores = LogitsProcessorList(processors)(torch.tensor([ids]), torch.tensor([logits], dtype=torch.float32))
    return np.asarray(scores[0].numpy())


def seen_by_picker(penalties: Penalties, ids: list[int], logits: list[float], answered: int) -> np.ndarray:
    """The logits that a choice is made from when the last `answered` of the ids were chosen before."""
    script, seen = iter([*ids[len(ids) - answered :], 0]), []

    def pick(row: np.ndarray) -> int:
        seen.append(row)
        return next(script)

    picker = penalties.picker(pick, np.array(ids[: len(ids) - answered], np.int64))
    for _ in range(answered + 1):
        picker(np.array(logits, np.float32))
    return seen[-1]


@given(tokens, rows, st.sampled_from([0.5, 1.05, 1.3, 2.0]), st.integers(0, 30))
def test_the_penalty_is_that_of_transformers_to_the_bit(
    ids: list[int], logits: list[float], penalty: float, answered: int
) -> None:
    ours = seen_by_picker(Penalties(penalty), ids, logits, min(answered, len(ids)))
    assert ours.dtype == np.float32
    assert ours.tolist() == processed(ids, logits, RepetitionPenaltyLogitsProcessor(penalty)).tolist()


@given(tokens, rows, st.integers(1, 4), st.integers(0, 30))
def test_forbidden_ngrams_are_those_of_transformers(
    ids: list[int], logits: list[float], size: int, answered: int
) -> None:
    theirs = processed(ids, logits, NoRepeatNGramLogitsProcessor(size))
    ours = seen_by_picker(Penalties(1.0, size), ids, logits, min(answered, len(ids)))
    if np.isfinite(theirs).any():
        assert ours.tolist() == theirs.tolist()
    else:  # transformers would be at a loss
        assert ours.tolist() == np.array(logits, np.float32).tolist()


@given(
    tokens,
    rows,
    st.sampled_from([1.05, 1.7]),
    st.sampled_from([0.3, 0.7, 2.0]),
    st.integers(1, VOCAB),
    st.sampled_from([0.3, 0.8, 0.95]),
    st.sampled_from([0.0, 0.05, 0.4]),
)
def test_all_together_in_the_order_of_transformers(
    ids: list[int], logits: list[float], penalty: float, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    scores = processed(
        ids,
        logits,
        RepetitionPenaltyLogitsProcessor(penalty),
        TemperatureLogitsWarper(temperature),
        TopKLogitsWarper(top_k),
        TopPLogitsWarper(top_p),
        *([MinPLogitsWarper(min_p)] if min_p else []),
    )
    theirs = torch.softmax(torch.from_numpy(scores), -1).numpy()
    ours = Sampling(temperature, top_p, top_k, None, min_p).probabilities(
        seen_by_picker(Penalties(penalty), ids, logits, 0)
    )
    differing = (ours > 0) != (theirs > 0)
    if not differing.any():
        assert np.abs(ours - theirs).max() < 1e-5
    else:  # one token on a border, where a rounding decides
        assert differing.sum() == 1 and max(ours[differing], theirs[differing]) < 0.6


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def asked(text: str = "Read.") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": picture()}, {"type": "text", "text": text}]}]


def said(model: Model, **options: Any) -> list[int]:
    stream = model.stream(asked(), 40, **options)
    list(stream)
    return stream.run.tokens


def their_tokens(theirs: PreTrainedModel, ours: Model, **options: Any) -> list[int]:
    prompt, stop = ours.prompt(asked(), 40), ours.manifest.tokens.stop
    with torch.no_grad():
        sequence = theirs.generate(
            **oracle_inputs(ours, prompt), max_new_tokens=40, **{"eos_token_id": stop, **options}
        )
    return [token for token in sequence[0, len(prompt.ids) :].tolist() if token not in stop]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"])
@pytest.mark.parametrize(
    "options",
    [{"repetition_penalty": 1.05}, {"repetition_penalty": 1.8}, {"no_repeat_ngram_size": 2}]
    + [{"repetition_penalty": 1.2, "no_repeat_ngram_size": 3}],
    ids=str,
)
def test_greedy_answers_are_those_of_transformers(
    oracle: Oracle, model: Loader, family: str, options: dict[str, Any]
) -> None:
    ours = model(family, "deep", "fp32")
    expected = their_tokens(oracle(family, "deep"), ours, do_sample=False, **options)
    assert said(ours, **options) == expected
    if options.get("repetition_penalty") == 1.8:
        assert expected != said(ours)


def test_image_placeholders_count_as_what_was_said(model: Loader) -> None:
    """As in transformers, whose `input_ids` hold them."""
    ours, seen = model("qwen2_5_vl", "deep", "fp32"), []
    prompt = ours.prompt(asked())

    def first(logits: np.ndarray) -> int:
        seen.append(logits)
        return 0

    Penalties(2.0).picker(first, prompt.ids)(np.ones(ours.manifest.llm.vocab_size, np.float32))
    assert seen[0][IMAGE] == 0.5
    assert set(np.flatnonzero(seen[0] == 0.5)) == set(prompt.ids.tolist())


@pytest.mark.parametrize(
    "options",
    [{"repetition_penalty": value} for value in (0, -1, float("nan"), float("inf"), "much", True)]
    + [{"no_repeat_ngram_size": value} for value in (-1, 1.5, True)]
    + [{"min_p": value} for value in (-0.1, 1.1, float("nan"), True)],
    ids=str,
)
def test_options_out_of_range(model: Loader, options: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match=f"{next(iter(options))} must be ") as caught:
        model("qwen2_5_vl", "deep", "fp32").generate(asked(), **options)
    assert "\n" not in str(caught.value)


RECOMMENDED: dict[str, dict[str, Any]] = {
    "greedy with a penalty": {"do_sample": False, "repetition_penalty": 1.05},
    "Qwen2-VL": {"do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.001},
    "Qwen2.5-VL-7B": {"do_sample": True, "temperature": 0.1, "top_k": 1, "top_p": 0.001, "repetition_penalty": 1.05},
    "ngrams": {"no_repeat_ngram_size": 2},
    "nothing": {},
}


@pytest.fixture
def exported(checkpoint: Any, tmp_path: Path) -> Callable[..., Path]:
    """A bundle of the deep Qwen2.5-VL with that generation_config.json; without one for None."""

    def make(config: dict[str, Any] | None, progress: Any = None) -> Path:
        copy = tmp_path / "checkpoint"
        shutil.copytree(checkpoint("qwen2_5_vl", "deep"), copy)
        (copy / "generation_config.json").unlink()
        if config is not None:
            (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [353, 351], **config}))
        export(ExportPlan(copy, tmp_path / "bundle", precision="fp32"), progress)
        return tmp_path / "bundle"

    return make


@pytest.mark.slow
@pytest.mark.parametrize("config", RECOMMENDED.values(), ids=RECOMMENDED)
def test_the_checkpoints_settings_are_stored_and_applied(
    exported: Callable[..., Path], oracle: Oracle, config: dict[str, Any]
) -> None:
    """Token by token, if only one token can be drawn; by default answers are greedy."""
    ours, theirs = load(exported(config), threads=1), oracle("qwen2_5_vl", "deep")
    kept = msgspec.to_builtins(ours.manifest.generation)
    assert kept == {**msgspec.to_builtins(GenerationDefaults()), **config}
    following = GenerationConfig(**{"do_sample": False, **config})
    assert said(ours, use_generation_config=True) == their_tokens(theirs, ours, generation_config=following)
    assert said(ours) == their_tokens(theirs, ours, do_sample=False)


def test_settings_of_sampling_and_what_goes_before_them(exported: Callable[..., Path], tmp_path: Path) -> None:
    config = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}
    manifest = read_manifest(exported({**config, "max_new_tokens": 100}))
    recommended = AnswerOptions(use_generation_config=True).resolve(manifest)
    assert recommended.sampling == Sampling(0.7, 0.8, 20)
    assert (recommended.penalties, recommended.max_new_tokens) == (Penalties(1.05), 100)
    own = AnswerOptions(use_generation_config=True, temperature=0.0, repetition_penalty=1.0, max_new_tokens=7)
    assert (own.resolve(manifest).sampling.temperature, own.resolve(manifest).penalties) == (0, Penalties())
    assert own.resolve(manifest).max_new_tokens == 7
    plain = AnswerOptions(temperature=1.0).resolve(manifest)
    assert (plain.sampling, plain.penalties, plain.max_new_tokens) == (Sampling(1.0), Penalties(), 512)
    shown = "temperature 0.7, top k 20, top p 0.8, repetition penalty 1.05, max new tokens 100"
    assert f"  answers   greedy; with --use-generation-config {shown}\n" in describe(manifest)


class Notes:
    """The lines of an export's progress."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, text: str, total: int = 0) -> None:
        self.lines.append(text)

    def advance(self, count: int) -> None: ...


def test_what_is_left_out_is_named(exported: Callable[..., Path]) -> None:
    notes = Notes()
    strange = {
        "num_beams": 4,
        "typical_p": 1.0,
        "suppress_tokens": [3],
        "top_k": -1,
        "temperature": "hot",
        "top_p": None,
    }
    inert = {"pad_token_id": 351, "transformers_version": "4.49.0", "max_length": 20, "top_p": None}
    bundle = exported({"do_sample": True, "min_p": 0.1, **strange, **inert}, notes)
    (note,) = [line for line in notes.lines if line.startswith("note: generation_config.json")]
    assert note.endswith(": num_beams 4, suppress_tokens [3], top_k -1, temperature 'hot' left out, not supported")
    assert read_manifest(bundle).generation == GenerationDefaults(do_sample=True, min_p=0.1)


def test_a_checkpoint_without_recommendations(exported: Callable[..., Path], checkpoint: Any) -> None:
    notes = Notes()
    assert read_manifest(exported(None, notes)).generation == GenerationDefaults()
    assert not [line for line in notes.lines if line.startswith("note")]


def test_bundles_from_before_say_so(bundle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(bundle("qwen2_5_vl", "deep", "fp32"), tmp_path / "old")
    manifest = json.loads((tmp_path / "old" / MANIFEST).read_text())
    del manifest["generation"]
    (tmp_path / "old" / MANIFEST).write_text(json.dumps(manifest | {"schema_version": 6}))
    assert load(tmp_path / "old", threads=1).generate(asked(), 3) is not None
    assert cli.main(["run", str(tmp_path / "old"), "--use-generation-config", "Hi"]) == 2
    out = capsys.readouterr()
    assert (out.out, out.err.count("\n")) == ("", 1)
    assert "does not hold the checkpoint's generation settings (export it again" in out.err


def test_the_command_line_has_all_of_them(
    exported: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bundle = exported({"repetition_penalty": 1.6})
    ours = load(bundle, threads=1)
    question = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]

    def tokens(*options: str) -> list[int]:
        assert cli.main(["run", str(bundle), "--max-new-tokens", "20", "--json", *options, "Hi"]) == 0
        found: list[int] = json.loads(capsys.readouterr().out)["tokens"]
        return found

    def expected(**options: Any) -> list[int]:
        stream = ours.stream(question, 20, **options)
        list(stream)
        return stream.run.tokens

    penalized = tokens("--use-generation-config")
    assert penalized == expected(repetition_penalty=1.6) == tokens("--repetition-penalty", "1.6") != tokens()
    assert tokens("--use-generation-config", "--repetition-penalty", "1") == tokens() == expected()
    assert tokens("--no-repeat-ngram-size", "1") == expected(no_repeat_ngram_size=1)
    drawn = {"temperature": 1.5, "min_p": 0.2, "seed": 3}
    assert tokens("--temperature", "1.5", "--min-p", "0.2", "--seed", "3") == expected(**drawn)
    bench = ["bench", str(bundle), "--use-generation-config", "--repeat", "1", "--max-new-tokens", "4", "--json"]
    assert cli.main(bench) == 0
