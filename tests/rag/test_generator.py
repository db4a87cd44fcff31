"""SimpleGenerator: the notebook's numbers from far fewer products, and exact where the shortcut could lose bits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from ragfast_bench import reference_notebook

import ragfast
from ragfast.rag import generators as generator_module
from ragfast.rag.protocols import DecodingGenerator, Generator

Array = NDArray[Any]


def pair(
    vocab_size: int, dim: int, hidden_dim: int, seed: int = 0, scale: float = 1.0, **options: Any
) -> tuple[Any, Any]:
    """The notebook's generator, without its floor, and ragfast's, with the same weights."""
    np.random.seed(seed)
    loops = reference_notebook.Generator(vocab_size, dim, hidden_dim)
    loops.output_W *= scale
    loops.floor = options.get("eps", 0.0)
    generator = ragfast.SimpleGenerator(vocab_size, dim, hidden_dim, **options)
    generator.encoder_W, generator.decoder_W = loops.encoder_W, loops.decoder_W
    generator.output_W = loops.output_W
    return loops, generator


def looped(loops: reference_notebook.Generator, query: Array, docs: list[Array], target: Array) -> Array:
    return np.array([[loops.log_prob(query, doc, [token]) for token in target] for doc in docs])


def direct(generator: ragfast.SimpleGenerator, query: Array, docs: list[Array], target: Array) -> Array:
    """token_logprobs from the definition, every cell on its own, in long double where the machine has one."""
    result = np.empty((len(docs), len(target)))
    for z, doc in enumerate(docs):
        encoded = np.tanh(generator.encoder_W @ np.concatenate([query, doc]).mean(axis=0))
        for t, token in enumerate(target):
            decoded = np.tanh(generator.decoder_W @ token)
            logits = generator.output_W.astype(np.longdouble) @ (encoded.astype(np.longdouble) + decoded)
            largest = logits.max()
            result[z, t] = logits[np.argmax(token)] - largest - np.log(np.exp(logits - largest).sum())
    return result


def inputs(rng: np.random.Generator, dim: int, n_docs: int, n_target: int) -> tuple[Array, list[Array], Array]:
    query = rng.standard_normal((4, dim))
    docs = [rng.standard_normal((int(rng.integers(0, 9)), dim)) for _ in range(n_docs)]
    return query, docs, rng.standard_normal((n_target, dim))


def test_seeded_weights_are_the_notebooks() -> None:
    np.random.seed(42)
    expected = reference_notebook.Generator(50, 6, 7)
    np.random.seed(42)
    generator = ragfast.SimpleGenerator(50, 6, 7)
    assert np.array_equal(generator.encoder_W, expected.encoder_W)
    assert np.array_equal(generator.decoder_W, expected.decoder_W)
    assert np.array_equal(generator.output_W, expected.output_W)


def test_rng_draws_in_the_same_order() -> None:
    generator = ragfast.SimpleGenerator(5, 2, 3, rng=np.random.default_rng(1))
    rng = np.random.default_rng(1)
    for weights in (generator.encoder_W, generator.decoder_W, generator.output_W):
        assert np.array_equal(weights, 0.01 * rng.standard_normal(weights.shape))


@pytest.mark.parametrize("eps", [0.0, 1e-8])
@pytest.mark.parametrize("shape", [(1000, 64, 128), (33, 5, 4), (1, 3, 2), (3217, 40, 30)])
def test_agrees_with_the_notebook(shape: tuple[int, int, int], eps: float) -> None:
    shape = (max(shape[0], shape[1]), *shape[1:])  # a target's argmax is below D, and must be a word
    loops, generator = pair(*shape, seed=2, eps=eps)
    query, docs, target = inputs(np.random.default_rng(2), shape[1], 5, 8)
    found = generator.token_logprobs(query, docs, target)
    np.testing.assert_allclose(found, looped(loops, query, docs, target), rtol=1e-11, atol=1e-13)
    assert generator.generate_prob(query, docs[1], target) == pytest.approx(
        loops.log_prob(query, docs[1], target), rel=1e-11
    )


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.integers(1, 200),
    st.integers(1, 12),
    st.integers(0, 6),
    st.integers(0, 6),
    st.sampled_from([0.0, 1.0, 100.0, 3e3, 1e5, 1e7]),
)
@settings(deadline=None)
def test_agrees_with_the_definition(
    seed: int, dim: int, extra: int, hidden_dim: int, n_docs: int, n_target: int, scale: float
) -> None:
    """At any size and scale: to a few roundings of the largest logit."""
    _, generator = pair(dim + extra, dim, hidden_dim, seed, scale)
    query, docs, target = inputs(np.random.default_rng(seed), dim, n_docs, n_target)
    largest = 1 + np.abs(generator.output_W).sum(axis=1).max()
    found = generator.token_logprobs(query, docs, target)
    assert found.shape == (n_docs, n_target)
    np.testing.assert_allclose(found, direct(generator, query, docs, target), rtol=0, atol=1e-14 * largest)
    assert (found <= 0).all()


def disagreeing(height: float, **options: Any) -> ragfast.SimpleGenerator:
    """Word 0 is worth height to the documents and -height to the tokens, word 1 the opposite, words 2 and 3 nothing."""
    generator = ragfast.SimpleGenerator(4, 2, 2, **options)
    generator.encoder_W = np.array([[1e9, 0], [0, 0]])  # tanh takes these to exactly 1 and 0
    generator.decoder_W = np.array([[0, 0], [1e9, 1e9]])
    generator.output_W = height * np.array([[1.0, -1], [-1, 1], [0, 0], [0, 0]])
    return generator


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("height", [1.0, 5.0, 20.0, 80.0, 200.0, 330.0, 340.0, 380.0, 1e3, 1e6])
def test_document_and_token_that_disagree(monkeypatch: pytest.MonkeyPatch, height: float, dtype: type) -> None:
    """All four words end with a logit of 0, though exp of either part alone passes any range."""
    cells = []

    def counting_logsumexp(x: Array) -> Any:
        cells.append(x.shape)
        return ragfast.logsumexp(x)

    monkeypatch.setattr(generator_module, "logsumexp", counting_logsumexp)
    generator = disagreeing(height, dtype=dtype)
    found = generator.token_logprobs(np.ones((1, 2)), [np.ones((1, 2))], np.eye(2))
    in_float32 = dtype is np.float32 and height < 20.0  # beyond, what follows the products is float64
    np.testing.assert_allclose(found, np.full((1, 2), -math.log(4)), rtol=1e-7 if in_float32 else 1e-14)
    assert bool(cells) == (height >= 340.0)  # exp(-2 * 340) is too near the smallest float64: summed one by one


@pytest.mark.parametrize("factor", [0.999, 1.001])
def test_both_sides_of_the_range_limit(factor: float) -> None:
    _, generator = pair(300, 6, 9, seed=1)
    limit = math.log(np.finfo(np.float64).max) / 4
    generator.output_W = generator.output_W * (factor * limit / np.abs(generator.output_W).sum(axis=1).max())
    query, docs, target = inputs(np.random.default_rng(1), 6, 3, 4)
    generator.encoder_W = generator.encoder_W * 300
    found = generator.token_logprobs(query, docs, target)
    np.testing.assert_allclose(found, direct(generator, query, docs, target), rtol=0, atol=1e-12)


def test_probabilities_sum_to_one() -> None:
    """With a decoder that ignores its token, the logits are the documents' and each word can be asked for in turn."""
    generator = ragfast.SimpleGenerator(70, 70, 8, rng=np.random.default_rng(0))
    generator.decoder_W = np.zeros((8, 70))
    generator.output_W = generator.output_W * 1e3
    logprobs = generator.token_logprobs(np.ones((1, 70)), [np.eye(70), -np.eye(70)], np.eye(70))
    np.testing.assert_allclose(np.exp(logprobs).sum(axis=1), 1, rtol=1e-13)


def test_many_cells_and_a_wide_hidden_layer() -> None:
    """More rows than one small product takes, more words than one block."""
    loops, generator = pair(2000, 4, 1500, seed=4)
    query, docs, target = inputs(np.random.default_rng(4), 4, 7, 22)
    found = generator.token_logprobs(query, docs, target)
    np.testing.assert_allclose(found, looped(loops, query, docs, target), rtol=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_documents_and_tokens_do_not_meet(seed: int, n_docs: int, n_target: int) -> None:
    """One document or token at a time gives the same as all together."""
    _, generator = pair(90, 5, 6, seed)
    query, docs, target = inputs(np.random.default_rng(seed), 5, n_docs, n_target)
    together = generator.token_logprobs(query, docs, target)
    for z, doc in enumerate(docs):
        np.testing.assert_allclose(generator.token_logprobs(query, [doc], target)[0], together[z], rtol=1e-13)
    for t in range(n_target):
        np.testing.assert_allclose(
            generator.token_logprobs(query, docs, target[t : t + 1])[:, 0], together[:, t], rtol=1e-13
        )


def test_threads_change_no_bit() -> None:
    _, generator = pair(5000, 8, 16)
    query, docs, target = inputs(np.random.default_rng(0), 8, 3, 4)
    before = ragfast.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            ragfast.set_num_threads(n)
            results.append(generator.token_logprobs(query, docs, target).tobytes())
    finally:
        ragfast.set_num_threads(before)
    assert len(set(results)) == 1


@pytest.mark.parametrize("shape", [(1000, 64, 128), (4000, 32, 700)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 3000.0])
def test_float32_products_stay_within_the_documented_bound(shape: tuple[int, int, int], scale: float) -> None:
    _, exact = pair(*shape, seed=5, scale=scale)
    _, rounded = pair(*shape, seed=5, scale=scale, dtype=np.float32)
    query, docs, target = inputs(np.random.default_rng(5), shape[1], 5, 8)
    error = np.abs(rounded.token_logprobs(query, docs, target) - exact.token_logprobs(query, docs, target)).max()
    bound = 2 * (shape[2] + 4) * 2.0**-24 * (1 + np.abs(exact.output_W).sum(axis=1).max())
    assert 0 < error < bound
    assert error < 1e-7 * (1 + scale)


def test_float32_weights_are_widened() -> None:
    _, generator = pair(40, 6, 5)
    for name in ("encoder_W", "decoder_W", "output_W"):
        rounded = getattr(generator, name).astype(np.float32)
        setattr(generator, name, rounded)
        kept = getattr(generator, name)
        assert kept.dtype == np.float64
        assert np.array_equal(kept, rounded)
    query, docs, target = inputs(np.random.default_rng(0), 6, 2, 3)
    found = generator.token_logprobs(query, docs, target)
    np.testing.assert_allclose(found, direct(generator, query, docs, target), rtol=1e-13)


def test_float32_tokens_are_widened() -> None:
    _, generator = pair(40, 6, 5)
    query, docs, target = inputs(np.random.default_rng(0), 6, 2, 3)
    query, docs, target = query.astype("f4"), [doc.astype("f4") for doc in docs], target.astype("f4")
    wide = generator.token_logprobs(query.astype("f8"), [doc.astype("f8") for doc in docs], target.astype("f8"))
    np.testing.assert_allclose(generator.token_logprobs(query, docs, target), wide, rtol=1e-14)


@pytest.mark.parametrize("eps", [1e-8, 1e-300, 0.5])
def test_eps_is_added_to_the_probability(eps: float) -> None:
    _, exact = pair(1000, 6, 5, scale=1e4)
    _, floored = pair(1000, 6, 5, scale=1e4, eps=eps)
    query, docs, target = inputs(np.random.default_rng(0), 6, 3, 4)
    expected = np.log(np.exp(exact.token_logprobs(query, docs, target)) + eps)
    np.testing.assert_allclose(floored.token_logprobs(query, docs, target), expected, rtol=1e-12)
    floored.eps = 0
    assert np.array_equal(floored.token_logprobs(query, docs, target), exact.token_logprobs(query, docs, target))


def test_exact_where_the_notebook_floors() -> None:
    """p = exp(-2000) is no float64, and its log is exact nevertheless."""
    generator = ragfast.SimpleGenerator(2, 2, 1)
    generator.encoder_W, generator.decoder_W = np.array([[1e9, 0]]), np.zeros((1, 2))
    generator.output_W = np.array([[0.0], [2000.0]])
    assert generator.generate_prob(np.eye(2)[:1], np.zeros((0, 2)), np.eye(2)[:1]) == -2000.0


def test_one_word_is_certain() -> None:
    _, generator = pair(1, 1, 3)
    found = generator.token_logprobs(np.ones((1, 1)), [np.ones((2, 1))], np.ones((4, 1)))
    np.testing.assert_allclose(found, np.zeros((1, 4)), rtol=0, atol=1e-15)
    assert (found <= 0).all()


@pytest.mark.parametrize("target", [[], np.empty((0, 3)), np.empty(0)])
def test_empty_target(target: Any) -> None:
    _, generator = pair(9, 3, 2)
    assert generator.token_logprobs(np.ones((1, 3)), [np.ones((1, 3))] * 2, target).shape == (2, 0)
    assert generator.generate_prob(np.ones((1, 3)), np.ones((1, 3)), target) == 0.0


def test_empty_query_or_document() -> None:
    _, generator = pair(9, 3, 2)
    tokens, nothing, target = np.ones((2, 3)), np.empty((0, 3)), np.eye(3)
    assert generator.generate_prob(tokens, nothing, target) == generator.generate_prob(nothing, tokens, target)
    assert generator.token_logprobs(tokens, [], target).shape == (0, 3)
    with pytest.raises(ValueError, match="query_tokens: expected a token in the query or in the document"):
        generator.generate_prob(nothing, nothing, target)


def test_target_as_a_list_of_vectors() -> None:
    _, generator = pair(9, 3, 2)
    tokens = np.ones((2, 3))
    assert generator.generate_prob(tokens, tokens, list(np.eye(3))) == generator.generate_prob(
        tokens, tokens, np.eye(3)
    )


def test_protocols() -> None:
    _, generator = pair(9, 3, 2)
    assert isinstance(generator, Generator)
    assert not isinstance(generator, DecodingGenerator)


def test_weights_are_kept_as_a_read_only_copy() -> None:
    _, generator = pair(9, 3, 2)
    mine = np.zeros((9, 2))
    generator.output_W = mine
    mine[0] = 1e3
    assert generator.generate_prob(np.ones((1, 3)), np.ones((1, 3)), np.eye(3)[:1]) == pytest.approx(-math.log(9))
    for name in ("encoder_W", "decoder_W", "output_W"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(generator, name)[0, 0] = 1.0


@pytest.mark.parametrize("name", ["encoder_W", "decoder_W", "output_W"])
@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda w: w.T, ValueError, "expected shape"),
        (lambda w: w[:, :-1], ValueError, "expected shape"),
        (lambda w: w[0], ValueError, "expected shape"),
        (lambda w: np.where(w == w[1, 0], np.nan, w), ValueError, "row 1 holds NaN or an infinity"),
        (lambda w: w.astype(int), TypeError, "expected float32 or float64, got int64"),
    ],
)
def test_refused_weights_change_nothing(name: str, spoil: Any, error: type[Exception], message: str) -> None:
    _, generator = pair(9, 3, 2)
    before = getattr(generator, name)
    with pytest.raises(error, match=f"{name}: {message}"):
        setattr(generator, name, spoil(before))
    assert getattr(generator, name) is before


def test_refused_target_beyond_the_vocabulary() -> None:
    _, generator = pair(2, 3, 2)
    assert generator.generate_prob(GOOD, GOOD, np.eye(3)[:2]) < 0
    with pytest.raises(ValueError, match="target_tokens: a token stands for word 2, with vocab_size 2"):
        generator.generate_prob(GOOD, GOOD, np.eye(3))


def test_refused_weights_that_would_overflow() -> None:
    _, generator = pair(9, 3, 2, dtype=np.float32)
    query, docs, target = inputs(np.random.default_rng(0), 3, 2, 3)
    before = generator.token_logprobs(query, docs, target)
    with pytest.raises(ValueError, match="output_W: too large, logits up to 2e\\+38 would overflow float32"):
        generator.output_W = np.full((9, 2), 1e38)
    assert np.array_equal(generator.token_logprobs(query, docs, target), before)


GOOD = np.ones((2, 3))


@pytest.mark.parametrize(
    ("query", "docs", "target", "error", "message"),
    [
        (
            GOOD[0],
            [GOOD],
            GOOD,
            ValueError,
            r"query_tokens: expected shape \(n, 3\), got \(3,\); pass query_tokens\[None",
        ),
        (GOOD.T, [GOOD], GOOD, ValueError, r"query_tokens: expected shape \(n, 3\), got \(3, 2\)"),
        (GOOD, [GOOD, GOOD[0]], GOOD, ValueError, r"doc_tokens\[1\]: expected shape \(n, 3\), got \(3,\)"),
        (GOOD, GOOD, GOOD, ValueError, r"doc_tokens\[0\]: expected shape \(n, 3\), got \(3,\)"),
        (GOOD, [GOOD], GOOD[0], ValueError, r"target_tokens: expected shape \(n, 3\), got \(3,\)"),
        (GOOD, [GOOD], GOOD[:, :2], ValueError, r"target_tokens: expected shape \(n, 3\), got \(2, 2\)"),
        (GOOD, [GOOD], np.ones((1, 3), int), TypeError, "target_tokens: expected float32 or float64, got int64"),
        (GOOD * np.nan, [GOOD], GOOD, ValueError, "query_tokens: row 0 holds NaN or an infinity"),
        (GOOD, [GOOD, GOOD * np.inf], GOOD, ValueError, r"doc_tokens\[1\]: row 0 holds NaN or an infinity"),
        (GOOD, [GOOD], np.array([[0, 0, 0], [0, -np.inf, 0]]), ValueError, "target_tokens: row 1 holds NaN or an inf"),
        (GOOD, [GOOD * 1e308], GOOD, ValueError, "query_tokens, doc_tokens, target_tokens: too large"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # an overflow on the way to the error
def test_refused_tokens(query: Any, docs: Any, target: Any, error: type[Exception], message: str) -> None:
    _, generator = pair(9, 3, 2)
    with pytest.raises(error, match=message):
        generator.token_logprobs(query, docs, target)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 3, 2), {}, ValueError, "vocab_size: expected 1 or more, got 0"),
        ((9, -3, 2), {}, ValueError, "embedding_dim: expected 1 or more, got -3"),
        ((9, 3, 2.5), {}, TypeError, "hidden_dim: expected an integer"),
        ((9, 3, 2), {"eps": -1e-9}, ValueError, "eps: expected a finite number of 0 or more, got -1e-09"),
        ((9, 3, 2), {"eps": math.nan}, ValueError, "eps: expected a finite number of 0 or more, got nan"),
        ((9, 3, 2), {"eps": math.inf}, ValueError, "eps: expected a finite number of 0 or more, got inf"),
        ((9, 3, 2), {"eps": "small"}, TypeError, "eps: expected a number of 0 or more, got str"),
        ((9, 3, 2), {"dtype": np.float16}, TypeError, "dtype: expected float32 or float64, got float16"),
    ],
)
def test_refused_construction(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ragfast.SimpleGenerator(*arguments, **options)
