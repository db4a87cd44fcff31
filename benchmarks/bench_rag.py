"""RAG-Sequence and RAG-Token against the reference notebook's loops, same weights, same documents.

``pytest benchmarks/bench_rag.py`` times each with pytest-benchmark. ``python benchmarks/bench_rag.py``
runs them in turns in one process and prints medians and ratios; threads are those of BLAS and ragfast alike.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interleaved import medians

import ragfast

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import notebook


@dataclass(frozen=True)
class Size:
    name: str
    vocab_size: int
    dim: int
    hidden_dim: int
    n_docs: int
    k: int
    n_target: int
    n_query: int = 10
    n_doc_tokens: int = 15


SIZES = {
    size.name: size
    for size in (
        Size("notebook", vocab_size=1000, dim=64, hidden_dim=128, n_docs=20, k=5, n_target=8),
        Size("bart", vocab_size=50_265, dim=768, hidden_dim=768, n_docs=10_000, k=5, n_target=25),
    )
}
LOOPS = "loops"


def contenders(size: Size) -> dict[str, dict[str, Callable[[], Any]]]:
    """{variant: {name: call}}; each name's retriever and generator hold the same weights."""
    rng = np.random.default_rng(0)
    loop_retriever = notebook.Retriever(size.dim)
    loop_generator = notebook.Generator(size.vocab_size, size.dim, size.hidden_dim)
    retriever = ragfast.SimpleRetriever(size.dim)
    retriever.query_encoder_W = loop_retriever.query_encoder_W
    documents = rng.standard_normal((size.n_docs, size.dim))
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    some_texts = list(rng.standard_normal((20, size.n_doc_tokens, size.dim)))  # all 10,000 would fill 900 MB
    texts = [some_texts[i % 20] for i in range(size.n_docs)]
    query = rng.standard_normal((size.n_query, size.dim))
    target = rng.standard_normal((size.n_target, size.dim))

    question = loop_retriever, loop_generator, query, target, documents, texts, size.k
    calls: dict[str, dict[str, Callable[[], Any]]] = {
        "RAGSequence": {LOOPS: partial(notebook.rag_sequence, *question)},
        "RAGToken": {LOOPS: partial(notebook.rag_token, *question)},
    }
    index = ragfast.FlatIndex.from_vectors(documents.astype(np.float32))
    for dtype in (np.float64, np.float32):
        generator = ragfast.SimpleGenerator(size.vocab_size, size.dim, size.hidden_dim, dtype=dtype)
        generator.encoder_W = loop_generator.encoder_W
        generator.decoder_W = loop_generator.decoder_W
        generator.output_W = loop_generator.output_W
        for variant in (ragfast.RAGSequence, ragfast.RAGToken):
            rag = variant(retriever, generator)
            for where, held in (("", documents), (", FlatIndex", index)):
                name = f"{np.dtype(dtype).name}{where}"
                calls[variant.__name__][name] = partial(rag.forward, query, target, held, texts, size.k)
    return calls


NAMES = (LOOPS, "float64", "float64, FlatIndex", "float32", "float32, FlatIndex")


@pytest.fixture(scope="module", params=SIZES)
def calls(request: pytest.FixtureRequest) -> dict[str, dict[str, Callable[[], Any]]]:
    return contenders(SIZES[request.param])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", ["RAGSequence", "RAGToken"])
def test_forward(benchmark: Any, calls: dict[str, dict[str, Callable[[], Any]]], variant: str, name: str) -> None:
    benchmark(calls[variant][name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=10.0, help="least time for each table row group")
    options = parser.parse_args()
    from threadpoolctl import threadpool_limits

    for size in (SIZES[name] for name in options.sizes):
        calls = contenders(size)
        for threads in options.threads:
            ragfast.set_num_threads(threads)
            with threadpool_limits(threads):
                for variant, variant_calls in calls.items():
                    print(f"\n{size}, threads {threads}, {variant}.forward, float64 documents unless FlatIndex")
                    found = medians(variant_calls, options.seconds)
                    for name, median in found.items():
                        print(f"  {name:20s} {median * 1e3:10.3f} ms {found[LOOPS] / median:8.1f} times")


if __name__ == "__main__":
    main()
