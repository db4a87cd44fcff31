"""Decoding over rows: options, beam search against a slow transcription of it, sampling against the distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hashed_generator import HashedDecoder, HashedGenerator
from numpy.typing import NDArray

import ragfast
from ragfast.rag.beam import Beam, decode
from ragfast.rag.decoding import Decoding

Array = NDArray[Any]


def mixture(generator: HashedGenerator, question: int, docs: list[int], prior: Array, prefix: tuple[int, ...]) -> Array:
    """log p(v | x, y_<t), plainly."""
    rows = np.array([generator.logits(question, doc, prefix) for doc in docs], np.float64)
    probs = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
    found: Array = np.log(np.exp(prior) @ probs)
    return found


def slow_beam_search(following: Any, decoding: Decoding, stop: tuple[int, ...]) -> list[tuple[float, tuple[int, ...]]]:
    """What it must do, candidate by candidate: `following` gives log p(v | x, y_<t) of a prefix."""
    beams = decoding.n_beams
    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, decoding.max_new_tokens + 1):
        candidates = []
        for total, prefix in live:
            for token, value in enumerate(following(prefix)):
                if length > decoding.min_new_tokens or token not in stop:
                    candidates.append((total + value, (*prefix, token)))
        candidates.sort(key=lambda pair: -pair[0])
        candidates = candidates[: beams * (1 + max(1, len(stop)))]
        is_last = length == decoding.max_new_tokens
        ended = [(s, y) for s, y in candidates[:beams] if y[-1] in stop or is_last]
        finished += [(s / length**decoding.length_penalty, y) for s, y in ended]
        finished = sorted(finished, key=lambda pair: -pair[0])[:beams]
        live = [] if is_last else [(s, y) for s, y in candidates if y[-1] not in stop][:beams]
        is_hopeless = (
            len(finished) == beams and live and live[0][0] / length**decoding.length_penalty <= finished[-1][0]
        )
        if not live or is_hopeless or (decoding.early_stopping and len(finished) == beams):
            break
    return finished


PRIORS = {1: np.log([1.0]), 2: np.log([0.75, 0.25]), 3: np.log([0.5, 0.3, 0.2])}


@pytest.mark.parametrize("n_beams", [2, 3, 5])
@pytest.mark.parametrize("stop", [(), (3,), (0, 5)])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("is_eager", [False, True])
def test_beam_search_is_the_slow_one(n_beams: int, stop: tuple[int, ...], early_stopping: bool, is_eager: bool) -> None:
    """Beams of different K together, of which each is searched by itself; also where nearly all candidates end."""
    generator = HashedGenerator(vocab=7, eager=stop if is_eager else ())
    sizes = [2, 2, 1, 3, 2]
    for seed, (length_penalty, least) in enumerate([(1.0, 0), (0.5, 2), (2.0, 0), (0.0, 1), (-1.0, 0)]):
        options = Decoding(
            max_new_tokens=6,
            min_new_tokens=least,
            n_beams=n_beams,
            n_returned=n_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
        )
        questions = [10 * seed + i for i in range(len(sizes))]
        beams = [Beam(PRIORS[k], np.arange(k), "it") for k in sizes]
        list(decode(generator.open(questions, [range(k) for k in sizes]), beams, options, stop))
        for question, k, beam in zip(questions, sizes, beams, strict=True):
            expected = slow_beam_search(
                lambda prefix, q=question, k=k: mixture(generator, q, list(range(k)), PRIORS[k], prefix), options, stop
            )
            assert [answer.tokens for answer in beam.finished] == [tokens for _, tokens in expected]
            scores = [answer.score(options) for answer in beam.finished]
            np.testing.assert_allclose(scores, [score for score, _ in expected], rtol=1e-12)
            assert beam.live == []


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_log_probs_are_those_of_the_logits(dtype: Any) -> None:
    """Summed in float64, whatever type the logits have."""
    generator = HashedGenerator(vocab=50)
    generator.dtype = dtype
    beam = Beam(PRIORS[3], np.arange(3), "it")
    options = Decoding(max_new_tokens=30, n_beams=3)
    list(decode(generator.open([0], [[0, 1, 2]]), [beam], options, ()))
    for answer in beam.finished:
        tokens = answer.tokens
        by_token = [mixture(generator, 0, [0, 1, 2], PRIORS[3], tokens[:t])[y] for t, y in enumerate(tokens)]
        # The LSE of float32 logits is right to what float32 can tell of a token.
        assert answer.logprob == pytest.approx(sum(by_token), rel=1e-13 if dtype == np.float64 else 3e-8)
        table = generator.token_logprobs(0, [0, 1, 2], tokens)
        np.testing.assert_allclose(answer.table(), table, rtol=1e-6 if dtype != np.float64 else 1e-12)


def test_rows_of_what_has_ended_are_given_up() -> None:
    """Beams of 1, 2 and 3 documents that end after 1, 3 and 2 tokens; 9 is the stop token."""
    ends = {0: 1, 1: 3, 2: 2}

    class Ending(HashedGenerator):
        def logits(self, question: int, doc: int, prefix: Any) -> Array:
            certain = np.full(10, -np.inf)
            certain[9 if len(prefix) + 1 == ends[question] else 4] = 0.0
            return certain

    generator = Ending()
    beams = [Beam(PRIORS[k], np.arange(k), "it") for k in (1, 2, 3)]
    list(decode(generator.open([0, 1, 2], [[0], [0, 1], [0, 1, 2]]), beams, Decoding(), (9,)))
    assert [beam.finished[0].tokens for beam in beams] == [(9,), (4, 4, 9), (4, 9)]
    assert generator.stepped == [6, 5, 2]


def chi_square(counts: Array, probs: Array) -> float:
    expected = counts.sum() * probs[probs > 0]
    assert counts[probs == 0].sum() == 0
    found: float = ((counts[probs > 0] - expected) ** 2 / expected).sum()
    return found


def allowed(log_probs: Array, temperature: float, top_k: int | None, top_p: float | None) -> Array:
    """The distribution to draw from, by sorting."""
    probs = np.exp(log_probs / temperature)
    order = np.argsort(-probs)[:top_k]
    kept = np.zeros_like(probs)
    kept[order] = probs[order]
    kept /= kept.sum()
    if top_p is not None:
        total = 0.0
        for token in order:
            if total >= top_p:
                kept[token] = 0.0
            total += kept[token]
        kept /= kept.sum()
    return kept


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, None), (0.5, None, None), (2.0, 5, None), (1.0, None, 0.7), (1.5, 6, 0.8), (1.0, 1, None)],
)
def test_samples_follow_the_distribution(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """2,000 first tokens, and as many second ones after the likeliest of them. 30 is beyond the 99.9 % quantile of
    chi-square with 9 degrees of freedom, 27.9."""
    generator = HashedGenerator(vocab=10, scale=1.0)
    options = Decoding(
        max_new_tokens=2,
        sample=True,
        n_returned=2000,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        rng=np.random.default_rng(5),
    )
    beam = Beam(PRIORS[3], np.arange(3), "it")
    list(decode(generator.open([7], [[0, 1, 2]]), [beam], options, ()))
    drawn = np.array([answer.tokens for answer in beam.finished])
    assert drawn.shape == (2000, 2)
    first = allowed(mixture(generator, 7, [0, 1, 2], PRIORS[3], ()), temperature, top_k, top_p)
    assert chi_square(np.bincount(drawn[:, 0], minlength=10), first) < 30
    commonest = int(first.argmax())
    second = allowed(mixture(generator, 7, [0, 1, 2], PRIORS[3], (commonest,)), temperature, top_k, top_p)
    assert chi_square(np.bincount(drawn[drawn[:, 0] == commonest, 1], minlength=10), second) < 30


def test_a_sample_has_the_log_prob_of_the_model() -> None:
    """And not of what temperature, top_k and top_p made of it."""
    generator = HashedGenerator(vocab=6)
    options = Decoding(
        max_new_tokens=4,
        min_new_tokens=2,
        sample=True,
        n_returned=20,
        temperature=0.7,
        top_k=4,
        rng=np.random.default_rng(0),
    )
    beam = Beam(PRIORS[2], np.arange(2), "it")
    list(decode(generator.open([3], [[0, 1]]), [beam], options, (0, 1)))
    assert [answer.logprob for answer in beam.finished] == sorted((a.logprob for a in beam.finished), reverse=True)
    assert {len(answer.tokens) for answer in beam.finished} == {3, 4}
    for answer in beam.finished:
        assert not {0, 1} & set(answer.tokens[:2])
        table = generator.token_logprobs(3, [0, 1], answer.tokens)
        exact = ragfast.marginalize_token(PRIORS[2], table).sum()
        assert answer.logprob == pytest.approx(exact, rel=1e-12)


def test_the_greatest_alone_is_greedy() -> None:
    """Also where the greatest are stop tokens before their time."""
    generator = HashedGenerator(vocab=9, eager=[4, 6])
    for question in range(8):
        found = []
        for options in ({"sample": True, "top_k": 1}, {"sample": True, "top_p": 1e-9}, {}):
            beam = Beam(PRIORS[2], np.arange(2), "it")
            decoding = Decoding.of({"max_new_tokens": 5, "min_new_tokens": 3, **options})
            list(decode(generator.open([question], [[0, 1]]), [beam], decoding, (4, 6)))
            found.append((beam.finished[0].tokens, beam.finished[0].logprob))
        assert found[0] == found[1] == found[2]
        assert len(found[0][0]) >= 4


def test_one_seed_one_sample() -> None:
    generator = HashedGenerator(vocab=20)
    found = []
    for seed in (1, 1, 2):
        beam = Beam(PRIORS[2], np.arange(2), "it")
        options = Decoding(max_new_tokens=8, sample=True, rng=np.random.default_rng(seed))
        list(decode(generator.open([3], [[0, 1]]), [beam], options, ()))
        found.append(beam.finished[0].tokens)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("n_beams", [1, 2])
def test_broken_logits(bad: float, n_beams: int) -> None:
    class Breaks(HashedGenerator):
        def logits(self, question: int, doc: int, prefix: Any) -> Array:
            drawn = super().logits(question, doc, prefix)
            if (question, doc, len(prefix)) == (1, 21, 2):
                drawn[2] = bad
            return drawn

    generator = Breaks(vocab=5)
    beams = [Beam(PRIORS[2], np.array([10, 11]), "a"), Beam(PRIORS[2], np.array([20, 21]), "b")]
    with pytest.raises(ValueError, match=r"^generator: NaN or \+inf in the logits of token 2 of b under document 21$"):
        list(decode(generator.open([0, 1], [[10, 11], [20, 21]]), beams, Decoding(n_beams=n_beams), ()))


def test_logits_of_the_wrong_shape() -> None:
    beam = Beam(PRIORS[2], np.arange(2), "it")
    decoder = HashedDecoder(HashedGenerator(), [(0, 0, ())])
    with pytest.raises(ValueError, match=r"^generator: expected logits of shape \(2, V\), got \(1, 4\)$"):
        list(decode(decoder, [beam], Decoding(), ()))


def test_a_stop_token_outside_the_vocabulary() -> None:
    beam = Beam(PRIORS[1], np.arange(1), "it")
    with pytest.raises(ValueError, match=r"^stop_tokens: expected tokens below the vocabulary's 4, got 4$"):
        list(decode(HashedGenerator().open([0], [[0]]), [beam], Decoding(), (3, 4)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens: expected 1 or more, got 0"),
        ({"max_new_tokens": 2.0}, TypeError, "max_new_tokens: expected an integer of 1 or more, got float"),
        ({"min_new_tokens": -1}, ValueError, "min_new_tokens: expected 0 to max_new_tokens, 32, got -1"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, ValueError, "min_new_tokens: expected 0 to max_new_tokens, 4"),
        ({"min_new_tokens": "2"}, TypeError, "min_new_tokens: expected an integer, got str"),
        ({"min_new_tokens": True}, TypeError, "min_new_tokens: expected an integer, got bool"),
        ({"n_beams": 0}, ValueError, "n_beams: expected 1 or more, got 0"),
        ({"n_returned": True}, TypeError, "n_returned: expected an integer of 1 or more, got bool"),
        ({"length_penalty": math.nan}, ValueError, "length_penalty: expected a number from -10 to 10, got nan"),
        ({"length_penalty": "1"}, ValueError, "length_penalty: expected a number from -10 to 10, got '1'"),
        ({"early_stopping": "never"}, TypeError, "early_stopping: expected True or False, got 'never'"),
        ({"stop_tokens": 2}, TypeError, "stop_tokens: expected a sequence of tokens, got int"),
        ({"stop_tokens": "</s>"}, TypeError, "stop_tokens: expected a sequence of tokens, got str"),
        ({"stop_tokens": ["</s>"]}, TypeError, "stop_tokens: expected an integer, got str"),
        ({"stop_tokens": [2, -1]}, ValueError, "stop_tokens: expected tokens of 0 or more, got -1"),
        ({"sample": 1}, TypeError, "sample: expected True or False, got 1"),
        ({"sample": True, "n_beams": 2}, ValueError, "n_beams: expected 1 with sample=True, as beams are not sampled"),
        ({"sample": True, "temperature": 0.0}, ValueError, "temperature: expected a finite number above 0, got 0.0"),
        ({"sample": True, "temperature": -1}, ValueError, "temperature: expected a finite number above 0, got -1.0"),
        ({"sample": True, "top_k": 0}, ValueError, "top_k: expected 1 or more, got 0"),
        ({"sample": True, "top_p": 0.0}, ValueError, "top_p: expected a finite number above 0, got 0.0"),
        ({"sample": True, "top_p": 1.5}, ValueError, "top_p: expected a probability above 0 and at most 1, got 1.5"),
        ({"sample": True, "rng": 7}, TypeError, "rng: expected a numpy.random.Generator, got int"),
        ({"temperature": 0.5}, ValueError, "temperature, top_k, top_p: these are for sampling; expected sample=True"),
        ({"top_k": 5}, ValueError, "temperature, top_k, top_p: these are for sampling; expected sample=True"),
        ({"beams": 5}, TypeError, "beams: no option of decoding; expected some of max_new_tokens, min_new_tokens, n_b"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        Decoding.of(options)
    assert str(caught.value).startswith(message)


def test_stop_tokens_come_as_any_sequence() -> None:
    assert Decoding(stop_tokens=np.array([5, 2, 5])).stop_tokens == (5, 2)  # type: ignore[arg-type]
    assert Decoding(stop_tokens=()).stop_tokens == ()
