"""Whenever a writer dies, its directory is the version before or the one after, to the byte, and can be written again.

Every call that changes the disk is a step (tests/helpers/faults.py). One writer for each step is killed there by
SIGKILL; then the same with a loss of power, after which the disk holds what was forced to it and any of the rest.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from faults import KILL, LOSE_POWER, Faults, PowerLoss

import ragfast
from ragfast.index import storage
from ragfast.index.storage import manifest

Contents = dict[str, object] | None


def first_save(path: Path) -> None:
    with storage.change(path) as transaction:
        transaction.put("segment-1/vectors", np.arange(12, dtype=np.float32).reshape(3, 4), rows_checked=True)
        transaction.put("segment-1/ids", np.arange(3))
        transaction.put("empty", np.empty((0, 4), np.uint16))
        transaction.commit({"documents": 3})


def second_save(path: Path) -> None:
    """Keeps, writes anew, and leaves out."""
    with storage.change(path) as transaction:
        if "segment-1/vectors" in transaction.before.arrays:
            transaction.keep("segment-1/vectors")
        transaction.put("segment-1/ids", np.arange(3) + 7)
        with transaction.stream("segment-2/vectors", np.float32, (4,)) as out:
            for i in range(3):
                out.append(np.full((2, 4), i, np.float32))
        transaction.commit({"documents": 9})


def last_save(path: Path) -> None:
    with storage.change(path) as transaction:
        transaction.put("all", np.arange(5))
        transaction.commit({"documents": 5})


def contents(path: Path) -> Contents:
    """All of the version that is there, checked; None where nothing was ever saved."""
    if not (path / manifest.NAME).exists():
        return None
    stored = storage.open(path)
    stored.verify_all()
    return {"meta": stored.meta, **{name: stored.array(name).tolist() for name in stored.names}}


def refuse_garbage(path: Path) -> None:
    named = {entry.file for entry in manifest.parse((path / manifest.NAME).read_bytes(), str(path)).arrays.values()}
    assert {file.name for file in path.iterdir()} == named | {manifest.NAME, "lock"}


def rows(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, 8)).astype(np.float32)


def first_index_save(path: Path) -> None:
    index = ragfast.FlatIndex(8, scan="int8")
    index.add(rows(5), [f"name {i}" for i in range(5)], metadata={"kind": ["a", None, "b", "a", "c"]})
    index.save(path)


def second_index_save(path: Path) -> None:
    """Into the directory that it comes from, where most of it stays."""
    index = ragfast.FlatIndex.open(path)
    index.remove(["name 2"])
    index.add(rows(3), ["name 9", "name 2", "name 7"], metadata={"kind": ["d", "a", "a"]})
    index.save(path)


def other_index_save(path: Path) -> None:
    """Over another index, of which nothing stays."""
    ragfast.FlatIndex.from_vectors(rows(4)).save(path)


@dataclass(frozen=True)
class Case:
    """Saves that came before, the one that is disturbed, and what is in a directory: None if nothing was ever saved."""

    before: list[Callable[[Path], None]]
    save: Callable[[Path], None]
    after: Callable[[Path], None] = last_save
    of_index: bool = False

    def contents(self, path: Path) -> Contents:
        return index_contents(path) if self.of_index else contents(path)


def index_contents(path: Path) -> Contents:
    if not (path / manifest.NAME).exists():
        return None
    index = ragfast.FlatIndex.open(path)
    hits = index.search(rows(2), k=9, n_threads=1)
    index.verify()
    return {
        "ids": index.ids.tolist(),
        "vectors": index.vectors.tolist(),
        "metadata": {name: column.tolist() for name, column in index.metadata.items()},
        "hits": (hits.ids.tolist(), hits.scores.tolist()),
    }


CASES = {
    "first": Case([], first_save),
    "second": Case([first_save], second_save),
    "first index": Case([], first_index_save, other_index_save, of_index=True),
    "second index": Case([first_index_save], second_index_save, other_index_save, of_index=True),
    "another index": Case([first_index_save], other_index_save, first_index_save, of_index=True),
}


class Scene:
    """A directory to save to again and again from the same state."""

    def __init__(self, folder: Path, which: str) -> None:
        self.case = CASES[which]
        self.save = self.case.save
        self.kept, self.path = folder / "kept" / "index", folder / "tried" / "index"
        self.kept.parent.mkdir()
        for save in self.case.before:
            save(self.kept)
        self.old = self.case.contents(self.kept)
        self.reset()
        faults = Faults()
        with faults.installed():
            self.save(self.path)
        self.steps = faults.steps
        self.new = self.case.contents(self.path)
        self.case.after(self.path)
        self.last = self.case.contents(self.path)
        assert self.old != self.new != self.last

    def reset(self) -> None:
        shutil.rmtree(self.path.parent, ignore_errors=True)
        self.path.parent.mkdir()
        if self.kept.exists():
            shutil.copytree(self.kept, self.path)

    def check(self, *more: Contents) -> Contents:
        """Old or new, and the next writer finds its way."""
        found = self.case.contents(self.path)
        assert found in (self.old, self.new, *more)
        with Faults(most=1000).installed():
            self.case.after(self.path)
        assert self.case.contents(self.path) == self.last
        refuse_garbage(self.path)
        return found


def kill_at_each_step(folder: Path, which: str) -> None:
    """In a process of its own, which may fork."""
    scene = Scene(folder, which)
    killed, seen = 0, []
    for n in range(len(scene.steps) + 1):
        scene.reset()
        pid = os.fork()
        if pid == 0:
            with Faults(n, KILL).installed():
                scene.save(scene.path)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert status in (0, signal.SIGKILL)
        killed += status == signal.SIGKILL
        seen.append(scene.check() == scene.new)
    assert killed == len(scene.steps)
    assert seen == sorted(seen), "once new, never old again"
    assert (seen[0], seen[-1]) == (False, True)
    print(killed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("which", ["first", "second", "second index"])
def test_killed_at_each_step(which: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # where the helpers are
    done = subprocess.run(
        [sys.executable, __file__, which, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


@pytest.mark.parametrize("which", CASES)
def test_power_lost_at_each_step(which: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path, which)
    seen = set()
    for n in range(len(scene.steps) + 1):
        for seed in range(2 if scene.case.of_index else 6):
            scene.reset()
            faults = Faults(n, LOSE_POWER)
            with faults.installed():
                try:
                    scene.save(scene.path)
                except PowerLoss:
                    assert faults.failed
                else:
                    assert not faults.failed
            faults.lose_unsynced(random.Random(f"{n} {seed}"))
            found = scene.check()
            seen.add((faults.failed, found == scene.new))
    assert {(True, False), (False, True)} <= seen
    assert (False, False) not in seen, "saved means saved"


@pytest.mark.parametrize("which", ["first", "second"])
def test_power_lost_after_the_next_writer(which: str, tmp_path: Path) -> None:
    """It answers for what the one before it, who was killed, did not force to the disk."""
    scene = Scene(tmp_path, which)
    for n in range(len(scene.steps)):
        for seed in range(3):
            scene.reset()
            faults = Faults(n, LOSE_POWER)
            with faults.installed(), suppress(PowerLoss):
                scene.save(scene.path)
            faults.begin(-1)
            with faults.installed():
                scene.case.after(scene.path)
            faults.lose_unsynced(random.Random(f"{n} {seed}"))
            assert scene.check(scene.last) == scene.last


@pytest.mark.parametrize("which", ["first", "second"])
def test_power_lost_twice(which: str, tmp_path: Path) -> None:
    """The writer that finds what another one left is not spared; what it says it saved is saved."""
    scene = Scene(tmp_path, which)
    rng = random.Random(0)
    renamed = scene.steps.index(f"replace {manifest.NAME}") + 1  # but not forced to the disk: the worst moment
    seen = set()
    for _ in range(100):
        scene.reset()
        faults = Faults(fault=LOSE_POWER)
        for save in (scene.save, scene.case.after):
            faults.begin(rng.choice([rng.randrange(len(scene.steps)), rng.randrange(12), renamed]))
            with faults.installed(), suppress(PowerLoss):
                save(scene.path)
            if rng.random() < 0.5:  # or else it was the process alone that ended
                faults.lose_unsynced(rng)
        saved = not faults.failed
        faults.lose_unsynced(rng)
        seen.add((saved, scene.check(scene.last) == scene.last))
    assert {(True, True), (False, False)} <= seen
    assert (True, False) not in seen


if __name__ == "__main__":
    kill_at_each_step(Path(sys.argv[2]), sys.argv[1])
