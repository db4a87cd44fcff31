"""What the pictures of RAG models show: numbers and names read back from what was drawn."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ragfast

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed: `make test-all` has it")

from matplotlib.colors import to_rgb  # noqa: E402  # only where matplotlib is
from matplotlib.figure import Figure  # noqa: E402  # only where matplotlib is

from ragfast.rag import plots  # noqa: E402  # only where matplotlib is
from ragfast.rag.plots import posteriors, style  # noqa: E402  # only where matplotlib is

TITLES = ["Greenland", "Iceland", "Norway"]
PIECES = [" Nu", "uk", "<|end|>"]
PRIOR = np.array([0.5, 0.3, 0.2])
PROBS = np.array([[0.9, 0.5, 0.25], [0.1, 0.25, 0.5], [0.2, 0.5, 1.0]])
HARD = ["東京 日本国", "costs $5 and $6_x^", "🎉 fête\nnationale " * 9, "", "\u202eright\u200d", "a_b^c\\frac{"]


def scored(variant: type[ragfast.RAGSequence] | type[ragfast.RAGToken]) -> ragfast.rag.Score:
    """A Score of PRIOR and PROBS, by the library itself."""

    class Fixed:
        def encode_query(self, query_tokens: Any, /) -> Any:
            return np.zeros(1)

        def search(self, query_embedding: Any, document_embeddings: Any, /, k: int) -> ragfast.Hits:
            return ragfast.Hits(np.log(PRIOR), np.arange(3), np.log(PRIOR))

        def token_logprobs(self, query_tokens: Any, doc_tokens: Any, target_tokens: Any, /) -> Any:
            return np.log(PROBS)

    rag = variant(Fixed(), Fixed(), index=np.zeros((3, 1)), documents=TITLES, k=3)
    return rag.score(["?"], [PIECES])[0]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def labels(ticks: Any) -> list[str]:
    return [label.get_text() for label in ticks]


def test_public_names_are_documented() -> None:
    assert [name for name in plots.__all__ if not getattr(plots, name).__doc__] == []


def test_documentation_shows_each_picture() -> None:
    docs = Path(__file__).parents[2] / "docs"
    shown = re.findall(r"\(pictures/([\w-]+\.svg)\)", (docs / "pictures.md").read_text())
    assert sorted(shown) == sorted(path.name for path in (docs / "pictures").iterdir())
    example = (docs.parent / "examples" / "pictures.py").read_text()
    assert [name for name in shown if f'"{name.removesuffix(".svg")}"' not in example] == []


# ---- the heat map


def test_heat_map_shows_the_posterior() -> None:
    score = scored(ragfast.RAGToken)
    figure = plots.posterior_heatmap(score.posteriors[0], PIECES, TITLES, prior=PRIOR, title="What?")
    axes = figure.axes[0]
    before, cells = axes.collections
    np.testing.assert_array_equal(cells.get_array(), score.posteriors[0])
    np.testing.assert_array_equal(before.get_array(), PRIOR[:, None])
    assert cells.get_clim() == before.get_clim() == (0, 1)  # colours of two answers can be compared
    assert labels(axes.get_yticklabels()) == TITLES
    assert labels(axes.get_xticklabels()) == ["␣Nu", "uk", "<|end|>"]
    assert axes.get_ylim() == (3, 0)  # the first document on top
    written = [text for text in texts(figure) if not text.startswith("$")]
    assert sorted(written) == sorted(f"{p:.2f}" for p in [*PRIOR, *score.posteriors[0].flat])
    assert r"y_{<t}" in figure.axes[1].get_ylabel()
    assert figure.get_suptitle() == "What?"


def test_heat_map_of_rag_sequence_is_one_column() -> None:
    score = scored(ragfast.RAGSequence)
    figure = plots.posterior_heatmap(score.posteriors[0], PIECES, TITLES)
    (cells,) = figure.axes[0].collections
    np.testing.assert_array_equal(cells.get_array(), score.posteriors[0][:, None])
    assert labels(figure.axes[0].get_xticklabels()) == [r"$p(z \mid x, y)$"]
    assert figure.axes[0].get_xlabel() == " Nuuk<|end|>"
    assert "y_t" not in figure.axes[1].get_ylabel()


def test_heat_map_of_many_tokens_goes_on_below() -> None:
    posterior = np.random.default_rng(0).dirichlet([1, 1, 1], 40).T
    figure = plots.posterior_heatmap(posterior, [f"t{i}" for i in range(40)], TITLES, prior=PRIOR)
    *lines, _ = figure.axes
    parts = [axes.collections[-1].get_array() for axes in lines]
    assert [part.shape[1] for part in parts] == [16, 16, 8]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), posterior)
    assert [name for axes in lines for name in labels(axes.get_xticklabels())] == [f"t{i}" for i in range(40)]
    assert len({axes.get_xlim() for axes in lines}) == 1  # a token is as wide in each line


def test_heat_map_without_room_has_no_numbers() -> None:
    posterior = np.full((50, 6), 1 / 50)
    assert texts(plots.posterior_heatmap(posterior, ["t"] * 6, ["d"] * 50)) == []
    assert len(texts(plots.posterior_heatmap(posterior, ["t"] * 6, ["d"] * 50, annotate=True))) == 300


def test_heat_map_colours_are_readable_in_grey() -> None:
    greys = [np.dot(to_rgb(posteriors.COLOURS(p)), (0.2126, 0.7152, 0.0722)) for p in np.linspace(0, 1, 50)]
    assert (np.diff(greys) < 0).all()
    figure = plots.posterior_heatmap([[0.49], [0.51]], ["t"], ["a", "b"])
    for text in figure.axes[0].texts:
        p = float(text.get_text())
        ink, ground = (np.dot(to_rgb(c), (0.2126, 0.7152, 0.0722)) for c in (text.get_color(), posteriors.COLOURS(p)))
        assert abs(ink - ground) > 0.3


def test_heat_map_takes_axes() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    posterior = np.full((3, 20), 1 / 3)
    assert plots.posterior_heatmap(posterior, ["t"] * 20, TITLES, title="here", ax=right) is figure
    assert right.collections[0].get_array().shape == (3, 20)
    assert right.get_title(loc="left") == "here"
    assert not left.collections


@pytest.mark.parametrize(
    ("posterior", "tokens", "titles", "prior", "error", "message"),
    [
        (np.full((3, 2), 1 / 3), ["a"], TITLES, None, ValueError, "tokens: expected 2, as T is, got 1"),
        (np.full((3, 2), 1 / 3), ["a", "b"], TITLES[:2], None, ValueError, "titles: expected 3, as K is, got 2"),
        (np.full((3, 2), 1 / 3), "ab", TITLES, None, TypeError, "tokens: expected 2 strings"),
        (np.full((3, 2), 1 / 3), [1, 2], TITLES, None, TypeError, "tokens: expected 2 strings"),
        (np.full((2, 3), 1 / 3), ["a", "b", "c"], ["d", "e"], None, ValueError, "sum of token 0 is 0.6667"),
        (np.log(PROBS), PIECES, TITLES, None, ValueError, r"pass np.exp\(posterior\)"),
        (np.full((3, 1), np.nan), ["a"], TITLES, None, ValueError, "expected probabilities, got nan"),
        (np.ones((1, 2, 3)), ["a"], TITLES, None, ValueError, r"expected shape \(K, T\) or \(K,\), got \(1, 2, 3\)"),
        (np.ones((3, 0)), [], TITLES, None, ValueError, r"got \(3, 0\)"),
        (PRIOR, PIECES, TITLES, [0.5, 0.5], ValueError, r"prior: expected shape \(3,\)"),
        (PRIOR, PIECES, TITLES, np.log(PRIOR), ValueError, r"pass np.exp\(prior\)"),
        (PRIOR, PIECES, TITLES, PRIOR[:, None], ValueError, r"prior: expected shape \(K,\), got \(3, 1\)"),
    ],
)
def test_heat_map_refuses(
    posterior: Any, tokens: Any, titles: Any, prior: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plots.posterior_heatmap(posterior, tokens, titles, prior=prior)


def test_impossible_token_is_drawn_as_nothing() -> None:
    figure = plots.posterior_heatmap([[0.0, 1.0], [0.0, 0.0]], ["a", "b"], ["d", "e"])
    assert texts(figure) == ["0", "1.00", "0", "0"]


# ---- any text


def test_any_text_is_drawn() -> None:
    n = len(HARD)
    prior, probs = np.full(n, 1 / n), np.full((n, n), 0.5)
    log_probs, posterior = ragfast.marginalize_token(np.log(prior), np.log(probs), return_posterior=True)
    score = ragfast.rag.Score(log_probs.sum(keepdims=True), np.arange(n), np.log(prior), (np.log(probs),), (posterior,))
    for figure in (
        plots.posterior_heatmap(posterior, HARD, HARD, prior=prior, title=HARD[2]),
        plots.token_entropy(score, HARD, title=HARD[1]),
        plots.score_gap([score], title=HARD[5]),
        plots.posterior_entropy([score], title=HARD[0]),
        plots.architecture("token", score=score, titles=HARD, tokens=HARD, question=HARD[1]),
    ):
        figure.savefig(io.BytesIO(), format="png", dpi=40)  # no warning, each of which is an error


def test_whitespace_of_tokens_is_seen() -> None:
    assert [style.token(each) for each in (" a", "\n", "\t", "", "\r\x00", "\u200d", "x" * 30)] == [
        "␣a", "↵", "⇥", "''", r"\r\x00", r"\u200d", "x" * 13 + "…",
    ]  # fmt: skip
    assert style.title("  two\n lines ") == "two lines"
    assert style.title("x" * 50) == "x" * 35 + "…"


def test_characters_without_glyph_are_boxes() -> None:
    assert style.plain("é東🎉") == "é□□"


def test_other_fonts_are_asked() -> None:
    with matplotlib.rc_context({"font.family": ["no such font", "cmr10"]}):
        assert style.plain("aЖ") == "a□"  # as cmr10 has it
    assert style.plain("aЖ") == "aЖ"
    with matplotlib.rc_context({"font.family": ["no such font"]}):
        assert style.plain("aЖ東") == "aЖ□"  # what stands in for it


# ---- the architecture


def test_architecture_says_where_the_variants_part() -> None:
    figure = plots.architecture()
    figure.draw_without_rendering()
    both = [[text.get_text() for text in part.axes[0].texts] for part in figure.subfigs]
    assert [part[0] for part in both] == ["RAG-Sequence", "RAG-Token"]
    for part in both:
        assert {"question $x$", "query encoder\n$q(x)$"} <= set(part)
        assert any("exact MIPS index" in text for text in part)
        assert r"$p(z \mid x) \propto \exp(q(x) \cdot d(z))$" in part
    first = [next(text for text in part if text.startswith("1.")) for part in both]
    assert r"\prod" in first[0]
    assert r"\sum" in first[1]


def formula(figure: Figure) -> str:
    (box,) = figure.axes[0].artists
    return " ".join(area.get_text() for area in box.offsetbox.get_children())


def test_formulas_are_the_papers() -> None:
    terms = r"$p(y \mid x) =$", r"$\sum_z\,p(z \mid x)$", r"$\prod_t$", r"$p(y_t \mid x, z, y_{<t})$"
    start, over_documents, over_tokens, end = terms
    assert formula(plots.architecture("sequence")) == " ".join((start, over_documents, over_tokens, end))
    assert formula(plots.architecture("token")) == " ".join((start, over_tokens, over_documents, end))


def test_architecture_has_the_numbers_of_a_score() -> None:
    for variant, kind in (("sequence", ragfast.RAGSequence), ("token", ragfast.RAGToken)):
        score = scored(kind)
        other = scored(ragfast.RAGToken if kind is ragfast.RAGSequence else ragfast.RAGSequence)
        found = texts(plots.architecture(variant, score=other, titles=TITLES, tokens=PIECES))  # type: ignore[arg-type]
        assert {"Greenland", "␣Nu", "uk", r"$p(z \mid x)$ = 0.50", "0.90", "0.25"} <= set(found)
        assert f"$\\log\\,p(y \\mid x)$\n{score.logprobs[0]:.2f}" in found
        partial = PROBS.prod(axis=1) if variant == "sequence" else PRIOR @ PROBS
        assert {f"{p:.2f}" for p in partial} <= set(found)


def test_architecture_of_many_counts_all() -> None:
    rng = np.random.default_rng(1)
    prior, probs = rng.dirichlet(np.ones(20)), rng.uniform(0.2, 0.9, (20, 12))
    log_prob, posterior = ragfast.marginalize_sequence(np.log(prior), np.log(probs), return_posterior=True)
    score = ragfast.rag.Score(np.array([log_prob]), np.arange(20), np.log(prior), (np.log(probs),), (posterior,))
    names = [f"d{i}" for i in range(20)]
    found = texts(plots.architecture("sequence", score=score, titles=names, tokens=[f"t{i}" for i in range(12)]))
    assert [text for text in found if text in names] == ["d0", "d1", "d2", "d19"]
    assert [text for text in found if text[:1] == "t"] == ["t0", "t1", "t11"]
    assert f"$\\log\\,p(y \\mid x)$\n{log_prob:.2f}" in found


def test_impossible_documents_are_drawn() -> None:
    score = ragfast.rag.Score(
        np.array([-math.inf]), np.arange(2), np.array([0.0, -math.inf]), (np.full((2, 1), -math.inf),), (np.zeros(2),)
    )
    found = texts(plots.architecture("both", score=score, titles=["a", "b"], tokens=["t"]))
    assert found.count("$\\log\\,p(y \\mid x)$\n-inf") == 2


def test_architecture_draws_into_a_figure() -> None:
    figure = Figure(figsize=(12, 6))
    left, right = figure.subfigures(1, 2)
    assert plots.architecture("token", figure=right) is figure
    assert len(right.axes) == 1
    assert not left.axes


def test_architecture_refuses() -> None:
    score = scored(ragfast.RAGToken)
    with pytest.raises(ValueError, match="variant: expected 'sequence', 'token' or 'both', got 'tokens'"):
        plots.architecture("tokens")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected both"):
        plots.architecture(score=score)
    with pytest.raises(ValueError, match="expected a score"):
        plots.architecture(titles=TITLES)
    with pytest.raises(ValueError, match="titles: expected 3, as K is, got 2"):
        plots.architecture(score=score, titles=TITLES[:2], tokens=PIECES)


# ---- gaps and entropies


def lines(figure: Figure) -> dict[str, Any]:
    return {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}


def test_score_gap_counts_questions() -> None:
    scores = np.array([[0.5, 0.9, 0.3], [0.8, 0.7, 0.1], [0.6, 0.6, 0.2]])
    figure = plots.score_gap(scores)
    second, last = lines(figure).values()
    np.testing.assert_allclose(second.get_xdata(), [0, 0, 0.1, 0.4], atol=1e-12)
    np.testing.assert_allclose(last.get_xdata(), [0, 0.4, 0.6, 0.7], atol=1e-12)
    np.testing.assert_allclose(second.get_ydata(), [0, 1 / 3, 2 / 3, 1])
    assert list(lines(figure)) == ["first - second, median 0.1", "first - last (K 3), median 0.6"]
    assert "inner product" in figure.axes[0].get_xlabel()


def test_score_gap_leaves_missing_documents_out() -> None:
    missing = [[0.9, 0.5, np.nan], [0.8, -np.inf, np.nan], [0.7, 0.4, 0.1]]
    figure = plots.score_gap(missing)
    np.testing.assert_allclose(next(iter(lines(figure).values())).get_xdata(), [0, 0.3, 0.4])
    assert figure.axes[0].get_legend().get_title().get_text() == (
        "2 questions, 1 with fewer than two documents left out"
    )
    assert len(lines(plots.score_gap([[0.9, 0.5], [0.3, 0.1]]))) == 1  # the last is the second


def test_score_gap_takes_what_retrieval_gives() -> None:
    score = scored(ragfast.RAGToken)
    retrieved = ragfast.rag.Retrieved(score.doc_ids, score.doc_logprobs, TITLES)
    for given in ([score], [retrieved], [score, retrieved]):
        figure = plots.score_gap(given)
        np.testing.assert_allclose(next(iter(lines(figure).values())).get_xdata()[1:], math.log(5 / 3))
        assert "log" in figure.axes[0].get_xlabel()
    hits = ragfast.search(np.eye(2, 4, dtype=np.float32), np.eye(4, dtype=np.float32), k=2)
    np.testing.assert_allclose(next(iter(lines(plots.score_gap(hits)).values())).get_xdata(), [0, 1, 1])


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        (np.zeros(3), ValueError, r"expected shape \(B, K\), got \(3,\)"),
        (np.zeros((2, 3, 4)), ValueError, r"expected shape \(B, K\), got \(2, 3, 4\)"),
        ([0.5, 0.4], ValueError, r"scores\[0\]: expected shape \(K,\), got \(\)"),
        ([], ValueError, "at least one question with two documents"),
        ([[0.5, -np.inf]], ValueError, "at least one question with two documents"),
        ([[0.5, np.inf]], ValueError, r"scores\[0\]: infinite"),
    ],
)
def test_score_gap_refuses(scores: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plots.score_gap(scores)


def test_score_gap_refuses_a_mixture() -> None:
    score = scored(ragfast.RAGToken)
    with pytest.raises(TypeError, match="one a question, got one alone"):
        plots.score_gap(score)
    with pytest.raises(TypeError, match="got both"):
        plots.score_gap([score, [0.5, 0.4]])


def entropy(probs: Any) -> float:
    return -sum(p * math.log2(p) for p in probs if p > 0)


def dots(figure: Figure) -> tuple[list[float], list[float]]:
    line = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    return line.get_xdata().tolist(), line.get_ydata().tolist()


def test_posterior_entropy_of_questions() -> None:
    sequence, token = scored(ragfast.RAGSequence), scored(ragfast.RAGToken)
    for score, name in ((sequence, r"p(z \mid x, y)"), (token, "mean over tokens")):
        figure = plots.posterior_entropy([score, score])
        posterior = score.posteriors[0].reshape(3, -1)
        x, y = dots(figure)
        np.testing.assert_allclose(x, [entropy(PRIOR)] * 2)
        np.testing.assert_allclose(y, [np.mean([entropy(column) for column in posterior.T])] * 2)
        assert name in figure.axes[0].get_ylabel()
        assert any(np.allclose(line.get_xdata(), math.log2(3)) for line in figure.axes[0].lines)
    generation = ragfast.rag.Generation(
        np.arange(3), None, 0.0, 0.0, token.doc_ids, token.doc_logprobs, token.posteriors[0]
    )
    assert dots(plots.posterior_entropy([generation])) == dots(plots.posterior_entropy([token]))


def test_posterior_entropy_counts_the_best_candidate() -> None:
    sure, doubtful = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    score = ragfast.rag.Score(np.array([-3.0, -1.0]), np.arange(2), np.log(doubtful), (sure,) * 2, (doubtful, sure))
    assert dots(plots.posterior_entropy([score])) == ([1.0], [0.0])


def test_posterior_entropy_without_possible_documents() -> None:
    prior = [0.5, 0.5]
    figure = plots.posterior_entropy([(prior, [0.0, 0.0]), (prior, [[0.0, 1.0], [0.0, 0.0]])])
    assert dots(figure) == ([1.0], [0.0])  # of the second, the one token that is possible
    assert "1 without a possible document left out" in figure.axes[0].get_title(loc="left")
    with pytest.raises(ValueError, match="no document is possible"):
        plots.posterior_entropy([(prior, [0.0, 0.0])])


def test_entropy_of_one_document() -> None:
    assert dots(plots.posterior_entropy([([1.0], [1.0])])) == ([0.0], [0.0])
    plots.token_entropy(([1.0], [[1.0]]), ["a"])


def test_token_entropy() -> None:
    score = scored(ragfast.RAGToken)
    figure = plots.token_entropy(score, PIECES)
    axes = figure.axes[0]
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], [entropy(p) for p in score.posteriors[0].T])
    assert labels(axes.get_xticklabels()) == ["␣Nu", "uk", "<|end|>"]
    heights = [line.get_ydata()[0] for line in axes.lines]
    np.testing.assert_allclose(sorted(heights), [entropy(PRIOR), math.log2(3)])
    plots.token_entropy(([0.5, 0.5], [[0.0, 1.0], [0.0, 0.0]]), ["impossible", "b"])


def test_entropies_refuse() -> None:
    sequence = scored(ragfast.RAGSequence)
    with pytest.raises(ValueError, match="answers: expected at least one"):
        plots.posterior_entropy([])
    with pytest.raises(TypeError, match=r"answers\[1\]: expected a Score, a Generation or a pair of arrays, got str"):
        plots.posterior_entropy([sequence, "?"])
    with pytest.raises(ValueError, match=r"answers\[0\]: expected as many documents before as after, got 2 and 3"):
        plots.posterior_entropy([([0.5, 0.5], PRIOR)])
    with pytest.raises(ValueError, match="expected RAG-Token's posterior"):
        plots.token_entropy(sequence, PIECES)
    with pytest.raises(ValueError, match="tokens: expected 3, as T is, got 1"):
        plots.token_entropy(scored(ragfast.RAGToken), ["a"])


# ---- all of them


def every(ax: Any = None) -> dict[str, Figure]:
    score = scored(ragfast.RAGToken)
    return {
        "architecture": plots.architecture("token", score=score, titles=TITLES, tokens=PIECES),
        "heat map": plots.posterior_heatmap(score.posteriors[0], PIECES, TITLES, prior=PRIOR, ax=ax),
        "gap": plots.score_gap([score, score], ax=ax),
        "entropy": plots.posterior_entropy([score], ax=ax),
        "token entropy": plots.token_entropy(score, PIECES, ax=ax),
    }


def test_saved_twice_is_the_same(tmp_path: Path) -> None:
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    for (name, one), other in zip(every().items(), every().values(), strict=True):
        plots.save(one, first)
        plots.save(other, second)
        assert first.read_bytes() == second.read_bytes(), name
    assert b"<text" not in first.read_bytes()  # outlines need no font


def test_nothing_global_changes_and_pyplot_has_no_part() -> None:
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"figure.facecolor": "black", "text.color": "white", "text.usetex": True}):
        for name, figure in every().items():
            assert to_rgb(figure.get_facecolor()) == (1, 1, 1), name
            assert all(to_rgb(text.get_color()) != (1, 1, 1) for text in figure.axes[-1].get_xticklabels()), name
            figure.draw_without_rendering()
    assert dict(matplotlib.rcParams) == before


def test_own_axes() -> None:
    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.add_subplot()
    assert [given is figure for given in every(axes).values()] == [False, True, True, True, True]
    figure.draw_without_rendering()
