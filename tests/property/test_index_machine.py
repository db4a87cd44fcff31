"""FlatIndex beside a dictionary: any sequence of changes, searches, saves, crashes and mistakes.

A failure prints the steps that lead to it and a line ``@reproduce_failure(...)``. CI runs few examples, always the
same; ``--hypothesis-profile=explore`` others, and RAGFAST_MACHINE_EXAMPLES=1000 many.
"""

from __future__ import annotations

import errno
import math
import os
import pickle
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import LOSE_POWER, Faults, PowerLoss
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from index_model import PREDICATES, VALUES, Model, Row, added, difference
from numpy.typing import NDArray
from oracle import canonical_score, log_softmax

from ragfast import FlatIndex, IndexFormatError, Snapshot, column
from ragfast.index import Predicate, writing

SOME_IDS: dict[str, list[Any]] = {
    "int": [0, 1, 2, 3, 7, 31, 32, 33, 40, 2**31, 2**62, 2**63 - 1],
    "str": ["a", "b", "ä", "日本", "0", "1", "x y", "\0", "a\0", "\U0001f600", "-1", "None"],
    "numbered": list(range(12)),
}
SMALL = {"MIN_CAPACITY": 4, "MIN_REMOVED": 2, "MAX_SEGMENTS": 4, "SEALED_ROWS": 8}
MANY = 1100  # more than where codes begin to serve a scan="auto"
UNITS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}

seeds = st.integers(0, 2**32)
some = st.lists(st.integers(0, 11), max_size=5, unique=True)


class IndexMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.path = self.directory / "index"
        self.saved: Model | None = None  # what the directory holds
        self.snapshots: list[tuple[Snapshot, Model]] = []
        self.n_made = 0

    @initialize(
        dim=st.sampled_from([1, 3, 16, 37]),
        scan=st.sampled_from(["auto", "float32", "int8", "int8"]),
        dtype=st.sampled_from(["float32", "float32", "float16", "bfloat16"]),
        metric=st.sampled_from(["ip", "cosine", "l2"]),
        kind=st.sampled_from(["numbered", "int", "str"]),
        with_rows=st.booleans(),
        small=st.booleans(),
        n=st.sampled_from([0, 20, 100, 100]),
    )
    def begin(
        self, dim: int, scan: str, dtype: str, metric: str, kind: str, with_rows: bool, small: bool, n: int
    ) -> None:
        self.patch = pytest.MonkeyPatch()
        if small:  # segments as in an index of millions
            for limit, rows in SMALL.items():
                self.patch.setattr(writing, limit, rows)
        self.dim, self.scan, self.dtype, self.metric = dim, scan, dtype, metric
        self.kind, self.with_rows = kind, with_rows
        self.index, self.model = self.empty()
        self.version = self.index.version
        if n:
            self.add_many(n, n)
        if n == 100:  # rows of removed documents are there from the beginning
            gone = list(self.model.key_of)[::3]
            self.model.remove(gone)
            self.index.remove(gone)

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.directory)

    # ---- what is drawn

    def empty(self) -> tuple[FlatIndex, Model]:
        return FlatIndex(self.dim, scan=self.scan, dtype=self.dtype, metric=self.metric), Model(self.metric)

    def vectors(self, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Few different ones, so that scores are equal; or many, that every dtype holds exactly."""
        if rng.random() < 0.5:
            x = rng.integers(-2, 3, (n, self.dim)).astype(np.float32)
        else:
            x = np.round(rng.standard_normal((n, self.dim)) * 16).clip(-127, 127).astype(np.float32) / 16
            if self.dtype == "float32" and rng.random() < 0.5:
                x = rng.standard_normal((n, self.dim)).astype(np.float32)
        if self.metric == "cosine":
            x[~x.any(axis=1), 0] = 1
        return x

    def rows(self, n: int, rng: np.random.Generator) -> list[Row]:
        if not self.with_rows:
            return []
        return [{name: values[rng.integers(len(values))] for name, values in VALUES.items()} for _ in range(n)]

    def metadata(self, rows: list[Row], rng: np.random.Generator) -> Any:
        if not self.with_rows:
            return None
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in VALUES}
        if rows and rng.random() < 0.5:
            columns = {name: np.array(values, object if name == "lang" else None) for name, values in columns.items()}
        if not rows:  # a list of nothing has no kind
            kinds = {"year": np.int64, "lang": object, "weight": np.float64, "ok": np.bool_}
            columns = {name: np.empty(0, kind) for name, kind in kinds.items()}
        return columns

    def given(self, ids: list[Any], rng: np.random.Generator) -> Any:
        """As a list or an array."""
        if self.kind == "str":
            return np.array(ids, object) if rng.random() < 0.3 else ids
        return np.array(ids, np.uint64 if rng.random() < 0.3 else np.int64)

    def ids(self, some: list[int]) -> list[Any]:
        return [SOME_IDS[self.kind][i] for i in some]

    # ---- changes

    def changed(self, change: Callable[[], object], vectors: NDArray[np.float32], rows: list[Row], ids: Any) -> None:
        """Makes the change, of documents that come or are replaced, here and in the model."""
        before = self.index.version
        change()
        if len(vectors):
            assert self.index.version > before
        first = self.model.next_id
        self.model.put(ids, vectors.astype(np.float64), rows, self.kind)
        if self.metric == "cosine" and len(vectors):  # how they were rounded is the index's affair
            x = vectors.astype(np.float64)
            units = x / np.sqrt(added(x * x))[:, None]
            stored = dict(zip(self.index.ids.tolist(), self.index.vectors.astype(np.float64), strict=True))
            known = self.model.key_of
            for i, unit in enumerate(units):
                doc_id = first + i if ids is None else ids[i]
                vector, key = stored[doc_id], known[doc_id]
                assert (np.abs(vector - unit) <= UNITS[self.dtype] * np.abs(unit) + 2.0**-24).all()
                self.model.docs[key] = replace(self.model.docs[key], vector=vector)

    @rule(some=some, seed=seeds)
    def add(self, some: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        vectors, rows = self.vectors(len(some), rng), self.rows(len(some), rng)
        metadata = self.metadata(rows, rng)
        if self.kind == "numbered":
            self.changed(lambda: self.index.add(vectors, metadata=metadata), vectors, rows, None)
            return
        ids = self.ids(some)
        if set(ids) & set(self.model.key_of):
            self.refused(lambda: self.index.add(vectors, self.given(ids, rng), metadata))
            ids = [doc_id for doc_id in ids if doc_id not in self.model.key_of]
            vectors, rows = self.vectors(len(ids), rng), self.rows(len(ids), rng)
            metadata = self.metadata(rows, rng)
        self.changed(lambda: self.index.add(vectors, self.given(ids, rng), metadata), vectors, rows, ids)

    @precondition(lambda self: len(self.model.docs) < MANY)
    @rule(n=st.sampled_from([32, 70, 70, MANY]), seed=seeds)
    def add_many(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        vectors, rows = self.vectors(n, rng), self.rows(n, rng)
        numbers = (10_000 + MANY * self.n_made + rng.permutation(n)).tolist()
        self.n_made += 1
        ids = {"numbered": None, "int": numbers, "str": [f"many {i}" for i in numbers]}[self.kind]
        self.changed(lambda: self.index.add(vectors, ids, self.metadata(rows, rng)), vectors, rows, ids)

    @rule(some=some, seed=seeds)
    def upsert(self, some: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        ids = self.ids(some)
        if self.kind == "numbered":
            if not self.model.numbering:
                return
            if not set(ids) <= set(self.model.key_of):
                x = self.vectors(len(ids), rng)
                self.refused(lambda: self.index.upsert(ids, x, self.metadata(self.rows(len(ids), rng), rng)))
            ids = [doc_id for doc_id in ids if doc_id in self.model.key_of]
        vectors, rows = self.vectors(len(ids), rng), self.rows(len(ids), rng)
        metadata = self.metadata(rows, rng)
        self.changed(lambda: self.index.upsert(self.given(ids, rng), vectors, metadata), vectors, rows, ids)

    @precondition(lambda self: self.model.numbering)
    @rule(some=some, missing_ok=st.booleans(), seed=seeds, most=st.booleans())
    def remove(self, some: list[int], missing_ok: bool, seed: int, most: bool) -> None:
        rng = np.random.default_rng(seed)
        ids = self.ids(some)
        if most and len(self.model.docs) > len(SOME_IDS[self.kind]):
            held = list(self.model.key_of)
            ids += [held[i] for i in rng.permutation(len(held))[: int(rng.integers(len(held)))]]
        missing = not set(ids) <= set(self.model.key_of)
        if missing and not missing_ok:
            self.refused(lambda: self.index.remove(self.given(ids, rng)))
            return
        before = self.index.version
        n_gone = self.model.remove(ids)
        assert self.index.remove(self.given(ids, rng), missing_ok=missing_ok) == n_gone
        assert self.index.version > before or n_gone == 0

    @rule()
    def compact(self) -> None:
        self.index.compact()
        self.model.forget()

    @rule(some=some, seed=seeds, twice=st.booleans())
    def swap(self, some: list[int], seed: int, twice: bool) -> None:
        rng = np.random.default_rng(seed)
        other, model = self.empty()
        vectors, rows = self.vectors(len(some), rng), self.rows(len(some), rng)
        mine, self.index, self.model = (self.index, self.model), other, model
        ids = None if self.kind == "numbered" else self.ids(some)
        self.changed(lambda: other.add(vectors, ids, self.metadata(rows, rng)), vectors, rows, ids)
        self.index, model, self.model = mine[0], self.model, mine[1]
        before, version = self.index.swap(other), self.index.version
        assert difference(self.model, before) == ""
        assert version > self.version
        self.snapshots = [*self.snapshots[-2:], (before, self.model)]
        self.model = model.copy()
        self.model.forget()
        if model.docs and twice:  # each goes its own way
            other.remove(list(model.key_of)[:1])
            assert self.index.version == version

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def swap_back(self, data: st.DataObject) -> None:
        snapshot, model = data.draw(st.sampled_from(self.snapshots))
        self.index.swap(snapshot)
        self.model = model.copy()
        self.model.forget()

    @rule()
    def pickled(self) -> None:
        self.index = pickle.loads(pickle.dumps(self.index))
        self.model.forget()
        assert self.index.version >= self.version

    # ---- mistakes

    def refused(self, call: Callable[[], object]) -> None:
        version = self.index.version
        with pytest.raises((ValueError, TypeError)):
            call()
        assert self.index.version == version
        assert difference(self.model, self.index) == ""

    @rule(seed=seeds, which=st.integers(0, 59))
    def mistake(self, seed: int, which: int) -> None:
        rng = np.random.default_rng(seed)
        n = 3
        x, rows = self.vectors(n, rng), self.rows(n, rng)
        ids = None if self.kind == "numbered" else [i if self.kind == "int" else f"new {i}" for i in range(90, 90 + n)]
        metadata = self.metadata(rows, rng)
        bad = x.copy()
        bad[rng.integers(n), rng.integers(self.dim)] = rng.choice([np.nan, np.inf])
        index, other_ids = self.index, ["p", "q", "r"] if self.kind != "str" else [91, 92, 93]
        mistakes: list[Callable[[], object]] = [
            lambda: index.add(bad, ids, metadata),
            lambda: index.add(x[:, :-1], ids, metadata),
            lambda: index.add(x.astype(np.float64), ids, metadata),
            lambda: index.add(x, ids, {**(metadata or {}), "another": [1.5, None, 2]}),
            lambda: index.add(x, [1, 2, 1], metadata),
            lambda: index.add(x, ["a", "b", "a"], metadata),
            lambda: index.add(x, ["c", "d"], metadata),
            lambda: index.add(x, [-1, 2, 3], metadata),
            lambda: index.add(x, ["new 1", "", "new 2"], metadata),
            lambda: index.add(x, ["new 1", "\ud800", "new 2"], metadata),
            lambda: index.upsert(None, x, metadata),  # type: ignore[arg-type]
            lambda: index.upsert([1, 1, 2], x, metadata),
            lambda: index.swap(FlatIndex(self.dim + 1)),
            lambda: index.swap(3),  # type: ignore[arg-type]
            lambda: index.search(x, 0),
            lambda: index.search(bad),
            lambda: index.search(x, filter=np.ones(len(index) + 1, bool)),
            lambda: index.search(x, max_per_group=1),
        ]
        if self.model.numbering:  # before the first document any column may come, and either kind of id
            mistakes += [
                lambda: index.search(x, group_by="no such column", max_per_group=1),
                lambda: index.search(x, filter=column("no such column") == 1),
                lambda: index.add(x, other_ids, metadata),
                lambda: (
                    index.add(x, ids if self.kind == "numbered" else None, metadata) if ids else index.search(x, -1)
                ),
                lambda: index.remove(other_ids),
                lambda: index.search(x, filter=other_ids),
            ]
            if self.with_rows:
                mistakes += [
                    lambda: index.add(x, ids),
                    lambda: index.add(x, ids, {**metadata, "lang": ["a", "b", 3]}),
                    lambda: index.add(x, ids, {**metadata, "ok": [True, False]}),
                    lambda: index.add(x, ids, {name: metadata[name] for name in ("year", "lang", "ok")}),
                    lambda: index.search(x, group_by="weight", max_per_group=1),
                    lambda: index.search(x, group_by="lang", max_per_group=0),
                    lambda: index.search(x, group_by="lang", exclude_groups=["de"]),
                ]
        if self.metric == "cosine":
            mistakes += [lambda: index.add(x * 0, ids, metadata), lambda: index.search(x * 0)]
        self.refused(mistakes[which % len(mistakes)])

    # ---- searches

    @rule()
    def look(self) -> None:
        self.snapshots = [*self.snapshots[-2:], (self.index.snapshot(), self.model.copy())]

    @rule(data=st.data(), seed=seeds)
    def search(self, data: st.DataObject, seed: int) -> None:
        for more in range(4):
            self.searched(self.index, self.model, data, seed + more)

    @rule(data=st.data(), seed=seeds)
    def search_again(self, data: st.DataObject, seed: int) -> None:
        """Searches cost little, and should be many."""
        self.search(data, seed)

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data(), seed=seeds)
    def search_what_was(self, data: st.DataObject, seed: int) -> None:
        snapshot, model = data.draw(st.sampled_from(self.snapshots))
        self.searched(snapshot, model, data, seed)

    def searched(self, index: FlatIndex | Snapshot, model: Model, data: st.DataObject, seed: int) -> None:
        rng = np.random.default_rng(seed)
        queries = self.vectors(data.draw(st.integers(0, 3), "B"), rng)
        n = len(model.docs)
        k = data.draw(st.integers(1, 6) | st.sampled_from([max(1, n), n + 2]), "k")
        rules: dict[str, Any] = {}
        allowed = None
        how = data.draw(st.sampled_from(["all", "mask", "ids", "predicate", "predicate"]), "filter")
        if how == "mask":
            mask = rng.random(n) < rng.choice([0.0, 0.05, 0.5, 1.0])
            rules["filter"], allowed = mask, set(index.ids[mask].tolist())
        elif how == "ids" and model.numbering:
            ids = [doc_id for doc_id in model.key_of if rng.random() < 0.3] + SOME_IDS[model.numbering][:3] * 2
            rules["filter"], allowed = self.given(ids, rng), set(ids)
        elif how == "predicate" and model.with_rows:
            rules["filter"], true = self.predicate(data)
            allowed = {doc.id for doc in model.docs.values() if true(doc.row)}
        if "filter" in rules and data.draw(st.booleans(), "prepared"):
            made = index.filter(rules["filter"])
            assert allowed is not None
            assert len(made) == len(allowed & set(model.key_of))
            rules["filter"] = self.passed_on(made, how, index, model.numbering)
        if model.with_rows and data.draw(st.booleans(), "rules"):
            group = data.draw(st.sampled_from(["year", "lang"]), "group")
            values = [*VALUES[group], None]
            exclude_groups = [values[rng.integers(len(values))] for _ in queries]
            rules |= data.draw(
                st.sampled_from(
                    [
                        {"max_per_group": 1},
                        {"max_per_group": 2},
                        {"exclude_groups": exclude_groups},
                        {"exclude_groups": exclude_groups, "max_per_group": 1},
                    ]
                ),
                "rule",
            )
            rules["group_by"] = group
        plain = {name: value for name, value in rules.items() if name != "filter"}
        scores, ids_found = model.search(queries, k, allowed, **plain)
        temperature = data.draw(st.sampled_from([1.0, 0.25]), "temperature")
        dtype = data.draw(st.sampled_from([np.float64, np.float32]), "dtype")
        threads = data.draw(st.sampled_from([1, 2]), "threads")
        hits = index.search(queries, k, dtype=dtype, temperature=temperature, n_threads=threads, **rules)
        assert hits.ids.tolist() == ids_found
        assert hits.scores.dtype == hits.logprobs.dtype == dtype
        np.testing.assert_array_equal(hits.scores, scores.astype(dtype))
        expected = np.array([log_softmax(row, temperature) for row in scores]).reshape(scores.shape)
        near = 1e-12 if dtype is np.float64 else 1e-6
        np.testing.assert_allclose(hits.logprobs, expected, rtol=near, atol=near)
        asked = np.array(ids_found, object if model.numbering == "str" else np.int64).reshape(scores.shape)
        np.testing.assert_array_equal(index.gather_scores(queries, asked, dtype=np.float64), scores)

    def passed_on(self, made: Any, how: str, index: Any, numbering: str) -> Any:
        """The filter, maybe by way of another version: there a mask is refused, and all else looked at anew."""
        for other, model in self.snapshots[-1:]:
            if model.numbering != numbering:
                continue
            try:
                there = other.filter(made)
            except ValueError:
                assert how == "mask"
            else:
                assert how != "mask" or other.ids.tolist() == index.ids.tolist()
                return there
        return made

    def predicate(self, data: st.DataObject) -> tuple[Predicate, Callable[[Row], bool]]:
        """One of a table, or two together."""
        predicate, true = data.draw(st.sampled_from(PREDICATES), "predicate")
        other, also = data.draw(st.sampled_from(PREDICATES), "other")
        sign = data.draw(st.sampled_from(["", "&", "|", "& ~"]), "sign")
        if sign == "&":
            return predicate & other, lambda row: true(row) and also(row)
        if sign == "|":
            return predicate | other, lambda row: true(row) or also(row)
        if sign == "& ~":
            return predicate & ~other, lambda row: true(row) and not also(row)
        return predicate, true

    # ---- files

    @rule()
    def save(self) -> None:
        with Faults().installed():  # none, and no waiting for the disk
            self.index.save(self.path)
        self.saved = self.model.copy()

    def tell_apart(self) -> None:
        """Makes what is saved and what is not yet differ in what can be seen, or not at all."""
        if self.saved is not None and difference(self.saved, self.index) == "":
            self.save()

    def opened(self) -> tuple[FlatIndex | None, Model | None]:
        """The index that the directory holds, and which of the two it may hold that is: the one saved last, or the one
        of now."""
        candidates = [self.saved, self.model]
        try:
            index = FlatIndex.open(self.path)
        except (IndexFormatError, FileNotFoundError):
            assert self.saved is None
            return None, None
        differences = [difference(model, index) for model in candidates if model is not None]
        assert "" in differences, differences
        return index, next(m for m in candidates if m is not None and difference(m, index) == "").copy()

    @rule(mmap=st.sampled_from([True, False, "vectors"]), verify=st.booleans(), save=st.booleans())
    def open(self, mmap: Any, verify: bool, save: bool) -> None:
        if save or self.saved is None:
            self.save()
        self.snapshots = [*self.snapshots[-2:], (self.index.snapshot(), self.model)]
        self.index = FlatIndex.open(self.path, mmap=mmap, verify=verify)
        assert self.saved is not None
        self.model = self.saved.copy()
        how = (self.index.dim, self.index.scan, self.index.dtype, self.index.metric)
        assert how == (self.dim, self.scan, self.dtype, self.metric)
        self.version = self.index.version
        self.index.verify()

    @rule(step=st.integers(0, 60), seed=seeds)
    def crash(self, step: int, seed: int) -> None:
        """The power goes while the index is saved; whatever is in memory is gone."""
        self.tell_apart()
        disk = Faults(step, LOSE_POWER)
        try:
            with disk.installed():
                self.index.save(self.path)
        except PowerLoss:
            disk.lose_unsynced(random.Random(seed))
        else:
            self.saved = self.model.copy()
        index, self.saved = self.opened()
        if index is None or self.saved is None:
            self.index, self.model = self.empty()
        else:
            self.index, self.model = index, self.saved.copy()
        self.version = self.index.version

    @rule(step=st.integers(0, 60), code=st.sampled_from([errno.ENOSPC, errno.EIO]))
    def save_fails(self, step: int, code: int) -> None:
        """An error of the disk: the index in memory goes on."""
        self.tell_apart()
        disk = Faults(step, code)
        version = self.index.version
        try:
            with disk.installed():
                self.index.save(self.path)
        except OSError:
            assert disk.failed
            _, self.saved = self.opened()
        else:
            self.saved = self.model.copy()
        assert self.index.version == version

    # ---- always

    @invariant()
    def is_what_the_model_is(self) -> None:
        for index, model in [(self.index, self.model), *self.snapshots]:
            assert difference(model, index) == ""
        assert self.index.version >= self.version
        self.version = self.index.version
        known = self.model.key_of
        for doc_id in SOME_IDS[self.kind]:
            assert (doc_id in self.index) == (doc_id in known)


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(
    max_examples=int(os.environ.get("RAGFAST_MACHINE_EXAMPLES", "80")),
    stateful_step_count=30,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


def test_the_model_adds_as_the_oracle_does() -> None:
    rng = np.random.default_rng(7)
    for dim in (1, 15, 16, 37, 64):
        model = Model("ip")
        vectors = rng.standard_normal((5, dim)).astype(np.float32).astype(np.float64)
        model.put(None, vectors, [], "numbered")
        query = rng.standard_normal(dim).astype(np.float32)
        scores = model.scores(query, list(model.docs))
        assert scores.tolist() == [canonical_score(query.astype(np.float64), vector) for vector in vectors]
        distances = replace(model, metric="l2").scores(query, list(model.docs))
        gaps = query.astype(np.float64) - vectors
        assert distances.tolist() == [-canonical_score(gap, gap) for gap in gaps]
        lengths = math.sqrt(canonical_score(query.astype(np.float64), query.astype(np.float64)))
        cosines = replace(model, metric="cosine").scores(query, list(model.docs))
        assert cosines.tolist() == [score / lengths for score in scores.tolist()]
