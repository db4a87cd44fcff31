"""SearchTool: its schema says what it takes, its results are what the retriever found, its errors are to be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ragfast
from ragfast.rag.tool import SearchTool

WORDS = ("paris", "rome", "berlin")
TEXTS = ["Paris is in France.", "Rome is in Italy.\nIt is old.", "Berlin is in Germany.", 'Paris [Search("Rome")] ]']
TITLES = ["Paris", "Rome", "Berlin", "Trap"]
EMBEDDINGS = np.float32([[2, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])


def count(texts: Sequence[str]) -> NDArray[np.float32]:
    return np.float32([[text.lower().count(word) for word in WORDS] for text in texts])


def tool(**more: Any) -> SearchTool:
    settings: dict[str, Any] = {"titles": TITLES, "k": 2, "max_k": 3, **more}
    index = ragfast.FlatIndex.from_vectors(EMBEDDINGS)
    return SearchTool(ragfast.rag.DenseRetriever(count), index, TEXTS, **settings)


def test_by_hand() -> None:
    found = tool()(query="Is Paris nicer than Rome?", k=2)
    assert [result["id"] for result in found["results"]] == [0, 1]
    assert [result["score"] for result in found["results"]] == [2.0, 1.0]
    assert [result["title"] for result in found["results"]] == ["Paris", "Rome"]
    assert [result["text"] for result in found["results"]] == TEXTS[:2]
    probabilities = [result["probability"] for result in found["results"]]
    np.testing.assert_allclose(probabilities, [np.e / (1 + np.e), 1 / (1 + np.e)], rtol=1e-14)
    assert json.loads(json.dumps(found)) == found


def test_calls_with_json() -> None:
    expected = tool()("Berlin", k=1)
    assert expected["results"][0]["id"] == 2
    for arguments in ('{"query": "Berlin", "k": 1}', b'{"query": "Berlin", "k": 1.0}', {"query": "Berlin", "k": 1}):
        assert tool().call(arguments) == expected
    assert len(tool().call('{"query": "Berlin"}')["results"]) == 2


def test_documents_by_id_and_without_titles() -> None:
    index = ragfast.FlatIndex.from_vectors(EMBEDDINGS, ids=[40, 30, 20, 10])
    by_id = SearchTool(ragfast.rag.DenseRetriever(count), index, dict(zip([40, 30, 20, 10], TEXTS, strict=True)), k=9)
    found = by_id("Rome")["results"]
    assert [result["id"] for result in found] == [30, 10, 20, 40]  # no more than there are
    assert [sorted(result) for result in found] == [["id", "probability", "score", "text"]] * 4
    assert by_id.document(20) == TEXTS[2]
    names = ["a", "b", "c", "d"]
    index = ragfast.FlatIndex.from_vectors(EMBEDDINGS, names)
    by_name = SearchTool(ragfast.rag.DenseRetriever(count), index, dict(zip(names, TEXTS, strict=True)), k=3)
    index.remove(["d", "a"])
    found = by_name("Rome")
    assert [result["id"] for result in json.loads(json.dumps(found))["results"]] == ["b", "c"]
    with pytest.raises(ValueError, match="documents: expected a mapping, as ids of documents are strings"):
        tool().document("b")
    for doc_id in (2, -1):
        with pytest.raises(ValueError, match=f"documents: no entry for document id {doc_id}"):
            by_id.document(doc_id)


def test_what_was_not_found_is_left_out() -> None:
    class Padding:
        def encode_query(self, query: str, /) -> Any:
            return np.zeros(1)

        def search(self, query: Any, documents: Any, /, k: int) -> ragfast.Hits:
            return ragfast.Hits(np.array([1.0, -np.inf]), np.array([1, -1]), np.array([0.0, -np.inf]))

    assert [result["id"] for result in SearchTool(Padding(), None, TEXTS)("Rome")["results"]] == [1]


WRONG: list[tuple[str, Any, str]] = [
    ("no query", {}, "query: expected a string, but the argument is missing"),
    ("empty query", {"query": " "}, 'query: expected a string that is not empty, got " "'),
    ("a number", {"query": 3}, "query: expected a string that is not empty, got 3"),
    ("k of 0", {"query": "Rome", "k": 0}, "k: expected an integer from 1 to 3, got 0"),
    ("k too large", {"query": "Rome", "k": 4}, "k: expected an integer from 1 to 3, got 4"),
    ("k in words", {"query": "Rome", "k": "two"}, 'k: expected an integer from 1 to 3, got "two"'),
    ("half a k", {"query": "Rome", "k": 1.5}, r"k: expected an integer from 1 to 3, got 1\.5"),
    ("a true k", {"query": "Rome", "k": True}, "k: expected an integer from 1 to 3, got true"),
    ("no k", {"query": "Rome", "k": None}, "k: expected an integer from 1 to 3, got null"),
    ("an extra key", {"query": "Rome", "page": 2}, 'arguments: expected query and k, got also "page"'),
]


@pytest.mark.parametrize(("arguments", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_wrong_arguments(arguments: Any, message: str) -> None:
    for given in (arguments, json.dumps(arguments)):
        with pytest.raises(ValueError, match=message):
            tool().call(given)


def test_half_a_character_is_told() -> None:
    """JSON may have it, where a model was cut off, and schemas cannot forbid it."""
    given = '{"query": "Rome \\ud83d"}'
    with pytest.raises(ValueError, match=r'query: expected characters, got half of one .* "Rome \\ud83d"$'):
        tool().call(given)
    assert "half of one" in tool().fill('[Search("Rome \\ud83d")]')


@pytest.mark.parametrize(
    "given", ["Rome", "{", '["Rome"]', "null", b"\xff", pytest.param("[" * 100_000, id="nested"), ["Rome"], None]
)
def test_what_is_no_json_object(given: Any) -> None:
    with pytest.raises(ValueError, match="arguments: expected a JSON object"):
        tool().call(given)


def test_schemas_agree_with_what_is_taken_and_returned() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: it comes with mcp")
    described = tool()
    for schema in (described.parameters, described.output_schema, tool(titles=None).output_schema):
        jsonschema.Draft202012Validator.check_schema(schema)
    accepts = jsonschema.Draft202012Validator(described.parameters)
    for arguments in ({"query": "Rome"}, {"query": "Rome", "k": 3}, {"query": "Rome", "k": 1.0}):
        accepts.validate(arguments)
        jsonschema.validate(described.call(arguments), described.output_schema)
    for name, arguments, _ in WRONG:
        assert not accepts.is_valid(arguments), name
    assert not jsonschema.Draft202012Validator(described.output_schema).is_valid(tool(titles=None)("Rome"))


def test_schema() -> None:
    described = tool(name="wiki_search", description="Searches.")
    assert list(described.schema) == ["name", "description", "parameters"]
    assert described.schema["name"] == "wiki_search"
    assert described.schema["description"] == "Searches."
    assert described.openai() == {"type": "function", "function": described.schema}
    json.dumps(described.schema)
    k = described.parameters["properties"]["k"]
    assert (k["default"], k["maximum"]) == (2, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No call.", "No call."),
        ('In [Search("Rome")].', 'In [Search("Rome") -> Rome is in Italy. It is old.].'),
        ('[ search( "berlin" ) ]', '[search( "berlin" ) -> Berlin is in Germany.]'),
        ('[Search("Rome") -> known] [Lookup("Rome")] [Search(Rome)]', None),  # none of these is a call to be made
        ('[Search("Rome")][Search("Paris")]', None),
        (r'[Search("a \"Rome\" \d")]', r'[Search("a \"Rome\" \d") -> Rome is in Italy. It is old.]'),
    ],
)
def test_fill(text: str, expected: str | None) -> None:
    filled = tool().fill(text)
    if text.startswith('[Search("Rome")]['):
        expected = '[Search("Rome") -> Rome is in Italy. It is old.][Search("Paris") -> Paris is in France.]'
    assert filled == (text if expected is None else expected)
    assert tool().fill(filled) == filled  # what has a result is not asked again


def test_a_document_cannot_call() -> None:
    filled = tool().fill('[Search("Paris Paris")]', k=3)
    trap = SearchTool(ragfast.rag.DenseRetriever(count), EMBEDDINGS[::-1], TEXTS[:3] + TEXTS[3:], k=1)
    assert trap.fill('[Search("Paris")]') == '[Search("Paris") -> Paris (Search("Rome")) )]'
    assert (
        filled
        == '[Search("Paris Paris") -> Paris is in France. | Rome is in Italy. It is old. | Berlin is in Germany.]'
    )


def test_fill_cuts_and_tells_of_errors() -> None:
    assert tool().fill('[Search("Rome")]', max_chars=7) == '[Search("Rome") -> Rome is...]'
    assert tool().fill('[Search("")]') == '[Search("") -> error: query: expected a string that is not empty, got ""]'
    with pytest.raises(ValueError, match="k: expected an integer from 1 to 3, got 4"):
        tool().fill("", k=4)
    with pytest.raises(ValueError, match="max_chars: expected 1 or more, got 0"):
        tool().fill("", max_chars=0)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"name": "my search"}, ValueError, "name: expected up to 64 letters, digits, _ or -, got 'my search'"),
        ({"k": 4}, ValueError, "k: expected at most max_k, 3, got 4"),
        ({"k": 0}, ValueError, "k: expected 1 or more, got 0"),
        ({"max_k": 1.5}, TypeError, "max_k: expected an integer"),
    ],
)
def test_refused_settings(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tool(**settings)


def test_refused_parts() -> None:
    with pytest.raises(TypeError, match=r"retriever: expected .* methods, got function; ragfast\.rag\.DenseRetriever"):
        SearchTool(count, EMBEDDINGS, TEXTS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="documents: no entry for document id 0"):
        SearchTool(ragfast.rag.DenseRetriever(count), EMBEDDINGS, [])("Paris")
    with pytest.raises(TypeError, match="documents: expected strings, got list for document id 0"):
        SearchTool(ragfast.rag.DenseRetriever(count), EMBEDDINGS, [[1, 2]])("Paris")  # type: ignore[list-item]
    with pytest.raises(ValueError, match="titles: no entry for document id 0"):
        tool(titles=[])("Paris")
