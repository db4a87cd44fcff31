"""``ragfast index``: building an index from files, and looking at one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ragfast import FlatIndex
from ragfast.cli.main import main


def saved(path: Path, n: int = 40) -> np.ndarray:
    vectors = np.random.default_rng(3).standard_normal((n, 5)).astype(np.float32)
    np.save(path, vectors)
    return vectors


def test_build_info_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = np.concatenate([saved(tmp_path / "a.npy"), saved(tmp_path / "b.npy", 9)])
    np.save(tmp_path / "ids.npy", np.arange(100, 149))
    index = str(tmp_path / "some.index")
    files = [str(tmp_path / name) for name in ("a.npy", "b.npy")]
    built = [
        "index",
        "build",
        index,
        *files,
        "--ids",
        str(tmp_path / "ids.npy"),
        "--metric",
        "l2",
        "--dtype",
        "float16",
    ]
    assert main(built) == 0
    assert "metric='l2'" in capsys.readouterr().out
    opened = FlatIndex.open(index)
    assert (len(opened), opened.dtype, opened.metric) == (49, "float16", "l2")
    assert opened.search(vectors[:3].astype(np.float16), k=1).ids.ravel().tolist() == [100, 101, 102]
    assert main(["index", "info", index]) == 0
    assert "49 documents" in capsys.readouterr().out
    assert main(["index", "verify", index]) == 0
    assert "as it was written" in capsys.readouterr().out


def test_parquet_with_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow, the extra arrow, is not installed")
    pq = pytest.importorskip("pyarrow.parquet")
    vectors = np.eye(3, dtype=np.float32)
    columns = {"embedding": list(vectors), "name": ["a", "b", "c"], "year": [1, 2, 3]}
    pq.write_table(pa.table(columns), tmp_path / "docs.parquet")
    index = str(tmp_path / "index")
    assert main(["index", "build", index, str(tmp_path / "docs.parquet"), "--ids", "name", "--metadata", "year"]) == 0
    assert "year: int64" in capsys.readouterr().out
    assert FlatIndex.open(index).search(vectors[1:2], k=1).ids.tolist() == [["b"]]


def test_damage_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "a.npy")
    index = tmp_path / "index"
    assert main(["index", "build", str(index), str(tmp_path / "a.npy")]) == 0
    (norms,) = index.glob("*norms*")
    data = bytearray(norms.read_bytes())
    data[-1] ^= 1
    norms.write_bytes(data)
    capsys.readouterr()
    assert main(["index", "verify", str(index)]) == 2
    said = capsys.readouterr()
    assert norms.name in said.err
    assert "as it was written" not in said.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nothing-there"], "nothing-there"),
        (["build", "index", "x.csv"], "x.csv: expected a .npy"),
        (["build", "index", "x.npy", "y.parquet"], "of one kind"),
        (["build", "index", "x.npy", "--metadata", "year"], "--metadata"),
        (["build", "index", "missing.npy"], "missing.npy"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["index", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
