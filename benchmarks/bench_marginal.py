"""-log p(y|x) and its gradient from logits against torch and Hugging Face, small kernels against NumPy and SciPy.

``pytest benchmarks/bench_marginal.py`` times a small size with pytest-benchmark. ``python
benchmarks/bench_marginal.py`` runs contenders in turns in one process and prints medians and ratios, beside the time in
which this machine reads the logits once: all of --value, --grad, --small, --step and --memory, unless some are named.
Hugging Face's losses need transformers.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import timeit
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interleaved import OtherLoad, medians
from peers import limit_threads

import ragfast

torch = pytest.importorskip("torch")

# After the skip: all three import torch.
import marginal_peers as peers  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import ragfast.torch  # noqa: E402

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
OURS, TOKEN = "ragfast sequence", "ragfast token"
AUTOGRAD = "ragfast.torch sequence, autograd"
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}
Call = Callable[[], Any]


@pytest.mark.parametrize("name", ["ragfast", "log_softmax, gather", "gather - logsumexp", "cross_entropy"])
@pytest.mark.parametrize("gradient", [False, True], ids=["value", "gradient"])
def test_nll(benchmark: Any, name: str, gradient: bool) -> None:
    limit_threads(1)
    answers = peers.random_answers((2, 5, 8, 5000))
    ours = our_grads(answers)["ragfast sequence, new memory"] if gradient else our_values(answers)[OURS]
    if name == "ragfast":
        call = ours
    elif gradient:
        call = peers.torch_grads(answers, False)[f"torch {name}, autograd"]
    else:
        call = peers.torch_values(answers, False)[f"torch {name}"]
    found = benchmark(call)
    assert np.allclose(loss_of(found), loss_of(ours()), rtol=1e-4)


def loss_of(found: Any) -> Any:
    """Whatever a contender returns, the losses of it, or their mean."""
    first = found[0] if isinstance(found, tuple) else found
    return np.mean(np.asarray(first.loss if isinstance(first, ragfast.NLL) else first))


# ---- ours


def our_values(answers: peers.Answers) -> dict[str, Call]:
    arguments = answers.logits, answers.doc_scores, answers.targets
    return {
        OURS: partial(ragfast.rag_sequence_nll, *arguments),
        TOKEN: partial(ragfast.rag_token_nll, *arguments),
    }


def our_slow_values(answers: peers.Answers) -> dict[str, Call]:
    """What leaves the fast path: rows near certainty are summed in float64, smoothing mixes documents at every word."""
    indices = answers.targets[:, None, :, None].expand(*answers.logits.shape[:3], 1)
    certain = answers.logits.scatter(-1, indices, 40.0)
    return {
        f"{OURS}, every target certain": partial(
            ragfast.rag_sequence_nll, certain, answers.doc_scores, answers.targets
        ),
        f"{TOKEN}, label smoothing": partial(
            ragfast.rag_token_nll, answers.logits, answers.doc_scores, answers.targets, label_smoothing=0.1
        ),
    }


def our_grads(answers: peers.Answers) -> dict[str, Call]:
    """In place on logits of their own, which are gradients after the first call: to the kernels one is as much work as
    the other."""
    arguments = answers.logits, answers.doc_scores, answers.targets
    buffer, own = torch.zeros_like(answers.logits), answers.logits.clone()
    both = {"grad": ("logits", "doc_scores")}
    leaf, doc_scores = answers.logits.detach().requires_grad_(), answers.doc_scores.detach().requires_grad_()

    def by_autograd() -> Any:
        nll = ragfast.torch.rag_sequence_nll(leaf, doc_scores, answers.targets)
        return nll.detach(), *torch.autograd.grad(nll, (leaf, doc_scores))

    calls: dict[str, Call] = {}
    for name, function in ((OURS, ragfast.rag_sequence_nll), (TOKEN, ragfast.rag_token_nll)):
        calls[name] = partial(function, *arguments, out=buffer, **both)
        calls[f"{name}, new memory"] = partial(function, *arguments, **both)
        calls[f"{name}, in place"] = partial(function, own, *arguments[1:], out=own, **both)
    calls[AUTOGRAD] = by_autograd
    return calls


# ---- tables


def print_table(
    calls: dict[str, Call], reads: dict[str, Call], n_bytes: int, options: argparse.Namespace, ours: str = OURS
) -> dict[str, float]:
    """Medians, each as a multiple of one read and of ours."""
    load = OtherLoad()
    times = medians(calls | {f"read, {name}": call for name, call in reads.items()}, options.seconds, options.least)
    print(f"  {load}")
    read = min(times[f"read, {name}"] for name in reads)
    fastest = min(reads, key=lambda name: times[f"read, {name}"])
    print(f"  {'one read':48s} {read * 1e3:9.2f} ms {n_bytes / read * 1e-9:7.1f} GB/s ({fastest})")
    for name, t in times.items():
        if name.startswith("read, "):
            continue
        line = f"  {name:48s} {t * 1e3:9.2f} ms {t / read:7.2f} reads"
        if not name.startswith("ragfast"):
            line += f", ours {t / times[counterpart(name, ours)]:6.2f} times as fast"
        print(line, flush=True)
    return times


def counterpart(name: str, ours: str = OURS) -> str:
    """Which of ours to hold against a contender: new memory for 200 MB of gradient costs more than the gradient, so one
    that takes new memory is held against one that does."""
    if "autograd" in name or (name.endswith("gradient") and name.startswith("Hugging Face")):
        return AUTOGRAD
    return TOKEN if "Token" in name else ours


def print_fastest(times: dict[str, float]) -> None:
    of_torch = {name: t for name, t in times.items() if name.startswith("torch")}
    apart = ("a document at a time", "parts", "compile")
    groups = {
        "plain expression": {name: t for name, t in of_torch.items() if not any(word in name for word in apart)},
        "formulation": {name: t for name, t in of_torch.items() if "autograd" not in name},
        "formulation with autograd": {name: t for name, t in of_torch.items() if "autograd" in name},
    }
    for what, group in groups.items():
        if group:
            name = min(group, key=group.__getitem__)
            ratio = group[name] / times[counterpart(name)]
            print(f"  torch's fastest {what} is {name!r}: {counterpart(name)!r} is {ratio:.2f} times as fast")


def without_wrong(calls: dict[str, Call], exact: dict[str, Any], tolerance: float) -> None:
    """Prints which contenders give another loss. Hugging Face's has another last token."""
    for name, call in calls.items():
        if "Hugging Face" in name or "in place" in name:
            continue
        expected = exact[TOKEN if "token" in name else OURS]
        if not np.allclose(loss_of(call()), expected, rtol=tolerance):
            print(f"  WRONG: {name} finds {loss_of(call())}, not {expected}")


def print_nll(options: argparse.Namespace, gradient: bool) -> None:
    for dtype in options.dtypes:
        answers = peers.random_answers(tuple(options.shape), DTYPES[dtype])
        n_bytes = answers.logits.nbytes
        what = "value and gradients" if gradient else "value"
        print(f"\n{what}, logits {tuple(options.shape)} {dtype}, {n_bytes / 1e6:.0f} MB, {options.threads} thread(s)")
        if gradient:
            calls = our_grads(answers) | peers.torch_grads(answers, options.compile)
        else:
            calls = our_values(answers) | peers.torch_values(answers, options.compile)
        of_hf = peers.hugging_face(answers)
        if isinstance(of_hf, str):
            print(f"  without Hugging Face: {of_hf}")
        else:
            calls |= {name: call for name, call in of_hf.items() if ("gradient" in name) == gradient}
        exact = {name: loss_of(call()) for name, call in our_values(answers).items()}
        without_wrong(calls, exact, TOLERANCE[dtype])
        other = {"float32": "bfloat16", "bfloat16": "float32"}[dtype]
        if not gradient:  # ours of the other type, in the same turns
            held = peers.Answers(answers.logits.to(DTYPES[other]), answers.doc_scores, answers.targets)
            calls[f"ragfast sequence of {other}"] = our_values(held)[OURS]
            calls |= our_slow_values(answers)
        with ThreadPoolExecutor(options.threads) as pool:
            reads = peers.reads(answers.logits, options.threads, pool)
            times = print_table(calls, reads, n_bytes, options)
        print_fastest(times)
        if not gradient:
            pair = {dtype: times[OURS], other: times[f"ragfast sequence of {other}"]}
            print(f"  ours in bfloat16 {pair['float32'] / pair['bfloat16']:.2f} times as fast as in float32")


def in_microseconds(call: Call, n: int = 200) -> float:
    """The least of many."""
    number = max(1, int(n / max(1e-6, timeit.timeit(call, number=1)) * 1e-5))
    return min(timeit.repeat(call, number=number, repeat=25)) / number * 1e6


def print_small_calls(groups: dict[str, dict[str, Call]]) -> None:
    """{what: {name: call}}, ours first."""
    for what, calls in groups.items():
        times = {name: in_microseconds(call) for name, call in calls.items()}
        ours = next(iter(times.values()))
        print(f"  {what}")
        for name, t in times.items():
            print(f"    {name:44s} {t:10.2f} us" + ("" if t == ours else f"  {t / ours:6.2f} times ours"), flush=True)


def print_small(options: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    five, one = rng.standard_normal(5), rng.standard_normal((1, 5))
    tokens = -rng.random((1, 5, 8))
    docs64, tokens64 = ragfast.log_softmax(rng.standard_normal((64, 5))), -rng.random((64, 5, 32))

    def plain(x: Any) -> Any:
        return np.log(np.sum(np.exp(x - x.max()))) + x.max()

    def plain_sequence(docs: Any, logprobs: Any) -> Any:
        x = docs + logprobs.sum(-1)
        top = x.max(-1, keepdims=True)
        return np.log(np.sum(np.exp(x - top), -1)) + top[..., 0]

    groups: dict[str, dict[str, Call]] = {
        "logsumexp of 5": {
            "ragfast.logsumexp": partial(ragfast.logsumexp, five),
            "NumPy, plain expression": partial(plain, five),
        },
        "RAG-Sequence, (1,5) documents of 8 tokens": {
            "ragfast.marginalize_sequence": partial(ragfast.marginalize_sequence, one, tokens),
            "NumPy, plain expression of 5 sums": partial(plain, five),
            "NumPy, plain expression": partial(plain_sequence, one, tokens),
        },
        "RAG-Sequence, (64,5,32)": {
            "ragfast.marginalize_sequence": partial(ragfast.marginalize_sequence, docs64, tokens64),
            "NumPy, plain expression": partial(plain_sequence, docs64, tokens64),
        },
        "RAG-Token, (64,5,32)": {
            "ragfast.marginalize_token": partial(ragfast.marginalize_token, docs64, tokens64),
        },
    }
    try:
        from scipy.special import logsumexp
    except ImportError as error:
        print(f"  without SciPy: {error}")
    else:
        groups["logsumexp of 5"]["SciPy"] = partial(logsumexp, five)
        groups["RAG-Sequence, (64,5,32)"]["SciPy"] = lambda: logsumexp(docs64 + tokens64.sum(-1), axis=-1)
        groups["RAG-Token, (64,5,32)"]["SciPy"] = lambda: logsumexp(docs64[..., None] + tokens64, axis=1)
    print(f"\nsmall calls, {options.threads} thread(s): the least of many")
    load = OtherLoad()
    print_small_calls(groups | document_kernels())
    print(f"  {load}")


def document_kernels() -> dict[str, dict[str, Call]]:
    """KL of (64,100), scores of 100 documents for each of 64 queries."""
    generator = torch.Generator().manual_seed(0)
    scores, target = torch.randn(64, 100, generator=generator), torch.randn(64, 100, generator=generator)
    leaf = scores.clone().requires_grad_()
    scores_array, target_array = scores.numpy(), target.numpy()

    def torch_kl(x: Any) -> Any:
        return F.kl_div(F.log_softmax(x, -1), F.log_softmax(target, -1), log_target=True, reduction="batchmean")

    vectors, queries = torch.randn(20_000, 768, generator=generator), torch.randn(64, 768, generator=generator)
    rows = torch.randint(20_000, (64, 100), generator=generator)
    vectors_array, queries_array, rows_array = vectors.numpy(), queries.numpy(), rows.numpy()
    asked = queries.clone().requires_grad_()
    weights = scores_array
    return {
        "KL (64,100)": {
            "ragfast.kl_divergence": partial(ragfast.kl_divergence, scores_array, target_array),
            "ragfast.torch.kl_divergence": partial(ragfast.torch.kl_divergence, scores, target),
            "torch kl_div of log_softmax": partial(torch_kl, scores),
        },
        "KL (64,100) with its gradient": {
            "ragfast.kl_divergence": partial(ragfast.kl_divergence, scores_array, target_array, return_grad=True),
            "ragfast.torch, autograd": lambda: torch.autograd.grad(ragfast.torch.kl_divergence(leaf, target), leaf),
            "torch, autograd": lambda: torch.autograd.grad(torch_kl(leaf), leaf),
        },
        "scores of 100 of 20,000 documents (64,100,768)": {
            "ragfast.gather_scores": partial(ragfast.gather_scores, queries_array, vectors_array, rows_array),
            "torch index, bmm": lambda: torch.bmm(vectors[rows], queries[:, :, None])[..., 0],
            "torch index, multiply, sum": lambda: (vectors[rows] * queries[:, None]).sum(-1),
        },
        "the same with the gradient of queries": {
            "ragfast.gather_scores, gather_scores_grad": lambda: (
                ragfast.gather_scores(queries_array, vectors_array, rows_array),
                ragfast.gather_scores_grad(weights, vectors_array, rows_array),
            ),
            "torch index, bmm, autograd": lambda: torch.autograd.grad(
                torch.bmm(vectors[rows], asked[:, :, None])[..., 0], asked, scores
            ),
        },
    }


def print_step(options: argparse.Namespace) -> None:
    """A step of decoding RAG-Token: K documents, V tokens, for some beams."""
    k, vocab = options.shape[1], options.shape[3]
    generator = torch.Generator().manual_seed(0)
    for beams in (1, 4, 16):
        logits = 3 * torch.randn(beams, k, vocab, generator=generator)
        prior = F.log_softmax(torch.randn(beams, k, generator=generator), -1)
        arrays = logits.numpy(), prior.numpy()

        def mixture(logits: Any, prior: Any) -> Any:
            return torch.logsumexp(F.log_softmax(logits, -1) + prior[..., None], -2)

        def by_probabilities(logits: Any, prior: Any) -> Any:
            return torch.matmul(prior.exp()[..., None, :], F.softmax(logits, -1))[..., 0, :].log_()

        with torch.inference_mode():
            calls: dict[str, Call] = {
                "ragfast": partial(ragfast.marginalize_step, *arrays),
                f"ragfast, {2 * beams} best": partial(ragfast.marginalize_step, *arrays, top_b=2 * beams),
                "torch log_softmax, logsumexp": partial(mixture, logits, prior),
                "torch softmax, matmul, log (underflows)": partial(by_probabilities, logits, prior),
                f"torch log_softmax, logsumexp, {2 * beams} best": lambda m=mixture, x=logits, p=prior, n=2 * beams: (
                    torch.topk(m(x, p), n)
                ),
            }
            if options.compile:
                calls["torch.compile"] = partial(torch.compile(mixture), logits, prior)
            for name, call in calls.items():
                if "best" not in name and not np.allclose(
                    np.asarray(call()), np.asarray(calls["ragfast"]()), atol=1e-4
                ):
                    print(f"  WRONG: {name}")
            print(f"\ndecoding step, {beams} beam(s), K {k}, V {vocab}, float32, {options.threads} thread(s)")
            with ThreadPoolExecutor(options.threads) as pool:
                reads = peers.reads(logits, options.threads, pool)
                times = print_table(calls, reads, logits.nbytes, options, "ragfast")
        best = [name for name in times if name.endswith("best")]
        print(f"  with the best: ours {times[best[1]] / times[best[0]]:.2f} times as fast")


# ---- memory


def peak_of(call: Call) -> int:
    """Bytes that a call needed beyond what was resident before."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew

    def kilobytes(field: str) -> int:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
        return int(line.split()[1])

    before = kilobytes("VmRSS")
    found = call()
    peak = kilobytes("VmHWM") - before
    del found
    return peak * 1024


def memory_calls(answers: peers.Answers) -> dict[str, Call]:
    calls = our_values(answers) | peers.torch_values(answers, False)
    arguments = answers.logits, answers.doc_scores, answers.targets
    for name, function in ((OURS, ragfast.rag_sequence_nll), (TOKEN, ragfast.rag_token_nll)):
        both = {"grad": ("logits", "doc_scores")}
        calls[f"{name}, gradient"] = partial(function, *arguments, **both)
        calls[f"{name}, gradient in place"] = partial(function, *arguments, out=answers.logits, **both)
    leaf, doc_scores = answers.logits.detach().requires_grad_(), answers.doc_scores.detach().requires_grad_()

    def by_autograd(inplace: bool) -> Any:
        nll = ragfast.torch.rag_sequence_nll(leaf.view_as(leaf), doc_scores, answers.targets, inplace=inplace)
        return torch.autograd.grad(nll, (leaf, doc_scores))

    calls[AUTOGRAD] = partial(by_autograd, False)
    calls[f"{AUTOGRAD}, in place"] = partial(by_autograd, True)
    calls |= {name: call for name, call in peers.torch_grads(answers, False).items() if "autograd" in name}
    of_hf = peers.hugging_face(answers)
    return calls if isinstance(of_hf, str) else calls | of_hf


def print_peak(options: argparse.Namespace) -> None:
    """Of one contender, in a process of its own: a small call first, so that code and pools are there."""
    answers = peers.random_answers(tuple(options.shape))
    memory_calls(peers.random_answers((2, options.shape[1], 3, 1000)))[options.peak]()
    print(peak_of(memory_calls(answers)[options.peak]))


def print_memory(options: argparse.Namespace) -> None:
    names = list(memory_calls(peers.random_answers((1, 2, 3, 100))))
    print(f"\npeak memory beyond the logits, {tuple(options.shape)} float32, {options.threads} thread(s)")
    shape = [str(n) for n in options.shape]
    logits = 4 * int(np.prod(options.shape))
    for name in names:
        command = [sys.executable, __file__, "--peak", name, "--threads", str(options.threads), "--shape", *shape]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"  {name:48s} failed: {done.stderr.strip().splitlines()[-1]}")
            continue
        peak = int(done.stdout.split()[-1])
        output = logits if ("gradient" in name or "autograd" in name) and "in place" not in name else 0
        beyond = f", {(peak - output) / 1e6:8.2f} MB beyond the gradient" if output else ""
        print(f"  {name:48s} {peak / 1e6:9.2f} MB{beyond}", flush=True)


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = {name: parser.add_argument(f"--{name}", action="store_true").dest for name in ("value", "grad", "small")}
    modes |= {name: parser.add_argument(f"--{name}", action="store_true").dest for name in ("step", "memory")}
    parser.add_argument("--shape", type=int, nargs=4, default=[8, 5, 25, 50265], metavar=("B", "K", "T", "V"))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--threads", type=int, default=1, help="of ragfast, torch and the reads alike")
    parser.add_argument("--isa", choices=ragfast.available_isas(), help="ragfast's level; peers keep theirs")
    parser.add_argument("--seconds", type=float, default=20.0, help="least time for each table (default 20)")
    parser.add_argument("--least", type=int, default=5, help="least rounds for each table (default 5)")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="without torch.compile")
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # what --memory runs in other processes
    options = parser.parse_args()
    if options.isa:
        ragfast.set_isa(options.isa)
    limit_threads(options.threads)
    if options.peak:
        print_peak(options)
        return
    chosen = [name for name in modes if getattr(options, name)] or list(modes)
    print(
        f"ragfast {ragfast.__version__}, {ragfast.isa()}, torch {torch.__version__}, {options.threads} thread(s), "
        f"{processor()}; medians of calls in turns"
    )
    runs: dict[str, Call] = {
        "value": partial(print_nll, options, False),
        "grad": partial(print_nll, options, True),
        "small": partial(print_small, options),
        "step": partial(print_step, options),
        "memory": partial(print_memory, options),
    }
    for name in chosen:
        runs[name]()


if __name__ == "__main__":
    main()
