"""Seeded random cases for compare_bits.py: the calls of one case and digests of what they return."""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ragfast_bench.compare_builds import Build, digest

try:
    import ml_dtypes  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:
    ml_dtypes = None

SEARCHES_PER_INDEX = 5
SHARED_MEMORY = Path("/dev/shm")
"""Where cases save their indexes, if it is there: on a disk, syncing the files takes most of the time."""


class Case:
    """The random choices of one case, which do not depend on the build, and the results of its calls."""

    def __init__(self, build: Build, folder: Path, *seed: int, show: bool = False) -> None:
        self.build, self.folder, self.show = build, folder, show
        self.rng = np.random.default_rng(seed)
        self.results: list[str] = []

    def result(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """Make a call of the build and note the digest of what it returns, or the type of its error."""
        try:
            value = self.build.call(function, *arguments, **options)
        except Exception as error:
            value = error
            self.results.append(type(error).__name__)
        else:
            self.results.append(digest(value))
        if self.show:
            print(self.results[-1], function, [np.shape(a) for a in arguments], options, repr(value), sep="\n  ")
        return value

    def of(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def normal(self, *shape: int, scale: float = 1.0) -> Any:
        return self.rng.standard_normal(shape) * scale

    def rows(self, n: int, dim: int, like: Any = None) -> Any:
        """Return (n, dim) float32 vectors of a kind that is hard for some scan; near the rows `like`, if given."""
        x = self.normal(n, dim)
        kind = self.of("normal", "unit", "clusters", "duplicates", "integers", "outliers", "lengths", "zeros")
        if kind == "unit":
            x /= np.linalg.norm(x, axis=1, keepdims=True) + 1e-30
        elif kind == "clusters":
            x = self.normal(3, dim, scale=4)[self.rng.integers(0, 3, n)] + x * 1e-3
        elif kind == "duplicates":
            x = x[self.rng.integers(0, max(1, n // 4), n)] if n else x
        elif kind == "integers":
            x = np.round(x)
        elif kind == "outliers":
            x[:, : 1 + dim // 50] *= 100
        elif kind == "lengths":
            x *= np.exp(self.normal(n, 1, scale=4))
        elif kind == "zeros":
            x[self.rng.random(n) < 0.2] = 0
        if like is not None and len(like) and self.chance(0.4):
            x = like[self.rng.integers(0, len(like), n)] + x * self.of(0, 1e-3)
        return x.astype(np.float32)

    def logits(self, *shape: int) -> Any:
        """Return logits of any type that the library takes, some of them masked, not always contiguous."""
        x = self.normal(*shape, scale=self.of(1, 5, 30))
        if self.chance(0.2):
            x[self.rng.random(shape) < 0.1] = -np.inf
        if self.chance(0.03) and x.size:
            x.flat[self.rng.integers(x.size)] = self.of(np.nan, np.inf)
        types = [np.float32, np.float32, np.float64, np.float16, *([ml_dtypes.bfloat16] if ml_dtypes else [])]
        x = x.astype(self.of(*types))
        return np.repeat(x, 2, axis=-1)[..., ::2] if self.chance(0.1) else x

    def scores(self, *shape: int) -> Any:
        """Return scores or log probabilities, float32 or float64, some of them -inf."""
        x = self.normal(*shape, scale=self.of(0.01, 1, 20))
        if self.chance(0.3):
            x[self.rng.random(shape) < 0.2] = -np.inf
        return x.astype(self.of(np.float32, np.float64))

    def some(self, **choices: Sequence[Any]) -> dict[str, Any]:
        """Return options, each left out half of the time."""
        return {name: self.of(*values) for name, values in choices.items() if self.chance(0.5)}


# ---- searches of an index


def documents(c: Case, n: int, dim: int, metric: str, dtype: str, id_kind: str) -> tuple[Any, Any, dict[str, Any]]:
    """Return n vectors, ids that are new with near certainty, and metadata."""
    x = c.rows(n, dim)
    if metric == "cosine":
        x[~x.any(axis=1)] = 1
    if dtype == "float16":
        x = np.clip(x, -60_000, 60_000)
    words = np.array(["a", "b", "", "\u00e9\U0001f600", None], object)
    metadata = {
        "year": c.rng.integers(1990, 2000, n),
        "lang": words[c.rng.integers(0, 5, n)].tolist(),
        "weight": c.normal(n),
        "flag": c.rng.random(n) < 0.5,
    }
    ids = c.rng.choice(2**40, n, replace=False).tolist()
    return x, {"none": None, "int": ids, "str": [f"id {i}" for i in ids]}[id_kind], metadata


def changed_index(c: Case) -> tuple[Any, list[Any]]:
    """Return an index after random changes, and snapshots that were taken between them."""
    n, dim = c.of(1, 7, 33, 100, 257, 600, 1500, 4000), c.of(1, 2, 3, 15, 17, 31, 64, 65, 100, 129, 200, 385)
    metric, dtype = c.of("ip", "ip", "cosine", "l2"), c.of("float32", "float32", "float16", "bfloat16")
    id_kind, start = c.of("none", "int", "str"), c.of("add", "add", "from_vectors", "from_vectors", "build")
    how = {"metric": metric, "dtype": dtype, "scan": c.of("auto", "float32", "int8")}
    new = functools.partial(documents, c, dim=dim, metric=metric, dtype=dtype, id_kind=id_kind)
    flat, snapshots = c.build.find("FlatIndex"), []
    if start == "from_vectors":
        x, ids, metadata = new(n)
        index = flat.from_vectors(x, ids, metadata=metadata, **how)
    elif start == "build":
        blocks = [c.build.call("Block", *new(max(1, n // 3))) for _ in range(3)]
        index = flat.build(c.folder / "built", blocks, progress=False, **how)
    else:
        index = flat(dim, **how)
        for _ in range(3):
            index.add(*new(max(1, n // 3)))
    for change in c.rng.choice(["remove", "add", "upsert", "compact", "save", "swap", "snapshot"], c.of(0, 1, 2, 3)):
        some = index.ids[c.rng.random(len(index)) < c.of(0.02, 0.5)].tolist()
        if change == "remove":
            index.remove(some)
        elif change == "add":
            index.add(*new(c.of(1, 50, 300)))
        elif change == "upsert":
            extra = 3 if id_kind != "none" else 0
            x, ids, metadata = new(len(some) + extra)
            index.upsert([*some, *(ids or [])[:extra]], x, metadata)
        elif change == "save":
            place = c.folder / f"saved {c.of(0, 1)}"
            index.save(place, overwrite=True)
            index = flat.open(place, mmap=c.of(True, "vectors", False), verify=c.chance(0.7))
        elif change == "compact":
            index.compact()
        else:
            snapshots.append(index.swap(index.snapshot()) if change == "swap" else index.snapshot())
    return index, snapshots


def constraints(c: Case, target: Any, b: int) -> dict[str, Any]:
    """Return the options of one search."""
    column = c.build.find("column")
    options = c.some(n_threads=(1, 2, 3), temperature=(0.05, 3.0), dtype=(np.float64,))
    mask = c.rng.random(len(target)) < c.of(0.01, 0.3, 0.9)
    predicate = c.of(
        (column("year") >= 1995) & ~column("lang").isin(["a", "none"]),
        (column("weight") < 0.3) | (column("flag") == bool(c.chance(0.5))),
        column("lang").is_null() | (column("lang") > "a"),
        column("year").between(1992, 1994.5),
    )
    kind = c.of("none", "none", "mask", "ids", "predicate", "prepared")
    if kind != "none":
        prepared = target.filter(c.of(mask, predicate)) if kind == "prepared" else None
        options["filter"] = {"mask": mask, "ids": target.ids[mask], "predicate": predicate}.get(kind, prepared)
    if c.chance(0.25):
        name, groups = c.of(("year", [1991, None, 1995]), ("lang", ["a", None, "b"]))
        rules = c.some(max_per_group=(1, 2, 5), exclude_groups=([groups[i % 3] for i in range(b)],))
        options |= {"group_by": name} | (rules or {"max_per_group": 1})
    return options


def search_index(c: Case, index: Any, snapshots: list[Any]) -> None:
    for _ in range(SEARCHES_PER_INDEX):
        target, b = c.of(index, index, *snapshots), c.of(1, 1, 2, 5, 16, 17, 33)
        queries = c.rows(b, index.dim, like=target.vectors.astype(np.float32))
        if index.metric == "cosine" and not c.chance(0.02):
            queries[~queries.any(axis=1)] = 1
        if c.chance(0.02):
            queries.flat[0] = c.of(np.nan, np.inf)
        c.result(target.search, queries, c.of(1, 3, 10, 100), **constraints(c, target, b))


def search(c: Case) -> None:
    search_index(c, *changed_index(c))


def index(c: Case) -> None:
    """What an index holds after its changes, and scores of chosen documents of it."""
    made, _ = changed_index(c)
    c.result(lambda: (made, len(made), made.columns))
    if len(made):
        chosen = made.ids[c.rng.integers(0, len(made), (3, 4))]
        queries = c.rows(3, made.dim)
        c.result(made.gather_scores, queries, chosen)
        c.result(made.gather_scores, queries.astype(float), chosen, n_threads=2)
        c.result(made.gather_scores_grad, c.normal(3, 4), chosen)


# ---- functions of arrays


def one_shot(c: Case) -> None:
    n, dim, b, types = c.of(1, 20, 333, 2000), c.of(1, 3, 16, 65, 130), c.of(1, 3, 17), (np.float32, np.float64)
    x = c.rows(n, dim)
    ids = c.some(ids=(c.rng.permutation(3 * n)[:n],))
    options = ids | c.some(n_threads=(1, 3), temperature=(0.1,), dtype=types)
    queries = c.rows(b, dim, like=x)
    c.result("search", queries.astype(c.of(*types)), x.astype(c.of(*types, np.float16)), c.of(1, 5, 50), **options)


def gather(c: Case) -> None:
    n, dim, b, k, types = c.of(1, 50, 1000), c.of(1, 7, 64, 200), c.of(1, 2, 20), c.of(1, 10), (np.float32, np.float64)
    x, rows = c.rows(n, dim).astype(c.of(*types, np.float16)), c.rng.integers(-1, n, (b, k))
    options = c.some(n_threads=(1, 2, 3), dtype=types)
    c.result("gather_scores", c.rows(b, dim).astype(c.of(*types)), x, rows, **options)
    c.result("gather_scores_grad", c.scores(b, k), x, rows, **options)


def merge(c: Case) -> None:
    shards, b, k = c.of(1, 2, 3, 9), c.of(1, 4), c.of(1, 5, 40)
    scores = -np.sort(-np.round(c.scores(shards, b, k), c.of(1, 9)), axis=-1)
    ids = c.rng.permutation(max(c.of(1, 2) * scores.size // 2, k))[: scores.size]
    ids = np.sort(np.resize(ids, scores.shape), axis=-1)
    if c.chance(0.3):
        ids = np.array([f"{i:06}" for i in ids.flat], object).reshape(ids.shape)
    c.result("merge_topk", scores, ids, **c.some(k=(1, 3, 100)))
    x = c.rows(90, 9)
    parts = [c.build.call("search", x[:2], x[i::3], 7, ids=np.arange(i, 90, 3)) for i in range(3)]
    c.result("merge_topk", parts, **c.some(k=(1, 30), temperature=(0.2,)))


def rows(c: Case) -> None:
    x = c.scores(*c.of((1,), (5,), (3, 100), (2, 3, 17), (40, 257), (0, 4), (2, 5000)))
    x = x.astype(np.float16) if c.chance(0.1) else x[..., ::2] if c.chance(0.1) else x
    for name in ("logsumexp", "log_softmax"):
        c.result(name, x, axis=c.of(-1, -1, 0))


def marginal(c: Case) -> None:
    shape, t = c.of((1,), (5,), (3, 5), (2, 2, 10), (33, 16)), c.of(0, 1, 3, 40)
    docs, tokens = c.build.call("log_softmax", c.scores(*shape)), c.scores(*shape, t)
    for name in ("marginalize_sequence", "marginalize_token"):
        c.result(name, docs, tokens, return_posterior=c.chance(0.5))


def segments(c: Case) -> None:
    x = c.scores(*c.of((7,), (300,), (3, 50), (20, 1000)))
    c.result("segment_logsumexp", x, c.rng.integers(-1, 9, x.shape), n_segments=9, n_threads=c.of(1, 3))
    c.result("segment_logsumexp", x.ravel(), c.rng.integers(-3, 9, x.size))


def divergence(c: Case) -> None:
    p = c.scores(*c.of((1,), (5,), (3, 20), (64, 33), (2, 700)))
    q = c.scores(*p.shape) if c.chance(0.5) else (p * c.of(1, 1.0001)).astype(p.dtype)
    choices = {"direction": ("forward", "reverse"), "reduction": ("none", "sum", "batchmean", "mean")}
    options = c.some(temperature=(0.1, 2.0), target_temperature=(0.5,), n_threads=(1, 2), **choices)
    c.result("kl_divergence", p, q, return_grad=c.chance(0.6), **options)


def step(c: Case) -> None:
    beams, k, v = c.of((), (1,), (3,), (2, 4)), c.of(1, 2, 5), c.of(1, 7, 100, 257, 3000)
    docs = c.build.call("log_softmax", c.scores(*beams, k))
    c.result("marginalize_step", c.logits(*beams, k, v), docs, **c.some(n_best=(1, 3, v), n_threads=(1, 2, 3)))


def targets(c: Case) -> None:
    shape, v = c.of((3,), (2, 5), (2, 3, 4), (60,)), c.of(1, 2, 31, 100, 1000, 5000)
    tokens = np.where(c.rng.random(shape) < 0.2, -100, c.rng.integers(0, v, shape))
    options = c.some(return_sums=(True,), n_threads=(1, 2, 3))
    c.result("target_logprobs", c.logits(*shape, v), tokens, ignore_index=-100, **options)


def loss(c: Case) -> None:
    """One of the four losses with all its options."""
    kind, from_logits = c.of("sequence", "token"), c.chance(0.75)
    b, k, t, v = c.of(1, 2, 4), c.of(1, 2, 5), c.of(0, 1, 2, 6), c.of(1, 2, 7, 33, 100, 257, 1000)
    tokens = np.where(c.rng.random((b, t)) < c.of(0, 0.3), -100, c.rng.integers(0, v, (b, t)))
    first = c.logits(b, k, t, v) if from_logits else c.scores(b, k, t)
    options = c.some(
        temperature=(0.1, 3.0),
        reduction=("none", "sum", "mean", "token_mean"),
        compat=("hf",),
        return_posterior=(True,),
        n_threads=(1, 2, 3),
        grad=(["doc_scores"], ["logits" if from_logits else "token_logprobs"]),
    )
    null = {} if c.chance(0.7) else {"null_score": c.of(0.5, c.normal(b))}
    scores = c.scores(b, k - len(null))
    if not from_logits:
        masked = {"mask": tokens >= 0} if c.chance(0.5) else {}
        c.result(f"rag_{kind}_nll_from_logprobs", first, scores, **options, **null, **masked)
        return
    options |= c.some(label_smoothing=(0.1, 0.9))
    if kind == "sequence" and options.get("compat") == "hf" and t:
        tokens[:, 0] = 0
        options |= c.some(bos_token_id=(0,))
    if "logits" in options.get("grad", ()) and first.flags.c_contiguous and c.chance(0.3):
        options["out"] = first if c.chance(0.5) else np.empty_like(first)
    c.result(f"rag_{kind}_nll", first, scores, tokens, ignore_index=-100, **options, **null)


KINDS = (search, loss, index, one_shot, gather, merge, rows, marginal, segments, divergence, step, targets)


# ---- all cases


def run_case(build: Build, kind: str, number: int, seed: int, stored: Path, show: bool = False) -> list[str]:
    """Return the digests of one case.

    The kind "save" saves an index in the folder `stored`, and the kind "stored" searches it.
    """
    folders = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(dir=folders) as folder,
        build.active(),
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
    ):
        warnings.simplefilter("ignore")
        place = {function.__name__: i for i, function in enumerate(KINDS)}
        c = Case(build, Path(folder), seed, place.get(kind, len(KINDS)), number, show=show)
        try:
            if kind == "save":
                changed_index(c)[0].save(stored / str(number))
            elif kind == "stored":
                mmap = c.of(True, "vectors", False)
                search_index(c, c.build.find("FlatIndex").open(stored / str(number), mmap=mmap), [])
            else:
                KINDS[place[kind]](c)
        except Exception as error:  # of what a case needs before its calls
            if show:
                raise
            c.results.append(f"{type(error).__name__} before the call")
    return c.results
