"""RAG-Token and RAG-Sequence decoding: by hand, against all answers there are, and by counting what was computed."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hashed_generator import BatchHashedGenerator, HashedGenerator, answers
from numpy.typing import NDArray
from toys import TABLES, FixedRetriever, TableGenerator

import ragfast
from ragfast.rag.decoding import Generation, Retrieved

Array = NDArray[Any]

PRIOR = [0.5, 0.3, 0.2]
RAGS: list[Any] = [ragfast.RAGSequence, ragfast.RAGToken]


def model(rag: Any, generator: Any, probs: Sequence[float] = PRIOR, texts: Any = None) -> Any:
    texts = range(len(probs)) if texts is None else texts
    return rag(FixedRetriever(probs), generator, index=np.zeros((len(texts), 1)), documents=texts)


def by_hand() -> Any:
    return model(ragfast.RAGToken, TableGenerator(), [0.75, 0.25], TABLES)


def exact(rag: Any, generator: HashedGenerator, max_new_tokens: int, question: int) -> list[tuple[float, Any]]:
    """log p(y|x) of every answer, best first."""
    found = []
    for answer in answers(generator.vocab, generator.stop_tokens, max_new_tokens):
        table = HashedGenerator.token_logprobs(generator, question, range(len(PRIOR)), answer)
        if rag is ragfast.RAGToken:
            found.append((float(ragfast.marginalize_token(np.log(PRIOR), table).sum()), answer))
        else:
            found.append((float(ragfast.marginalize_sequence(np.log(PRIOR), table)), answer))
    generator.scored.clear()
    generator.passes = 0
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))


# ---- RAG-Token


def test_generate_by_hand() -> None:
    """First 0 (5/8 against 1/4 and 1/8), then 1 (5/8), then the end (13/16)."""
    rag = by_hand()
    generation = rag.generate([""])[0][0]
    assert generation.tokens.tolist() == [0, 1, 2]
    assert generation.tokens.dtype == np.int64
    assert generation.text is None
    assert math.exp(generation.logprob) == pytest.approx(5 / 8 * 5 / 8 * 13 / 16)
    assert generation.score == generation.logprob
    np.testing.assert_allclose(generation.posterior, [[9 / 10, 6 / 10, 12 / 13], [1 / 10, 4 / 10, 1 / 13]])
    assert generation.doc_ids.tolist() == [0, 1]
    np.testing.assert_allclose(np.exp(generation.doc_logprobs), [0.75, 0.25])
    assert rag.generator.stepped == [2, 2, 2]
    score = rag.score([""], [generation.tokens])[0]
    assert generation.logprob == pytest.approx(score.logprobs[0], rel=1e-14)
    np.testing.assert_allclose(generation.posterior, score.posteriors[0])


def test_generate_stops_at_max_new_tokens() -> None:
    generation = by_hand().generate([""], max_new_tokens=2)[0][0]
    assert generation.tokens.tolist() == [0, 1]
    assert generation.posterior.shape == (2, 2)


def test_generate_prefers_the_lower_of_equals() -> None:
    table = {(): [0.2, 0.4, 0.4], (1,): [0.0, 0.5, 0.5], (1, 1): [0.0, 0.0, 1.0]}
    rag = model(ragfast.RAGToken, TableGenerator(), [0.75, 0.25], [table, table])
    assert rag.generate([""])[0][0].tokens.tolist() == [1, 1, 2]


def test_min_new_tokens_and_stop_tokens() -> None:
    """The answer's own stop tokens take the place of the generator's; none of them ends it before its time."""
    table = {(): [0.0, 0.4, 0.6], (1,): [0.0, 0.4, 0.6], (2,): [0.1, 0.3, 0.6], (1, 1): [0.1, 0.3, 0.6]}
    rag = model(ragfast.RAGToken, TableGenerator(), [1.0], [table])
    assert rag.generate([""])[0][0].tokens.tolist() == [2]
    longer = rag.generate([""], min_new_tokens=2)[0][0]
    assert longer.tokens.tolist() == [1, 1, 2]
    assert math.exp(longer.logprob) == pytest.approx(0.4 * 0.4 * 0.6)  # what is not allowed keeps its probability
    assert rag.generate([""], stop_tokens=[], max_new_tokens=2)[0][0].tokens.tolist() == [2, 2]
    assert rag.generate([""], stop_tokens=[1], max_new_tokens=1)[0][0].tokens.tolist() == [2]


@pytest.mark.parametrize("seed", range(3))
def test_greedy_is_the_argmax_of_the_exact_mixture(seed: int) -> None:
    generator = HashedGenerator(vocab=30, stop_tokens=[7])
    generation = model(ragfast.RAGToken, generator).generate([seed], max_new_tokens=12)[0][0]
    prefix: tuple[int, ...] = ()
    for token in generation.tokens.tolist():
        probs = [np.exp(ragfast.log_softmax(generator.logits(seed, doc, prefix))) for doc in range(3)]
        assert token == (np.array(PRIOR) @ probs).argmax()
        prefix += (token,)
    assert len(prefix) == 12 or prefix[-1] == 7


@pytest.mark.parametrize("stop", [(3,), (0, 2)])
def test_token_beams_wide_enough_find_all_answers(stop: tuple[int, ...]) -> None:
    generator = HashedGenerator(vocab=4, stop_tokens=stop)
    expected = exact(ragfast.RAGToken, generator, 3, question=5)
    found = model(ragfast.RAGToken, generator).generate(
        [5], max_new_tokens=3, n_beams=64, n_returned=64, length_penalty=0.0
    )[0]
    assert [tuple(generation.tokens.tolist()) for generation in found] == [answer for _, answer in expected]
    np.testing.assert_allclose([generation.logprob for generation in found], [log_prob for log_prob, _ in expected])
    assert [generation.score for generation in found] == [generation.logprob for generation in found]
    np.testing.assert_allclose(np.logaddexp.reduce([generation.logprob for generation in found]), 0, atol=1e-12)


def same(found: Sequence[Sequence[Generation]], alone: Sequence[Sequence[Generation]]) -> None:
    for several, expected in zip(found, alone, strict=True):
        assert [generation.tokens.tolist() for generation in several] == [g.tokens.tolist() for g in expected]
        assert [generation.logprob for generation in several] == [g.logprob for g in expected]
        assert [generation.score for generation in several] == [g.score for g in expected]
        for generation, one in zip(several, expected, strict=True):
            assert generation.posterior.tolist() == one.posterior.tolist()


@pytest.mark.parametrize("rag", RAGS)
@pytest.mark.parametrize("options", [{}, {"n_beams": 3, "n_returned": 3, "early_stopping": True}])
def test_questions_together_are_questions_alone(rag: Any, options: dict[str, Any]) -> None:
    """Each with its own number of documents, in one decoder whose rows are those of the answers still going on."""
    generator = BatchHashedGenerator(vocab=5, stop_tokens=[0], scale=2.0)
    questions, sizes = [4, 8, 15, 16, 23], [2, 3, 3, 1, 2]
    retrieved = [Retrieved(np.arange(k), ragfast.log_softmax(np.arange(float(k))), range(k)) for k in sizes]
    rag = model(rag, generator)
    found = rag.generate(questions, retrieved=retrieved, max_new_tokens=9, **options)
    assert generator.opened == 1
    together, generator.stepped = generator.stepped, []
    alone, rows = [], []
    for question, documents in zip(questions, retrieved, strict=True):
        alone += rag.generate([question], retrieved=[documents], max_new_tokens=9, **options)
        rows.append(generator.stepped)
        generator.stepped = []
    same(found, alone)
    assert len({len(steps) for steps in rows}) > 1
    assert together == [sum(steps[t] for steps in rows if t < len(steps)) for t in range(max(map(len, rows)))]
    generator.opened = 0
    same(rag.generate(questions, retrieved=retrieved, max_new_tokens=9, batch_size=2, **options), alone)
    assert generator.opened == 3


@pytest.mark.parametrize("rag", RAGS)
def test_retrieves_once_a_question(rag: Any) -> None:
    rag = model(rag, BatchHashedGenerator())
    rag.generate([1, 2, 3], n_beams=4, max_new_tokens=5)
    assert sorted(rag.retriever.asked) == ["encode_query"] * 3 + ["search"] * 3
    shared = rag.retrieve([1, 2])
    rag.retriever.asked.clear()
    same(rag.generate([1, 2], retrieved=shared, n_beams=2), rag.generate([1, 2], retrieved=shared, n_beams=2))
    assert rag.retriever.asked == []


@pytest.mark.parametrize("rag", RAGS)
def test_documents_of_no_probability_are_not_read(rag: Any) -> None:
    generator = HashedGenerator()
    possible = Retrieved(np.array([7, 9]), np.log([0.6, 0.4]), [1, 2])
    padded = Retrieved(np.array([6, 7, 8, 9]), np.log([1e-300, 0.6, 1e-300, 0.4]), [0, 1, 0, 2])
    padded.doc_logprobs[[0, 2]] = -np.inf
    rag = model(rag, generator)
    expected = rag.generate([3], retrieved=[possible], n_beams=3)[0][0]
    stepped, generator.stepped = generator.stepped, []
    found = rag.generate([3], retrieved=[padded], n_beams=3)[0][0]
    assert generator.stepped == stepped
    assert (found.tokens.tolist(), found.logprob) == (expected.tokens.tolist(), expected.logprob)
    assert found.posterior[[1, 3]].tolist() == expected.posterior.tolist()
    assert not found.posterior[[0, 2]].any()
    assert found.doc_ids.tolist() == [6, 7, 8, 9]


@pytest.mark.parametrize("rag", RAGS)
def test_equals_are_in_the_order_of_their_tokens(rag: Any) -> None:
    class Even(HashedGenerator):
        def logits(self, question: int, doc: int, prefix: Any) -> Array:
            return np.zeros(4)

    found = model(rag, Even()).generate([0], stop_tokens=[], max_new_tokens=2, n_beams=16, n_returned=11)[0]
    assert [generation.tokens.tolist() for generation in found] == [[i // 4, i % 4] for i in range(11)]


@pytest.mark.parametrize("rag", RAGS)
def test_no_questions(rag: Any) -> None:
    assert model(rag, HashedGenerator()).generate([]) == model(rag, HashedGenerator()).score([], []) == []


# ---- RAG-Sequence


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("n_beams", [1, 2, 4])
def test_thorough_is_exact_and_fast_is_below(n_beams: int, batched: bool) -> None:
    generator = (BatchHashedGenerator if batched else HashedGenerator)(vocab=5, stop_tokens=[0])
    rag = model(ragfast.RAGSequence, generator)
    scores = {answer: log_prob for log_prob, answer in exact(ragfast.RAGSequence, generator, 4, question=2)}
    options = {"max_new_tokens": 4, "n_beams": n_beams, "n_returned": 20}
    thorough = rag.generate([2], **options)[0]
    scored, passes = list(generator.scored), generator.passes
    fast = rag.generate([2], mode="fast", **options)[0]
    assert generator.scored == scored  # nothing more is computed
    assert n_beams < len(thorough) <= 3 * n_beams
    for generation in thorough:
        answer = tuple(generation.tokens.tolist())
        assert generation.logprob == pytest.approx(scores[answer], rel=1e-12)
        score = rag.score([2], [generation.tokens])[0]
        np.testing.assert_allclose(generation.posterior, score.posteriors[0], rtol=1e-10)
    bounds = {tuple(generation.tokens.tolist()): generation for generation in fast}
    assert bounds.keys() == {tuple(generation.tokens.tolist()) for generation in thorough}
    for answer, generation in bounds.items():
        missing = {doc for _, doc, tokens in scored if tokens == answer}
        assert {doc for doc in range(3) if generation.posterior[doc] == 0} == missing
        assert generation.posterior.sum() == pytest.approx(1)
        if missing:
            assert generation.logprob < scores[answer]
        else:
            assert generation.logprob == pytest.approx(scores[answer], rel=1e-12)
    for found in (thorough, fast):
        ranks = [(-generation.logprob, tuple(generation.tokens.tolist())) for generation in found]
        assert ranks == sorted(ranks)
    # Each pair of a hypothesis and a document is computed once: by the document's beam, or else here.
    assert len(set(scored)) == len(scored) == 3 * len(thorough) - 3 * n_beams
    assert passes == (1 if batched else len(scored))


def test_sequence_beams_wide_enough_find_all_answers() -> None:
    """Then every document's beam has every answer, nothing is left to score, and fast is thorough."""
    generator = BatchHashedGenerator(vocab=4)
    expected = exact(ragfast.RAGSequence, generator, 3, question=5)
    rag = model(ragfast.RAGSequence, generator)
    options = {"max_new_tokens": 3, "n_beams": 64, "n_returned": 64, "length_penalty": 0.0}
    thorough, fast = (rag.generate([5], mode=mode, **options)[0] for mode in ("thorough", "fast"))
    assert [tuple(generation.tokens.tolist()) for generation in thorough] == [answer for _, answer in expected]
    np.testing.assert_allclose([generation.logprob for generation in thorough], [log_prob for log_prob, _ in expected])
    same([fast], [thorough])
    assert (generator.passes, generator.scored) == (0, [])


def test_equal_hypotheses_are_merged() -> None:
    """Documents 0 and 2 are the same, so both beams end with the same answers; 1 is another."""
    generator = BatchHashedGenerator(vocab=5, stop_tokens=[0])
    rag = model(ragfast.RAGSequence, generator, texts=[4, 9, 4])
    fast = rag.generate([1], mode="fast", n_returned=9)[0]
    both = next(generation for generation in fast if generation.posterior[0] > 0)
    alone = next(generation for generation in fast if generation.posterior[1] > 0)
    assert len(fast) == 2
    np.testing.assert_allclose(both.posterior, [5 / 7, 0, 2 / 7])
    keys, merged = ragfast.segment_logsumexp(
        np.log(PRIOR) + [sum(_by_token(generator, doc, y.tokens)) for doc, y in [(4, both), (9, alone), (4, both)]],
        [0, 1, 0],
    )
    assert keys.tolist() == [0, 1]
    assert [both.logprob, alone.logprob] == pytest.approx(merged.tolist(), rel=1e-12)
    rag.generate([1])
    assert sorted(doc for _, doc, _ in generator.scored) == [4, 4, 9]


def _by_token(generator: HashedGenerator, doc: int, tokens: Array) -> Iterator[float]:
    for t, token in enumerate(tokens.tolist()):
        yield ragfast.log_softmax(generator.logits(1, doc, tokens[:t].tolist()))[token]


def test_one_token_answers_are_the_same_in_both() -> None:
    generator = BatchHashedGenerator(vocab=6)
    options = {"max_new_tokens": 1, "n_beams": 6, "n_returned": 6}
    token, sequence = (model(rag, generator).generate([4], **options)[0] for rag in (ragfast.RAGToken, RAGS[0]))
    assert [g.tokens.tolist() for g in token] == [g.tokens.tolist() for g in sequence]
    np.testing.assert_allclose([g.logprob for g in token], [g.logprob for g in sequence], rtol=1e-12)
    np.testing.assert_allclose([g.posterior[:, 0] for g in token], [g.posterior for g in sequence], rtol=1e-12)


# ---- what answers spell


class Speller(HashedGenerator):
    """Bytes, of which 0 ends an answer; the question is the answer."""

    def __init__(self) -> None:
        super().__init__(vocab=256, stop_tokens=[0])

    def logits(self, question: Any, doc: int, prefix: Sequence[int]) -> Array:
        certain = np.full(self.vocab, -np.inf)
        certain[[*question.encode(), 0][len(prefix)]] = 0.0
        return certain

    def text(self, tokens: Any) -> str:
        return bytes(np.asarray(tokens, np.uint8)).decode(errors="replace")


@pytest.mark.parametrize("rag", RAGS)
def test_text_is_without_the_stop_token(rag: Any) -> None:
    generation = model(rag, Speller()).generate(["Gruß"])[0][0]
    assert (generation.text, generation.tokens.tolist()) == ("Gruß", [*"Gruß".encode(), 0])


def test_stream_is_generate() -> None:
    generator = HashedGenerator(vocab=40)
    rag = model(ragfast.RAGToken, generator)
    for options in ({}, {"sample": True, "top_p": 0.9}):
        seeds: list[Any] = [{"rng": np.random.default_rng(3)} if options else {} for _ in range(2)]
        generation = rag.generate([6], **options, **seeds[0])[0][0]
        steps = list(rag.stream(6, **options, **seeds[1]))
        assert [step.token for step in steps] == generation.tokens.tolist()
        assert sum(step.logprob for step in steps) == pytest.approx(generation.logprob, rel=1e-12)
        np.testing.assert_array_equal(np.stack([step.posterior for step in steps], axis=1), generation.posterior)
        assert {step.text for step in steps} == {None}


@pytest.mark.parametrize("said", ["plain", "Gruß, 你好!", "🙂", "e\u0301"])
def test_streamed_text_waits_for_whole_characters(said: str) -> None:
    steps = list(model(ragfast.RAGToken, Speller()).stream(said))
    pieces = [step.text for step in steps]
    assert "".join(pieces) == said
    assert len(pieces) == len(said.encode()) + 1
    assert not any("\ufffd" in piece for piece in pieces)
    assert [piece for piece in pieces if piece] == list(said)


def test_a_character_cut_off_is_told_at_the_end() -> None:
    steps = model(ragfast.RAGToken, Speller()).stream("你好", max_new_tokens=5)
    assert [step.text for step in steps] == ["", "", "你", "", "\ufffd"]


def test_a_stream_reads_no_further_than_it_is_asked() -> None:
    class Watched(HashedGenerator):
        def open(self, *arguments: Any) -> Any:
            decoder = super().open(*arguments)
            self.decoder = weakref.ref(decoder)
            return decoder

    generator = Watched(vocab=9, stop_tokens=[])
    steps = model(ragfast.RAGToken, generator).stream(1)
    assert generator.opened == 0
    for n_tokens in (1, 2, 3):
        next(steps)
        assert len(generator.stepped) == n_tokens
    assert generator.decoder() is not None
    steps.close()
    gc.collect()
    assert generator.decoder() is None
    assert len(generator.stepped) == 3
    assert list(steps) == []


# ---- what is refused


def dead(probability_of_the_end: float) -> dict[Any, Any]:
    """After 0 there is nothing."""
    return {(): [1 - probability_of_the_end, 0.0, probability_of_the_end], (0,): [0.0, 0.0, 0.0]}


@pytest.mark.parametrize("rag", RAGS)
def test_answers_that_cannot_go_on(rag: Any) -> None:
    """They are dropped; what ended stays. Where all of them are, there is no answer."""
    rag = model(rag, TableGenerator(), [0.75, 0.25], [dead(0.25), dead(0.125)])
    found = rag.generate([""], n_beams=2, n_returned=2)[0]
    assert [generation.tokens.tolist() for generation in found] == [[2]]
    assert math.exp(found[0].logprob) == pytest.approx(0.75 * 0.25 + 0.25 * 0.125)
    with pytest.raises(ValueError, match=r"^generator: no answer to questions\[0\]: at some token all had prob"):
        rag.generate([""])
    with pytest.raises(ValueError, match=r"^generator: no answer to questions\[0\]"):
        rag.generate([""], n_beams=2, min_new_tokens=1)


def test_a_document_that_predicts_nothing() -> None:
    """Its share is lost, as in scoring, and its posterior 0; the others go on."""
    docs = [dead(0.0), {(): [1.0, 0.0, 0.0], (0,): [0.0, 0.0, 1.0]}]
    generator = TableGenerator()
    token = model(ragfast.RAGToken, generator, [0.75, 0.25], docs).generate([""])[0][0]
    assert token.tokens.tolist() == [0, 2]
    assert math.exp(token.logprob) == pytest.approx(0.25)
    np.testing.assert_allclose(token.posterior, [[0.75, 0.0], [0.25, 1.0]])
    for mode in ("thorough", "fast"):
        sequence = model(ragfast.RAGSequence, generator, [0.75, 0.25], docs).generate([""], mode=mode)[0]
        assert [generation.tokens.tolist() for generation in sequence] == [[0, 2]]
        assert math.exp(sequence[0].logprob) == pytest.approx(0.25)
        assert sequence[0].posterior.tolist() == [0, 1]


def test_a_stream_that_cannot_go_on() -> None:
    steps = model(ragfast.RAGToken, TableGenerator(), [1.0], [dead(0.25)]).stream("")
    assert next(steps).token == 0
    with pytest.raises(ValueError, match=r"^generator: no answer to the question"):
        next(steps)


def test_generate_refuses() -> None:
    with pytest.raises(TypeError, match="generator: generate needs stop_tokens and an open method, which Simple"):
        model(ragfast.RAGToken, ragfast.SimpleGenerator(3, 3, 3)).generate([0])
    token, sequence = (model(rag, HashedGenerator()) for rag in (ragfast.RAGToken, ragfast.RAGSequence))
    with pytest.raises(ValueError, match=r"^n_returned: expected at most n_beams, 2, got 3$"):
        token.generate([0], n_beams=2, n_returned=3)
    for rag in (token, sequence):
        with pytest.raises(TypeError, match=r"^num_beams: no option of decoding; expected some of max_new_tokens, "):
            rag.generate([0], num_beams=2)
        with pytest.raises(ValueError, match=r"^stop_tokens: expected tokens below the vocabulary's 4, got 4$"):
            rag.generate([0], stop_tokens=[4])
    with pytest.raises(ValueError, match=r"^sample: RAG-Sequence is decoded by beams"):
        sequence.generate([0], sample=True)
    with pytest.raises(ValueError, match=r"^mode: expected .*thorough.*fast.*, got "):
        sequence.generate([0], mode="quick")
    for options in ({"n_beams": 2}, {"sample": True, "n_returned": 2}):
        with pytest.raises(ValueError, match=r"^n_beams, n_returned: expected 1, since what is streamed cannot"):
            token.stream(0, **options)


@pytest.mark.parametrize("rag", RAGS)
@pytest.mark.parametrize(
    ("doc_ids", "doc_logprobs", "message"),
    [
        ([0], [-np.inf], r"retrieved\[0\]: expected a document whose log p\(z\|x\) is finite, got none among 1"),
        ([0], [np.nan], r"retrieved\[0\]\.doc_logprobs: expected no NaN and no \+inf"),
        (
            [0],
            [-1.0, -1.0],
            r"retrieved\[0\]: expected doc_ids and doc_logprobs of 1 documents, got 1 ids and log",
        ),
        ([0, 1], [-1.0], r"retrieved\[0\]: expected doc_ids and doc_logprobs of 1 documents, got 2 ids and log"),
    ],
)
def test_what_is_no_retrieval(rag: Any, doc_ids: list[int], doc_logprobs: list[float], message: str) -> None:
    retrieved = [Retrieved(np.array(doc_ids), np.array(doc_logprobs), [0])]
    with pytest.raises(ValueError, match=f"^{message}"):
        model(rag, HashedGenerator()).generate([0], retrieved=retrieved)


@pytest.mark.parametrize("rag", RAGS)
def test_broken_logits(rag: Any) -> None:
    class Breaks(HashedGenerator):
        def logits(self, question: int, doc: int, prefix: Any) -> Array:
            return super().logits(question, doc, prefix) * (np.nan if (question, doc, len(prefix)) == (5, 1, 1) else 1)

    retrieved = [Retrieved(np.array([70, 80]), np.log([0.5, 0.5]), [0, 1])] * 2
    with pytest.raises(
        ValueError, match=r"^generator: NaN or \+inf in the logits of token 1 of questions\[1\] under document 80$"
    ):
        model(rag, Breaks(stop_tokens=())).generate([4, 5], retrieved=retrieved)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda table: table[:, :-1], r"generator: expected token_logprobs of shape \(1, \d\), got \(1, \d\)"),
        (lambda table: table * np.nan, r"generator: NaN in the token_logprobs of a hypothesis under document \d$"),
    ],
)
def test_thorough_refuses_broken_scores(wrong: Any, message: str) -> None:
    class Breaks(HashedGenerator):
        def token_logprobs(self, *arguments: Any) -> Array:
            found: Array = wrong(super().token_logprobs(*arguments))
            return found

    rag = model(ragfast.RAGSequence, Breaks(vocab=9))
    with pytest.raises(ValueError, match=f"^{message}"):
        rag.generate([0])
    assert rag.generate([0], mode="fast")
