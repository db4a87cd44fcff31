"""The retriever as a tool that language models call: by a JSON schema, or in their text as Toolformer does."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ragfast import arrays
from ragfast.retriever import Retriever

__all__ = ["SearchTool"]

DESCRIPTION = (
    "Searches a collection of documents and returns the passages nearest in meaning to the query, best first, "
    "with the probability that the query means each of them."
)
NO_BRACKETS = str.maketrans("[]", "()")


class SearchTool:
    """Search over the documents of a retriever, described by a JSON schema and called with JSON.

    So do models with function calling, WebGPT (Nakano et al. 2021) and Toolformer (Schick et al. 2023) search.
    retriever, document_embeddings and documents_tokens are those of :class:`ragfast.RAGSequence`, for queries and
    documents that are strings; titles gives a title by id as documents_tokens gives a text. k documents are returned
    where a call does not say how many, and max_k at most.

    A wrong argument of a call is a ValueError whose message a model can read, so that it may try again. TypeError and
    ValueError where the settings are wrong.

    >>> import numpy as np, ragfast
    >>> from ragfast.tool import SearchTool
    >>> encoder = ragfast.DenseRetriever(lambda texts: [[float(len(text))] for text in texts])
    >>> tool = SearchTool(encoder, np.array([[0.5], [0.25]]), ["Paris is in France.", "Rome."], k=1)
    >>> tool.call('{"query": "four"}')
    {'results': [{'id': 0, 'score': 2.0, 'probability': 1.0, 'text': 'Paris is in France.'}]}
    >>> tool.fill('Paris [Search("Paris")] is large.')
    'Paris [Search("Paris") -> Paris is in France.] is large.'
    """

    def __init__(
        self,
        retriever: Retriever,
        document_embeddings: Any,
        documents_tokens: Sequence[str] | Mapping[int, str],
        *,
        name: str = "search",
        description: str = DESCRIPTION,
        k: int = 5,
        max_k: int = 20,
        titles: Sequence[str] | Mapping[int, str] | None = None,
    ) -> None:
        if not isinstance(retriever, Retriever):
            hint = "; ragfast.DenseRetriever(encode) is one around a callable" if callable(retriever) else ""
            raise TypeError(
                f"retriever: expected encode_query and search methods, got {type(retriever).__name__}{hint}"
            )
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):  # what every interface of function calling allows
            raise ValueError(f"name: expected up to 64 letters, digits, _ or -, got {name!r}")
        self.retriever = retriever
        self.document_embeddings = document_embeddings
        self.documents_tokens = documents_tokens
        self.titles = titles
        self.name = name
        self.description = description
        self.k = arrays.positive_int(k, "k")
        self.max_k = arrays.positive_int(max_k, "max_k")
        if self.k > self.max_k:
            raise ValueError(f"k: expected at most max_k, {max_k}, got {k}")
        # Toolformer's calls, section 2: [Name("argument")], without a result yet.
        self._in_text = re.compile(rf'\[\s*({re.escape(name)}\(\s*("(?:[^"\\]|\\.)*")\s*\))\s*\]', re.IGNORECASE)

    @property
    def schema(self) -> dict[str, Any]:
        """{"name", "description", "parameters"}; parameters is the JSON Schema (draft 2020-12) of the arguments, which
        some interfaces want as "input_schema"."""
        return {"name": self.name, "description": self.description, "parameters": self.parameters}

    @property
    def parameters(self) -> dict[str, Any]:
        """The JSON Schema of the arguments."""
        return {
            "type": "object",
            "properties": {
                "query": {"type": "string", "pattern": r"\S", "description": "What to look for, in plain words."},
                "k": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": self.max_k,
                    "default": self.k,
                    "description": "How many documents to return.",
                },
            },
            "required": ["query"],
            "additionalProperties": False,
        }

    @property
    def output_schema(self) -> dict[str, Any]:
        """The JSON Schema of what a call returns."""
        properties = {"id": "integer", "score": "number", "probability": "number", "title": "string", "text": "string"}
        if self.titles is None:
            del properties["title"]
        result = {
            "type": "object",
            "properties": {key: {"type": kind} for key, kind in properties.items()},
            "required": list(properties),
        }
        return {
            "type": "object",
            "properties": {"results": {"type": "array", "items": result}},
            "required": ["results"],
        }

    def openai(self) -> dict[str, Any]:
        """The schema as an entry of ``tools`` of the chat completions interface, which chat templates take too."""
        return {"type": "function", "function": self.schema}

    def __call__(self, query: str, k: int | None = None) -> dict[str, Any]:
        """The k documents found, best first: {"results": [{"id", "score", "probability", "title", "text"}, ...]}.

        score is q . d and probability p(z|x) among these documents; there is a title where the tool was given titles.
        ValueError for a query that is no string, has nothing but spaces or half a surrogate pair, and for k that is no
        integer from 1 to max_k; otherwise what the retriever raises.
        """
        if not isinstance(query, str) or not query.strip():
            raise ValueError(f"query: expected a string that is not empty, got {_shown(query)}")
        if re.search(
            "[\ud800-\udfff]", query
        ):  # JSON may have it, where a model was cut off; tokenizers raise TypeError
            raise ValueError(f"query: expected characters, got half of one (a lone surrogate) in {_shown(query)}")
        wanted = self._wanted(k)
        hits = self.retriever.search(self.retriever.encode_query(query), self.document_embeddings, k=wanted)
        # What a search fills up with where it found fewer has id -1, or None among strings.
        found = [z for z, doc_id in enumerate(hits.ids.tolist()) if doc_id not in (-1, None)]
        return {"results": [self._result(hits, z) for z in found]}

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
        unknown = [key for key in given if key not in ("query", "k")]
        if unknown:
            raise ValueError(f"arguments: expected query and k, got also {', '.join(map(_shown, unknown))}")
        if "query" not in given:
            raise ValueError("query: expected a string, but the argument is missing")
        if "k" in given and given["k"] is None:
            raise ValueError(f"k: expected an integer from 1 to {self.max_k}, got null")
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
        """The text of a document; ValueError where there is none of this id."""
        return _entry(self.documents_tokens, doc_id, "documents_tokens")

    def _wanted(self, k: Any) -> int:
        wanted = self.k if k is None else k
        if isinstance(wanted, float) and wanted.is_integer():
            wanted = int(wanted)  # an integer too, as JSON Schema has it
        if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= self.max_k:
            raise ValueError(f"k: expected an integer from 1 to {self.max_k}, got {_shown(k)}")
        return wanted

    def _result(self, hits: Any, z: int) -> dict[str, Any]:
        doc_id = hits.ids[z] if isinstance(hits.ids[z], str) else int(hits.ids[z])
        result: dict[str, Any] = {
            "id": doc_id,
            "score": float(hits.scores[z]),
            "probability": math.exp(hits.logprobs[z]),
        }
        if self.titles is not None:
            result["title"] = _entry(self.titles, doc_id, "titles")
        result["text"] = self.document(doc_id)
        return result


def _entry(entries: Any, doc_id: int | str, name: str) -> str:
    if isinstance(doc_id, str) and isinstance(entries, Sequence):
        raise ValueError(f"{name}: expected a mapping, as ids of documents are strings, got a sequence")
    try:
        if not isinstance(doc_id, str) and doc_id < 0:  # would silently be an entry counted from the end
            raise IndexError
        entry = entries[doc_id]
    except LookupError:
        raise ValueError(f"{name}: no entry for document id {doc_id}") from None
    if not isinstance(entry, str):
        raise TypeError(f"{name}: expected strings, got {type(entry).__name__} for document id {doc_id}")
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
