"""More documents than memory: an index at Wikipedia's shape, its float16 vectors on disk and its codes in memory.

    python benchmarks/suites/bench_scale.py --dir FOLDER              # 21,015,300 x 768: 50 GB of disk, 22 GB of memory
    python benchmarks/suites/bench_scale.py --dir FOLDER --hundredth  # the same at a hundredth of the documents

Vectors are made block by block from a seed and the number of each document, so that no more of them than some blocks
are ever in memory, and so that the oracle can make all of them again. The index is built by ``FlatIndex.build``, opened
with mmap="vectors" when no file of it is in memory, searched, and compared on some queries, to the last bit of ids and
scores, with an oracle that looks at every document. A table is printed, and written as JSON with --json.

Exit status: 0; 1 where a result is not exact; 2 where there is too little room on the disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ragfast_bench.search_oracle import Oracle

import ragfast

WIKIPEDIA = 21_015_300  # passages of 100 words of Lewis et al. 2020, and their D
DIM = 768
BLOCK = 32_768  # documents that are made together
CHUNK = 256  # rows of float32 that stay in a core's cache while they are made
PASSAGES = 8  # documents of an article, one after the other
BATCHES = {1: 11, 16: 5, 256: 2}  # queries of a search: how many searches
NEAR = 0.5  # the length of what is added to a document, of length 1, to make a query of it


class Corpus:
    """Documents like embeddings of passages: a mean, topics of very different size that the passages of an article
    share, and what is a passage's own; variances that fall off; length 1.

    Document i is the sum of a row of each of three tables. The pair of rows that make up its own part is given by a
    permutation of i, so that no two documents are the same.
    """

    def __init__(self, n: int, dim: int, dtype: str, seed: int) -> None:
        self.n, self.dim, self.dtype, self.seed = n, dim, np.dtype(dtype), seed
        self._bits = max(6, math.ceil(math.log2(max(n, 2)) / 2))
        rows = 2**self._bits
        rng = np.random.default_rng([seed, 0])
        self._axes = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
        self._mean = 0.3 * self._directions(rng, 1, 0)
        self._topics = self._new_topics(rng, rows)
        self._own = [0.7 * self._directions(rng, rows, -0.2) for _ in range(2)]

    def _directions(self, rng: np.random.Generator, n: int, power: float) -> NDArray[np.float32]:
        """(n,D) of length 1, whose standard deviations along the axes fall off as i^power."""
        sizes = np.arange(1, self.dim + 1, dtype=np.float32) ** power
        rows = rng.standard_normal((n, self.dim), np.float32) * sizes @ self._axes
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def _new_topics(self, rng: np.random.Generator, n: int) -> NDArray[np.float32]:
        return self._mean + self._directions(rng, n, -0.4)

    def at(self, numbers: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """The documents of these numbers, in the dtype; the same bits however many are asked for together."""
        made = np.empty((len(numbers), self.dim), self.dtype) if out is None else out
        rows, other = (np.empty((CHUNK, self.dim), np.float32) for _ in range(2))
        for first in range(0, len(numbers), CHUNK):
            some = numbers[first : first + CHUNK]
            x, y = rows[: len(some)], other[: len(some)]
            np.take(self._topics, self._topic_of(some // PASSAGES), axis=0, out=x, mode="clip")
            for table, places in zip(self._own, self._places_of(some), strict=True):
                np.take(table, places, axis=0, out=y, mode="clip")
                x += y
            x *= (1 / np.sqrt(np.einsum("ij,ij->i", x, x)))[:, None]
            made[first : first + len(some)] = x
        return made

    def _topic_of(self, article: NDArray[np.int64]) -> NDArray[np.int64]:
        mixed = (article + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # modulo 2^64
        share = (mixed >> np.uint64(40)).astype(np.float64) / 2.0**24
        return (share**2 * len(self._topics)).astype(np.int64)  # the first topics are the large ones

    def _places_of(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The halves of a permutation of the numbers below 2^(2 bits): each of its steps can be undone."""
        mask = (1 << 2 * self._bits) - 1
        mixed = numbers * 0x9E3779B1 & mask
        mixed ^= mixed >> self._bits
        mixed = mixed * 0x85EBCA6B & mask
        return mixed >> self._bits, mixed & (1 << self._bits) - 1

    def block(self, first: int) -> NDArray[Any]:
        return self.at(np.arange(first, min(first + BLOCK, self.n)))

    def queries(self, n: int, seed: int) -> NDArray[np.float32]:
        """Length 1. One half near to documents, the other of topics that no document is of."""
        rng = np.random.default_rng([self.seed, 1 + seed])
        near = self.at(rng.integers(0, self.n, n)).astype(np.float32)
        noise = rng.standard_normal((n, self.dim), np.float32)
        near += np.float32(NEAR) * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        asked = np.where(np.arange(n)[:, None] % 2 == 0, near, self._new_topics(rng, n))
        return asked / np.linalg.norm(asked, axis=1, keepdims=True)


def ahead(make: Callable[[int], Any], firsts: range, threads: int) -> Iterator[Any]:
    """make(first) for each of them, in their order, made by threads a little before they are asked for."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Any] = deque()
        for first in firsts:
            waiting.append(pool.submit(make, first))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Timed:
    """An iterable, and the seconds that its consumer spent waiting for it."""

    def __init__(self, blocks: Iterator[Any]) -> None:
        self._blocks = blocks
        self.waited = 0.0
        self.ended = 0.0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        try:
            return next(self._blocks)
        finally:
            self.ended = time.perf_counter()
            self.waited += self.ended - start


def oracle(corpus: Corpus, queries: NDArray[np.float32], k: int, threads: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """ids and float64 scores (B,K), from all documents, made again.

    A float32 product of D terms, summed in whatever order, is within D u / (1 - D u) |q| |d| of the exact one, with
    u = 2^-24: what is within twice that of the k-th best may be among the k best. Of all that are, float64 decides.
    """
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    rounding = corpus.dim * 2.0**-24 / (1 - corpus.dim * 2.0**-24)
    slack = (2 * rounding * 1.01 * lengths)[:, None]  # documents are of length 1, but for float16

    def candidates(first: int) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.float32]]:
        scores = queries @ corpus.block(first).astype(np.float32, copy=False).T
        rank = min(k, scores.shape[1])
        least = np.partition(scores, -rank, axis=1)[:, -rank, None]
        of, rows = np.nonzero(scores >= least - slack)
        return of, rows + first, scores[of, rows]

    blocks = list(ahead(candidates, range(0, corpus.n, BLOCK), threads))
    of, ids, scores = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    kept = np.zeros(len(of), np.bool_)
    for b in range(len(queries)):
        mine = np.flatnonzero(of == b)
        least = np.sort(scores[mine])[-min(k, len(mine))]
        kept[mine] = scores[mine] >= least - slack[b]
    union = np.unique(ids[kept])
    exact = Oracle(corpus.at(union).astype(np.float32), queries, k)
    return union[exact.ids], np.stack([exact._scores(b, row) for b, row in enumerate(exact.ids)])


def memory() -> dict[str, float]:
    """GB of this process that are in memory: of its own, and of mapped files, which the system may take back."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    except OSError:
        return {}
    kb = {line.split(":")[0]: int(line.split()[1]) for line in [*lines, peak]}
    own = kb["Anonymous"]
    return {"resident": kb["Rss"] / 1e6, "own": own / 1e6, "files": (kb["Rss"] - own) / 1e6, "peak": kb["VmHWM"] / 1e6}


def forget_files(folder: Path) -> None:
    """Lets the system drop what it keeps of these files in memory."""
    for path in folder.iterdir():
        if hasattr(os, "posix_fadvise"):
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def bytes_needed(options: argparse.Namespace) -> int:
    """Vectors, codes of a byte, and of each document a norm, a checksum and the bounds of its codes."""
    padded = -(-options.dim // 16) * 16
    return int(options.docs * (options.dim * np.dtype(options.dtype).itemsize + padded + 28) * 1.01) + 2**20


def build(corpus: Corpus, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    forget_peak()
    blocks = Timed(ahead(corpus.block, range(0, corpus.n, BLOCK), options.threads))
    start = time.perf_counter()
    ragfast.FlatIndex.build(
        path, blocks, dim=corpus.dim, dtype=options.dtype, n_docs=corpus.n, progress=options.progress
    )
    seconds = time.perf_counter() - start
    on_disk = sum(file.stat().st_size for file in path.iterdir())
    return {
        "seconds": seconds,
        "rows_per_second": corpus.n / seconds,
        "MB_per_second": on_disk / seconds / 1e6,
        "seconds_waiting_for_vectors": blocks.waited,
        "seconds_after_the_last": start + seconds - blocks.ended,
        "GB_on_disk": on_disk / 1e9,
        "memory_GB": memory(),
    }


def opened(path: Path) -> tuple[ragfast.FlatIndex, float]:
    start = time.perf_counter()
    index = ragfast.FlatIndex.open(path, mmap="vectors")
    return index, time.perf_counter() - start


def searches(index: ragfast.FlatIndex, corpus: Corpus, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians over batches of new queries, whose documents mostly have to be read from the disk, and over the same
    batch again."""
    measured = []
    for threads in sorted({1, options.threads}):
        for n_queries, times in BATCHES.items():
            new, again, rescored = [], [], []
            for i in range(min(times, options.most_searches)):
                queries = corpus.queries(n_queries, 1000 * n_queries + 100 * threads + i)
                for seconds in (new, again):
                    start = time.perf_counter()
                    hits = index.search(queries, options.k, n_threads=threads)
                    seconds.append(time.perf_counter() - start)
                assert hits.stats is not None
                rescored.append(float(hits.stats.rescored.mean()))
            measured.append(
                {
                    "queries": n_queries,
                    "threads": threads,
                    "searches": len(new),
                    "seconds": float(np.median(new)),
                    "seconds_again": float(np.median(again)),
                    "rescored_per_query": float(np.mean(rescored)),
                    "path": str(hits.stats.path[0]),
                }
            )
    return measured


def differences(index: ragfast.FlatIndex, corpus: Corpus, options: argparse.Namespace) -> dict[str, Any]:
    """How many of some queries get other ids, or other bits of a score, than the oracle has, however they are asked."""
    queries = corpus.queries(options.queries, 0)
    start = time.perf_counter()
    ids, scores = oracle(corpus, queries, options.k, options.threads)
    seconds = time.perf_counter() - start
    wrong = set()
    for size in (1, len(queries)):
        for threads in sorted({1, options.threads}):
            for first in range(0, len(queries), size):
                part = slice(first, first + size)
                hits = index.search(queries[part], options.k, n_threads=threads, dtype=np.float64)
                same = (hits.ids == ids[part]) & (hits.scores.view(np.uint64) == scores[part].view(np.uint64))
                wrong |= set((first + np.flatnonzero(~same.all(axis=1))).tolist())
    return {"queries": len(queries), "wrong": len(wrong), "oracle_seconds": seconds}


def show(report: dict[str, Any]) -> None:
    def lines(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                lines(f"{name} {key}".strip().replace("_", " "), inner)
        elif name != "search":
            print(f"{name:<44} {value:,.3f}" if isinstance(value, float) else f"{name:<44} {value}")

    lines("", report)
    print(f"\n{'queries':>8}{'threads':>8}{'searches':>9}{'ms':>12}{'ms again':>12}{'rescored':>11}  path")
    for row in report["search"]:
        times = f"{row['seconds'] * 1e3:12,.1f}{row['seconds_again'] * 1e3:12,.1f}"
        counts = f"{row['queries']:8}{row['threads']:8}{row['searches']:9}"
        print(f"{counts}{times}{row['rescored_per_query']:11,.0f}  {row['path']}")


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", type=Path, required=True, help="where the index goes; it is removed at the end")
    parser.add_argument("--docs", type=int, default=WIKIPEDIA)
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--hundredth", action="store_true", help="a hundredth of the documents")
    parser.add_argument("--queries", type=int, default=16, help="that the oracle answers too, at most 16")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=ragfast.get_num_threads())
    parser.add_argument("--most-searches", type=int, default=max(BATCHES.values()), help="of a kind")
    parser.add_argument("--keep", action="store_true", help="leave the index; one that is there is searched as it is")
    parser.add_argument("--json", type=Path, help="where the report goes")
    parser.add_argument("--no-progress", dest="progress", action="store_false")
    options = parser.parse_args(arguments)
    if options.hundredth:
        options.docs //= 100
    if not 1 <= options.queries <= 16:
        parser.error("--queries: expected 1 to 16")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    path = options.dir / f"scale-{options.docs}x{options.dim}-{options.dtype}-{options.seed}"
    kept = options.keep and path.exists()
    needed, free = bytes_needed(options), shutil.disk_usage(options.dir).free
    print(
        f"{options.docs:,} x {options.dim} {options.dtype}: {needed / 1e9:,.1f} GB of disk, of {free / 1e9:,.1f} free"
    )
    if needed > free and not kept:
        print(f"too little room in {options.dir}", file=sys.stderr)
        return 2
    report: dict[str, Any] = {
        "version": ragfast.__version__,
        "isa": ragfast.runtime.isa(),
        **{name: getattr(options, name) for name in ("docs", "dim", "dtype", "k", "seed", "threads")},
    }
    corpus = Corpus(options.docs, options.dim, options.dtype, options.seed)
    try:
        with one_thread_each():
            if not kept:
                report["build"] = build(corpus, path, options)
            forget_files(path)
            forget_peak()
            index, report["open_seconds"] = opened(path)
            report["memory_GB_opened"] = memory()
            start = time.perf_counter()
            index.search(corpus.queries(1, 999), options.k)
            report["first_search_seconds"] = time.perf_counter() - start
            report["memory_GB_first_search"] = memory()
            report["search"] = searches(index, corpus, options)
            report["memory_GB_searched"] = memory()
            report["exactness"] = differences(index, corpus, options)
    finally:
        if not options.keep:
            shutil.rmtree(path, ignore_errors=True)
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if report["exactness"]["wrong"] else 0


def one_thread_each() -> Any:
    """BLAS on one thread a caller: blocks are made, and multiplied, by as many threads as there are to be."""
    import threadpoolctl

    return threadpoolctl.threadpool_limits(1, user_api="blas")


if __name__ == "__main__":
    sys.exit(main())
