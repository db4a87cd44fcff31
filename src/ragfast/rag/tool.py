"""The retriever as a tool that language models call: by a JSON schema, or in their text as Toolformer does."""

from __future__ import annotations

import contextlib
import json
import math
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import reduce
from typing import Any

import numpy as np

from ragfast._core import arrays
from ragfast.index import FlatIndex, Snapshot
from ragfast.index.filters import COMPARE, Predicate, column
from ragfast.rag.models import no_entry, tokens_of
from ragfast.rag.protocols import FilteringRetriever, Retriever, checked_retriever, was_found
from ragfast.rag.retrievers import allowed_by, shows

__all__ = ["SearchTool"]

DESCRIPTION = (
    "Searches a collection of documents and returns the passages nearest in meaning to the query, best first, "
    "with the probability that the query means each of them."
)
FILTER = 'an object such as {"year": {">=": 2000}, "lang": "de"}'
NO_BRACKETS = str.maketrans("[]", "()")


@dataclass(eq=False, repr=False)
class SearchTool:
    """Search over the documents of a retriever, described by a JSON schema and called with JSON.

    So do models with function calling, WebGPT (Nakano et al. 2021) and Toolformer (Schick et al. 2023) search.
    retriever, index and documents are those of :class:`ragfast.RAGSequence`, for queries and documents that are
    strings; titles gives a title by id as documents gives a text. k documents are returned
    where a call does not say how many, and max_k at most.

    Where the retriever has a filter of its own (``DenseRetriever(encode, filter=...)``), no call finds a document
    outside of it, and none can be read by its id. Such a filter is known by the property ``filter`` of a
    :class:`ragfast.rag.FilteringRetriever` alone: a wrapper that lacks it lets every document be read by its id.
    filter_by names metadata columns of the index that a call may filter by as well:
    ``{"query": "...", "filter": {"year": {">=": 2000}, "lang": ["de", "en"]}}``, of which all must hold. A value is
    what the column must equal, a list what it must be one of, null that it has none, an object any of ==, !=,
    <, <=, > and >=. Such a filter narrows the retriever's, and never widens it.

    A wrong argument of a call is a ValueError whose message a model can read, so that it may try again. TypeError and
    ValueError where the settings are wrong, the retriever's filter included as far as the documents can tell;
    RuntimeError, from what the retriever raised, where a search then fails: that is not for a model to read.

    >>> import numpy as np, ragfast
    >>> from ragfast.rag.tool import SearchTool
    >>> encoder = ragfast.rag.DenseRetriever(lambda texts: [[float(len(text))] for text in texts])
    >>> tool = SearchTool(encoder, np.array([[0.5], [0.25]]), ["Paris is in France.", "Rome."], k=1)
    >>> tool.call('{"query": "four"}')
    {'results': [{'id': 0, 'score': 2.0, 'probability': 1.0, 'text': 'Paris is in France.'}]}
    >>> tool.fill('Paris [Search("Paris")] is large.')
    'Paris [Search("Paris") -> Paris is in France.] is large.'
    """

    retriever: Retriever
    index: Any
    documents: Sequence[str] | Mapping[int, str] | Mapping[str, str]
    _: KW_ONLY
    name: str = "search"
    description: str = DESCRIPTION
    k: int = 5
    max_k: int = 20
    titles: Sequence[str] | Mapping[int, str] | Mapping[str, str] | None = None
    filter_by: Sequence[str] = ()

    def __post_init__(self) -> None:
        checked_retriever(self.retriever)
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.name):  # what every interface of function calling allows
            raise ValueError(f"name: expected up to 64 letters, digits, _ or -, got {self.name!r}")
        if self._own_filter is not None:
            allowed_by(self._own_filter, self.index)  # wrong settings show now
        self.filter_by = _columns(self.filter_by, self.retriever, self.index)
        self.k = arrays.positive_int(self.k, "k")
        self.max_k = arrays.positive_int(self.max_k, "max_k")
        if self.k > self.max_k:
            raise ValueError(f"k: expected at most max_k, {self.max_k}, got {self.k}")
        # Toolformer's calls, section 2: [Name("argument")], without a result yet.
        self._in_text = re.compile(rf'\[\s*({re.escape(self.name)}\(\s*("(?:[^"\\]|\\.)*")\s*\))\s*\]', re.IGNORECASE)

    @property
    def _own_filter(self) -> Any:
        return getattr(self.retriever, "filter", None)

    @property
    def schema(self) -> dict[str, Any]:
        """{"name", "description", "parameters"}; parameters is the JSON Schema (draft 2020-12) of the arguments, which
        some interfaces want as "input_schema"."""
        return {"name": self.name, "description": self.description, "parameters": self.parameters}

    @property
    def parameters(self) -> dict[str, Any]:
        """The JSON Schema of the arguments."""
        properties: dict[str, Any] = {
            "query": {"type": "string", "pattern": r"\S", "description": "What to look for, in plain words."},
            "k": {
                "type": "integer",
                "minimum": 1,
                "maximum": self.max_k,
                "default": self.k,
                "description": "How many documents to return.",
            },
        }
        if self.filter_by:
            kinds = self.index.columns
            properties["filter"] = _object(
                {name: _filter_schema(kinds.get(name, "str")) for name in self.filter_by},
                additionalProperties=False,
                description="Only documents of which all of this holds: a value, a list of which it is one, or "
                'comparisons such as {">=": 2000}.',
            )
        return _object(properties, required=["query"], additionalProperties=False)

    @property
    def output_schema(self) -> dict[str, Any]:
        """The JSON Schema of what a call returns."""
        version = self.index.snapshot() if isinstance(self.index, FlatIndex) else self.index
        of_strings = isinstance(version, Snapshot) and version.ids_are_strings
        types = {"id": "string" if of_strings else "integer", "score": "number", "probability": "number"}
        types |= {} if self.titles is None else {"title": "string"}
        types["text"] = "string"
        result = _object({key: {"type": kind} for key, kind in types.items()}, required=list(types))
        return _object({"results": {"type": "array", "items": result}}, required=["results"])

    def openai(self) -> dict[str, Any]:
        """The schema as an entry of ``tools`` of the chat completions interface, which chat templates take too."""
        return {"type": "function", "function": self.schema}

    def __call__(self, query: str, k: int | None = None, filter: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The k documents found, best first: {"results": [{"id", "score", "probability", "title", "text"}, ...]}.

        score is q . d and probability p(z|x) among these documents; there is a title where the tool was given titles.
        filter is as a call in JSON has it. ValueError for a query that is no string, has nothing but spaces or half a
        surrogate pair, for k that is no integer from 1 to max_k, and for a filter that is none or by other columns than
        filter_by; RuntimeError where the retriever's search fails; otherwise what its encoder raises.
        """
        if not isinstance(query, str) or not query.strip():
            raise ValueError(f"query: expected a string that is not empty, got {_shown(query)}")
        # JSON may have it, where a model was cut off; tokenizers raise TypeError.
        if re.search("[\ud800-\udfff]", query):
            raise ValueError(f"query: expected characters, got half of one (a lone surrogate) in {_shown(query)}")
        wanted = self._wanted(k)
        index = self.index
        constraints = {} if filter is None else {"filter": self._predicate(filter, index)}
        embedding = self.retriever.encode_query(query)
        with _not_for_models():
            hits = self.retriever.search(embedding, index, k=wanted, **constraints)
            ids = arrays.id_array(hits.ids, "retriever's ids", "(K,)", (None,))
        return {"results": [self._result(hits, z, ids.item(z)) for z in np.flatnonzero(was_found(ids)).tolist()]}

    def call(self, arguments: str | bytes | Mapping[str, Any]) -> dict[str, Any]:
        """As ``tool(query, k)``, of arguments as a model gives them: a JSON object, parsed or not.

        ValueError for what is not JSON or not an object, for a missing query and for an unknown argument too.
        """
        given: Any = arguments
        if isinstance(given, (str, bytes)):
            try:
                given = json.loads(given)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"arguments: expected a JSON object, got what is not JSON: {error}") from error
        if not isinstance(given, Mapping):
            raise ValueError(f'arguments: expected a JSON object such as {{"query": "..."}}, got {_shown(given)}')
        known = ("query", "k", "filter") if self.filter_by else ("query", "k")
        unknown = [key for key in given if key not in known]
        if unknown:
            expected = f"{', '.join(known[:-1])} and {known[-1]}"
            raise ValueError(f"arguments: expected {expected}, got also {', '.join(map(_shown, unknown))}")
        if "query" not in given:
            raise ValueError("query: expected a string, but the argument is missing")
        for name, expected in (("k", f"an integer from 1 to {self.max_k}"), ("filter", FILTER)):
            if name in given and given[name] is None:
                raise ValueError(f"{name}: expected {expected}, got null")
        return self(**given)

    def fill(self, text: str, *, k: int = 1, max_chars: int = 300) -> str:
        """The text with the result of each call ``[Search("...")]`` in it: ``[Search("...") -> result]``.

        That is the form of Toolformer (Schick et al. 2023, section 2); the tool's name may be in any case, and calls
        that have a result are left alone. A result is the texts of the k best documents, each in one line and cut to
        max_chars. Brackets in it become parentheses, so that no document can end or make a call. The result of a call
        that the tool refuses, of an empty query say, is the message that says so.
        """
        arrays.positive_int(max_chars, "max_chars")
        self._wanted(k)  # the caller's, not the model's

        def filled(match: re.Match[str]) -> str:
            call, quoted = match.groups()
            try:
                query = json.loads(quoted)
            except ValueError:
                query = quoted[1:-1]  # a backslash that is just that
            try:
                found = [_line(result["text"], max_chars) for result in self(query, k)["results"]]
                result = " | ".join(found) or "nothing found"
            except ValueError as error:
                result = f"error: {error}"
            return f"[{call} -> {result.translate(NO_BRACKETS)}]"

        return self._in_text.sub(filled, text)

    def document(self, doc_id: int | str) -> str:
        """The text of a document; ValueError where there is none of this id, or where the retriever's own filter does
        not let it through, which is not told apart."""
        with _not_for_models():
            filter = self._own_filter
            hidden = filter is not None and not shows(filter, self.index, doc_id)
        if hidden:
            raise no_entry("documents", doc_id)
        return _entry(self.documents, doc_id, "documents")

    def _wanted(self, k: Any) -> int:
        wanted = self.k if k is None else k
        if isinstance(wanted, float) and wanted.is_integer():
            wanted = int(wanted)  # an integer too, as JSON Schema has it
        if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= self.max_k:
            raise ValueError(f"k: expected an integer from 1 to {self.max_k}, got {_shown(k)}")
        return wanted

    def _result(self, hits: Any, z: int, doc_id: int | str) -> dict[str, Any]:
        result: dict[str, Any] = {
            "id": doc_id,
            "score": float(hits.scores[z]),
            "probability": math.exp(hits.logprobs[z]),
        }
        if self.titles is not None:
            result["title"] = _entry(self.titles, doc_id, "titles")
        result["text"] = _entry(self.documents, doc_id, "documents")
        return result

    def _predicate(self, wanted: Any, index: Any) -> Predicate:
        """A call's filter, which fits the columns."""
        if not self.filter_by:
            raise ValueError("filter: this tool filters by no column; expected query and k alone")
        if not isinstance(wanted, Mapping) or not wanted:
            raise ValueError(f"filter: expected {FILTER}, got {_shown(wanted)}")
        conditions: list[Predicate] = []
        try:
            for name, value in wanted.items():
                if name not in self.filter_by:
                    raise ValueError(f"expected columns among {', '.join(self.filter_by)}, got {_shown(name)}")
                conditions += _conditions(name, value)
            predicate = reduce(operator.and_, conditions)
            index.filter(predicate)  # a version keeps it, so that the search does not evaluate it again
        except (TypeError, ValueError) as error:
            raise ValueError(f"filter: {error}") from error
        return predicate


@contextlib.contextmanager
def _not_for_models() -> Iterator[None]:
    """What the retriever refuses is no argument of a call, and its message may tell of columns and values."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise RuntimeError(f"the retriever failed: {error}") from error


def _conditions(name: str, value: Any) -> list[Predicate]:
    """What JSON says of one column."""
    if value is None:
        return [column(name).is_null()]
    if isinstance(value, (list, tuple)):
        return [column(name).isin(value)]
    if not isinstance(value, Mapping):
        return [column(name) == value]
    wrong = [sign for sign in value if sign not in COMPARE]
    if wrong or not value:
        got = _shown(wrong[0]) if wrong else "none"
        raise ValueError(f"column {name!r}: expected comparisons of {', '.join(COMPARE)}, got {got}")
    return [COMPARE[sign](column(name), bound) for sign, bound in value.items()]


def _object(properties: Mapping[str, Any], **keywords: Any) -> dict[str, Any]:
    """The JSON Schema of an object."""
    return {"type": "object", "properties": properties, **keywords}


def _filter_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of what :func:`_conditions` takes for a column of this kind."""
    scalar = {"type": {"int64": "number", "float64": "number", "bool": "boolean"}.get(kind, "string")}
    signs = ("==", "!=") if kind == "bool" else COMPARE
    comparisons = _object(dict.fromkeys(signs, scalar), additionalProperties=False, minProperties=1)
    return {"anyOf": [scalar, {"type": "array", "items": scalar}, comparisons, {"type": "null"}]}


def _columns(filter_by: Sequence[str], retriever: Retriever, index: Any) -> tuple[str, ...]:
    """Columns that calls may filter by, as far as it can be told that there are such."""
    if isinstance(filter_by, str):
        raise TypeError("filter_by: expected a sequence of names of columns, got a string")
    names = tuple(filter_by)
    if not names:
        return names
    if not isinstance(retriever, FilteringRetriever):
        raise TypeError(f"filter_by: expected a retriever that takes filters, got {type(retriever).__name__}")
    if not isinstance(index, (FlatIndex, Snapshot)):
        raise TypeError(f"filter_by: expected documents in a FlatIndex or a Snapshot, got {type(index).__name__}")
    absent = [name for name in names if name not in index.columns]
    if absent and len(index):
        there = ", ".join(map(repr, index.columns)) or "none"
        raise ValueError(f"filter_by: expected columns of the index, which are {there}, got {absent[0]!r}")
    return names


def _entry(entries: Any, doc_id: int | str, name: str) -> str:
    entry = tokens_of(doc_id, entries, name)
    if not isinstance(entry, str):
        raise TypeError(f"{name}: expected strings, got {type(entry).__name__} for document id {doc_id!r}")
    return entry


def _line(text: str, max_chars: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= max_chars else line[:max_chars].rstrip() + "..."


def _shown(value: object) -> str:
    """A value in an error as a model wrote it, not at any length."""
    try:
        written = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        written = repr(value)
    written = written.encode(errors="backslashreplace").decode()
    return written if len(written) <= 80 else written[:80] + "..."
