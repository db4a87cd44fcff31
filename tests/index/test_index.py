"""FlatIndex as something to live with: what goes in, what is refused, and that an error changes nothing."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ragfast
from ragfast import FlatIndex

X = np.random.default_rng(0).standard_normal((70, 4), dtype=np.float32)
Q = np.random.default_rng(1).standard_normal((3, 4), dtype=np.float32)


@pytest.fixture
def index() -> FlatIndex:
    return FlatIndex.from_vectors(X)


def test_add_in_parts_is_add_at_once() -> None:
    index = FlatIndex(4)
    assert len(index) == 0
    for row in X:
        index.add(row[None])
    index.add(X[:0])
    assert len(index) == 70
    assert index.dim == 4
    assert index.vectors.tobytes() == X.tobytes()
    assert index.ids.tolist() == list(range(70))
    assert index.search(Q).ids.tolist() == FlatIndex.from_vectors(X).search(Q).ids.tolist()


def test_the_index_copies_and_shows_read_only(index: FlatIndex) -> None:
    mine = X.copy()
    other = FlatIndex.from_vectors(mine)
    mine[:] = 0
    assert other.vectors.tobytes() == X.tobytes()
    with pytest.raises(ValueError, match="read-only"):
        index.vectors[0] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        index.vectors.flags.writeable = True
    index.ids[0] = 99
    assert index.ids[0] == 0


def test_ids(index: FlatIndex) -> None:
    ids = np.arange(70) * 3 + 10**12
    named = FlatIndex(4)
    named.add(X[:30], ids[:30])
    named.add(X[30:], ids[30:].astype(np.uint64))
    assert named.ids.tolist() == ids.tolist()
    assert named.search(Q).ids.tolist() == ids[index.search(Q).ids].tolist()


def test_hits_unpack_print_and_pickle(index: FlatIndex) -> None:
    hits = index.search(Q, k=2)
    scores, ids = hits
    assert scores is hits.scores
    assert ids is hits.ids
    assert (scores.dtype, ids.dtype, hits.logprobs.dtype) == (np.float32, np.int64, np.float32)
    assert scores.shape == ids.shape == hits.logprobs.shape == (3, 2)
    assert "Hits(scores=" in repr(hits)
    for same in (copy.deepcopy(hits), pickle.loads(pickle.dumps(hits))):
        assert same.ids.tolist() == ids.tolist()
    assert index.search(Q, k=2, dtype=np.float64).scores.dtype == np.float64
    assert "70 documents" in repr(index)


def test_short_and_empty_results() -> None:
    empty = FlatIndex(4).search(Q, k=2)
    assert empty.scores.tolist() == [[-np.inf] * 2] * 3
    assert empty.ids.tolist() == [[-1, -1]] * 3
    assert empty.logprobs.tolist() == [[-np.inf] * 2] * 3
    short = FlatIndex.from_vectors(X[:1]).search(Q, k=3)
    assert short.ids.tolist() == [[0, -1, -1]] * 3
    assert short.logprobs.tolist() == [[0, -np.inf, -np.inf]] * 3
    assert FlatIndex.from_vectors(X).search(Q[:0], k=3).scores.shape == (0, 3)


def test_float16_is_widened_exactly() -> None:
    half = X.astype(np.float16)
    assert FlatIndex.from_vectors(half.astype(">f2")).vectors.tobytes() == half.astype(np.float32).tobytes()
    assert FlatIndex.from_vectors(half).vectors.tobytes() == half.astype(np.float32).tobytes()
    assert ragfast.search(Q.astype(np.float16), half, 5).scores.dtype == np.float32


def test_copies_and_pickles_are_indexes_of_their_own() -> None:
    for ids in (None, np.arange(70) * 2):
        index = FlatIndex.from_vectors(X[:60], None if ids is None else ids[:60])
        index.add(X[60:61], None if ids is None else ids[60:61])  # leaves room to spare
        for same in (copy.copy(index), copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
            index.add(X[61:62], None if ids is None else [1001 + len(index)])
            same.add(X[62:64], None if ids is None else [7, 9])
            assert same.vectors.tobytes() == X[[*range(61), 62, 63]].tobytes()
            assert same.search(Q).ids.shape == (3, 10)
        assert index.vectors[61:].tobytes() == X[[61] * 3].tobytes()
    assert len(pickle.loads(pickle.dumps(FlatIndex(3)))) == 0


def test_an_index_and_its_snapshots_read_by_the_same_methods(index: FlatIndex) -> None:
    for name in ("search", "gather_scores", "gather_scores_grad", "filter", "ids", "vectors", "metadata", "nbytes"):
        assert getattr(FlatIndex, name) is getattr(ragfast.Snapshot, name)
        assert getattr(FlatIndex, name).__doc__
    assert index.snapshot().search(Q).scores.tobytes() == index.search(Q).scores.tobytes()


def test_a_snapshot_is_freed_without_the_garbage_collector(index: FlatIndex) -> None:
    snapshot = index.snapshot()
    snapshot.search(Q)
    freed = weakref.ref(snapshot)
    gc.disable()
    try:
        index.remove([0])
        del snapshot
        assert freed() is None
    finally:
        gc.enable()


class Tensor:
    """Stands for a tensor of any library: DLPack and a device, nothing else."""

    def __init__(self, array: NDArray[Any], device: int = 1, requires_grad: bool = False) -> None:
        self.array, self.device, self.requires_grad = array, device, requires_grad

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


def test_tensors() -> None:
    assert FlatIndex.from_vectors(Tensor(X)).search(Tensor(Q)).ids.tolist() == ragfast.search(Q, X).ids.tolist()
    with pytest.raises(ValueError, match=r"vectors: a tensor that requires a gradient; pass vectors.detach\(\)"):
        FlatIndex.from_vectors(Tensor(X, requires_grad=True))
    with pytest.raises(ValueError, match=r"queries: expected a tensor in CPU memory, got one on DLPack device 2"):
        FlatIndex(4).search(Tensor(Q, device=2))


def nan_at(row: int) -> NDArray[np.float32]:
    bad = X.copy()
    bad[row, 2] = np.nan
    return bad


def infinity_at(row: int) -> NDArray[np.float32]:
    bad = X.copy()
    bad[row, 1] = -np.inf
    return bad


BAD_VECTORS: list[tuple[Any, type[Exception], str]] = [
    (
        X.astype(np.float64),
        TypeError,
        r"vectors: expected float32 \(or float16, bfloat16\), got float64; np.asarray\(vectors, np.float32\)",
    ),
    (X.astype(np.int32), TypeError, r"vectors: expected float32 .* got int32"),
    (X.astype(np.complex64), TypeError, r"vectors: expected float32 .* got complex64"),
    (np.array([["a"]]), TypeError, r"vectors: expected float32 .* got <U1"),
    ("text", TypeError, r"vectors: expected float32"),
    (None, TypeError, r"vectors: expected float32"),
    ([[1, 2], [3]], TypeError, r"vectors: expected an array, got list"),
    (X[0], ValueError, r"vectors: expected shape \(N, 4\), got \(4,\); pass vectors\[None, :\] for one row"),
    (X[None], ValueError, r"vectors: expected shape \(N, 4\), got \(1, 70, 4\)"),
    (X[:, :3], ValueError, r"vectors: expected shape \(N, 4\), got \(70, 3\)"),
    (X[:, :0], ValueError, r"vectors: expected shape \(N, 4\), got \(70, 0\)"),
    (nan_at(17), ValueError, r"vectors: row 17 holds NaN or an infinity"),
    (infinity_at(69), ValueError, r"vectors: row 69 holds NaN or an infinity"),
]


@pytest.mark.parametrize(("vectors", "error", "message"), BAD_VECTORS)
def test_add_refuses_and_stays_as_it_was(index: FlatIndex, vectors: Any, error: type[Exception], message: str) -> None:
    before = index.search(Q).scores.tobytes()
    with pytest.raises(error, match=message):
        index.add(vectors)
    assert len(index) == 70
    assert index.search(Q).scores.tobytes() == before
    index.add(X)
    assert len(index) == 140


BAD_IDS: list[tuple[Any, type[Exception], str]] = [
    ([5, 6, 5], ValueError, r"ids: expected distinct ids, got 5 2 times"),
    ([1, 2], ValueError, r"ids: expected shape \(3,\), one for each document, got \(2,\)"),
    ([[1, 2, 3]], ValueError, r"ids: expected shape \(3,\).* got \(1, 3\)"),
    ([0, 1, -1], ValueError, r"ids: expected 0 or more, got -1"),
    ([1.0, 2.0, 3.0], TypeError, r"ids: expected integers below 2\*\*63, got float64"),
    (np.array([1, 2, 2**63], np.uint64), ValueError, r"ids: expected less than 2\*\*63, got 9223372036854775808"),
    ([1, 2, 2**70], TypeError, r"ids: expected integers below 2\*\*63, got object"),
    ([[1], [2, 3], [4]], TypeError, r"ids: expected an array, got list"),
    ([1, 1, 1], ValueError, r"ids: expected distinct ids, got 1 3 times"),
    ([7, 8, 101], ValueError, r"ids: expected ids that the index does not hold, got 101"),
    (None, ValueError, r"ids: the 2 documents before were added with ids"),
]


@pytest.mark.parametrize(("ids", "error", "message"), BAD_IDS)
def test_bad_ids(ids: Any, error: type[Exception], message: str) -> None:
    index = FlatIndex.from_vectors(X[:2], [100, 101])
    with pytest.raises(error, match=message):
        index.add(X[2:5], ids)
    assert index.ids.tolist() == [100, 101]
    index.add(X[2:5], [1, 2, 3])
    assert index.ids.tolist() == [100, 101, 1, 2, 3]


def test_ids_after_none(index: FlatIndex) -> None:
    with pytest.raises(ValueError, match="ids: the 70 documents before were added without ids"):
        index.add(X[:1], [500])


BAD_SEARCHES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"queries": Q.astype(np.float64)}, TypeError, r"queries: expected float32 .* got float64; np.asarray\(queries"),
    ({"queries": Q[0]}, ValueError, r"queries: expected shape \(B, 4\), got \(4,\); pass queries\[None, :\]"),
    ({"queries": Q[:, :2]}, ValueError, r"queries: expected shape \(B, 4\), got \(3, 2\)"),
    ({"queries": nan_at(1)}, ValueError, r"queries: row 1 holds NaN or an infinity"),
    ({"queries": infinity_at(2)}, ValueError, r"queries: row 2 holds NaN or an infinity"),
    ({"k": 0}, ValueError, r"k: expected 1 or more, got 0"),
    ({"k": -3}, ValueError, r"k: expected 1 or more, got -3"),
    ({"k": 2.0}, TypeError, r"k: expected an integer of 1 or more, got float"),
    ({"k": True}, TypeError, r"k: expected an integer of 1 or more, got bool"),
    ({"k": 2**31}, ValueError, r"k: expected less than 2\*\*31"),
    ({"n_threads": 0}, ValueError, r"n_threads: expected 1 or more, got 0"),
    ({"n_threads": -1}, ValueError, r"n_threads: expected 1 or more, got -1"),
    ({"n_threads": "2"}, TypeError, r"n_threads: expected an integer of 1 or more, got str"),
    ({"temperature": 0}, ValueError, r"temperature: expected a finite number above 0, got 0"),
    ({"temperature": float("nan")}, ValueError, r"temperature: expected a finite number above 0, got nan"),
    ({"temperature": 10**400}, ValueError, r"temperature: expected a finite number above 0, got inf"),
    ({"temperature": "1.5"}, TypeError, r"temperature: expected a number above 0, got str"),
    ({"temperature": True}, TypeError, r"temperature: expected a number above 0, got bool"),
    ({"temperature": "warm"}, TypeError, r"temperature: expected a number above 0, got str"),
    ({"dtype": np.int32}, TypeError, r"dtype: expected float32 or float64, got int32"),
    ({"dtype": None}, TypeError, r"dtype: expected float32 or float64, got None"),
    ({"dtype": "nonsense"}, TypeError, r"dtype: expected float32 or float64, got 'nonsense'"),
    ({"queries": nan_at(1), "n_threads": 0}, ValueError, r"n_threads: expected 1 or more, got 0"),
    ({"queries": np.ma.array(Q, mask=True)}, TypeError, r"queries: a masked array"),
    (
        {"queries": Q.tolist()},
        TypeError,
        r"queries: expected float32 .* got float64; np.asarray\(queries, np.float32\)",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_SEARCHES)
def test_bad_search(index: FlatIndex, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    before = index.search(Q).scores.tobytes()
    with pytest.raises(error, match=message):
        index.search(**{"queries": Q, "k": 2, **arguments})
    assert index.search(Q).scores.tobytes() == before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_shot_search_refuses_bad_documents(isa: str, dtype: Any) -> None:
    many = np.concatenate([nan_at(60)] * 3).astype(dtype)
    for bad in (nan_at(60).astype(dtype), infinity_at(60).astype(dtype), many):
        with pytest.raises(ValueError, match="vectors: row 60 holds NaN or an infinity"):
            ragfast.search(Q.astype(dtype), bad, 3)
        with pytest.raises(ValueError, match="queries: row 60 holds NaN or an infinity"):
            ragfast.search(bad, X.astype(dtype), 3)
    with pytest.raises(ValueError, match="vectors: row 60 holds NaN or an infinity"):
        ragfast.search(Q[:0], nan_at(60))
    with pytest.raises(TypeError, match="vectors: expected float32 or float64, got int64"):
        ragfast.search(Q, X.astype(int))
    with pytest.raises(ValueError, match="vectors: expected D of at most 1048576, got shape"):
        ragfast.search(np.zeros((1, 2**20 + 1), np.float32), np.zeros((1, 2**20 + 1), np.float32))
    with pytest.raises(ValueError, match=r"vectors: expected shape \(N, D\) with D of 1 or more, got \(70, 0\)"):
        ragfast.search(Q[:, :0], X[:, :0])


def test_float64_scores_that_overflow_are_refused() -> None:
    huge = np.full((2, 2), 1e200)
    with pytest.raises(ValueError, match="overflows float64"):
        ragfast.search(huge, huge)


def test_bad_construction() -> None:
    with pytest.raises(ValueError, match="dim: expected 1 or more, got 0"):
        FlatIndex(0)
    with pytest.raises(ValueError, match="dim: expected at most 1048576"):
        FlatIndex(2**20 + 1)
    with pytest.raises(TypeError, match="dim: expected an integer"):
        FlatIndex(3.5)
    with pytest.raises(ValueError, match="scan: expected one of auto, float32, int8, got 'int7'"):
        FlatIndex(3, scan="int7")
