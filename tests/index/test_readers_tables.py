"""Sources of the extra `arrow`: Parquet, Arrow in memory and in files, and datasets of Hugging Face."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ragfast.index import readers as sources
from ragfast.index.readers import Source

pa = pytest.importorskip("pyarrow", reason="pyarrow, the extra arrow, is not installed")
pq = pytest.importorskip("pyarrow.parquet")

N, D = 23, 4
VECTORS = np.random.default_rng(7).standard_normal((N, D)).astype(np.float32)
KEYS = [f"d{i}" for i in range(N)]
YEARS = np.arange(2000, 2000 + N)


def fixed(vectors: NDArray[Any]) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def lists(vectors: NDArray[Any], kind: Any = pa.ListArray) -> Any:
    offset_type = pa.int32() if kind is pa.ListArray else pa.int64()
    offsets = pa.array(np.arange(len(vectors) + 1) * vectors.shape[1], offset_type)
    return kind.from_arrays(offsets, pa.array(vectors.ravel()))


def large(vectors: NDArray[Any]) -> Any:
    return lists(vectors, pa.LargeListArray)


def tensors(vectors: NDArray[Any]) -> Any:
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [vectors.shape[1]]), fixed(vectors))


def table(make: Callable[[NDArray[Any]], Any] = fixed, vectors: NDArray[Any] = VECTORS) -> Any:
    return pa.table({"embedding": make(vectors), "key": KEYS, "year": YEARS, "unread": [[]] * N})


def joined(source: Source, what: str = "vectors") -> NDArray[Any]:
    return np.concatenate([getattr(block, what) for block in source])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("make", [fixed, lists, large])
@pytest.mark.parametrize("rows", [5, 100])
def test_parquet(tmp_path: Path, make: Callable[[NDArray[Any]], Any], dtype: Any, rows: int) -> None:
    vectors = VECTORS.astype(dtype)
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "none.parquet"]
    whole = table(make, vectors)
    for path, part in zip(paths, (whole[:13], whole[13:], whole[:0]), strict=True):
        pq.write_table(part, path, row_group_size=6)
    source = sources.parquet(paths, ids="key", metadata=("year",), rows=rows)
    assert source.n_docs == N
    assert source.dim == (D if make is fixed else None)
    for _ in range(2):
        assert all(len(block.vectors) <= rows and block.vectors.dtype == dtype for block in source)
        np.testing.assert_array_equal(joined(source), vectors)
        assert joined(source, "ids").tolist() == KEYS
        assert [year for block in source for year in (block.metadata or {})["year"]] == YEARS.tolist()
    assert next(iter(sources.parquet(paths[0]))).metadata is None


@pytest.mark.parametrize("make", [fixed, lists, large, tensors])
def test_arrow_in_memory_is_not_copied(make: Callable[[NDArray[Any]], Any]) -> None:
    given = table(make)
    source = sources.arrow(given, ids="year", rows=10)
    assert (source.n_docs, [len(block.vectors) for block in source]) == (N, [10, 10, 3])
    assert all(np.shares_memory(VECTORS, block.vectors) and not block.vectors.flags.writeable for block in source)
    assert joined(source, "ids").dtype == np.int64
    np.testing.assert_array_equal(joined(source, "ids"), YEARS)
    np.testing.assert_array_equal(joined(sources.arrow(given[5:])), VECTORS[5:])  # slices
    batches = given.to_batches(max_chunksize=7)
    for several in (batches, iter(batches), pa.RecordBatchReader.from_batches(given.schema, batches)):
        np.testing.assert_array_equal(joined(sources.arrow(several)), VECTORS)
    np.testing.assert_array_equal(joined(sources.arrow(batches[1])), VECTORS[7:14])


@pytest.mark.parametrize("stream", [False, True])
def test_arrow_files(tmp_path: Path, stream: bool) -> None:
    import pyarrow.ipc

    given = table(lists)
    path = tmp_path / "x.arrow"
    with (pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file)(path, given.schema) as writer:
        writer.write_table(given, max_chunksize=9)
    source = sources.arrow(path, ids="key", rows=6)
    assert source.n_docs == (None if stream else N)
    for _ in range(2):
        assert [len(block.vectors) for block in source] == [6, 3, 6, 3, 5]
        np.testing.assert_array_equal(joined(source), VECTORS)
        assert joined(source, "ids").tolist() == KEYS


def test_metadata_of_every_kind() -> None:
    columns = {
        "int": pa.array([1, 2], pa.uint8()),
        "float": pa.array([0.5, None], pa.float32()),
        "bool": pa.array([True, False]),
        "str": pa.array(["a", None], pa.large_string()),
        "words": pa.array(["x", "x"]).dictionary_encode(),
    }
    given = pa.table({"embedding": fixed(VECTORS[:2]), **columns})
    (block,) = sources.arrow(given, ids="words", metadata=tuple(columns))
    found = {name: (values.dtype.kind, values.tolist()) for name, values in (block.metadata or {}).items()}
    assert np.isnan(found["float"][1].pop())
    assert found == {
        "int": ("i", [1, 2]),
        "float": ("f", [0.5]),
        "bool": ("b", [True, False]),
        "str": ("O", ["a", None]),
        "words": ("O", ["x", "x"]),
    }
    assert block.ids.tolist() == ["x", "x"]


def with_vectors(values: list[Any], kind: Any = None) -> Any:
    return pa.table({"embedding": pa.array(values, kind or pa.list_(pa.float32()))})


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (with_vectors([[1.0, 2.0]] * 3 + [[1.0]]), ValueError, "row 3 has 1 values where others have 2"),
        (with_vectors([[1.0, 2.0], None]), ValueError, "row 1 is null"),
        (with_vectors([[1.0, 2.0]] * 3 + [None], pa.list_(pa.float32(), 2)), ValueError, "row 3 is null"),
        (with_vectors([[1.0, 2.0]] * 3 + [[None, 1.0]]), ValueError, "row 3 holds a null"),
        (with_vectors([[]]), ValueError, "D of 1 or more, got 0"),
        (with_vectors([[1]], pa.list_(pa.int32())), TypeError, "expected float32 or float16 .* got list<.*int32>"),
        (with_vectors([[1]], pa.list_(pa.float64())), TypeError, "got list<.*double>; rounded=True rounds"),
        (with_vectors(["text"], pa.string()), TypeError, "expected lists of float32 or float16, got string"),
        (pa.table({"a": [1], "b": [2]}), ValueError, "no column 'embedding'; there are 'a', 'b'"),
    ],
)
def test_vectors_that_are_wrong(tmp_path: Path, given: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=rf"^table: .*{words}"):
        list(sources.arrow(given, rows=2))
    pq.write_table(given, tmp_path / "x.parquet")
    with pytest.raises(error, match=rf"x\.parquet: .*{words}"):
        list(sources.parquet(tmp_path / "x.parquet", rows=2))


@pytest.mark.parametrize(
    ("column", "options", "error", "words"),
    [
        (pa.array([1, None]), {"ids": "x"}, ValueError, "column 'x': row 1 is null"),
        (pa.array(["a", None]), {"ids": "x"}, ValueError, "column 'x': row 1 is null"),
        (pa.array([0.5, 1.0]), {"ids": "x"}, TypeError, "expected integers or strings for ids, got double"),
        (pa.array([1, 2**63], pa.uint64()), {"ids": "x"}, ValueError, "9223372036854775808"),
        (pa.array([True, None]), {"metadata": ["x"]}, ValueError, "column 'x': row 1 is null"),
        (pa.array([1, None]), {"metadata": ["x"]}, ValueError, "column 'x': row 1 is null"),
        (pa.array([[1], [2]]), {"metadata": ["x"]}, TypeError, "booleans or strings, got list"),
        (pa.array([1, 2]), {"metadata": ["y"]}, ValueError, "no column 'y'; there are 'embedding', 'x'"),
    ],
)
def test_columns_that_are_wrong(column: Any, options: dict[str, Any], error: type[Exception], words: str) -> None:
    given = pa.table({"embedding": fixed(VECTORS[:2]), "x": column})
    with pytest.raises(error, match=words):
        list(sources.arrow(given, **options))


def test_float64_is_rounded_where_asked() -> None:
    given = table(lists, VECTORS.astype(np.float64) + 1e-12)
    vectors = joined(sources.arrow(given, rounded=True))
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, VECTORS)


def test_files_of_different_dimensions(tmp_path: Path) -> None:
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for make, late in ((fixed, False), (lists, True)):  # from what the files say of themselves, or as they are read
        for path, dim in zip(paths, (3, 4), strict=True):
            pq.write_table(pa.table({"embedding": make(VECTORS[:, :dim])}), path)
        with pytest.raises(ValueError, match=r"b\.parquet: .*4.* 3|b\.parquet: .*3.* 4"):
            list(sources.parquet(paths))
        if late:
            assert sources.parquet(paths).n_docs == 2 * N


def test_files_that_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("not a table, and longer than a few bytes")
    with pytest.raises(FileNotFoundError, match="nothing"):
        sources.parquet(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="nothing"):
        sources.arrow(tmp_path / "nothing")
    for read, kind in ((sources.parquet, "Parquet"), (sources.arrow, "Arrow IPC")):
        with pytest.raises(ValueError, match="empty: the file is empty"):
            read(tmp_path / "empty")
        with pytest.raises(ValueError, match=f"text: not a {kind} file that can be read"):
            read(str(tmp_path / "text"))
    pq.write_table(table(), tmp_path / "damaged", compression="none")
    content = bytearray((tmp_path / "damaged").read_bytes())
    content[4:400] = b"\xff" * 396
    (tmp_path / "damaged").write_bytes(content)
    with pytest.raises(ValueError, match="damaged: cannot be read to its end"):
        list(sources.parquet(tmp_path / "damaged"))
    with pytest.raises(TypeError, match="expected an Arrow table, batches or a path, got int"):
        sources.arrow(5)
    with pytest.raises(TypeError, match="expected batches of Arrow, got ndarray"):
        list(sources.arrow([VECTORS]))


def test_what_is_no_dataset() -> None:
    with pytest.raises(TypeError, match="expected a dataset of Hugging Face, got dict; pass one of its splits"):
        sources.dataset({"train": None})


@pytest.fixture
def hf() -> Any:
    return pytest.importorskip("datasets", reason="datasets is not installed")


def test_dataset(hf: Any) -> None:
    data = hf.Dataset(table(lists))
    source = sources.dataset(data.with_format("numpy"), ids="key", metadata=["year"], rows=10)
    assert source.n_docs == N
    np.testing.assert_array_equal(joined(source), VECTORS)
    assert joined(source, "ids").tolist() == KEYS
    order = [5, 2, 20, 7]
    chosen = sources.dataset(data.select(order), ids="key", metadata=["year"], rows=3)
    assert chosen.n_docs == 4
    np.testing.assert_array_equal(joined(chosen), VECTORS[order])
    assert [list((block.metadata or {})["year"]) for block in chosen] == [[2005, 2002, 2020], [2007]]
    shuffled = data.shuffle(seed=1)
    assert joined(sources.dataset(shuffled, ids="key"), "ids").tolist() == shuffled["key"][:] != KEYS
    fixed_size = data.cast_column("embedding", hf.Sequence(hf.Value("float32"), D))
    assert sources.dataset(fixed_size).dim == D
    with pytest.raises(ValueError, match="no column 'nothing'; there are"):
        sources.dataset(data, "nothing")


def test_iterable_dataset(hf: Any) -> None:
    data = hf.Dataset(table(lists))
    source = sources.dataset(data.to_iterable_dataset(), ids="key", rows=10)
    assert source.n_docs is None
    np.testing.assert_array_equal(joined(source), VECTORS)
    assert joined(source, "ids").tolist() == KEYS
    rows = ({"embedding": row.tolist(), "key": key} for row, key in zip(VECTORS, KEYS, strict=True))
    of_numbers = hf.IterableDataset.from_generator(lambda rows=list(rows): iter(rows))
    with pytest.raises(TypeError, match="rounded=True rounds"):
        list(sources.dataset(of_numbers))
    np.testing.assert_array_equal(joined(sources.dataset(of_numbers, rounded=True)), VECTORS)
