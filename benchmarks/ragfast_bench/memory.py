"""How much memory each way of calculating a loss needs beyond the logits and what it returns.

Each runs in a process of its own, ``python -m ragfast_bench.memory``, so that nothing that another left behind counts
for it. Linux alone says how large a process was at the most since a given moment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import ragfast
from ragfast_bench import contest, loss, loss_peers as peers
from ragfast_bench.contest import Call, Contender
from ragfast_bench.loss import Asked, Shape
from ragfast_bench.loss_peers import Answers
from ragfast_bench.results import Machine, Result, Task
from ragfast_bench.sections import LeaveOut, Say, Settings

NAME = "memory"
TITLE = "Memory of the losses"

MEASURE = "bytes beyond inputs and outputs"
WARM_UP: Shape = (2, 5, 3, 1000)
PATIENCE = 300.0  # seconds for one process

# Of the default size, RAG-Sequence alone.
CHOSEN: dict[Asked, tuple[str, ...]] = {
    "value": ("ragfast", "torch cross_entropy", "torch log_softmax in parts, one buffer"),
    "value and gradient": ("ragfast, new memory", "torch cross_entropy, autograd"),
    "gradient into a buffer": ("ragfast, in place", "torch softmax in parts, into a buffer"),
}
OTHERS = "takes a process of its own: in the full size"


def planned(settings: Settings) -> int:
    return settings.pick(0, len(CHOSEN), 2 * len(get_args(Asked)))


def measure(settings: Settings, machine: Machine, say: Say, leave_out: LeaveOut) -> Iterator[Task]:
    if settings.size == "quick":
        leave_out(NAME, "takes seconds for each contender: in the default size")
        return
    if reason := unmeasurable():
        leave_out(NAME, reason)
        return
    variants = settings.pick((False,), (False,), (False, True))
    every: tuple[Asked, ...] = get_args(Asked)
    for by_token in variants:
        for asked in every:
            yield measured(loss.WHOLE, by_token, asked, settings, say)


def unmeasurable() -> str:
    """Why memory cannot be measured here; empty where it can."""
    if sys.platform != "linux":
        return "only Linux tells how large a process was at the most"
    try:
        peak_of(lambda: None)
    except OSError as error:
        return f"the high-water mark of memory cannot be set back here: {error}"
    return ""


def measured(shape: Shape, by_token: bool, asked: Asked, settings: Settings, say: Say) -> Task:
    results: list[Result] = []
    left_out: dict[str, str] = {}
    for contender in listed(by_token, asked, settings):
        if not contender.ours and not settings.wants(contender.name):
            continue
        if contender.left_out or (settings.size == "default" and contender.name not in CHOSEN[asked]):
            left_out[contender.name] = contender.left_out or OTHERS
            continue
        say(f"memory of {contender.name}")
        found = in_process(contender.name, shape, by_token, asked, settings.threads)
        if isinstance(found, str):
            left_out[contender.name] = found
        else:
            results.append(
                Result(contender.name, contender.ours, contender.exact, measures={MEASURE: found}, note=contender.note)
            )
    return Task(
        section=NAME,
        name=f"{'RAG-Token' if by_token else 'RAG-Sequence'}, {asked}",
        data="",
        shape=loss.letters(shape),
        threads=settings.threads,
        results=tuple(results),
        left_out=left_out,
    )


def listed(by_token: bool, asked: Asked, settings: Settings) -> list[Contender]:
    """Those of the loss, by name: of tiny logits that nobody looks at."""
    return loss.contenders(peers.random_answers((1, 1, 1, 3)), None, by_token, asked, settings)


# ---- a process for each


def in_process(name: str, shape: Shape, by_token: bool, asked: Asked, threads: int) -> float | str:
    """Bytes; or why there is no number."""
    command = [sys.executable, "-m", __name__, "--contender", name, "--asked", asked, "--threads", str(threads)]
    command += ["--shape", *map(str, shape), *(["--by-token"] if by_token else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}  # which torch goes by, if it is imported at all
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE, env=environment)
    except subprocess.TimeoutExpired:
        return f"took longer than {PATIENCE:.0f} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return f"failed: {lines[-1] if lines else f'exit status {done.returncode}'}"
    found = json.loads(done.stdout.splitlines()[-1])
    return found if isinstance(found, str) else float(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints, as JSON, the bytes of one contender, or why it is left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contender", required=True)
    parser.add_argument("--asked", choices=get_args(Asked), required=True)
    parser.add_argument("--by-token", action="store_true")
    parser.add_argument("--shape", type=int, nargs=4, default=list(loss.WHOLE), metavar=("B", "K", "T", "V"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    b, k, t, v = options.shape
    ragfast.set_num_threads(options.threads)

    def build(answers: Answers) -> Call:
        every = loss.contenders(answers, None, options.by_token, options.asked, Settings("full", options.threads))
        return next(contender for contender in every if contender.name == options.contender).build()

    try:
        build(peers.random_answers(WARM_UP))()  # so that code and pools are there
    except ImportError:
        print(json.dumps(contest.NOT_INSTALLED))
        return
    answers = peers.random_answers((b, k, t, v))
    peak = peak_of(build(answers))
    returned = answers.held.nbytes if options.asked == "value and gradient" else 0  # the gradient of the logits
    print(json.dumps(max(0, peak - returned)))


def peak_of(call: Call) -> int:
    """Bytes that a call needed, what it returns included, beyond what was resident before."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew

    def kilobytes(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1])

    before = kilobytes("VmRSS")
    found = call()
    peak = kilobytes("VmHWM") - before
    del found
    return peak * 1024


if __name__ == "__main__":
    main()
