"""Tokens that are known before their logits run together; answers are those of one token at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from qvl_runtime.answers import generate
from qvl_runtime.answers.constrain import Constraint, Grammars
from qvl_runtime.answers.generate import GenerationStats
from qvl_runtime.answers.lookup import COST, MOST, START, Lookup
from qvl_runtime.answers.stream import Stream
from qvl_runtime.errors import EngineError, PromptError
from qvl_runtime.model import Model, load
from tests.conftest import Bundles, Loader

from .test_constrain import NUMBER, QUESTION, SCHEMAS, TEXT, thing
from .test_generate import ask, page

pytestmark = pytest.mark.filterwarnings("ignore::qvl_runtime.errors.TruncatedAnswerWarning")
FIELDS = thing(invoice_number={"type": "integer"}, paid={"type": "boolean"}, total={"enum": ["none", "unknown"]})
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 1.5, "seed": 3},
    "from few": {"temperature": 0.7, "top_k": 5, "top_p": 0.8, "seed": 1},
    "penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
}


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])  # without and with DeepStack
def babbler(bundle: Bundles, request: pytest.FixtureRequest) -> Iterator[Model]:
    with load(bundle(request.param, "deep", "fp32"), threads=1) as model:
        yield model


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The tokens of every call of the decoding loop."""
    found: list[list[int]] = []
    extend = generate.Decoder.extend

    def counted(decoder: generate.Decoder, tokens: Any, *more: Any) -> Any:
        found.append(list(tokens))
        return extend(decoder, tokens, *more)

    monkeypatch.setattr(generate.Decoder, "extend", counted)
    return found


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Constraint, "certain", lambda _: False)


def answered(model: Model, limit: int, messages: Any = QUESTION, **options: Any) -> tuple[Stream, list[str]]:
    stream = model.stream(messages, limit, **options)
    return stream, list(stream)


def outcome(stream: Stream, pieces: list[str]) -> tuple[Any, ...]:
    run = stream.run
    return run.tokens, pieces, run.finish_reason, run.stop_token, run.forced, run.counts.generated


@pytest.mark.slow
@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_answers_are_those_of_one_token_at_a_time(
    babbler: Model, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [(schema, limit) for schema in (*SCHEMAS.values(), FIELDS) for limit in (1, 2, 9, 45)]
    together = [outcome(*answered(babbler, limit, json_schema=schema, **options)) for schema, limit in asked]
    one_by_one(monkeypatch)
    alone = [outcome(*answered(babbler, limit, json_schema=schema, **options)) for schema, limit in asked]
    assert together == alone


def test_certain_tokens_take_one_call(babbler: Model, runs: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    stream, _ = answered(babbler, 300, ask("Read.", page()), json_schema=FIELDS)
    together, counts = [*runs], stream.run.counts
    assert len(together) <= counts.generated - counts.certain + 1, "a call for each choice, that of the stop token too"
    assert counts.certain > len('{"invoice_number": , "paid": , "total": }') - 5
    ran = [token for call in together for token in call]
    assert ran == stream.run.tokens[: len(ran)], "each is run once, in their order"
    runs.clear()
    one_by_one(monkeypatch)
    alone, _ = answered(babbler, 300, ask("Read.", page()), json_schema=FIELDS)
    assert (len(runs), alone.run.counts.certain) == (len(stream.run.tokens), 0)


def test_an_answer_that_is_certain_runs_nothing(babbler: Model, runs: list[list[int]]) -> None:
    stream, pieces = answered(babbler, 50, json_schema={"const": "always the same"})
    assert ("".join(pieces), stream.run.finish_reason) == ('"always the same"', "stop")
    assert len(runs) <= 1, "at most to choose among stop tokens"


def test_a_later_prompt_reuses_what_was_run(babbler: Model) -> None:
    """The keys of the cache are those of the tokens in it."""
    for cut in (3, 20, 300):
        stream, _ = answered(babbler, cut, json_schema=FIELDS)
        assert stream.prompt is not None
        follow = stream.prompt.followed_by(np.array(stream.run.tokens))
        last, stats = np.array([len(follow.ids) - 1]), GenerationStats()
        reused = babbler.decoder.prefill(follow, last, stats)
        assert stats.counts.reused >= len(stream.prompt.ids)
        babbler.clear()
        assert np.abs(reused - babbler.decoder.prefill(follow, last, GenerationStats())).max() < 1e-4


def test_a_run_longer_than_a_chunk(babbler: Model, runs: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    schema = thing(a={"const": "abcdefghij" * 3}, b=NUMBER)
    expected = outcome(*answered(babbler, 80, json_schema=schema))
    runs.clear()
    monkeypatch.setattr(generate, "PREFILL_CHUNK", 16)
    assert outcome(*answered(babbler, 80, json_schema=schema)) == expected
    assert max(map(len, runs)) == 16


def test_an_answer_ends_inside_a_run(babbler: Model, runs: list[list[int]]) -> None:
    with babbler.stream(QUESTION, 300, json_schema=thing(a_long_name=TEXT)) as stream:
        pieces = [next(stream) for _ in range(4)]
    assert ("".join(pieces), stream.run.finish_reason, runs) == ('{"a_', "cancelled", [])
    late = babbler.stream(QUESTION, 300, json_schema=thing(a_long_name=TEXT))
    next(late)
    babbler.stream(QUESTION, 1)
    next(other := babbler.stream(QUESTION, 1), None)
    with pytest.raises(PromptError, match="another prompt was started"):
        next(late)
    assert other.run.counts.generated == 1
    late = babbler.stream(QUESTION, 300, json_schema=thing(a_long_name=TEXT))
    next(late)
    babbler.close()
    with pytest.raises(EngineError, match="the model was closed"):
        next(late)


def test_time_runs_out_inside_a_run(babbler: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = babbler.stream(QUESTION, 300, json_schema=thing(a=TEXT), timeout=100)
    next(stream)
    monkeypatch.setattr(generate, "monotonic", lambda: float("inf"))
    assert (stream.run.counts.generated, "".join(stream)) == (1, '"a": ""}')
    assert (stream.run.finish_reason, stream.run.forced) == ("timeout", '"a": ""}')


WORDS = ['{"name": "John Smith", "total": 12.5, "invoice_number": "abc"}', "the name and total of an invoice number"]


@pytest.fixture(scope="module")
def merging() -> Tokenizer:
    """A tokenizer with merges: a text can be written in several ways, of which a model sees one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=["<|end|>", "<|stop|>"], show_progress=False
    )
    tokenizer.train_from_iterator(WORDS * 50, trainer)
    return tokenizer


def test_certain_tokens_are_those_of_the_tokenizer(merging: Tokenizer) -> None:
    """Whatever the logits: names are split as the model knows them, and values stay the model's choice."""
    size = merging.get_vocab_size()
    grammars = Grammars(merging.to_str(), size, [0, 1])
    constraint = grammars.constraint(thing(name=TEXT, total=NUMBER))
    wanted = merging.encode('{"name": "John", "total": 12}').ids
    script = iter(wanted)
    pick = constraint.picker(lambda logits: choose(logits, next(script)))
    said: list[int] = []
    certain: list[bool] = []
    for _ in wanted:
        certain.append(constraint.certain())
        said.append(pick(np.random.default_rng(len(said)).standard_normal(size).astype(np.float32)))
    names = [merging.id_to_token(token) for token, known in zip(said, certain, strict=True) if known]
    assert (merging.decode(said), said) == ('{"name": "John", "total": 12}', wanted)
    assert {'{"', "name", "total"} <= set(names)
    assert not {"J", "o", "12", "1"} & set(names)


def test_guesses_follow_the_latest_occurrence() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 9, 1, 2, 3, 6, 7, 8, 1, 2])
    assert lookup.guess(5) == []
    lookup.add(3)
    assert lookup.guess(5) == [6, 7], "as many as may be lost"
    lookup.accept()
    lookup.accept()
    assert lookup.guess(1) == [6]


def test_guesses_that_fail_end_and_those_that_hold_grow() -> None:
    wrong, right = Lookup([1, 2, 3] * 20), Lookup([1, 2, 3] * 20)
    tried = sum(len(wrong.guess(100)) for _ in range(100))
    assert tried * COST <= START
    grown = []
    for _ in range(9):
        guesses = right.guess(100)
        grown.append(len(guesses))
        for token in guesses:
            right.accept()
            right.add(token)
        assert guesses == ([1, 2, 3] * 4)[(guesses or [1])[0] - 1 :][: len(guesses)]
    assert (grown[0], grown[-1]) == (int(START / COST), MOST)


@pytest.mark.parametrize(
    "options", [WAYS["greedy"], {"no_repeat_ngram_size": 9}, {"repetition_penalty": 1.05}], ids=str
)
def test_guesses_do_not_change_answers(babbler: Model, options: dict[str, Any], runs: list[list[int]]) -> None:
    """Greedy random weights repeat themselves; what was run in vain leaves no trace, in later prompts neither."""
    for limit in (1, 2, 3, 30, 90):
        for question in ("Read.", "abc abc abc abc"):
            messages = ask(question, page())
            alone = outcome(*answered(babbler, limit, messages, lookup=False, **options))
            runs.clear()
            stream, pieces = answered(babbler, limit, messages, lookup=True, **options)
            assert outcome(stream, pieces) == alone
            counts = stream.run.counts
            assert len(runs) == counts.generated - counts.accepted - (stream.run.finish_reason == "length")
            assert sum(map(len, runs)) <= counts.generated + counts.proposed - counts.accepted
            assert stream.prompt is not None
            assert max([len(stream.prompt.ids), *_filled(babbler)]) < len(stream.prompt.ids) + limit + 1


def _filled(model: Model) -> list[int]:
    """The number of cached tokens."""
    return [len(model.decoder._cached)]


def scripted(model: Model, script: list[int], limit: int, **more: Any) -> GenerationStats:
    """An answer whose tokens are given, whatever the logits, with guesses."""
    prompt, run, tokens = model.prompt(ask("Read.")), GenerationStats(), iter(script)
    lookup = Lookup(prompt.ids.tolist())
    decoded = model.decoder.generate(
        prompt, limit, frozenset({353}), lambda _: next(tokens), run, lookup=lookup, **more
    )
    assert list(decoded) == run.tokens
    return run


def test_logits_are_those_of_the_tokens_before(babbler: Model, runs: list[list[int]]) -> None:
    """Guesses that hold, fail, and hold in part: the cache is that of the answer alone."""
    script = [60, 61, 62, 63, 64, 65, 60, 61, 62, 63, 64, 70, 60, 61, 62, 63, 64, 70, 60, 61, 62, 63, 64, 353]
    run = scripted(babbler, script, 40)
    assert (run.tokens, run.stop_token) == (script[:-1], 353)
    assert run.counts.proposed > run.counts.accepted > 0
    assert len(runs) == len(run.tokens) - run.counts.accepted
    assert sum(map(len, runs)) == len(run.tokens) - run.counts.accepted + run.counts.proposed, "the last guesses too"
    follow = babbler.prompt(ask("Read.")).followed_by(np.array([*script[:-1], 80, 81]))
    last, stats = np.array([len(follow.ids) - 1]), GenerationStats()
    reused = babbler.decoder.prefill(follow, last, stats)
    assert stats.counts.reused >= len(follow.ids) - 4
    babbler.clear()
    assert np.abs(reused - babbler.decoder.prefill(follow, last, GenerationStats())).max() < 1e-4


@pytest.mark.parametrize("limit", range(1, 14))
def test_a_limit_cuts_guesses(babbler: Model, limit: int) -> None:
    script = [60, 61, 62] * 10
    run = scripted(babbler, script, limit)
    assert (run.tokens, run.finish_reason) == (script[:limit], "length")
    assert len(babbler.decoder._cached) <= run.counts.prompt + limit - 1, "room was reserved for no more"


def test_stop_strings_and_ends_among_guesses(babbler: Model) -> None:
    free = babbler.generate(ask("Read."), 60, lookup=False)
    for stop in {free[10:13], free[25:28], free[40:42]}:
        for lookup in (True, False):
            stream = babbler.stream(ask("Read."), 60, stop=stop, lookup=lookup)
            assert ("".join(stream), stream.run.stop_string) == (free[: free.index(stop)], stop)
    with babbler.stream(ask("Read."), 60, lookup=True) as stream:
        for _ in range(20):
            next(stream)
    assert stream.run.finish_reason == "cancelled"
    assert babbler.generate(ask("Read."), 60, lookup=True) == free


@pytest.mark.parametrize("target", ["portable", "cuda"])
def test_every_cache_can_be_cut(model: Loader, target: str) -> None:
    """Also one that the graph updates at an index, with a mask over all of it."""
    other = model("qwen3_vl", "deep", "fp32", target)
    for options in ({"json_schema": FIELDS}, {}):
        alone, together = (answered(other, 60, ask("Read.", page()), lookup=on, **options) for on in (False, True))
        assert outcome(*together) == outcome(*alone)
        counts = together[0].run.counts
        assert counts.certain + counts.proposed > 0
    assert answered(other, 60, json_schema=FIELDS)[0].run.counts.certain == 0, "not measured, so not by default"


def test_guesses_and_a_schema(babbler: Model) -> None:
    for schema in (SCHEMAS["many fields"], SCHEMAS["list"], FIELDS):
        alone, together = (outcome(*answered(babbler, 90, json_schema=schema, lookup=on)) for on in (False, True))
        assert together == alone


def test_sampling_does_not_guess(babbler: Model) -> None:
    options = {"temperature": 1.5, "seed": 3}
    stream, _ = answered(babbler, 60, lookup=True, **options)
    assert stream.run.counts.proposed == 0
    assert stream.run.tokens == answered(babbler, 60, lookup=False, **options)[0].run.tokens


@pytest.mark.slow
def test_by_default_nothing_that_may_change_an_answer(babbler: Model, int4_bundle: Path) -> None:
    """Kernels of several tokens round differently, which int8 activations enlarge: there it has to be asked for."""
    stream, _ = answered(babbler, 60, json_schema=FIELDS)
    assert stream.run.counts.certain > 0 == stream.run.counts.proposed
    with load(int4_bundle, threads=1) as quantized:
        assert answered(quantized, 60, json_schema=FIELDS)[0].run.counts.certain == 0
        assert answered(quantized, 60, json_schema=FIELDS, lookup=True)[0].run.counts.certain > 0
    with pytest.raises(PromptError, match="lookup must be True, False or None, got 1"):
        babbler.stream(QUESTION, lookup=1)  # type: ignore[arg-type]


def choose(logits: np.ndarray, wanted: int) -> int:
    """The only token that is left, or else the wanted one."""
    left = np.flatnonzero(logits > -np.inf)
    return int(left[0]) if len(left) == 1 else wanted
