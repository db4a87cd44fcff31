"""Small calls, where the call itself is what costs: one task for each kind, microseconds each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import ragfast
from ragfast_bench import contest
from ragfast_bench.contest import Call, Contender, Question, array_of, lse
from ragfast_bench.data import unit_vectors
from ragfast_bench.results import Machine, Task
from ragfast_bench.sections import LeaveOut, Say, Settings

NAME = "small"
TITLE = "Small calls"

TOLERANCE = 1e-5
FLOAT32 = "calculates in float32"
N_QUERIES, N_DOCS, N_TOKENS = 64, 5, 32  # of marginalization
VOCAB = 50_265

Group = tuple[Question, list[Contender]]


def asked(name: str, shape: dict[str, int], error: Callable[[Any], float], ids: bool = False) -> Question:
    tolerance = 0.0 if ids else TOLERANCE
    return Question(section=NAME, name=name, shape=shape, error=error, tolerance=tolerance, ids=ids)


def ready(name: str, call: Call, ours: bool = False, note: str = "") -> Contender:
    """One whose call needs no library but those that are always there."""
    return Contender(name, lambda: call, ours=ours, note=note)


# ---- retrieval


def search_group() -> Group:
    """The notebook's size."""
    n, dim, k = 20, 64, 5
    vectors, queries = unit_vectors(n, dim), unit_vectors(1, dim, 1)
    wide, query = vectors.astype(np.float64), queries[0].astype(np.float64)
    exact = np.argsort(-(wide @ query))[None, :k]
    index = ragfast.FlatIndex.from_vectors(vectors)
    retriever = ragfast.SimpleRetriever(dim)

    def faiss() -> Call:
        import faiss

        flat = faiss.IndexFlatIP(dim)
        flat.add(vectors)
        return lambda: flat.search(queries, k)[1]

    def torch_topk() -> Call:
        import torch

        held, one = torch.from_numpy(vectors), torch.from_numpy(queries)
        return lambda: torch.topk(one @ held.T, k).indices

    def argpartition() -> Any:
        scores = vectors @ queries[0]
        ids = np.argpartition(scores, -k)[-k:]
        return ids[np.argsort(-scores[ids])]

    def argsort() -> Any:
        scores = vectors @ queries[0]
        return np.argsort(scores)[::-1][:k]

    def notebook_retrieve() -> Any:
        similarities = np.dot(wide, query)
        ids = np.argsort(similarities)[::-1][:k]
        weights = np.exp(similarities[ids] - np.max(similarities[ids]))
        return ids, weights / np.sum(weights)

    def ids_of(found: Any) -> Any:
        if isinstance(found, ragfast.Hits):
            return found.ids
        return found[0] if isinstance(found, tuple) else found

    question = asked(
        "search of 20 documents",
        {"N": n, "D": dim, "B": 1, "k": k},
        lambda found: contest.missing(ids_of(found), exact),
        ids=True,
    )
    return question, [
        ready("ragfast index", partial(index.search, queries, k), ours=True),
        ready("ragfast.search", partial(ragfast.search, queries, vectors, k), ours=True),
        ready("SimpleRetriever.retrieve", partial(retriever.retrieve, query, wide, k), ours=True),
        Contender("FAISS", faiss),
        Contender("torch topk", torch_topk),
        ready("NumPy argpartition", argpartition),
        ready("NumPy argsort", argsort),
        ready("the notebook's retrieve", notebook_retrieve, note="in float64, with softmax"),
    ]


def merge_group() -> Group:
    shards, n_queries, k = 4, 64, 10
    rng = np.random.default_rng(0)
    scores = -np.sort(-rng.standard_normal((shards, n_queries, k), np.float32), axis=-1)
    ids = rng.permuted(np.broadcast_to(np.arange(shards * k), (n_queries, shards * k)), axis=1)
    ids = np.ascontiguousarray(ids.reshape(n_queries, shards, k).transpose(1, 0, 2))
    all_scores, all_ids = (np.concatenate(list(x), axis=1) for x in (scores, ids))
    exact = np.take_along_axis(all_ids, np.argsort(-all_scores, axis=1)[:, :k], 1)

    def with_numpy() -> Any:
        both, names = np.concatenate(list(scores), axis=1), np.concatenate(list(ids), axis=1)
        order = np.argsort(-both, axis=1)[:, :k]
        return np.take_along_axis(both, order, 1), np.take_along_axis(names, order, 1)

    def with_torch() -> Call:
        import torch

        lists, names = torch.from_numpy(scores), torch.from_numpy(ids)

        def merge() -> Any:
            best, order = torch.topk(torch.cat(list(lists), 1), k)
            return best, torch.cat(list(names), 1).gather(1, order)

        return merge

    question = asked(
        "merge of the top 10 of 4 shards",
        {"S": shards, "B": n_queries, "k": k},
        lambda found: contest.missing(found[1], exact),
        ids=True,
    )
    return question, [
        ready("ragfast.merge_topk", partial(ragfast.merge_topk, scores, ids), ours=True),
        ready("NumPy concatenate, argsort", with_numpy),
        Contender("torch cat, topk", with_torch),
    ]


# ---- log-sum-exp, marginals


def of_scipy(function: str, *arguments: Any, prepare: Callable[..., Any] | None = None, **options: Any) -> Call:
    """scipy.special's function of the arguments, or of what `prepare` makes of them in each call."""
    import scipy.special

    called = getattr(scipy.special, function)
    if prepare is None:
        return partial(called, *arguments, **options)
    return lambda: called(prepare(*arguments), **options)


def of_torch(formula: Callable[..., Any], *arrays: Any) -> Call:
    """formula (torch, tensors ...)."""
    import torch

    tensors = [torch.from_numpy(x) for x in arrays]

    def call() -> Any:
        return formula(torch, *tensors)

    return call


def logsumexp_group() -> Group:
    five = np.random.default_rng(0).standard_normal(5)
    question = asked("logsumexp of 5", {"n": 5}, partial(contest.difference, exact=lse(five.astype(np.longdouble))))
    return question, [
        ready("ragfast.logsumexp", partial(ragfast.logsumexp, five), ours=True),
        ready("NumPy max, exp, sum, log", partial(lse, five)),
        Contender("SciPy logsumexp", partial(of_scipy, "logsumexp", five)),
        Contender("torch logsumexp", partial(of_torch, lambda torch, x: torch.logsumexp(x, -1), five)),
    ]


def log_softmax_group(rows: int = 200, vocab: int = VOCAB) -> Group:
    """Not a small call, but of the same functions."""
    x = 3 * np.random.default_rng(0).standard_normal((rows, vocab), np.float32)
    exact = x - lse(x.astype(np.float64))[:, None]

    def with_numpy() -> Any:
        shifted = x - x.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    question = asked(
        f"log_softmax of ({rows},{vocab})", {"n": rows, "V": vocab}, partial(contest.difference, exact=exact)
    )
    return question, [
        ready("ragfast.log_softmax", partial(ragfast.log_softmax, x), ours=True),
        ready("NumPy max, exp, sum, log", with_numpy),
        Contender("SciPy log_softmax", partial(of_scipy, "log_softmax", x, axis=-1)),
        Contender("torch log_softmax", partial(of_torch, lambda torch, x: torch.log_softmax(x, -1), x)),
    ]


def marginal_group(by_token: bool, n_queries: int, n_docs: int, n_tokens: int) -> Group:
    rng = np.random.default_rng(0)
    docs = np.asarray(ragfast.log_softmax(rng.standard_normal((n_queries, n_docs))))
    tokens = -rng.random((n_queries, n_docs, n_tokens))
    ours = ragfast.marginalize_token if by_token else ragfast.marginalize_sequence

    def joint(docs: Any, tokens: Any) -> Any:
        return docs[..., None] + tokens if by_token else docs + tokens.sum(-1)

    exact = lse(joint(docs.astype(np.longdouble), tokens.astype(np.longdouble)), 1)
    variant = "RAG-Token" if by_token else "RAG-Sequence"
    question = asked(
        f"{variant} marginal of ({n_queries},{n_docs},{n_tokens})",
        {"B": n_queries, "K": n_docs, "T": n_tokens},
        partial(contest.difference, exact=exact.astype(np.float64)),
    )
    return question, [
        ready(f"ragfast.{ours.__name__}", partial(ours, docs, tokens), ours=True),
        ready("NumPy max, exp, sum, log", lambda: lse(joint(docs, tokens), 1)),
        Contender("SciPy logsumexp", partial(of_scipy, "logsumexp", docs, tokens, prepare=joint, axis=1)),
        Contender(
            "torch logsumexp", partial(of_torch, lambda torch, d, t: torch.logsumexp(joint(d, t), 1), docs, tokens)
        ),
    ]


def segment_group(n: int = 1024, n_keys: int = VOCAB) -> Group:
    """The votes of kNN-LM's neighbours for the next token."""
    rng = np.random.default_rng(0)
    x = np.asarray(ragfast.log_softmax(rng.standard_normal(n)))
    keys = np.minimum(rng.zipf(1.5, n) - 1, n_keys - 1)
    exact = np.bincount(keys, np.exp(x), n_keys)

    def logaddexp_at() -> Any:
        out = np.full(n_keys, -np.inf)
        np.logaddexp.at(out, keys, x)
        return out

    def bincount() -> Any:
        top = x.max()
        with np.errstate(divide="ignore"):
            return np.log(np.bincount(keys, np.exp(x - top), n_keys)) + top

    def with_torch(torch: Any, x: Any, keys: Any) -> Any:
        top = x.max()
        return torch.zeros(n_keys, dtype=x.dtype).index_add_(0, keys, (x - top).exp_()).log_().add_(top)

    question = asked(
        f"segment logsumexp of {n} votes for {n_keys} tokens",
        {"n": n, "V": n_keys},
        lambda found: contest.difference(np.exp(array_of(found)), exact),
    )
    underflows = "loses keys that are less than the largest by a factor of 1e308"
    return question, [
        ready("ragfast.segment_logsumexp", partial(ragfast.segment_logsumexp, x, keys, n_keys), ours=True),
        ready("NumPy logaddexp.at", logaddexp_at),
        ready("NumPy exp, bincount, log", bincount, note=underflows),
        Contender("torch exp, index_add, log", partial(of_torch, with_torch, x, keys), note=underflows),
    ]


# ---- training the retriever


def gather_group(gradient: bool, n: int = 20_000, n_queries: int = 64, k: int = 100, dim: int = 768) -> Group:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n, dim), np.float32)
    queries, weights = (
        rng.standard_normal((n_queries, dim), np.float32),
        rng.standard_normal((n_queries, k), np.float32),
    )
    rows = rng.integers(0, n, (n_queries, k))
    exact = np.stack([vectors[ids].astype(np.float64) @ q for ids, q in zip(rows, queries, strict=True)])
    exact_grad = np.stack([w.astype(np.float64) @ vectors[ids] for ids, w in zip(rows, weights, strict=True)])

    def by_bmm(torch: Any, vectors: Any, queries: Any, rows: Any) -> Any:
        return torch.bmm(vectors[rows], queries[:, :, None])[..., 0]

    def by_sum(torch: Any, vectors: Any, queries: Any, rows: Any) -> Any:
        return (vectors[rows] * queries[:, None]).sum(-1)

    def by_numpy() -> Any:
        return np.matmul(vectors[rows], queries[:, :, None])[..., 0]

    def numpy_both() -> Any:
        chosen = vectors[rows]
        return np.matmul(chosen, queries[:, :, None])[..., 0], np.matmul(weights[:, None], chosen)[:, 0]

    def ours_both() -> Any:
        return ragfast.gather_scores(queries, vectors, rows), ragfast.gather_scores_grad(weights, vectors, rows)

    def torch_both() -> Call:
        import torch

        held, chosen, wanted = (torch.from_numpy(x) for x in (vectors, rows, weights))
        leaf = torch.from_numpy(queries).requires_grad_()

        def both() -> Any:
            scores = by_bmm(torch, held, leaf, chosen)
            return scores.detach(), *torch.autograd.grad(scores, leaf, wanted)

        return both

    shape = {"N": n, "D": dim, "B": n_queries, "K": k}
    name = f"scores of {k} chosen documents for each of {n_queries} queries"
    if gradient:
        question = asked(
            f"{name}, with the gradient",
            shape,
            lambda found: max(contest.difference(found[0], exact), contest.difference(found[1], exact_grad)),
        )
        return question, [
            ready("ragfast.gather_scores, gather_scores_grad", ours_both, ours=True),
            Contender("torch index, bmm, autograd", torch_both),
            ready("NumPy index, matmul", numpy_both),
        ]
    question = asked(name, shape, partial(contest.difference, exact=exact))
    return question, [
        ready("ragfast.gather_scores", partial(ragfast.gather_scores, queries, vectors, rows), ours=True),
        Contender("torch index, bmm", partial(of_torch, by_bmm, vectors, queries, rows)),
        Contender("torch index, multiply, sum", partial(of_torch, by_sum, vectors, queries, rows)),
        ready("NumPy index, matmul", by_numpy),
    ]


def kl_group(gradient: bool, n_queries: int = 64, k: int = 100) -> Group:
    """Of the softmax of scores from that of others, the mean over queries."""
    rng = np.random.default_rng(0)
    scores, target = rng.standard_normal((2, n_queries, k), np.float32)
    log_p, log_q = (x.astype(np.float64) - lse(x.astype(np.float64))[:, None] for x in (scores, target))
    exact = np.asarray((np.exp(log_q) * (log_q - log_p)).sum() / n_queries)
    exact_grad = (np.exp(log_p) - np.exp(log_q)) / n_queries

    def torch_kl(torch: Any, scores: Any, target: Any) -> Any:
        logs = torch.log_softmax(scores, -1), torch.log_softmax(target, -1)
        return torch.nn.functional.kl_div(*logs, log_target=True, reduction="batchmean")

    def of_ours() -> Call:
        import torch

        import ragfast.torch

        return partial(ragfast.torch.kl_divergence, torch.from_numpy(scores), torch.from_numpy(target))

    def autograd(ours: bool) -> Call:
        import torch

        import ragfast.torch

        leaf, other = torch.from_numpy(scores.copy()).requires_grad_(), torch.from_numpy(target)
        loss = ragfast.torch.kl_divergence if ours else partial(torch_kl, torch)

        def both() -> Any:
            found = loss(leaf, other)
            return found.detach(), *torch.autograd.grad(found, leaf)

        return both

    def with_scipy() -> Call:
        from scipy.special import log_softmax, rel_entr

        def divergence() -> Any:
            q, p = np.exp(log_softmax(target, axis=-1)), np.exp(log_softmax(scores, axis=-1))
            return rel_entr(q, p).sum() / n_queries

        return divergence

    shape = {"B": n_queries, "K": k}
    if gradient:
        question = asked(
            f"KL divergence of ({n_queries},{k}), with the gradient",
            shape,
            lambda found: max(contest.difference(found[0], exact), contest.difference(found[1], exact_grad)),
        )
        ours = partial(ragfast.kl_divergence, scores, target, return_grad=True)
        return question, [
            ready("ragfast.kl_divergence", ours, ours=True),
            Contender("ragfast.torch.kl_divergence, autograd", partial(autograd, True), ours=True),
            Contender("torch kl_div of log_softmax, autograd", partial(autograd, False), note=FLOAT32),
        ]
    question = asked(f"KL divergence of ({n_queries},{k})", shape, partial(contest.difference, exact=exact))
    return question, [
        ready("ragfast.kl_divergence", partial(ragfast.kl_divergence, scores, target), ours=True),
        Contender("ragfast.torch.kl_divergence", of_ours, ours=True),
        Contender("torch kl_div of log_softmax", partial(of_torch, torch_kl, scores, target), note=FLOAT32),
        Contender("SciPy log_softmax, rel_entr", with_scipy, note=FLOAT32),
    ]


# ---- the section


GROUPS: list[Callable[[], Group]] = [
    search_group,
    merge_group,
    logsumexp_group,
    partial(marginal_group, False, 1, N_DOCS, 8),
    partial(marginal_group, False, N_QUERIES, N_DOCS, N_TOKENS),
    partial(marginal_group, True, N_QUERIES, N_DOCS, N_TOKENS),
    segment_group,
    partial(gather_group, False),
    partial(gather_group, True),
    partial(kl_group, False),
    partial(kl_group, True),
]


def groups_of(settings: Settings) -> list[Callable[[], Group]]:
    return settings.pick(GROUPS, [*GROUPS, log_softmax_group], [*GROUPS, partial(log_softmax_group, 1000)])


def planned(settings: Settings) -> int:
    return len(groups_of(settings))


def measure(settings: Settings, machine: Machine, say: Say, leave_out: LeaveOut) -> Iterator[Task]:
    for group in groups_of(settings):
        question, taking_part = group()
        yield contest.measured(question, taking_part, settings, say, settings.pick(0.2, 0.5, 3.0))
