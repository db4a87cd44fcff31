"""Index refresh: a swap that readers see whole or not at all, failures that change nothing, ids and dtype that stay."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import interruptions
import numpy as np
import pytest
from numpy.typing import NDArray
from toys import TableGenerator

import ragfast
from ragfast._core import turns
from ragfast.rag.training import Refreshed, refresh, refresh_in_background, topk_drift

Array = NDArray[Any]
DIM, N_DOCS = 6, 40


class Encoder:
    """Texts are integers; each has a random unit vector, another for each version. Notes its batches."""

    def __init__(self, version: int = 0, dtype: Any = np.float32) -> None:
        vectors = np.random.default_rng(version).standard_normal((200, DIM))
        self.vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)
        self.batches: list[int] = []

    def __call__(self, texts: Sequence[int]) -> Array:
        self.batches.append(len(texts))
        return self.vectors[list(texts)]


TEXTS = list(range(N_DOCS))


def model_over(embeddings: Any, tokens: Any = None) -> Any:
    retriever = ragfast.SimpleRetriever(DIM)
    retriever.query_encoder_W = np.eye(DIM)
    tokens = [f"text {z}" for z in range(200)] if tokens is None else tokens
    return ragfast.RAGToken(retriever, TableGenerator(), index=embeddings, documents=tokens, k=3)


def index_of(encode: Encoder, texts: Sequence[int] = TEXTS, **options: Any) -> ragfast.FlatIndex:
    return ragfast.FlatIndex.from_vectors(encode(texts), **options)


def test_the_new_index_is_that_of_all_texts() -> None:
    model, encode = model_over(index_of(Encoder())), Encoder(1)
    done: list[tuple[int, int]] = []
    old = model.index
    result = refresh(model, encode, TEXTS, batch_size=16, progress=lambda *counts: done.append(counts))
    assert encode.batches == [16, 16, 8]
    assert done == [(16, 40), (32, 40), (40, 40)]
    assert model.index is result.index
    assert result.index is not old
    assert (result.n_docs, result.drift) == (N_DOCS, None)
    np.testing.assert_array_equal(result.index.vectors, encode.vectors[:N_DOCS])
    np.testing.assert_array_equal(old.vectors, Encoder().vectors[:N_DOCS])
    assert model.documents[7] == "text 7"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_scan_and_ids_are_kept(dtype: str) -> None:
    ids = 1000 - 3 * np.arange(N_DOCS)
    tokens = {int(doc_id): f"text {z}" for z, doc_id in enumerate(ids)}
    model = model_over(index_of(Encoder(), ids=ids, dtype=dtype, scan="float32"), tokens)
    index = refresh(model, Encoder(1), TEXTS).index
    expected = index_of(Encoder(1), ids=ids, dtype=dtype, scan="float32")
    assert repr(index) == repr(expected)
    assert index.dtype == dtype
    np.testing.assert_array_equal(index.vectors, expected.vectors)
    assert index.ids.tolist() == ids.tolist()
    question = Encoder(1).vectors[[5]]
    assert model.retrieve([question])[0].doc_tokens[0] == "text 5"


def test_metric_metadata_and_ids_that_are_strings_are_kept() -> None:
    names = [f"doc {z}" for z in range(N_DOCS)]
    old = index_of(Encoder(), ids=names, metric="l2", metadata={"page": list(range(N_DOCS))})
    model = model_over(old, {name: f"text {z}" for z, name in enumerate(names)})
    done = refresh(model, Encoder(), TEXTS, probes=[np.ones((1, DIM))])
    assert (done.drift, done.index.metric, done.index.ids.tolist()) == (0, "l2", names)
    assert done.index.metadata["page"].tolist() == list(range(N_DOCS))
    assert model.retrieve([Encoder().vectors[[5]]])[0].doc_tokens[0] == "text 5"
    renamed = {name.upper(): name for name in names}
    refresh(model, Encoder(), TEXTS, ids=list(renamed), documents=renamed)
    assert model.retrieve([Encoder().vectors[[5]]])[0].doc_tokens[0] == "doc 5"
    with pytest.raises(ValueError, match="ids: expected 40, one for each text, got 1"):
        refresh(model, Encoder(), TEXTS, ids=["a"])


def test_a_change_of_the_index_meanwhile_is_noticed() -> None:
    index = index_of(Encoder())
    model = model_over(index)

    def encode(texts: Any) -> Any:
        index.upsert([3], Encoder(1).vectors[[3]])
        return Encoder()(texts)

    with pytest.raises(RuntimeError, match="replaced or added to during the refresh"):
        refresh(model, encode, TEXTS)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_an_array_of_any_float_becomes_an_index(dtype: Any) -> None:
    model, encode = model_over(np.eye(DIM)), Encoder(1, dtype)
    index = refresh(model, encode, TEXTS).index
    assert index.ids.tolist() == TEXTS
    np.testing.assert_array_equal(index.vectors, encode.vectors[:N_DOCS].astype(np.float32))


def test_documents_come_and_go_with_their_tokens() -> None:
    model = model_over(index_of(Encoder()), [f"old {z}" for z in range(N_DOCS)])
    refresh(model, Encoder(), range(100, 160), documents=[f"new {z}" for z in range(60)])
    question = Encoder().vectors[[159]]
    assert model.retrieve([question])[0].doc_tokens[0] == "new 59"
    refresh(model, Encoder(), [159, 3], ids=[8, 4], documents={8: "eight", 4: "four"})
    assert model.retrieve([question], k=1)[0].doc_tokens == ["eight"]


def test_a_model_without_documents_gets_some() -> None:
    model = ragfast.RAGSequence(ragfast.SimpleRetriever(DIM), TableGenerator())
    refresh(model, Encoder(), TEXTS, documents=TEXTS)
    assert len(model.retrieve([np.ones((1, DIM))])[0].doc_ids) == 5


def fail_at_second(texts: Sequence[int]) -> Array:
    if texts[0] > 0:
        raise OSError("the encoder's disk is gone")
    return Encoder(1)(texts)


def stop(done: int, n: int) -> None:
    raise KeyboardInterrupt("stopped")


@pytest.mark.parametrize(
    ("encode", "options", "error", "message"),
    [
        (fail_at_second, {}, OSError, "the encoder's disk is gone"),
        (Encoder(1), {"progress": stop}, KeyboardInterrupt, "stopped"),
        (lambda texts: np.ones((1, DIM), np.float32), {}, ValueError, r"encode's embeddings: expected shape \(16, 6\)"),
        (
            lambda texts: np.ones((len(texts), 4)),
            {},
            ValueError,
            r"expected shape \(16, 6\), as the documents have, got",
        ),
        (lambda texts: np.full((len(texts), DIM), np.nan), {}, ValueError, "encode's embeddings: row 0 holds NaN"),
        (lambda texts: np.full((len(texts), DIM), 1e300), {}, ValueError, "row 0 holds NaN or an infinity"),
        (lambda texts: ["a"] * len(texts), {}, TypeError, "encode's embeddings: expected float32 or float64"),
        (Encoder(1), {"ids": [1, 2]}, ValueError, r"ids: expected shape \(40,\)"),
        (Encoder(1), {"batch_size": 0}, ValueError, "batch_size: expected 1 or more"),
        (Encoder(1), {"probes": [np.ones((1, DIM))], "documents": {}}, ValueError, "no entry for document id"),
    ],
)
def test_a_failure_keeps_the_old_documents(encode: Any, options: Any, error: Any, message: str) -> None:
    model = model_over(index_of(Encoder()))
    before = model.corpus
    with pytest.raises(error, match=message):
        refresh(model, encode, TEXTS, **{"batch_size": 16, **options})
    assert model.corpus is before


def test_bad_texts_are_refused() -> None:
    model = model_over(index_of(Encoder(), ids=np.arange(N_DOCS) + 1), {z + 1: z for z in TEXTS})
    with pytest.raises(ValueError, match="texts: expected at least one"):
        refresh(model, Encoder(), [])
    with pytest.raises(TypeError, match="texts: expected a sequence of documents, got a string"):
        refresh(model, Encoder(), "abc")
    with pytest.raises(
        ValueError, match="ids: the model's 40 documents have ids of their own; give those of the 3 texts"
    ):
        refresh(model, Encoder(), [1, 2, 3])
    with pytest.raises(TypeError, match="model: expected a RAGSequence or RAGToken, got FlatIndex"):
        refresh(model.index, Encoder(), TEXTS)


def test_what_is_newer_is_not_overwritten() -> None:
    """Documents that were added, or another refresh that was faster, while this one ran."""
    model = model_over(index_of(Encoder()))

    def adds(texts: Sequence[int]) -> Array:
        model.index.add(Encoder(2)([texts[0]]))
        return Encoder(1)(texts)

    with pytest.raises(RuntimeError, match="replaced or added to during the refresh"):
        refresh(model, adds, TEXTS)
    assert len(model.index) == N_DOCS + 1

    def overtaken(texts: Sequence[int]) -> Array:
        refresh(model, Encoder(3), TEXTS)
        return Encoder(1)(texts)

    with pytest.raises(RuntimeError, match="replaced or added to during the refresh"):
        refresh(model, overtaken, TEXTS)
    np.testing.assert_array_equal(model.index.vectors, Encoder(3).vectors[:N_DOCS])


def test_a_retrieval_beside_a_swap_sees_one_version_of_everything() -> None:
    """Each version has its own vectors, tokens and number of documents; no reader may see parts of two."""
    versions = [(Encoder(v), range(N_DOCS - 3 * v), v) for v in range(4)]
    questions = [np.random.default_rng(b).standard_normal((1, DIM)) for b in range(3)]

    def tokens(version: int, n: int) -> list[tuple[int, int]]:
        return [(version, z) for z in range(n)]

    model = model_over(index_of(*versions[0][:2]), tokens(0, N_DOCS))
    whole = {}
    for encode, texts, version in versions:
        alone = model_over(index_of(encode, texts), tokens(version, len(texts)))
        whole[version] = [found.doc_ids.tolist() for found in alone.retrieve(questions)]
    assert len({str(found) for found in whole.values()}) == len(versions)
    over, seen = threading.Event(), set()

    def read() -> None:
        while not over.is_set():
            found = model.retrieve(questions)
            (version,) = {version for documents in found for version, _ in documents.doc_tokens}
            assert [documents.doc_ids.tolist() for documents in found] == whole[version]
            seen.add(version)

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            for round_ in range(10_000):
                if round_ >= 200 and len(seen) == len(versions):
                    break
                encode, texts, version = versions[round_ % len(versions)]
                refresh(model, encode, texts, documents=tokens(version, len(texts)))
        finally:
            over.set()
        for reader in readers:
            reader.result()
    assert seen == set(whole)


class Watched(ragfast.RAGToken):
    """Notes each state of its documents."""

    states: list[Any]

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "corpus":
            self.__dict__.setdefault("states", []).append(value)
        assert name not in ("index", "documents")  # one at a time


def test_a_swap_has_no_state_between() -> None:
    model = Watched(ragfast.SimpleRetriever(DIM), TableGenerator(), index=index_of(Encoder()), documents=TEXTS)
    index = refresh(model, Encoder(1), TEXTS[:20], documents=TEXTS[:20]).index
    assert [len(corpus.documents) for corpus in model.states] == [N_DOCS, 20]
    assert model.corpus == (index, TEXTS[:20])


def test_a_retrieval_under_way_keeps_its_documents() -> None:
    class RefreshedMeanwhile(ragfast.SimpleRetriever):
        def encode_query(self, query_tokens: Any, /) -> Array:
            refresh(model, Encoder(1), TEXTS[:20], documents=["new"] * 20)
            return super().encode_query(query_tokens)

    model = ragfast.RAGToken(
        RefreshedMeanwhile(DIM),
        TableGenerator(),
        index=index_of(Encoder()),
        documents=["old"] * 40,
    )
    assert model.retrieve([np.ones((1, DIM))], k=40)[0].doc_tokens == ["old"] * 40
    assert model.documents == ["new"] * 20


def test_documents_are_replaced_as_one_or_each_alone() -> None:
    model = model_over(np.eye(DIM), ["a"])
    other = model_over(None, None)
    other.corpus = model.corpus
    assert other.index is model.index
    model.index = "new"
    assert model.corpus == ("new", ["a"])
    model.documents_tokens = ["b"]  # the notebook's name of the same
    assert model.corpus == ("new", ["b"])
    assert (other.documents, model.document_embeddings) == (["a"], "new")


def test_in_the_background_the_old_documents_answer_until_the_swap() -> None:
    model, encode, go_on = model_over(index_of(Encoder())), Encoder(1), threading.Event()

    def waits(texts: Sequence[int]) -> Array:
        assert go_on.wait(60)
        return encode(texts)

    old = model.index
    future = refresh_in_background(model, waits, TEXTS, batch_size=7)
    try:
        assert not future.done()
        assert model.index is old
        assert len(model.retrieve([np.ones((1, DIM))])[0].doc_ids) == 3
    finally:
        go_on.set()
    result = future.result(60)
    assert isinstance(result, Refreshed)
    assert future.done()
    assert model.index is result.index


def test_a_refresh_inside_a_refresh() -> None:
    """As by a signal handler: one of them wins, and the other one came before or after or is an error that says so."""
    model = model_over(index_of(Encoder()))
    n_places = interruptions.count(lambda: refresh(model, Encoder(1), TEXTS))
    outcomes = set()
    for place in range(0, n_places, max(1, n_places // 60)):
        model = model_over(index_of(Encoder()))
        inner: list[Refreshed | None] = []

        def nested(model: Any = model, inner: list[Refreshed | None] = inner) -> None:
            try:
                inner.append(refresh(model, Encoder(2), TEXTS))
            except RuntimeError as error:
                assert "must not begin inside another change of a model's documents" in str(error)  # noqa: PT017
                inner.append(None)

        try:
            outer = interruptions.at(place, nested, lambda model=model: refresh(model, Encoder(1), TEXTS))
        except RuntimeError as error:
            assert "replaced or added to during the refresh" in str(error)  # noqa: PT017
            assert inner[0] is not None
            assert model.index is inner[0].index
            outcomes.add("the inner one")
            continue
        if inner[0] is None:
            assert model.index is outer.index
            outcomes.add("the outer one")
        else:
            assert model.index in (outer.index, inner[0].index)
            outcomes.add("both")
    assert {"the inner one"} <= outcomes


def test_inside_the_swap_of_a_refresh_another_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_over(index_of(Encoder()))
    module = sys.modules[refresh.__module__]
    version_of, refusals = module._version, []

    def meddling(index: Any) -> int:
        if turns._this_thread.within and not refusals:
            refusals.append("")
            with pytest.raises(RuntimeError, match="must not begin inside another change of a model's documents"):
                refresh(model, Encoder(2), TEXTS)
        return version_of(index)

    monkeypatch.setattr(module, "_version", meddling)
    done = refresh(model, Encoder(1), TEXTS)
    assert refusals
    assert model.index is done.index


def test_a_failure_in_the_background_is_delivered_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    model = model_over(index_of(Encoder()))
    before, go_on = model.corpus, threading.Event()

    def breaks(texts: Sequence[int]) -> Array:
        assert go_on.wait(60)
        raise OSError("the encoder's disk is gone")

    logged = threading.Event()
    with caplog.at_level(logging.ERROR):
        future = refresh_in_background(model, breaks, TEXTS)
        future.add_done_callback(lambda _: logged.set())  # called after the one that logs
        go_on.set()
        with pytest.raises(OSError, match="the encoder's disk is gone"):
            future.result(60)
        assert logged.wait(60)
    assert model.corpus is before
    assert "refresh failed, the model keeps its documents: OSError" in caplog.text


def test_drift_is_the_share_of_the_top_k_that_changed() -> None:
    model = model_over(index_of(Encoder()))
    probes = [np.random.default_rng(b).standard_normal((1, DIM)) for b in range(20)]
    assert refresh(model, Encoder(), TEXTS, probes=probes).drift == 0
    before = [found.doc_ids for found in model.retrieve(probes)]
    drift = refresh(model, Encoder(1), TEXTS, probes=probes).drift
    after = [found.doc_ids for found in model.retrieve(probes)]
    assert drift == pytest.approx(
        1 - np.mean([len({*a.tolist()} & {*b.tolist()}) / 3 for a, b in zip(before, after, strict=True)])
    )
    assert drift is not None
    assert drift > 0.5


def test_topk_drift() -> None:
    assert topk_drift(np.array([[1, 2, 3]]), np.array([[3, 1, 2]])) == 0
    assert topk_drift([[1, 2], [3, 4]], [[5, 6], [4, 3]]) == 0.5
    assert topk_drift([[1, -1]], [[1, 2]]) == 0.5
    assert topk_drift([[-1]], [[-1]]) == 0
    with pytest.raises(ValueError, match="got 1 and 0"):
        topk_drift([[1]], [])
    with pytest.raises(ValueError, match="1 or more, got 0 and 0"):
        topk_drift([], [])


@pytest.mark.parametrize("gone", [0, 5, N_DOCS - 1])
@pytest.mark.parametrize("metadata", [None, {"year": list(range(N_DOCS - 1))}])
def test_no_id_is_given_twice(gone: int, metadata: Any) -> None:
    index = index_of(Encoder(), metadata={"tenant": ["a", None] * (N_DOCS // 2)})
    index.remove([gone])
    before, model = index.ids.tolist(), model_over(index)
    texts, columns = TEXTS[1:], metadata or index.metadata
    refresh(model, Encoder(1), texts, metadata=metadata)
    after = model.index
    assert after.ids.tolist() == before
    assert {name: values.tolist() for name, values in after.metadata.items()} == {
        name: list(values) for name, values in columns.items()
    }
    np.testing.assert_array_equal(after.vectors, Encoder(1)(texts))
    after.add(Encoder()([0]), metadata={name: values[:1] for name, values in columns.items()})
    assert after.ids.tolist() == [*before, N_DOCS]
    assert index.ids.tolist() == before


@pytest.mark.parametrize("ids", [None, [f"document {z}" for z in TEXTS]])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_documents_of_a_snapshot(ids: Any, metric: str) -> None:
    index = index_of(Encoder(), ids=ids, metric=metric, dtype="float16", metadata={"tenant": ["a", "b"] * 20})
    tokens = dict.fromkeys(index.ids.tolist(), "a text")
    model = model_over(index.snapshot(), tokens)
    done = refresh(model, Encoder(1), TEXTS, probes=[np.ones((1, DIM))])
    expected = index_of(Encoder(1), ids=ids, metric=metric, dtype="float16", metadata=index.metadata)
    assert (done.index.metric, done.index.dtype) == (metric, "float16")
    assert done.index.ids.tolist() == index.ids.tolist()
    assert done.index.metadata["tenant"].tolist() == index.metadata["tenant"].tolist()
    assert done.index.vectors.tobytes() == expected.vectors.tobytes()
    query = np.ones((1, DIM), np.float32)
    assert done.index.search(query, 9).scores.tobytes() == expected.search(query, 9).scores.tobytes()
    if ids:
        model.corpus = ragfast.rag.models.Corpus(index.snapshot(), tokens)
        with pytest.raises(ValueError, match="ids: the model's 40 documents have ids of their own"):
            refresh(model, Encoder(1), TEXTS[:-1])


def test_a_retrievers_own_filter_outlives_a_refresh() -> None:
    encode, tenants = Encoder(), ["a", "b"] * (N_DOCS // 2)
    model = model_over(index_of(encode, metadata={"tenant": tenants}))
    of_a = ragfast.column("tenant") == "a"
    model.retriever = ragfast.rag.DenseRetriever(lambda texts: encode(texts), filter=of_a)
    refresh(model, Encoder(1), TEXTS)
    assert not any(model.retrieve([3])[0].doc_ids % 2)
    done = refresh(model, encode, TEXTS, ids=np.arange(N_DOCS), metadata={"tenant": tenants[::-1]}, probes=[3])
    assert done.drift == 1
    assert all(model.retrieve([3])[0].doc_ids % 2)
    before = model.corpus
    with pytest.raises(ValueError, match="column 'tenant': there is no such column"):
        refresh(model, encode, TEXTS, ids=np.arange(N_DOCS), probes=[3])
    assert model.corpus is before
    refresh(model, encode, TEXTS, ids=np.arange(N_DOCS))
    with pytest.raises(ValueError, match="column 'tenant': there is no such column"):  # rather than all there are
        model.retrieve([3])
