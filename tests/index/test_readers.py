"""Sources of rows in files, read by parts: .npy, and safetensors by the extra of that name."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast.index import readers as sources
from ragfast.index.readers import Block, Source

RNG = np.random.default_rng(5)
VECTORS = RNG.standard_normal((11, 3)).astype(np.float32)
BITS = arrays.stored_rows(VECTORS, "x", 3, "bfloat16")
VALUES = {"float32": VECTORS, "float16": VECTORS.astype(np.float16), "bfloat16": arrays.widen(BITS, "bfloat16")}


def save(path: Path, array: NDArray[Any]) -> Path:
    np.save(path, array)
    return path


def save_tensors(path: Path, **tensors: tuple[str, NDArray[Any]]) -> Path:
    """As the package safetensors writes it, from the description of the format."""
    header: dict[str, Any] = {"__metadata__": {"made": "here"}}
    data = b""
    for name, (dtype, array) in tensors.items():
        ends = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": ends}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def joined(source: Source) -> NDArray[Any]:
    return np.concatenate([block.vectors for block in source])


@pytest.mark.parametrize("rows", [1, 4, 11, 12])
@pytest.mark.parametrize("dtype", ["float32", "float16", ">f4", "bfloat16"])
def test_npy(tmp_path: Path, dtype: str, rows: int) -> None:
    saved = BITS if dtype == "bfloat16" else VECTORS.astype(dtype)
    source = sources.npy(save(tmp_path / "x.npy", saved), rows=rows, bfloat16=dtype == "bfloat16")
    assert (source.n_docs, source.dim) == (11, 3)
    for _ in range(2):  # as often as one likes
        blocks = list(source)
        assert [len(block.vectors) for block in blocks] == [rows] * (11 // rows) + [11 % rows] * (11 % rows > 0)
        assert all(block.ids is None and block.metadata is None for block in blocks)
        np.testing.assert_array_equal(joined(source), VALUES.get(dtype, VECTORS))


def test_bfloat16_as_ml_dtypes_saves_it(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", BITS.view("V2"))
    np.testing.assert_array_equal(joined(sources.npy(path, bfloat16=True)), VALUES["bfloat16"])
    with pytest.raises(TypeError, match=r"x\.npy: got \|V2; bfloat16=True takes it"):
        sources.npy(path)
    with pytest.raises(TypeError, match="expected the bits of bfloat16, as uint16, got float32"):
        sources.npy(save(tmp_path / "y.npy", VECTORS), bfloat16=True)


def test_several_files_with_ids_and_metadata(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / f"{i}.npy", VECTORS[first:last]) for i, (first, last) in enumerate([(0, 5), (5, 5), (5, 11)])
    ]
    years = np.arange(1990, 2001)
    source = sources.npy(paths, ids=[f"d{i}" for i in range(11)], metadata={"year": years}, rows=4)
    blocks = list(source)
    assert [len(block.vectors) for block in blocks] == [4, 1, 4, 2]
    assert [key for block in blocks for key in block.ids] == [f"d{i}" for i in range(11)]
    assert [block.metadata["year"].tolist() for block in blocks if block.metadata][1:3] == [
        [1994],
        [1995, 1996, 1997, 1998],
    ]
    np.testing.assert_array_equal(joined(source), VECTORS)


def test_float64_is_rounded_where_asked(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", VECTORS.astype(np.float64) + 1e-12)
    with pytest.raises(TypeError, match=r"x\.npy: expected float32 .* got float64; rounded=True rounds"):
        sources.npy(path)
    block = next(iter(sources.npy(path, rounded=True)))
    assert block.vectors.dtype == np.float32
    np.testing.assert_array_equal(block.vectors, VECTORS)


def test_memory_is_that_of_a_block(tmp_path: Path) -> None:
    """Each block is an array of its own, and no array over the whole file."""
    for block in sources.npy(save(tmp_path / "x.npy", VECTORS), rows=4):
        owner = block.vectors if block.vectors.base is None else block.vectors.base
        assert owner.nbytes <= 4 * 3 * 4


@pytest.mark.parametrize(
    ("array", "error", "words"),
    [
        (VECTORS[0], ValueError, r"expected shape \(N, D\), got \(3,\)"),
        (np.asfortranarray(VECTORS), ValueError, "Fortran order"),
        (VECTORS.astype(np.int32), TypeError, "expected float32 or float16 .* got int32"),
        (VECTORS.astype(np.complex64), TypeError, "got complex64"),
        (VECTORS[:, :0], ValueError, "D of 1 or more, got 0"),
    ],
)
def test_npy_that_is_no_matrix(tmp_path: Path, array: NDArray[Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=rf"x\.npy: .*{words}"):
        sources.npy(save(tmp_path / "x.npy", array))


def test_files_that_are_wrong(tmp_path: Path) -> None:
    good = save(tmp_path / "good.npy", VECTORS)
    (tmp_path / "empty.npy").touch()
    (tmp_path / "text.npy").write_text("not an array")
    np.savez(tmp_path / "several.npz", VECTORS)
    (tmp_path / "short.npy").write_bytes(good.read_bytes()[:-1])
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name, words in {
        "empty.npy": "the file is empty",
        "text.npy": "not a .npy file",
        "several.npz": "an archive of several arrays",
        "short.npy": "not a .npy file that can be read",
        "objects.npy": "not a .npy file that can be read",
    }.items():
        with pytest.raises(ValueError, match=f"{name}: .*{words}|{name}: {words}"):
            sources.npy([good, tmp_path / name])
    with pytest.raises(FileNotFoundError, match=r"nothing\.npy"):
        sources.npy(tmp_path / "nothing.npy")
    with pytest.raises(IsADirectoryError, match="a directory; pass the paths"):
        sources.npy(tmp_path)
    with pytest.raises(ValueError, match="at least one path"):
        sources.npy([])
    wide = save(tmp_path / "wide.npy", np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"wide\.npy: expected vectors of D = 3 as before, got D = 4"):
        sources.npy([good, wide])
    with pytest.raises(ValueError, match="ids: expected 11 values, one for each row of the files, got 10"):
        sources.npy(good, ids=range(10))
    with pytest.raises(ValueError, match="metadata 'year': expected 11 values"):
        sources.npy(good, metadata={"year": [1]})
    with pytest.raises(ValueError, match="rows: expected 1 or more"):
        sources.npy(good, rows=0)


def test_file_cut_short_while_it_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", VECTORS)
    blocks = iter(sources.npy(path, rows=4))
    next(blocks)
    path.write_bytes(path.read_bytes()[:-12])
    next(blocks)
    with pytest.raises(ValueError, match="became shorter while it was read"):
        next(blocks)


needs_safetensors = pytest.mark.skipif(
    importlib.util.find_spec("safetensors") is None, reason="safetensors is not installed: `make test-all` has it"
)


@needs_safetensors
@pytest.mark.parametrize(("dtype", "word"), [("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16")])
def test_safetensors(tmp_path: Path, dtype: str, word: str) -> None:
    saved = BITS if dtype == "bfloat16" else VALUES[dtype]
    other = ("F32", np.zeros((2, 2), np.float32))
    path = save_tensors(tmp_path / "x.safetensors", before=other, docs=(word, saved), after=other)
    source = sources.safetensors(path, "docs", rows=4, ids=range(11))
    assert (source.n_docs, source.dim) == (11, 3)
    assert [list(block.ids) for block in source] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    np.testing.assert_array_equal(joined(source), VALUES[dtype])
    assert all(block.vectors.dtype == ("float16" if dtype == "float16" else "float32") for block in source)
    shards = [save_tensors(tmp_path / "y.safetensors", docs=(word, saved)), path]
    with pytest.raises(ValueError, match="which tensor is meant"):
        sources.safetensors(shards)
    shards[1] = save_tensors(path, docs=("F32", VECTORS))
    np.testing.assert_array_equal(joined(sources.safetensors(shards)), np.concatenate([VALUES[dtype], VECTORS]))


@needs_safetensors
def test_safetensors_that_are_wrong(tmp_path: Path) -> None:
    path = save_tensors(tmp_path / "x.safetensors", docs=("F32", VECTORS), other=("I64", np.ones((2, 2), np.int64)))
    for arguments, error, words in [
        ((), ValueError, "which tensor is meant.*'docs', 'other'"),
        (("nothing",), ValueError, "no tensor 'nothing'; there are 'docs', 'other'"),
        (("other",), TypeError, "x.safetensors: other: expected float32.* got I64"),
    ]:
        with pytest.raises(error, match=words):
            sources.safetensors(path, *arguments)
    doubles = save_tensors(tmp_path / "doubles", docs=("F64", VECTORS.astype(np.float64)))
    with pytest.raises(TypeError, match="got F64; rounded=True rounds"):
        sources.safetensors(doubles, "docs")
    np.testing.assert_array_equal(joined(sources.safetensors(doubles, rounded=True)), VECTORS)
    flat = save_tensors(tmp_path / "flat", docs=("F32", VECTORS.ravel()))
    with pytest.raises(ValueError, match=r"flat: docs: expected shape \(N, D\), got \(33,\)"):
        sources.safetensors(flat)


@needs_safetensors
@pytest.mark.parametrize("content", [b"abc", b"\xff" * 20, (1).to_bytes(8, "little") + b"{", "truncated"])
def test_damaged_safetensors(tmp_path: Path, content: Any) -> None:
    path = save_tensors(tmp_path / "x.safetensors", docs=("F32", VECTORS))
    path.write_bytes(path.read_bytes()[:-1] if content == "truncated" else content)
    with pytest.raises(ValueError, match=r"x\.safetensors: not a safetensors file that can be read: "):
        sources.safetensors(path)


def test_safetensors_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install 'ragfast-kernels\[safetensors\]'"):
        sources.safetensors(save_tensors(tmp_path / "x.safetensors", docs=("F32", VECTORS)))


def test_a_block_is_what_it_says() -> None:
    assert Block(VECTORS) == (VECTORS, None, None)
    assert "n_docs=None" in repr(Source(lambda: iter([]), None, None))
