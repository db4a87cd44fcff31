"""benchmarks/suites/bench_scale.py, at a small size: builds, opens, searches and checks an index."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "suites" / "bench_scale.py"
FAST = ["--most-searches=1", "--no-progress", "--threads=2"]
SMALL = ["--dim=32", *FAST]


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_scale", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_hundredth(scale: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--dir", str(tmp_path), "--docs=210153", "--json", str(tmp_path / "report.json"), *FAST]
    assert scale.main(options) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["exactness"]["queries"] == 16
    assert report["exactness"]["wrong"] == 0
    assert [row["queries"] for row in report["search"]] == [1, 16, 256] * 2
    assert all(row["rescored_per_query"] >= 10 for row in report["search"])
    assert report["build"]["GB_on_disk"] * 1e9 > 210153 * 768 * 3
    if sys.platform == "linux":
        assert report["memory_GB_opened"]["own"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert "exactness wrong" in capsys.readouterr().out


def test_an_index_that_is_kept(scale: ModuleType, tmp_path: Path) -> None:
    options = ["--dir", str(tmp_path), "--docs=2000", "--keep", "--json", str(tmp_path / "report.json"), *SMALL]
    assert scale.main(options) == 0
    assert "build" in json.loads((tmp_path / "report.json").read_text())
    assert scale.main(options) == 0
    assert "build" not in json.loads((tmp_path / "report.json").read_text())


def test_what_is_not_exact_is_told(scale: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*arguments: Any) -> Any:
        ids, scores = true_oracle(*arguments)
        scores[3, 5] = np.nextafter(scores[3, 5], 1)  # the last bit of one score
        return ids, scores

    true_oracle = scale.oracle
    monkeypatch.setattr(scale, "oracle", other)
    assert scale.main(["--dir", str(tmp_path), "--docs=2000", *SMALL]) == 1


def test_too_little_room(scale: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--dir", str(tmp_path), "--docs", str(10**12), *SMALL]) == 2
    assert "too little room" in capsys.readouterr().err


def test_documents_are_a_function_of_their_number(scale: ModuleType) -> None:
    corpus = scale.Corpus(5000, 32, "float16", 3)
    whole = np.concatenate(list(scale.ahead(corpus.block, range(0, 5000, scale.BLOCK), 2)))
    assert whole.shape == (5000, 32)
    assert len(np.unique(whole.view(np.uint16), axis=0)) == 5000
    some = np.array([4999, 0, 256, 17])
    assert corpus.at(some).tobytes() == whole[some].tobytes()
    assert np.allclose(np.linalg.norm(whole.astype(np.float32), axis=1), 1, atol=1e-3)
    assert scale.Corpus(5000, 32, "float16", 4).at(some).tobytes() != whole[some].tobytes()


def test_the_oracle_agrees_with_a_plain_product(scale: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "BLOCK", 700)
    corpus = scale.Corpus(5000, 32, "float32", 3)
    queries = corpus.queries(6, 0)
    ids, scores = scale.oracle(corpus, queries, 10, 2)
    plain = queries.astype(np.float64) @ corpus.at(np.arange(5000)).astype(np.float64).T
    np.testing.assert_array_equal(ids, np.argsort(-plain, axis=1, kind="stable")[:, :10])
    np.testing.assert_allclose(scores, -np.sort(-plain, axis=1)[:, :10], rtol=1e-13)
