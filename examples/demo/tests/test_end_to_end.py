"""The two commands on a small corpus, as a user runs them, with every way to the network closed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1]
OFFLINE = f"""
import runpy, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise RuntimeError(f"the network was asked for: {{event}} {{arguments}}")
sys.addaudithook(refuse)
runpy.run_path({str(DEMO)!r}, run_name="__main__")
"""


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", OFFLINE, *arguments, "--limit-documents", "250", "--threads", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, encoding="utf-8")


@pytest.fixture(scope="module")
def first(shared_cache: Path) -> subprocess.CompletedProcess[str]:
    return demo("demo", "--questions", "4", "--max-new-tokens", "8")


def test_the_first_run(first: subprocess.CompletedProcess[str]) -> None:
    assert first.returncode == 0, first.stderr
    assert "Encoding the documents" in first.stderr
    assert "seconds: " in first.stderr
    assert "When was the Great Wall of China built?" in first.stdout
    assert "7th century BC" in first.stdout
    assert re.search(r"A  Great Wall of China +-?0\.0", first.stdout)
    assert "recall@1 100.0%  recall@5 100.0%  recall@20 100.0%" in first.stdout
    for name in ("B 1 ragfast", "B 4 ragfast", "NumPy"):
        assert name in first.stdout
    assert max(map(len, first.stdout.splitlines())) <= 110


def test_the_marginals_lie_between_their_parts(first: subprocess.CompletedProcess[str]) -> None:
    blocks = first.stdout.split("known answer y:")[1:]
    assert len(blocks) == 4
    for block in blocks:
        rows = [
            [float(x) for x in row]
            for row in re.findall(r"^  [A-E]  .+? (-?[\d.]+) +(-?[\d.]+) +([\d.]+)$", block, re.M)
        ]
        prior, given, posterior = zip(*rows, strict=True)
        found = re.search(r"RAG-Sequence (-?[\d.]+), RAG-Token (-?[\d.]+)", block)
        assert found
        assert len(rows) == 5
        assert abs(sum(posterior) - 1) < 0.01
        sequence, token = map(float, found.groups())
        assert max(map(sum, zip(prior, given, strict=True))) - 0.02 <= sequence <= max(given) + 0.02
        assert token < 0


def test_the_second_run_says_the_same_from_the_cache(first: subprocess.CompletedProcess[str]) -> None:
    second = demo("demo", "--questions", "4", "--max-new-tokens", "8")
    assert "Encoding" not in second.stderr
    assert "Converting" not in second.stderr
    before, after = ([line for line in run.stdout.splitlines() if "ragfast" not in line] for run in (first, second))
    assert before == after
    assert len(after) > 20


def test_a_corrupted_cache_is_named_and_made_again(first: subprocess.CompletedProcess[str], shared_cache: Path) -> None:
    embeddings = shared_cache / "documents-250" / "embeddings.npy"
    good = embeddings.read_bytes()
    embeddings.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    run = demo("ask", "Who were the architects of the Eiffel Tower?", "--k", "2")
    assert run.returncode == 0, run.stderr
    assert "corrupted" in run.stderr
    assert "Encoding the documents" in run.stderr
    assert embeddings.read_bytes() == good
    assert "A  Eiffel Tower" in run.stdout
    assert "Gust" in run.stdout
    assert "<|im_end|>" in run.stdout
