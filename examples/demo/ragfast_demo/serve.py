"""``python examples/demo mcp``: serve search over the demo's documents by the Model Context Protocol."""

from __future__ import annotations

import contextlib
import signal
import sys

from ragfast.rag.tool import SearchTool
from ragfast_demo.corpus import load_corpus
from ragfast_demo.encoder import index_of, load_encoder
from ragfast_demo.packages import DemoError

DESCRIPTION = (
    "Searches the summaries of {n:,} Wikipedia articles and returns the passages nearest in meaning to the query, "
    "best first, with the probability that the query means each of them."
)


def search_tool(*, k: int, temperature: float, threads: int, limit_documents: int | None = None) -> SearchTool:
    """The tool over the corpus, or its first documents, encoded now if they were not before."""
    corpus = load_corpus(limit_documents)
    encoder = load_encoder(temperature, threads)
    index = index_of(corpus, encoder, threads)
    return SearchTool(
        encoder,
        index,
        corpus.texts,
        description=DESCRIPTION.format(n=len(corpus)),
        k=k,
        max_k=max(k, 20),
        titles=corpus.titles,
    )


def run_mcp(*, k: int, temperature: float, threads: int, limit_documents: int | None = None) -> None:
    """Serves the tool over stdin and stdout until stdin ends or Ctrl-C. DemoError where the mcp package is missing."""
    try:
        from ragfast.rag.mcp import serve
    except ImportError as error:
        raise DemoError("the mcp package cannot be imported; pip install 'ragfast-kernels[mcp]'") from error
    with contextlib.redirect_stdout(sys.stderr):  # stdout is the protocol's, from the start
        tool = search_tool(k=k, temperature=temperature, threads=threads, limit_documents=limit_documents)
        print("ragfast: serving the Model Context Protocol on stdin and stdout", file=sys.stderr)
    # Python's own handler would wait for the thread that reads stdin, which has no end while a terminal is open.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        serve(tool)
    finally:
        signal.signal(signal.SIGINT, before)
