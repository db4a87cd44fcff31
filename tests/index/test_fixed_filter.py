"""Filters on the way from a tool or a model to the index: a retriever's own always holds, a call's only narrows it."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

import ragfast
from ragfast import FlatIndex, RAGSequence, RAGToken, column
from ragfast.rag import FilteringRetriever
from ragfast.rag.tool import SearchTool

Array = NDArray[Any]

N, DIM = 60, 4
RNG = np.random.default_rng(11)
VECTORS = RNG.integers(-3, 4, (N, DIM)).astype(np.float32)
QUERIES = RNG.standard_normal((5, DIM)).astype(np.float32)
TENANT = RNG.choice(["a", "b", "c"], N)
COLUMNS = {"tenant": TENANT, "year": RNG.integers(1998, 2004, N), "lang": RNG.choice(["de", "en"], N).tolist()}
COLUMNS["lang"][::9] = [None] * len(COLUMNS["lang"][::9])
NAMES = [f"document {i}" for i in range(N)]
OF_A = column("tenant") == "a"


def encode(numbers: Sequence[Any]) -> Array:
    return QUERIES[[int(number) for number in numbers]]


def index_of(ids: list[str] | None = None) -> FlatIndex:
    return FlatIndex.from_vectors(VECTORS, ids, metadata=COLUMNS)


def texts(ids: list[str] | None) -> Any:
    written = [f"text {i} of {tenant}" for i, tenant in enumerate(TENANT)]
    return written if ids is None else dict(zip(ids, written, strict=True))


class Sure:
    """A generator of one token, and that it is likely."""

    stop_tokens = (0,)

    def token_logprobs(self, question: Any, docs: Sequence[Any], answer: Any) -> Array:
        return np.zeros((len(docs), len(answer)))

    def open(self, questions: Sequence[Any], docs: Sequence[Any]) -> Any:
        self.logits = np.zeros((sum(map(len, docs)), 1))
        return self

    def step(self, rows: Any, tokens: Any) -> Array:
        raise AssertionError("the first token is the last")


class Plain:
    """A retriever that knows nothing of rules."""

    def encode_query(self, query: Any, /) -> Array:
        return encode([query])[0]

    def search(self, query: Array, documents: Any, /, k: int) -> ragfast.Hits:
        return ragfast.SimpleRetriever(DIM).search(query, documents, k)


class OneByOne(Plain):
    """A retriever of one question at a time that takes rules."""

    filter = None

    def search(self, query: Array, documents: Any, /, k: int, **rules: Any) -> ragfast.Hits:
        return ragfast.SimpleRetriever(DIM).search(query, documents, k, **rules)


FILTERS = [
    column("year") >= 2000,
    ~OF_A,
    OF_A | ~OF_A,
    column("lang").is_null(),
    np.ones(N, bool),
    np.arange(N) % 2 == 0,
    [],
    "every id",
    "prepared",
]


@settings(deadline=None)
@given(st.data())
def test_a_document_outside_the_fixed_filter_never_appears(data: st.DataObject) -> None:
    ids = data.draw(st.sampled_from([None, NAMES]))
    index = index_of(ids)
    fixed: Any = data.draw(st.sampled_from([OF_A, index.filter(TENANT == "a"), "ids", "prepared"]))
    own = [NAMES[i] if ids else i for i in np.flatnonzero(TENANT == "a").tolist()]
    fixed = own if isinstance(fixed, str) and fixed == "ids" else fixed
    fixed = index.filter(OF_A) if isinstance(fixed, str) else fixed
    asked: Any = data.draw(st.sampled_from([None, *FILTERS]))
    if isinstance(asked, str):
        asked = index.filter(~OF_A) if asked == "prepared" else index.ids
    retriever = ragfast.rag.DenseRetriever(encode, filter=fixed)
    k = data.draw(st.integers(1, N + 9))
    hits = retriever.search_queries(encode(range(5)), index, k, filter=asked)
    mask = (TENANT == "a") & (True if asked is None else arrays_of(index, asked))
    expected = index.search(encode(range(5)), min(k, N), filter=mask, dtype=np.float64)
    assert hits.ids.tolist() == expected.ids.tolist()
    assert hits.scores.tobytes() == expected.scores.tobytes()
    assert hits.logprobs.tobytes() == expected.logprobs.tobytes()
    assert set(hits.ids.ravel().tolist()) <= {*own, -1, None}
    one = retriever.search(encode([2])[0], index.snapshot(), k, filter=asked, group_by="year", max_per_group=2)
    assert set(one.ids.tolist()) <= {*own, -1, None}
    tool = SearchTool(retriever, index, texts(ids), max_k=N)
    assert {result["id"] for result in tool("3", k=N)["results"]} == set(own)


def arrays_of(index: FlatIndex, filter: Any) -> Array:
    """The mask that says the same."""
    found = index.search(np.zeros((1, DIM), np.float32), N, filter=filter).ids[0].tolist()
    return np.array([doc_id in found for doc_id in index.ids.tolist()])


def test_of_changes_to_the_index_and_to_what_was_given() -> None:
    index, mine = index_of(), [1, 2]
    retriever = ragfast.rag.DenseRetriever(encode, filter=mine)
    mine += [3, 4]
    assert set(retriever.search(QUERIES[0], index, N).ids.tolist()) == {1, 2, -1}
    of_a = ragfast.rag.DenseRetriever(encode, filter=index.filter(OF_A))  # looked up anew in every version
    index.upsert([7], VECTORS[:1], {"tenant": ["a"], "year": [1], "lang": [None]})
    index.upsert([8], VECTORS[:1], {"tenant": ["z"], "year": [1], "lang": [None]})
    found = of_a.search(QUERIES[0], index, N).ids
    expected = index.ids[index.metadata["tenant"] == "a"].tolist()
    assert sorted(found[found >= 0].tolist()) == sorted(expected)
    assert 7 in expected
    assert 8 not in expected
    with pytest.raises(ValueError, match="filter: a mask of version 1"):
        ragfast.rag.DenseRetriever(encode, filter=index_of().filter(TENANT == "a")).search(QUERIES[0], index, 3)
    with pytest.raises(AttributeError):
        of_a.filter = None  # type: ignore[misc]


@pytest.mark.parametrize("mask", [TENANT == "a", (TENANT == "a").tolist(), np.zeros(0, bool), np.ones((2, 2), bool)])
def test_a_mask_is_of_one_version(mask: Any) -> None:
    expected = r"filter: a mask says nothing of .*; expected snapshot\.filter\(mask\), .*, ids or a Predicate"
    with pytest.raises(TypeError, match=expected):
        ragfast.rag.DenseRetriever(encode, filter=mask)
    with pytest.raises(TypeError, match=expected):
        Own(mask).search(QUERIES[0], index_of(), N)
    with pytest.raises(TypeError, match=expected):
        SearchTool(Own(mask), index_of(), texts(None))


@pytest.mark.parametrize(
    "wrong", ["ab", b"ab", {1}, iter([1]), {1: 2}.keys(), {1: 2}, memoryview(b"ab"), 3, 0.5, [0.5], column("year"), ...]
)
def test_what_is_no_filter_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^filter: expected a list or an array of ids, a Predicate or a Filter, got"):
        ragfast.rag.DenseRetriever(encode, filter=wrong)


def test_what_was_given_is_kept_as_it_was() -> None:
    index, named = index_of(), index_of(NAMES)
    ids = np.array([1, 2])
    retriever = ragfast.rag.DenseRetriever(encode, filter=ids)
    ids[:] = 3
    assert set(retriever.search(QUERIES[0], index, N).ids.tolist()) == {1, 2, -1}
    with pytest.raises(ValueError, match="read-only"):
        retriever.filter[:] = 3
    of_names = ragfast.rag.DenseRetriever(encode, filter=NAMES[:2])
    assert of_names.filter == tuple(NAMES[:2])
    assert set(of_names.search(QUERIES[0], named, N).ids.tolist()) == {*NAMES[:2], None}
    with pytest.raises(TypeError, match="filter: expected str, got int 3 in row 1"):
        ragfast.rag.DenseRetriever(encode, filter=["a", 3])
    prepared = ragfast.rag.DenseRetriever(encode, filter=index.filter(TENANT == "a"))
    assert copy.deepcopy(prepared).filter is prepared.filter


class Own(ragfast.rag.DenseRetriever):
    """A retriever that says by the property alone what may be found."""

    def __init__(self, own: Any) -> None:
        super().__init__(encode)
        self.own = own

    @property
    def filter(self) -> Any:
        return self.own


class OwnSimple(ragfast.SimpleRetriever):
    @property
    def filter(self) -> Any:
        return OF_A


@pytest.mark.parametrize("retriever", [Own(OF_A), OwnSimple(DIM)])
def test_the_filter_of_a_subclass_holds(retriever: Any) -> None:
    expected = index_of().search(QUERIES, N, filter=OF_A)
    assert retriever.search_queries(QUERIES, index_of(), N).ids.tolist() == expected.ids.tolist()
    assert retriever.search(QUERIES[1], index_of(), N).ids.tolist() == expected.ids[1].tolist()


def test_rules_of_groups() -> None:
    index, retriever = index_of(), ragfast.rag.DenseRetriever(encode)
    hits = retriever.search_queries(QUERIES, index, 9, group_by="year", max_per_group=1)
    assert hits.ids.tolist() == index.search(QUERIES, 9, group_by="year", max_per_group=1).ids.tolist()
    years = COLUMNS["year"][hits.ids[:, 0]].tolist()
    without = index.search(QUERIES, 9, group_by="year", exclude_groups=years, filter=OF_A)
    of_a = ragfast.rag.DenseRetriever(encode, filter=OF_A)
    assert (
        of_a.search_queries(QUERIES, index, 9, group_by="year", exclude_groups=years).ids.tolist()
        == without.ids.tolist()
    )
    for b, year in enumerate(years):
        one = of_a.search(QUERIES[b], index, 9, group_by="year", exclude_groups=year)
        assert one.ids.tolist() == without.ids[b].tolist()
    everything = retriever.search(
        QUERIES[0], index, 9, filter=None, group_by=None, exclude_groups=None, max_per_group=None
    )
    assert everything.ids.tolist() == index.search(QUERIES[:1], 9).ids[0].tolist()
    with pytest.raises(ValueError, match="group_by: expected exclude_groups or max_per_group with it"):
        retriever.search(QUERIES[0], index, 9, group_by="year", exclude_groups=None, max_per_group=None)
    with pytest.raises(ValueError, match="exclude_groups: expected together with group_by"):
        retriever.search(QUERIES[0], index, 9, exclude_groups=2000)
    for wrong in ([2000], np.array([2000])):
        with pytest.raises(TypeError, match="exclude_groups: expected the one group of one query, got"):
            retriever.search(QUERIES[0], index, 9, group_by="year", exclude_groups=wrong)


@pytest.mark.parametrize("rag", [RAGSequence, RAGToken])
@pytest.mark.parametrize("ids", [None, NAMES])
@pytest.mark.parametrize("retriever", [ragfast.rag.DenseRetriever(encode), OneByOne()])
def test_models_hand_filters_on(rag: Any, ids: list[str] | None, retriever: Any) -> None:
    index = index_of(ids)
    model = rag(retriever, Sure(), index=index, documents=texts(ids), k=4)
    expected = index.search(QUERIES, 4, filter=OF_A, dtype=np.float64)
    found = model.retrieve(range(5), filter=OF_A)
    assert [documents.doc_ids.tolist() for documents in found] == expected.ids.tolist()
    np.testing.assert_array_equal([documents.doc_logprobs for documents in found], expected.logprobs)
    assert all(text.endswith("of a") for documents in found for text in documents.doc_tokens)
    scores = model.score(range(5), [[[0]]] * 5, filter=OF_A)
    assert [score.doc_ids.tolist() for score in scores] == expected.ids.tolist()
    answers = model.generate(range(5), filter=OF_A)
    assert [answer[0].doc_ids.tolist() for answer in answers] == expected.ids.tolist()
    if rag is RAGToken:
        assert len(next(model.stream(0, filter=[index.ids[3]])).posterior) == 1
    years = [2000, None, 2001, 1999, 2000]
    found = model.retrieve(range(5), group_by="year", exclude_groups=years, max_per_group=1)
    expected = index.search(QUERIES, 4, group_by="year", exclude_groups=years, max_per_group=1)
    assert [documents.doc_ids.tolist() for documents in found] == expected.ids.tolist()
    found = model.retrieve(range(5), group_by="year", exclude_groups=years)
    expected = index.search(QUERIES, 4, group_by="year", exclude_groups=years)
    assert [documents.doc_ids.tolist() for documents in found] == expected.ids.tolist()
    with pytest.raises(ValueError, match=r"questions\[0\]: no document was found"):
        model.generate([1], filter=[])
    with pytest.raises(ValueError, match="filter, retrieved: expected one of them"):
        model.generate([1], filter=OF_A, retrieved=model.retrieve([1]))
    with pytest.raises(ValueError, match="exclude_groups: expected"):
        model.retrieve(range(5), group_by="year", exclude_groups=years[:4])


def test_the_notebooks_methods_keep_to_a_fixed_filter() -> None:
    few = ragfast.rag.DenseRetriever(encode, filter=[4, 9])
    log_prob, ids, probs = RAGSequence(few, Sure()).forward(0, [0], index_of(), texts(None), k=5)
    assert (log_prob, sorted(ids.tolist()), len(probs)) == (pytest.approx(0), [4, 9], 2)
    assert RAGToken(few, Sure()).forward_token(0, 0, index_of(), texts(None), k=5)[1].tolist() == ids.tolist()
    nothing = RAGToken(ragfast.rag.DenseRetriever(encode, filter=[]), Sure())
    with pytest.raises(ValueError, match="query_tokens: no document was found"):
        nothing.forward(0, [0], index_of(), texts(None))


def test_what_cannot_be_filtered_says_so() -> None:
    assert isinstance(ragfast.rag.DenseRetriever(encode), FilteringRetriever)
    assert isinstance(ragfast.SimpleRetriever(2), FilteringRetriever)
    assert not isinstance(Plain(), FilteringRetriever)
    model = RAGToken(Plain(), Sure(), index=index_of(), documents=texts(None))
    assert len(model.retrieve([0], filter=None)[0].doc_ids) == 5
    for rule, value in (("filter", OF_A), ("max_per_group", 1)):
        with pytest.raises(TypeError, match=rf"{rule}: expected a retriever that takes it.*, got Plain"):
            model.retrieve([0], **{rule: value})  # type: ignore[arg-type]
    retriever = ragfast.rag.DenseRetriever(encode)
    with pytest.raises(TypeError, match=r"filter: expected documents in a FlatIndex or a Snapshot.* got ndarray"):
        retriever.search(QUERIES[0], VECTORS, 2, filter=[1])
    with pytest.raises(TypeError, match=r"filter: expected documents in a FlatIndex or a Snapshot.* got ndarray"):
        ragfast.rag.DenseRetriever(encode, filter=[1]).search(QUERIES[0], VECTORS, 2)
    with pytest.raises(
        TypeError, match="filtr: expected no other constraint than filter, group_by, exclude_groups, max_per_group"
    ):
        retriever.search(QUERIES[0], index_of(), 2, filtr=OF_A)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="column 'owner': there is no such column"):
        ragfast.rag.DenseRetriever(encode, filter=column("owner") == "a").search(QUERIES[0], index_of(), 2)
    with pytest.raises(ValueError, match="query_embedding: row 0 holds NaN"):
        retriever.search(QUERIES[0] * np.float32(np.nan), index_of(), 2, filter=OF_A)
    with pytest.raises(ValueError, match="document_embeddings: expected at least one document, got none"):
        retriever.search(QUERIES[0], FlatIndex(DIM), 2, filter=OF_A)


# ---- the tool


def tool(ids: list[str] | None = None, **more: Any) -> SearchTool:
    retriever = ragfast.rag.DenseRetriever(encode, filter=OF_A)
    return SearchTool(retriever, index_of(ids), texts(ids), **{"max_k": N, **more})


@pytest.mark.parametrize("ids", [None, NAMES])
def test_the_tool_reads_no_document_outside(ids: list[str] | None) -> None:
    for i, doc_id in enumerate(ids or range(N)):
        if TENANT[i] == "a":
            assert tool(ids).document(doc_id) == f"text {i} of a"
        else:
            with pytest.raises(ValueError, match=rf"^documents: no entry for document id {doc_id!r}$"):
                tool(ids).document(doc_id)
    for absent in (-1, N, "nowhere"):
        with pytest.raises(ValueError, match=rf"^documents: no entry for document id {absent!r}$"):
            tool(ids).document(absent)
    everything = SearchTool(ragfast.rag.DenseRetriever(encode), index_of(ids), texts(ids))
    assert everything.document(ids[1] if ids else 1).startswith("text 1")


YEAR, LANG = np.asarray(COLUMNS["year"]), np.array(COLUMNS["lang"], object)
CALLS: list[tuple[Any, Any]] = [
    ({"year": {">=": 2000}, "lang": "de"}, (YEAR >= 2000) & (LANG == "de")),
    ({"year": {">": 1999.5, "<": 2002}}, (YEAR >= 2000) & (YEAR < 2002)),
    ({"lang": ["de", "en", "fr"]}, LANG != None),  # noqa: E711
    ({"lang": None}, LANG == None),  # noqa: E711
    ({"year": []}, YEAR < 0),
    ({"tenant": ["b", "c"]}, YEAR < 0),  # of another tenant: nothing is found
    ({"tenant": {"!=": "a"}}, YEAR < 0),
]


@pytest.mark.parametrize(("filter", "expected"), CALLS)
def test_a_call_filters(filter: Any, expected: Array) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: it comes with mcp")
    described = tool(filter_by=("tenant", "year", "lang"))
    jsonschema.Draft202012Validator.check_schema(described.parameters)
    call = {"query": "1", "k": N, "filter": filter}
    jsonschema.validate(call, described.parameters)
    found = {result["id"] for result in described.call(json.dumps(call))["results"]}
    assert found == set(np.flatnonzero(expected & (TENANT == "a")).tolist())


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ({"owner": "a"}, 'filter: expected columns among year, lang, got "owner"$'),
        ({"tenant": "b"}, 'filter: expected columns among year, lang, got "tenant"$'),
        ({"year": "2000"}, "filter: column 'year' holds int64: expected a number to compare with, got str '2000'"),
        ({"year": {"=>": 2000}}, "filter: column 'year': expected comparisons of ==, !=, <, <=, >, >=, got \"=>\""),
        ({"year": {}}, "filter: column 'year': expected comparisons of .*, got none"),
        (
            {"year": {"==": [2000]}},
            "filter: column 'year': expected a bool, int, float or str to compare with, got list",
        ),
        ({"year": [{}]}, "filter: column 'year': expected a bool, int, float or str to compare with, got dict"),
        ({}, r'filter: expected an object such as \{"year": .*, got \{\}'),
        (None, "filter: expected an object such as .*, got null"),
        ("year > 2000", 'filter: expected an object such as .*, got "year > 2000"'),
    ],
)
def test_wrong_filters_of_a_call_can_be_read(filter: Any, message: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: it comes with mcp")
    described = tool(filter_by=["year", "lang"])
    call = {"query": "1", "filter": filter}
    with pytest.raises(ValueError, match=message):
        described.call(call)
    if filter:
        assert not jsonschema.Draft202012Validator(described.parameters).is_valid(call)


def test_settings_of_filters() -> None:
    assert "filter" not in tool().parameters["properties"]
    with pytest.raises(ValueError, match='arguments: expected query and k, got also "filter"'):
        tool().call({"query": "1", "filter": {"year": 2000}})
    with pytest.raises(ValueError, match="filter: this tool filters by no column"):
        tool()("1", filter={"year": 2000})
    with pytest.raises(
        ValueError, match=r"filter_by: expected columns of the index, which are 'tenant', .* got 'where'"
    ):
        tool(filter_by=["where"])
    with pytest.raises(TypeError, match="filter_by: expected a sequence of names of columns, got a string"):
        tool(filter_by="year")
    with pytest.raises(TypeError, match="filter_by: expected a retriever that takes filters, got Plain"):
        SearchTool(Plain(), index_of(), texts(None), filter_by=["year"])
    with pytest.raises(TypeError, match="filter_by: expected documents in a FlatIndex or a Snapshot, got ndarray"):
        SearchTool(ragfast.rag.DenseRetriever(encode), VECTORS, texts(None), filter_by=["year"])


def test_a_retriever_that_does_not_fit_the_documents_is_refused_at_once() -> None:
    of_a = ragfast.rag.DenseRetriever(encode, filter=OF_A)
    with pytest.raises(TypeError, match=r"filter: expected documents in a FlatIndex or a Snapshot, .* got ndarray"):
        SearchTool(of_a, VECTORS, texts(None))
    with pytest.raises(ValueError, match="column 'owner': there is no such column"):
        SearchTool(ragfast.rag.DenseRetriever(encode, filter=column("owner") == "a"), index_of(), texts(None))
    with pytest.raises(TypeError, match="column 'year' holds int64: expected a number"):
        SearchTool(ragfast.rag.DenseRetriever(encode, filter=column("year") == "a"), index_of(), texts(None))
    empty = FlatIndex(DIM)
    late = SearchTool(of_a, empty, texts(None))  # nobody knows yet
    empty.add(VECTORS)
    for call in (lambda: late("1"), lambda: late.document(0)):
        with pytest.raises(RuntimeError, match="the retriever failed: column 'tenant': there is no such column"):
            call()


@pytest.mark.parametrize("ids", [np.array([1, 0], np.uint64), [1, 0], np.array(["b", "a"]), ["b", "a"], ["b", None]])
def test_ids_of_any_retriever(ids: Any) -> None:
    class Fixed(Plain):
        def search(self, query: Array, documents: Any, /, k: int) -> Any:
            return ragfast.Hits([2.0, 1.0], ids, [-0.1, -2.0])  # type: ignore[arg-type]

    own: Any = {"a": "text a", "b": "text b", 0: "text 0", 1: "text 1"}
    expected = [doc_id for doc_id in np.asarray(ids, object).tolist() if doc_id is not None]
    model = RAGToken(Fixed(), Sure(), index=VECTORS, documents=own)
    assert model.retrieve([0])[0].doc_ids.tolist() == expected
    assert model.forward_token(0, 0, VECTORS, own)[1].tolist() == expected
    results = SearchTool(Fixed(), VECTORS, own)("1")["results"]
    assert [result["id"] for result in results] == expected


def test_schemas_know_ids_that_are_strings() -> None:
    for ids, kind in ((None, "integer"), (NAMES, "string")):
        result = tool(ids).output_schema["properties"]["results"]["items"]
        assert result["properties"]["id"] == {"type": kind}
