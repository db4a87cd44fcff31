"""What an index must be after each change, as a dictionary, and what it must find, by sorting everything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragfast.index import Predicate, column

BIG = 2**53 + 1  # float64 does not have it
KINDS = {"year": "int64", "lang": "str", "weight": "float64", "ok": "bool"}
VALUES: dict[str, list[Any]] = {
    "year": [1990, 1991, 1992, BIG, -5],
    "lang": ["de", "en", "日本", "", None],
    "weight": [0.5, -1.0, 2.0**53, math.inf, math.nan],
    "ok": [True, False],
}

Row = dict[str, Any]
PREDICATES: list[tuple[Predicate, Callable[[Row], bool]]] = [
    (column("year") >= 1991, lambda row: row["year"] >= 1991),
    (column("year") == BIG, lambda row: row["year"] == BIG),
    (column("year") < float(2**53) + 2, lambda row: row["year"] < float(2**53) + 2),
    (column("year").between(1990, 1991), lambda row: 1990 <= row["year"] <= 1991),
    (column("year").isin([1990, 1992.0, 2**70]), lambda row: row["year"] in (1990, 1992)),
    (column("year") > 10**30, lambda row: False),
    (column("lang") == "de", lambda row: row["lang"] == "de"),
    (column("lang") != "de", lambda row: row["lang"] not in ("de", None)),
    (column("lang") == "never seen", lambda row: False),
    (column("lang") >= "en", lambda row: row["lang"] is not None and row["lang"] >= "en"),
    (column("lang").isin(["", "日本"]), lambda row: row["lang"] in ("", "日本")),
    (column("lang").is_null(), lambda row: row["lang"] is None),
    (column("weight") <= 0.5, lambda row: row["weight"] <= 0.5),
    (column("weight") != 0.5, lambda row: row["weight"] != 0.5),
    (column("weight") < BIG, lambda row: row["weight"] < BIG),
    (column("weight").is_null(), lambda row: row["weight"] != row["weight"]),
    (column("ok") == True, lambda row: row["ok"]),  # noqa: E712
]


@dataclass(frozen=True)
class Doc:
    id: Any  # int or str
    vector: NDArray[np.float64]  # as it is stored
    row: Row


@dataclass
class Model:
    metric: str
    docs: dict[int, Doc] = field(default_factory=dict)  # by key: the id, or the ordinal of addition of one that is str
    numbering: str = ""  # "numbered", "int" or "str" from the first document on
    with_rows: bool = False
    next_id: int = 0
    names: dict[str, int] = field(default_factory=dict)  # keys of ids that are str, also of those that were removed

    def copy(self) -> Model:
        return replace(self, docs=dict(self.docs), names=dict(self.names))

    def forget(self) -> None:
        """Names that no document has."""
        if self.numbering == "str":
            self.names = self.key_of

    @property
    def key_of(self) -> dict[Any, int]:
        return {doc.id: key for key, doc in self.docs.items()}

    @property
    def no_id(self) -> Any:
        return None if self.numbering == "str" else -1

    def put(self, ids: list[Any] | None, vectors: NDArray[np.float64], rows: list[Row], numbering: str) -> None:
        """Adds documents, or puts them in the place of those with the same ids."""
        if not len(vectors):
            return
        self.numbering, self.with_rows = self.numbering or numbering, bool(rows)
        for i, vector in enumerate(vectors):
            new_id = self.next_id if ids is None else ids[i]
            key = self.names.get(new_id, self.next_id) if numbering == "str" else new_id
            if ids is None or (numbering == "str" and new_id not in self.names):
                self.next_id += 1
            if numbering == "str":
                self.names[new_id] = key
            self.docs[key] = Doc(new_id, vector, rows[i] if rows else {})

    def remove(self, ids: list[Any]) -> int:
        known = self.key_of
        gone = {known[doc_id] for doc_id in ids if doc_id in known}
        for key in gone:
            del self.docs[key]
        return len(gone)

    def scores(self, query: NDArray[np.float32], keys: list[int]) -> NDArray[np.float64]:
        """Of these documents, to the bit."""
        q = query.astype(np.float64)
        docs = np.array([self.docs[key].vector for key in keys]).reshape(len(keys), len(q))
        if self.metric == "l2":
            return -added(np.square(q - docs))
        inner = added(q * docs)
        return inner / np.sqrt(added((q * q)[None])) if self.metric == "cosine" else inner

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: set[Any] | None = None,
        group_by: str | None = None,
        exclude_groups: list[Any] | None = None,
        max_per_group: int | None = None,
    ) -> tuple[NDArray[np.float64], list[list[Any]]]:
        """(scores (B,K), B lists of ids): the best of the documents that are allowed, under the rules of groups."""
        keys = sorted(key for key, doc in self.docs.items() if allowed is None or doc.id in allowed)
        scores = np.full((len(queries), k), -np.inf)
        found: list[list[Any]] = []
        for b, query in enumerate(queries):
            of_keys = self.scores(query, keys)
            taken: Counter[Any] = Counter()
            ids: list[Any] = []
            for i in np.argsort(-of_keys, kind="stable").tolist():  # keys ascend
                doc = self.docs[keys[i]]
                value = doc.row.get(group_by) if group_by is not None else None
                if value is not None:
                    if exclude_groups is not None and exclude_groups[b] == value:
                        continue
                    taken[value] += 1
                    if max_per_group is not None and taken[value] > max_per_group:
                        continue
                scores[b, len(ids)] = of_keys[i]
                ids.append(doc.id)
                if len(ids) == k:
                    break
            found.append(ids + [self.no_id] * (k - len(ids)))
        return scores, found


def added(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums (N,) of terms (N,D) as the contract adds them: 16 lanes, each in order, lanes by halves."""
    lanes = np.zeros((len(terms), 16))
    for i in range(terms.shape[1]):
        lanes[:, i % 16] += terms[:, i]
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


def same(a: Any, b: Any) -> bool:
    """Values of metadata: NaN is NaN."""
    return type(a) is type(b) and (a == b or (a != a and b != b))


def difference(model: Model, index: Any) -> str:
    """What an index or a snapshot has that the model does not, or the other way round; "" where they are equal."""
    if len(index) != len(model.docs):
        return f"len: expected {len(model.docs)}, got {len(index)}"
    ids = index.ids.tolist()
    known = model.key_of
    if Counter(ids) != Counter(list(known)):
        return f"ids: expected {list(known)}, got {ids}"
    docs = [model.docs[known[doc_id]] for doc_id in ids]
    vectors = np.array([doc.vector for doc in docs]).reshape(len(docs), index.dim)
    if not np.array_equal(vectors, index.vectors):
        return f"vectors: expected {vectors}, got {index.vectors}"
    columns = {name: values.tolist() for name, values in index.metadata.items()}
    if set(columns) != (set(KINDS) if model.with_rows else set()):
        return f"metadata: got {sorted(columns)}"
    for name, values in columns.items():
        for doc, value in zip(docs, values, strict=True):
            if not same(value, doc.row[name]):
                return f"{name} of {doc.id!r}: expected {doc.row[name]!r}, got {value!r}"
    return ""
