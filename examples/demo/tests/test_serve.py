"""The tool that `python examples/demo mcp` serves."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from ragfast_demo import packages


def test_the_tool_searches_the_corpus(shared_cache: Path) -> None:
    from ragfast_demo.corpus import load_corpus
    from ragfast_demo.serve import search_tool

    corpus = load_corpus(30)
    tool = search_tool(k=3, temperature=0.05, threads=1, limit_documents=30)
    assert "of 30 Wikipedia articles" in tool.schema["description"]
    found = tool(query=f"What is {corpus.titles[7]}?")["results"]
    assert len(found) == 3
    assert (found[0]["id"], found[0]["title"], found[0]["text"]) == (7, corpus.titles[7], corpus.texts[7])
    assert sum(result["probability"] for result in found) == pytest.approx(1)


def test_nothing_goes_to_stdout_before_the_protocol(
    shared_cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    mcp = pytest.importorskip(
        "ragfast.rag.mcp", reason="mcp is not installed: `make test-all` has it", exc_type=ImportError
    )
    from ragfast_demo.serve import run_mcp

    served = []
    monkeypatch.setattr(mcp, "serve", lambda tool: served.append((tool.k, signal.getsignal(signal.SIGINT))))
    before = signal.getsignal(signal.SIGINT)
    run_mcp(k=3, temperature=0.05, threads=1, limit_documents=20)  # which are encoded, with a progress bar
    out, err = capfd.readouterr()
    assert out == ""
    assert "serving" in err
    assert served == [(3, signal.SIG_DFL)]  # Ctrl-C ends it at once, though a thread waits for stdin
    assert signal.getsignal(signal.SIGINT) == before


def test_without_the_package_says_how_to_get_it(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from ragfast_demo.serve import run_mcp

    monkeypatch.setitem(sys.modules, "ragfast.rag.mcp", None)
    with pytest.raises(packages.DemoError, match=r"pip install 'ragfast-kernels\[mcp\]'"):
        run_mcp(k=3, temperature=0.05, threads=1, limit_documents=30)
