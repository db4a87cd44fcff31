"""Work that takes turns, and threads of our own, both safe wherever Python runs code in between.

A signal handler, a finalizer and a ``__del__`` run between two bytecodes of whatever the thread is doing, or inside an
allocation. There they may call anything of ragfast again. Readers therefore hold no lock at all, and what has to be
done by one caller at a time goes through :class:`Turns`.
"""

from __future__ import annotations

import _thread
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from operator import itemgetter
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

NESTED_WAIT = 1.0
"""Seconds that work inside other work waits for a third thread, which may be waiting for this one."""

FORK_WAIT = 1.0
"""Seconds after which one who waits for a thread looks whether this process is a fork, where that thread is not."""


class _Nesting(threading.local):
    """What this thread is in the middle of, the outermost first: whose turn, and the name of the work."""

    within: tuple[tuple[Turns, str], ...] = ()


_this_thread = _Nesting()


class Turns:
    """Lets one piece of work run at a time.

    Work of other threads waits. Work that begins inside other work of the same turns, on the same thread, is refused:
    it can neither wait for the outer one nor run in the middle of it.

    Parameters
    ----------
    what : str
        What the work changes, as errors name it.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        # A process of its own has a lock of its own: one that a thread held as the process forked is never released.
        self._locks: dict[int, threading.RLock] = {}

    def take(self, name: str, work: Callable[[], Result]) -> Result:
        """Return ``work()``; `name` is what errors call it.

        Raises
        ------
        RuntimeError
            Inside other work of these turns on this thread. Inside work of other turns, if these stay taken for
            :data:`NESTED_WAIT`: the thread that has them may be waiting for this one.
        """
        outer = _this_thread.within
        for turns, running in outer:
            if turns is self:
                raise RuntimeError(
                    f"{name}: must not begin inside another change of {self._what}; {running} is under way on this "
                    f"thread and called it, by a signal handler, a finalizer or an argument's own code. Put the change "
                    f"into a queue and make it when {running} has returned"
                )
        # A lock that notes its owner in the same step: the release below does nothing unless this thread holds it, so
        # that it is right whether an exception from a handler comes before, in or after the call of acquire.
        lock: Any = self._locks.setdefault(os.getpid(), threading.RLock())
        try:
            _this_thread.within = (*outer, (self, name))  # before the lock is held: no moment is without it
            if not lock.acquire(timeout=NESTED_WAIT if outer else -1):
                raise RuntimeError(
                    f"{name}: must not wait for another thread's change of {self._what} inside {outer[-1][1]}, which "
                    f"is under way on this thread; waited {NESTED_WAIT:g} s. Put the change into a queue and make it "
                    f"when {outer[-1][1]} has returned"
                )
            result = work()
        finally:
            _this_thread.within = outer
            try:  # noqa: SIM105  # in contextlib.suppress a handler could raise before the release
                lock.release()
            except RuntimeError:  # not acquired
                pass
        return result


class Helper:
    """A thread that makes calls for this one, in their order.

    The threads and executors of the standard library hold locks while they start a thread. A handler that came then and
    started another would wait for itself; a Helper holds none.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Any] = SimpleQueue()
        self._outcomes: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._ended: list[bool] = []
        self._running = _thread.allocate_lock()
        self._running.acquire()
        self._process = os.getpid()
        # What it does is done for the caller, inside whatever the caller is in the middle of.
        arguments = self._calls, self._outcomes, self._ended, self._running, _this_thread.within
        # When nobody has this any more, the thread ends after its calls. (A __del__ would swallow an interrupt.)
        _thread.start_new_thread(_serve, (*arguments, weakref.ref(self, self._calls.put)))

    def call(self, work: Callable[[], Any]) -> None:
        """Make this call after those before it, without waiting for it."""
        self._calls.put(work)

    def result(self) -> Any:
        """Wait for the next call to end, and return or raise what it did.

        Raises
        ------
        RuntimeError
            In a process that a signal handler forked meanwhile: the thread is not there.
        """
        while True:
            try:
                value, error = self._outcomes.get(timeout=FORK_WAIT)
                break
            except Empty:
                if os.getpid() != self._process:
                    raise RuntimeError(
                        "a signal handler forked this process in the middle of a call, which the child cannot complete"
                    ) from None
        if error is not None:
            raise error
        return value

    def end(self) -> None:
        """Wait until all calls have ended, also where an interrupt comes meanwhile: it is raised afterwards."""
        self._calls.put(None)
        interrupt: BaseException | None = None
        while True:
            try:
                while not self._ended and os.getpid() == self._process:
                    self._running.acquire(timeout=FORK_WAIT)
                break
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


def map_on_threads(n_threads: int, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return ``[work(item) for item in items]``, made by n_threads, of which this one is the first."""
    todo: SimpleQueue[tuple[int, Item]] = SimpleQueue()
    for numbered in enumerate(items):
        todo.put(numbered)

    def work_through() -> list[tuple[int, Result]]:
        done: list[tuple[int, Result]] = []
        while True:
            try:
                i, item = todo.get_nowait()
            except Empty:
                return done
            done.append((i, work(item)))

    helpers = [Helper() for _ in range(n_threads - 1)]
    try:
        for helper in helpers:
            helper.call(work_through)
        found = work_through()
        for helper in helpers:
            found += helper.result()
    finally:
        for helper in helpers:
            helper.end()
    return [result for _, result in sorted(found, key=itemgetter(0))]


def _serve(
    calls: SimpleQueue[Any],
    outcomes: SimpleQueue[tuple[Any, BaseException | None]],
    ended: list[bool],
    running: _thread.LockType,
    within: tuple[tuple[Turns, str], ...],
    end: weakref.ref[Helper],
) -> None:
    """Makes calls until None comes, or `end`, which its callback sends."""
    _this_thread.within = within
    try:
        while (work := calls.get()) is not None and work is not end:
            try:
                outcomes.put((work(), None))
            except BaseException as error:
                outcomes.put((None, error))
            del work
    finally:
        ended.append(True)
        running.release()
