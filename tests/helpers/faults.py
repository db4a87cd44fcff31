"""A disk that fails where it is told to: for tests of what ragfast.index.storage writes, and whoever saves with it.

    faults = Faults(fail_at=7, fault=KILL)       # or LOSE_POWER, or an errno such as errno.ENOSPC
    with faults.installed():
        ...

Every call that changes the disk is a step, counted from 0; ``faults.steps`` tells what they were, also without a fault.
KILL ends this process by SIGKILL before the step (in the middle of it, if it writes). An errno is what the step raises,
and every later one that takes room on the disk. LOSE_POWER raises PowerLoss at that step and at every later one, so
that nothing more reaches the disk; ``faults.lose_unsynced(rng)`` then makes the directory what a disk may hold that
keeps its promises and no more: what was forced to it with fsync, and any of the rest.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ragfast.index.storage import transaction

KILL = "kill"
LOSE_POWER = "lose power"


class PowerLoss(BaseException):
    """No error that a program handles."""


class File:
    """What is known of a file: its bytes, and those that were forced to the disk. None: no file, but a directory."""

    def __init__(self, data: bytes | None, synced: bytes | None) -> None:
        self.data = data
        self.synced = synced

    def after_loss(self, rng: random.Random) -> bytes | None:
        data = self.data
        if data is None or data == self.synced:
            return data
        kept = rng.randrange(len(data) + 1)
        return rng.choice([b"", data, data[:kept], data[:kept] + bytes(len(data) - kept), rng.randbytes(len(data))])


class Faults:
    """Stands in the place of the module ``os`` in what writes."""

    def __init__(self, fail_at: int = -1, fault: str | int = KILL, most: int = 1 << 30) -> None:
        self.fail_at = fail_at
        self.fault = fault
        self.most = most  # bytes that are written by one call, which is never promised to write all
        self.steps: list[str] = []
        self._paths: dict[int, str] = {}
        self._files: dict[str, File] = {}  # those that were changed
        self._synced: dict[str, File | None] = {}  # under each name that changed, what a loss of power brings back
        self._changes: list[tuple[str, str, File | None]] = []  # since then, in order: (directory, name, file)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    @contextmanager
    def installed(self) -> Iterator[Faults]:
        transaction.os = self  # type: ignore[assignment]
        try:
            yield self
        finally:
            transaction.os = os

    def begin(self, fail_at: int) -> None:
        """Another writer, on the same disk: what the one before did not force to it may still be lost."""
        self.fail_at = fail_at
        self.steps = []

    @property
    def failed(self) -> bool:
        return 0 <= self.fail_at < len(self.steps)

    def _step(self, call: str, path: str, takes_room: bool = False) -> bool:
        """Whether the step is to fail in the middle."""
        n = len(self.steps)
        self.steps.append(f"{call} {os.path.basename(path)}")
        if n < self.fail_at or self.fail_at < 0:
            return False
        if isinstance(self.fault, int):
            if n == self.fail_at or takes_room:
                raise OSError(self.fault, os.strerror(self.fault), path)
            return False
        if n == self.fail_at and call == "write":
            return True
        self._end()
        return False

    def _end(self) -> None:
        if self.fault == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        raise PowerLoss(self.steps[-1])

    def _known(self, path: str) -> File | None:
        """What is there now; what this disk did not see change has been there for long."""
        if path not in self._files and os.path.lexists(path):
            if os.path.isdir(path):
                self._files[path] = File(None, None)
            else:
                with open(path, "rb") as file:
                    data = file.read()
                self._files[path] = File(data, data)
        return self._files.get(path)

    def _changed(self, path: str, file: File | None) -> None:
        """To file, from what the caller asked _known for before."""
        self._synced.setdefault(path, self._files.get(path))
        self._changes.append((os.path.dirname(path), path, file))
        self._files.pop(path, None)
        if file is not None:
            self._files[path] = file

    def mkdir(self, path: str) -> None:
        self._step("mkdir", path, takes_room=True)
        new = not os.path.lexists(path)
        if new:
            self._changed(path, File(None, None))
        os.mkdir(path)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        makes = bool(flags & os.O_CREAT)
        if makes:
            self._step("create", path, takes_room=True)
            if not os.path.lexists(path):
                self._changed(path, File(b"", None))
        fd = os.open(path, flags, mode)
        self._paths[fd] = path
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        path = self._paths[fd]
        torn = self._step("write", path, takes_room=True)
        data = data[: max(1, len(data) // 2)] if torn else data[: self.most]
        place = os.lseek(fd, 0, os.SEEK_CUR)
        file = self._known(path)
        assert file is not None
        assert file.data is not None
        file.data = file.data[:place].ljust(place, b"\0") + bytes(data) + file.data[place + len(data) :]
        n = os.write(fd, data)
        assert n == len(data)
        if torn:
            self._end()
        return n

    def fsync(self, fd: int) -> None:
        """Not of the real disk, which would be slow: nobody draws its plug."""
        path = self._paths[fd]
        self._step("sync", path)
        if os.path.isdir(path):
            for directory, name, _ in self._changes:
                if directory == path:
                    self._synced.pop(name, None)
            self._changes = [change for change in self._changes if change[0] != path]
        elif (file := self._files.get(path)) is not None:
            file.synced = file.data

    def close(self, fd: int) -> None:
        """A step for errors alone: it changes nothing on the disk."""
        path = self._paths.pop(fd)
        os.close(fd)
        if isinstance(self.fault, int):
            self._step("close", path)

    def replace(self, old: str, new: str) -> None:
        self._step("replace", new)
        file = self._known(old)
        self._known(new)
        os.replace(old, new)
        self._changed(new, file)
        self._changed(old, None)

    def unlink(self, path: str) -> None:
        self._step("unlink", path)
        self._known(path)
        os.unlink(path)
        self._changed(path, None)

    def lose_unsynced(self, rng: random.Random) -> None:
        """Makes everything that was changed what it may be after the loss of power."""
        keeping = rng.choice([0.0, 0.5, 1.0])
        names = dict(self._synced)
        for _, path, file in self._changes:
            if rng.random() < keeping:
                names[path] = file
        for path, file in self._files.items():
            names.setdefault(path, file)
        lost = [path for path, file in names.items() if file is None]
        for path, file in names.items():
            if file is not None and file.data is None and not any(path.startswith(other + os.sep) for other in lost):
                os.makedirs(path, exist_ok=True)
        for path, file in names.items():
            directory = os.path.dirname(path)
            if any(path == other or directory == other for other in lost):
                _remove(path)
            elif file is not None and file.data is not None:
                data = file.after_loss(rng)
                assert data is not None
                with open(path, "wb") as out:
                    out.write(data)
        self._files, self._synced, self._changes = {}, {}, []


def _remove(path: str) -> None:
    if os.path.isdir(path):
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)
