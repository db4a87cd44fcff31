"""The data sets of real texts, encoded by MiniLM once and kept in the demo's cache.

This is the only module of the benchmarks that needs the distribution ragfast-demo, besides the process that encodes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from ragfast_demo import packages
from ragfast_demo.cache import cached, is_whole
from ragfast_demo.corpus import load_corpus
from ragfast_demo.embeddings import DOCUMENTS, cached_embeddings, what_they_depend_on
from ragfast_demo.questions import load_texts

from ragfast_bench.documents import Matrix
from ragfast_bench.encode import encode
from ragfast_bench.results import BenchError
from ragfast_bench.sections import Say

Texts = tuple[str, Matrix, Matrix]
"""What they are, in one sentence; the embeddings of the documents (N,D) and of the queries (n,D)."""

QUESTIONS = "questions"  # the folder of their embeddings in the cache
HELD_OUT = 1024  # of the glosses, as queries

WORDNET_FILES = tuple(f"data.{part_of_speech}" for part_of_speech in ("noun", "verb", "adj", "adv"))
WORDNET_PACKAGE = "wordnet-base"
WORDNET_PLACE = Path("/usr/share/wordnet")  # where that Debian package puts them
ENCODING = (packages.TORCH, packages.TRANSFORMERS, packages.MINILM)


def load(name: str, say: Say) -> Texts:
    """Return "wiki" or "glosses". Raises BenchError, with the commands that install what is missing."""
    try:
        return {"wiki": _wiki, "glosses": _glosses}[name](say)
    except packages.DemoError as error:
        raise BenchError(str(error)) from error


def wiki_is_cached() -> bool:
    """Whether the embeddings of "wiki" can be read, so that nothing has to be encoded."""
    try:
        packages.require([*ENCODING, packages.WIKIPEDIA, packages.FANOUTQA], "bench")
        texts = {DOCUMENTS: load_corpus().texts, QUESTIONS: load_texts()}
        return all(is_whole(name, what_they_depend_on(of)) for name, of in texts.items())
    except (packages.DemoError, ImportError, OSError):
        return False


def _wiki(say: Say) -> Texts:
    packages.require([*ENCODING, packages.WIKIPEDIA, packages.FANOUTQA], "bench")
    say("loading the Wikipedia summaries")
    summaries, questions = load_corpus().texts, load_texts()
    vectors = cached_embeddings(DOCUMENTS, summaries, partial(encode, what=f"{len(summaries):,} summaries", say=say))
    queries = cached_embeddings(QUESTIONS, questions, partial(encode, what=f"{len(questions):,} questions", say=say))
    what = f"{len(vectors):,} Wikipedia summaries and {len(queries):,} questions (FanOutQA), encoded by MiniLM"
    return what, vectors, queries


def _glosses(say: Say) -> Texts:
    packages.require(ENCODING, "bench")
    texts = glosses(_wordnet(say))
    embeddings = cached_embeddings("glosses", texts, partial(encode, what=f"{len(texts):,} glosses", say=say))
    order = np.random.default_rng(0).permutation(len(embeddings))
    held_out, rest = np.sort(order[:HELD_OUT]), np.sort(order[HELD_OUT:])
    what = f"{len(rest):,} definitions of WordNet and {len(held_out):,} others as queries, encoded by MiniLM"
    return what, embeddings[rest], embeddings[held_out]


def glosses(folder: Path) -> list[str]:
    """What each entry of the dictionary means, in its order, without the examples."""
    found = []
    for name in WORDNET_FILES:
        for line in (folder / name).read_text(encoding="utf-8", errors="replace").splitlines():
            if not line.startswith("  "):  # as the lines of the licence do
                found.append(line.split("|", 1)[1].split(";")[0].strip())
    return found


def _wordnet(say: Say) -> Path:
    """The folder of the dictionary's files: the user's, the system's, or one that is fetched once and kept."""
    chosen = os.environ.get("WNSEARCHDIR")
    for place in [Path(chosen)] if chosen else [WORDNET_PLACE]:
        if all((place / name).is_file() for name in WORDNET_FILES):
            return place
    if chosen:
        raise BenchError(f"WNSEARCHDIR is {chosen}, where {', '.join(WORDNET_FILES)} are expected; unset or mend it")

    def build(folder: Path) -> None:
        say(f"fetching WordNet: apt-get download {WORDNET_PACKAGE}")
        with tempfile.TemporaryDirectory(prefix="ragfast-") as scratch:
            _run("apt-get", "download", WORDNET_PACKAGE, cwd=scratch)
            (package,) = Path(scratch).glob("*.deb")
            _run("dpkg-deb", "-x", package.name, "files", cwd=scratch)
            for name in WORDNET_FILES:
                shutil.copyfile(Path(scratch, "files", WORDNET_PLACE.relative_to("/"), name), folder / name)

    return cached("wordnet", {"package": WORDNET_PACKAGE}, build)


def _run(*command: str, cwd: str) -> None:
    """Needs no root."""
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchError(
            f"WordNet's dictionary is not here, and `{' '.join(command)}` failed. Install it (Debian and Ubuntu: "
            f"`apt-get install {WORDNET_PACKAGE}`), or set WNSEARCHDIR to the folder of {', '.join(WORDNET_FILES)}"
        ) from error
