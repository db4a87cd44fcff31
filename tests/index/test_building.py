"""FlatIndex.build: an index directory from blocks, the same as an index that was given everything at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ragfast
from ragfast import FlatIndex
from ragfast.index import building, readers as sources
from ragfast.index.readers import Block

N, D = 2500, 48
VECTORS = np.random.default_rng(3).standard_normal((N, D)).astype(np.float32)
QUERIES = np.random.default_rng(4).standard_normal((9, D)).astype(np.float32)
IDS = {
    "numbered": None,
    "int": np.random.default_rng(5).permutation(10 * N)[:N],
    "str": [f"document {i}" for i in np.random.default_rng(6).permutation(N)],
}
METADATA = {"year": np.arange(N) % 40 + 1980, "lang": [None if i % 7 == 0 else f"l{i % 5}" for i in range(N)]}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there are several, of whole panels, the first of which has codes."""
    monkeypatch.setattr(building, "SAMPLE_DOCS", 1024)
    monkeypatch.setattr(building, "BATCH_BYTES", 200 * D * 4)


def cut(
    sizes: list[int], ids: Any = None, metadata: dict[str, Any] | None = None, vectors: NDArray[Any] = VECTORS
) -> Iterator[Block]:
    first = 0
    for size in [*sizes, len(vectors) - sum(sizes)]:
        part = slice(first, first + size)
        some = {name: values[part] for name, values in (metadata or {}).items()} or None
        yield Block(vectors[part], None if ids is None else ids[part], some)
        first += size


def same_hits(one: Any, other: Any) -> None:
    assert one.ids.tolist() == other.ids.tolist()
    assert one.scores.tobytes() == other.scores.tobytes()
    assert one.logprobs.tobytes() == other.logprobs.tobytes()


def same_index(built: FlatIndex, expected: FlatIndex) -> None:
    assert len(built) == len(expected)
    assert built.ids.tolist() == expected.ids.tolist()
    assert built.vectors.tobytes() == expected.vectors.tobytes()
    assert {name: values.tolist() for name, values in built.metadata.items()} == {
        name: values.tolist() for name, values in expected.metadata.items()
    }
    for n_threads in (1, 3):
        for queries in (QUERIES[:1], QUERIES):
            options: dict[str, Any] = {"k": 20, "n_threads": n_threads, "dtype": np.float64}
            same_hits(built.search(queries, **options), expected.search(queries, **options))


@pytest.mark.parametrize("numbering", list(IDS))
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_is_what_from_vectors_makes(tmp_path: Path, metric: str, dtype: str, numbering: str) -> None:
    ids = IDS[numbering]
    how: dict[str, Any] = {"dtype": dtype, "metric": metric, "scan": "int8"}
    expected = FlatIndex.from_vectors(VECTORS, ids, metadata=METADATA, **how)
    blocks = cut([1, 1, 0, 31, 1300, 700], ids, METADATA)
    built = FlatIndex.build(tmp_path / "index", blocks, progress=False, **how)
    same_index(built, expected)
    assert built.search(QUERIES, 5).stats.path.tolist() == ["int8"] * len(QUERIES)  # type: ignore[union-attr]
    built.verify()
    year = ragfast.column("year") >= 2010
    same_hits(built.search(QUERIES, 7, filter=year), expected.search(QUERIES, 7, filter=year))
    same_hits(
        built.search(QUERIES, 7, group_by="lang", max_per_group=2),
        expected.search(QUERIES, 7, group_by="lang", max_per_group=2),
    )


@pytest.mark.parametrize("scan", ["auto", "float32"])
@pytest.mark.parametrize("n", [3, 1024, N])
def test_scans_and_sizes(tmp_path: Path, scan: str, n: int) -> None:
    """Too few documents for codes, one batch to the last row, several."""
    built = FlatIndex.build(tmp_path / "index", cut([2], vectors=VECTORS[:n]), scan=scan, progress=False)
    same_index(built, FlatIndex.from_vectors(VECTORS[:n], scan=scan))


def test_plain_arrays(tmp_path: Path) -> None:
    expected = FlatIndex.from_vectors(VECTORS)
    same_index(FlatIndex.build(tmp_path / "one", VECTORS), expected)
    same_index(FlatIndex.build(tmp_path / "block", Block(VECTORS)), expected)
    same_index(FlatIndex.build(tmp_path / "list", [VECTORS[:7], VECTORS[7:]], n_docs=N), expected)
    lists = [VECTORS[:3].astype(np.float16), VECTORS[3:5, ::-1]]
    same_index(
        FlatIndex.build(tmp_path / "kinds", iter(lists)),
        FlatIndex.from_vectors(np.concatenate([lists[0].astype(np.float32), lists[1]])),
    )


def test_of_a_source(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", VECTORS.astype(np.float16))
    source = sources.npy(tmp_path / "vectors.npy", ids=IDS["str"], metadata=METADATA, rows=333)
    built = FlatIndex.build(tmp_path / "index", source, dtype="float16")
    same_index(built, FlatIndex.from_vectors(VECTORS, IDS["str"], dtype="float16", metadata=METADATA))


def test_memory_of_a_block_may_be_used_again(tmp_path: Path) -> None:
    def one_buffer() -> Iterator[Block]:
        vectors, ids = np.empty((100, D), np.float32), np.empty(100, np.int64)
        for first in range(0, N, 100):
            vectors[:], ids[:] = VECTORS[first : first + 100], IDS["int"][first : first + 100]  # type: ignore[index]
            yield Block(vectors, ids)
            vectors[:], ids[:] = np.nan, -1

    same_index(FlatIndex.build(tmp_path / "index", one_buffer()), FlatIndex.from_vectors(VECTORS, IDS["int"]))


@pytest.mark.parametrize("told", [None, 10 * N])
def test_a_quantizer_for_more_documents_than_it_is_chosen_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: int | None
) -> None:
    """Real components, so that a form with a prefix is considered, of a sample that stands for all."""
    monkeypatch.setattr(building, "SAMPLE_DOCS", 2048)
    seen = []
    choose = building.Quantizer.choose

    def spy(n: int, dim: int, rows_at: Any, **options: Any) -> Any:
        rows = np.arange(0, n, max(1, n // 512))
        starts = np.linspace(0, n - 32, 16).astype(int)
        panels = [rows_at(start + np.arange(32)) for start in starts]
        assert all(len(np.unique(panel, axis=0)) == 32 for panel in panels)  # no document beside itself
        assert len(rows_at(rows)) == len(rows)
        seen.append(n)
        return choose(n, dim, rows_at, **options)

    monkeypatch.setattr(building.Quantizer, "choose", spy)
    built = FlatIndex.build(tmp_path / "index", cut([1000]), n_docs=told)
    assert seen == [told or 2048]
    same_index(built, FlatIndex.from_vectors(VECTORS))


def test_no_documents(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="blocks: expected documents, got none"):
        FlatIndex.build(tmp_path / "index", [])
    assert not is_index(tmp_path / "index")
    built = FlatIndex.build(tmp_path / "index", [], dim=5, metric="l2")
    assert (len(built), built.dim, built.metric) == (0, 5, "l2")
    assert FlatIndex.build(tmp_path / "other", [VECTORS[:0]]).dim == D


def is_index(path: Path) -> bool:
    try:
        FlatIndex.open(path)
    except (FileNotFoundError, ragfast.IndexFormatError):
        return False
    return True


def with_value(row: int, value: float) -> NDArray[np.float32]:
    vectors = VECTORS.copy()
    vectors[row, 5] = value
    return vectors


def twice(ids: Any) -> Any:
    ids = list(ids)
    ids[2400] = ids[3]
    return ids


@pytest.mark.parametrize(
    ("blocks", "options", "error", "words"),
    [
        (lambda: cut([2000], vectors=with_value(2300, np.nan)), {}, ValueError, "block 1: .*row 2300 holds NaN"),
        (lambda: cut([2000], vectors=with_value(5, np.inf)), {}, ValueError, "block 0: .*row 5 holds NaN"),
        (
            lambda: cut([2000], vectors=with_value(2001, 1e6)),
            {"dtype": "float16"},
            ValueError,
            "row 2001 holds 1e.06, which float16 rounds to infinity",
        ),
        (
            lambda: cut([2000], vectors=np.where(np.arange(N)[:, None] == 2345, 0, VECTORS)),
            {"metric": "cosine"},
            ValueError,
            "row 2345 holds zeros alone",
        ),
        (
            lambda: cut([2000], twice(IDS["int"])),
            {},
            ValueError,
            "ids: expected distinct ids, got .* in several blocks",
        ),
        (lambda: cut([2000], twice(IDS["str"])), {}, ValueError, "block 1: ids: .*'document "),
        (lambda: [Block(VECTORS, IDS["int"]), VECTORS], {}, ValueError, "block 1: ids: .*with ids"),
        (lambda: [VECTORS, Block(VECTORS, IDS["str"])], {}, ValueError, "block 1: ids: .*without ids"),
        (lambda: [Block(VECTORS, IDS["int"][:-1])], {}, ValueError, "block 0: ids: expected"),  # type: ignore[index]
        (lambda: [VECTORS, VECTORS[:, :-1]], {}, ValueError, r"block 1: vectors: expected shape \(N, 48\)"),
        (lambda: [VECTORS], {"dim": 5}, ValueError, r"block 0: vectors: expected shape \(N, 5\)"),
        (lambda: [VECTORS.astype(np.float64)], {}, TypeError, "expected float32 .* got float64; .* rounds it"),
        (lambda: [Block(VECTORS, None, {"x": [1]})], {}, ValueError, "block 0: column 'x': expected"),
        (lambda: [Block(VECTORS, None, METADATA), VECTORS], {}, ValueError, "block 1: metadata: expected the columns"),
        (lambda: [VECTORS[0]], {}, ValueError, r"vectors: expected shape \(N, D\)"),
        (lambda: 5, {}, TypeError, "blocks: expected an iterable of Blocks or arrays"),
        (lambda: "vectors.npy", {}, TypeError, "ragfast.index.readers reads files"),
        (lambda: [VECTORS], {"metric": "l1"}, ValueError, "metric: expected"),
        (lambda: [VECTORS], {"scan": "int4"}, ValueError, "scan: expected"),
        (lambda: [VECTORS], {"dtype": "float64"}, TypeError, "dtype: expected float32"),
        (lambda: [VECTORS], {"dim": 0}, ValueError, "dim: expected 1 or more"),
        (lambda: [VECTORS], {"n_docs": "many"}, TypeError, "n_docs: expected an integer"),
    ],
)
def test_an_error_leaves_nothing(
    tmp_path: Path, blocks: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    path = tmp_path / "index"
    with pytest.raises(error, match=words):
        FlatIndex.build(path, blocks(), **options)
    assert not is_index(path)
    assert not path.exists() or {file.name for file in path.iterdir()} <= {"lock"}
    before = FlatIndex.build(path, VECTORS[:100])
    files = sorted(os.listdir(path))
    with pytest.raises(error, match=words):
        FlatIndex.build(path, blocks(), **options)
    assert sorted(os.listdir(path)) == files
    same_index(FlatIndex.open(path), before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> Iterator[Any]:
        yield VECTORS
        raise error

    path = tmp_path / "index"
    before = FlatIndex.build(path, VECTORS[:100])
    files = sorted(os.listdir(path))
    with pytest.raises(error):
        FlatIndex.build(path, interrupted())
    assert sorted(os.listdir(path)) == files
    same_index(FlatIndex.open(path), before)
    after = FlatIndex.build(path, VECTORS)
    same_index(FlatIndex.open(path), after)
    same_index(before, FlatIndex.from_vectors(VECTORS[:100]))  # its files stay readable


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index"
    before = FlatIndex.build(path, VECTORS[:100])

    def full(out: Any, parts: Any, stopped: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building, "_append", full)
    with pytest.raises(OSError, match="No space left"):
        FlatIndex.build(path, VECTORS)
    same_index(FlatIndex.open(path), before)


def test_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    FlatIndex.build(tmp_path / "quick", VECTORS)
    assert capsys.readouterr().err == ""  # before two seconds nothing shows
    monkeypatch.setattr(building, "PROGRESS_DELAY", 0)
    FlatIndex.build(tmp_path / "shown", VECTORS, n_docs=N)
    shown = capsys.readouterr().err
    assert "Building the index" in shown
    assert "documents/s" in shown
    FlatIndex.build(tmp_path / "silent", VECTORS, progress=False)
    assert capsys.readouterr().err == ""


def test_without_tqdm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert len(FlatIndex.build(tmp_path / "index", VECTORS)) == N


CONSTANT = """if True:
    import resource, sys
    import numpy as np
    from ragfast.index import building
    building.SAMPLE_DOCS = 2048
    building.BATCH_BYTES = 2**20
    rows = np.random.default_rng(0).standard_normal((1000, 256)).astype(np.float32)
    settings = None, "float32", "ip", "int8", None, False
    building.build(sys.argv[1] + "/warm", [rows] * 4, *settings)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    building.build(sys.argv[1] + "/large", (rows for _ in range(200)), *settings)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(grown * (1 if sys.platform == "darwin" else 1024))
"""


def test_memory_is_constant(tmp_path: Path) -> None:
    """200 MB of vectors and 50 MB of codes: less than a quarter of them is ever in memory. Without the opening at the
    end, which reads the codes."""
    done = subprocess.run([sys.executable, "-c", CONSTANT, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50e6
