"""An index saved and opened is the same index; what is wrong in its files is an error that names them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ragfast
from ragfast import FlatIndex, IndexFormatError
from ragfast.index import persistence, storage, writing

DIM = 32
RNG = np.random.default_rng(5)
Q = RNG.standard_normal((3, DIM), dtype=np.float32)
ROW = np.ones((1, 2), np.float32)


def columns(n: int) -> dict[str, Any]:
    return {
        "year": RNG.integers(0, 50, n),
        "lang": [["de", "en", None][i % 3] for i in range(n)],
        "weight": RNG.random(n),
    }


def grow(index: FlatIndex, n: int, kind: str, first: int) -> None:
    numbers = RNG.permutation(n) + first
    ids: Any = None if kind == "numbered" else numbers if kind == "int" else [f"n {i}" for i in numbers]
    index.add(RNG.standard_normal((n, DIM), dtype=np.float32), ids, columns(n))


def made(kind: str, metric: str = "ip", dtype: str = "float32") -> FlatIndex:
    """Of two segments, one with codes and removed rows."""
    index = FlatIndex(DIM, metric=metric, dtype=dtype)
    grow(index, 1500, kind, 0)
    index._writer._tail = ""
    grow(index, 40, kind, 5000)
    index.remove(index.ids[::7])
    return index


def assert_same(one: FlatIndex, other: FlatIndex) -> None:
    assert (one.ids.tolist(), one.version, len(one)) == (other.ids.tolist(), other.version, len(other))
    assert one.vectors.tobytes() == other.vectors.tobytes()
    assert {n: v.tolist() for n, v in one.metadata.items()} == {n: v.tolist() for n, v in other.metadata.items()}
    some = ragfast.column("year") < 20
    how: list[dict[str, Any]] = [{}, {"filter": some}, {"filter": some, "group_by": "lang", "max_per_group": 2}]
    for arguments in how:
        for queries in (Q, Q[:1]):
            a, b = one.search(queries, 20, **arguments), other.search(queries, 20, **arguments)
            assert a.ids.tolist() == b.ids.tolist()
            assert a.scores.tobytes() == b.scores.tobytes()
    assert other.gather_scores(Q, a.ids.repeat(3, 0)).tobytes() == one.gather_scores(Q, a.ids.repeat(3, 0)).tobytes()


@pytest.mark.parametrize(
    ("kind", "metric", "dtype"),
    [("numbered", "ip", "float32"), ("int", "cosine", "bfloat16"), ("str", "l2", "float16")],
)
def test_what_is_saved_is_what_is_opened(tmp_path: Path, kind: str, metric: str, dtype: str) -> None:
    index = made(kind, metric, dtype)
    index.save(tmp_path / "a")
    for mmap in (True, False, "vectors"):
        for verify in (True, False):
            opened = FlatIndex.open(tmp_path / "a", mmap=mmap, verify=verify)
            assert (opened.metric, opened.dtype, opened.scan, opened.dim) == (metric, dtype, "auto", DIM)
            assert_same(index, opened)
            opened.verify()
            opened.remove(opened.ids[:5])
            grow(opened, 10, kind, 20_000)
            opened.save(tmp_path / "b")
            assert_same(opened, FlatIndex.open(tmp_path / "b"))
            opened.compact()
            opened.save(tmp_path / "b")
            assert_same(opened, FlatIndex.open(tmp_path / "b"))
    assert_same(index, FlatIndex.open(tmp_path / "a"))


@pytest.mark.parametrize("scan", ["auto", "float32", "int8"])
def test_scans_and_empty_indexes(tmp_path: Path, scan: str) -> None:
    index = FlatIndex(8, scan=scan)
    index.save(tmp_path)
    opened = FlatIndex.open(tmp_path)
    assert (len(opened), opened.scan, opened.search(Q[:, :8], 1).ids.tolist()) == (0, scan, [[-1]] * 3)
    opened.add(np.ascontiguousarray(RNG.standard_normal((70, 8), dtype=np.float32)))
    opened.save(tmp_path)
    again = FlatIndex.open(tmp_path)
    assert again.search(Q[:, :8]).scores.tobytes() == opened.search(Q[:, :8]).scores.tobytes()
    assert again.search(Q[:, :8]).stats.path.tolist() == opened.search(Q[:, :8]).stats.path.tolist()


def files(path: Path) -> set[str]:
    return {name for name in os.listdir(path) if name.endswith(".npy")}


def test_a_save_writes_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = made("str")
    index.save(tmp_path)
    first = files(tmp_path)
    index.save(tmp_path)
    opened = FlatIndex.open(tmp_path)
    opened.save(tmp_path)
    assert files(tmp_path) == first
    opened.remove(opened.ids[:1])
    opened.save(tmp_path)
    second = files(tmp_path)
    assert {name.split(".")[1] for name in second - first} == {"alive"}
    grow(opened, 3, "str", 30_000)  # in a segment of its own, beside those that lie there
    opened.save(tmp_path)
    third = files(tmp_path)
    assert {name.split(".")[0] for name in second - third} == {"names"}  # one is longer
    assert_same(opened, FlatIndex.open(tmp_path))
    monkeypatch.setattr(writing, "SEALED_ROWS", 3)
    opened.save(tmp_path)
    grow(opened, 3, "str", 40_000)
    opened.save(tmp_path)
    assert {name for name in third if name.startswith("segment")} < files(tmp_path)
    assert_same(opened, FlatIndex.open(tmp_path))


def test_two_that_save_in_one_place_do_not_mix(tmp_path: Path) -> None:
    made("int").save(tmp_path)
    one, other = FlatIndex.open(tmp_path), FlatIndex.open(tmp_path)
    one.remove(one.ids[:3])
    other.remove(other.ids[-3:])
    for index in (one, other, one):
        index.save(tmp_path, overwrite=True)
        assert_same(index, FlatIndex.open(tmp_path))


def test_an_opened_index_stays_when_its_files_go(tmp_path: Path) -> None:
    index = made("int")
    index.save(tmp_path)
    opened = FlatIndex.open(tmp_path)
    made("numbered").save(tmp_path)
    assert_same(index, opened)


def flip(path: Path, part: str, at: int = -1) -> str:
    """Changes a byte of the array whose name ends so; returns the file."""
    file = next(
        path / name for name in sorted(files(path), key=lambda n: -(path / n).stat().st_size) if f".{part}." in name
    )
    data = bytearray(file.read_bytes())
    data[at if at < 0 else 128 + at] ^= 0x10
    file.write_bytes(data)
    return file.name


@pytest.mark.parametrize("part", ["norms", "ids", "high", "low", "bounds", "row_sums", "alive", "column-0", "text"])
@pytest.mark.parametrize("mmap", [True, False, "vectors"])
def test_bytes_that_changed(tmp_path: Path, part: str, mmap: Any) -> None:
    index = made("int" if part == "ids" else "str")
    index.save(tmp_path)
    name = flip(tmp_path, part, 3)
    with pytest.raises(IndexFormatError, match=name.split(".")[1]):
        FlatIndex.open(tmp_path, mmap=mmap).search(Q, filter=ragfast.column("year") < 20)
    if part not in ("text", "alive"):  # of which something is checked in any case
        unverified = FlatIndex.open(tmp_path, mmap=mmap, verify=False)
        unverified.search(Q)
        if mmap is not False:
            with pytest.raises(IndexFormatError, match=part):
                unverified.verify()


@pytest.mark.parametrize("mmap", [True, "vectors"])
@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_vectors_that_changed(tmp_path: Path, mmap: Any, metric: str) -> None:
    index = made("numbered", metric)
    index.save(tmp_path)
    row = 200  # of the first segment, which is there
    best = index.search(index.vectors[[row - 29]], 1)
    doc_id = int(best.ids[0, 0])
    name = flip(tmp_path, "vectors", doc_id * DIM * 4 + 3)
    opened = FlatIndex.open(tmp_path, mmap=mmap)
    there = [i for i in index.ids.tolist()[:20] if i != doc_id]
    query = index.vectors[[row - 29]]
    for use in (
        lambda: opened.search(query, 1),
        lambda: opened.search(query, 1, filter=[doc_id, *there]),
        lambda: opened.gather_scores(query, [[doc_id]]),
        lambda: opened.compact(),
        lambda: opened.save(tmp_path / "elsewhere"),
        lambda: pickle.dumps(opened),
        lambda: opened.verify(),
    ):
        with pytest.raises(IndexFormatError, match=name.replace(".", r"\.")):
            use()
    assert opened.search(query, 3, filter=there).ids.tolist() == index.search(query, 3, filter=there).ids.tolist()
    if metric == "ip":
        with pytest.raises(IndexFormatError, match=rf"row {doc_id} "):
            opened.gather_scores_grad([[1.0]], [[doc_id]])
    with pytest.raises(IndexFormatError, match="vectors"):
        FlatIndex.open(tmp_path, mmap=False)


BAD_META: list[tuple[str, Any]] = [
    ("layout", 2),
    ("dim", 31),
    ("dim", 0),
    ("dim", "32"),
    ("dim", 2**40),
    ("dtype", "float64"),
    ("dtype", "float16"),
    ("metric", "l2"),
    ("metric", None),
    ("scan", "fast"),
    ("version", -1),
    ("version", True),
    ("numbering", "str"),
    ("next_id", 1.5),
    ("columns", [["year", "int64"]]),
    ("columns", [["year", "int64"], ["year", "str"], ["weight", "float64"]]),
    ("columns", [["year", "int32"], ["lang", "str"], ["weight", "float64"]]),
    ("columns", "year"),
    ("columns", None),
    ("segments", {}),
    ("segments", [5]),
    ("commit", None),
]
BAD_SEGMENT: list[tuple[str, Any]] = [
    ("name", "segment-none"),
    ("name", "../up"),
    ("n", 1499),
    ("n", 0),
    ("n", 2**31),
    ("removed", 1),
    ("first_id", -1),
    ("first_id", 2**63),
    ("lowest", None),
    ("codes", 3),
    ("codes", {}),
    ("codes", {"prefix": 8, "rotation_error": 0.0}),
    ("codes", {"prefix": 32, "rotation_error": 0.0}),
    ("codes", {"prefix": 0, "rotation_error": 0.5}),
    ("codes", {"prefix": 0, "rotation_error": "0"}),
]


@pytest.mark.parametrize(("key", "value"), BAD_META)
def test_bad_descriptions(tmp_path: Path, key: str, value: Any) -> None:
    made("int").save(tmp_path)
    change_meta(tmp_path, lambda meta: meta.__setitem__(key, value))
    with pytest.raises(IndexFormatError, match=r"manifest\.json: expected"):
        FlatIndex.open(tmp_path)


@pytest.mark.parametrize(("key", "value"), BAD_SEGMENT)
def test_bad_descriptions_of_segments(tmp_path: Path, key: str, value: Any) -> None:
    made("int").save(tmp_path)
    change_meta(tmp_path, lambda meta: meta["segments"][0].__setitem__(key, value))
    with pytest.raises(IndexFormatError, match=r"manifest\.json: expected"):
        FlatIndex.open(tmp_path)


def change_meta(path: Path, change: Any) -> None:
    with storage.change(path) as draft:
        for name in draft.before.arrays:
            draft.keep(name)
        meta = draft.before.meta
        change(meta)
        draft.commit(meta)


def test_arrays_that_do_not_go_together(tmp_path: Path) -> None:
    made("int").save(tmp_path)
    stored = storage.open(tmp_path)
    segment = stored.meta["segments"][0]["name"]
    for name in ("norms", "ids", "row_sums", "high", "low", "bounds", "alive", "column-1", "vectors"):
        whole = stored.array(f"{segment}/{name}")
        for wrong in (whole[:-1], whole.astype(np.float64)):
            with storage.change(tmp_path / name) as draft:
                for other in stored.names:
                    draft.put(other, wrong if other == f"{segment}/{name}" else stored.array(other))
                draft.commit(stored.meta)
            with pytest.raises(IndexFormatError, match=f"{segment}/{name} to be"):
                FlatIndex.open(tmp_path / name)


def test_other_directories(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FlatIndex.open(tmp_path / "nothing")
    with pytest.raises(IndexFormatError, match="manifest"):
        FlatIndex.open(tmp_path)
    with pytest.raises(ValueError, match=r"mmap: expected True, False .* got 'fast'"):
        FlatIndex.open(tmp_path, mmap="fast")
    with storage.change(tmp_path / "foreign") as draft:
        draft.put("a", np.arange(3))
        draft.commit({"made": "elsewhere"})
    with pytest.raises(IndexFormatError, match="layout"):
        FlatIndex.open(tmp_path / "foreign")


def test_every_array_has_a_group() -> None:
    index = made("str", "l2")
    group_keys = {group for group, _, _ in persistence._groups(index.snapshot())}
    for segment in index.snapshot()._segments:
        for name in persistence.segment_arrays(segment):
            assert persistence._group(f"{segment.buffers.name}/{name}") in group_keys


def test_saved_beside_a_writer_then_once_more(tmp_path: Path) -> None:
    """What comes while names and words are written belongs to the next save, which must not take it for written."""
    index = FlatIndex(2)
    index.add(ROW, ids=["first"], metadata={"word": ["first"]})
    index.compact()  # names with keys of their own
    names = index.snapshot()._contents.names
    words = index.snapshot()._contents.vocabularies["word"]
    assert names is not None
    of_names, of_words = type(names).packed, type(words).packed

    def late(packed: Any, i: int) -> Any:
        def then(self: Any, n: int) -> Any:
            if f"n{i}" not in index:
                index.add(ROW, ids=[f"n{i}"], metadata={"word": [f"w{i}"]})
            return packed(self, n)

        return then

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(names), "packed", late(of_names, 1))
        patch.setattr(type(words), "packed", late(of_words, 2))
        index.save(tmp_path / "i")
    assert FlatIndex.open(tmp_path / "i").ids.tolist() == ["first"]
    index.save(tmp_path / "i")
    opened = FlatIndex.open(tmp_path / "i")
    assert sorted(opened.ids) == ["first", "n1", "n2"]
    assert sorted(opened.metadata["word"]) == ["first", "w1", "w2"]


@pytest.mark.parametrize("part", ["names", "words"])
def test_an_add_that_failed_between_strings_and_their_numbers(part: str, tmp_path: Path) -> None:
    index = FlatIndex(2)
    index.add(ROW, ids=["a"], metadata={"word": ["a"]})
    contents = index.snapshot()._contents
    strings: Any = contents.names._strings if part == "names" else contents.vocabularies["word"]  # type: ignore[union-attr]

    class Full(dict[str, int]):
        def update(self, *_: Any, **__: Any) -> None:
            raise MemoryError

    added = strings._added_positions
    strings._added_positions = Full(added)
    with pytest.raises(MemoryError):
        index.add(ROW, ids=["b"], metadata={"word": ["b"]})
    strings._added_positions = added
    index.add(ROW, ids=["b"], metadata={"word": ["b"]})
    index.save(tmp_path / "i")
    opened = FlatIndex.open(tmp_path / "i")
    assert (opened.ids.tolist(), opened.metadata["word"].tolist()) == (["a", "b"], ["a", "b"])


def test_two_who_opened_the_same(tmp_path: Path) -> None:
    FlatIndex.from_vectors(ROW, ids=[1]).save(tmp_path / "i")
    one, other = FlatIndex.open(tmp_path / "i"), FlatIndex.open(tmp_path / "i")
    one.add(ROW, ids=[2])
    other.add(ROW, ids=[3])
    one.save(tmp_path / "i")
    with pytest.raises(FileExistsError, match="another writer saved"):
        other.save(tmp_path / "i")
    assert FlatIndex.open(tmp_path / "i").ids.tolist() == [1, 2]
    one.add(ROW, ids=[4])
    one.save(tmp_path / "i")
    other.save(tmp_path / "i", overwrite=True)
    assert FlatIndex.open(tmp_path / "i").ids.tolist() == [1, 3]
    FlatIndex.from_vectors(ROW).save(tmp_path / "i")  # a new index in the place of an old one, as ever


@pytest.mark.parametrize("mmap", [True, False, "vectors"])
def test_verify_reads_the_directory(mmap: Any, tmp_path: Path) -> None:
    index = FlatIndex.from_vectors(ROW)
    with pytest.raises(ValueError, match="no files"):
        index.verify()
    index.save(tmp_path / "i")
    index.verify()
    (norms,) = (tmp_path / "i").glob("*norms*")
    data = bytearray(norms.read_bytes())
    data[-1] ^= 1
    norms.write_bytes(data)
    with pytest.raises(IndexFormatError, match="norms"):
        FlatIndex.open(tmp_path / "i", mmap=mmap, verify=False).verify()


def test_a_file_that_went_is_written_again(tmp_path: Path) -> None:
    FlatIndex.from_vectors(ROW, ids=[7]).save(tmp_path / "i")
    index = FlatIndex.open(tmp_path / "i")
    (vectors,) = (tmp_path / "i").glob("*vectors*")
    vectors.unlink()
    index.save(tmp_path / "i")
    assert FlatIndex.open(tmp_path / "i", mmap=False).ids.tolist() == [7]
