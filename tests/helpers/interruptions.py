"""Code that Python runs in between, as a signal handler or a finalizer is, at every place in turn: not at random.

    places = count(lambda: index.add(rows))
    for place in range(places):
        at(place, call, lambda: index.add(rows))    # calls `call` there, once

A place is a line of ragfast, or of contextlib, that is about to run. With opcodes=True it is where the interpreter
looks for signals: behind a call, where a function begins and where a loop goes on. There alone `call` may raise: an
exception at a line could come between two bytecodes that no handler comes between.
"""

from __future__ import annotations

import contextlib
import dis
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import ragfast

Result = TypeVar("Result")

TRACED = (str(Path(ragfast.__file__).parent), contextlib.__file__)
CHECKS = ("CALL", "RESUME", "JUMP_BACKWARD", "POP_JUMP_BACKWARD")
"""How the names of the instructions begin that look for signals when they are done."""


class _Tracer:
    def __init__(self, call: Callable[[int], None], opcodes: bool) -> None:
        self._call = call
        self._opcodes = opcodes
        self._checks: dict[Any, frozenset[int]] = {}  # of a code object: where such an instruction lies
        self._handlers: dict[Any, list[tuple[int, int, int]]] = {}  # of a code object: (start, end, target)
        self._before: dict[FrameType, int] = {}
        self.n_places = 0

    def begin(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(TRACED):
            return None
        if self._opcodes:
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        return self._trace

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "return":
            self._before.pop(frame, None)
        if event == ("opcode" if self._opcodes else "line") and (not self._opcodes or self._follows_check(frame)):
            self.n_places += 1
            self._call(self.n_places - 1)
        return self._trace

    def _follows_check(self, frame: FrameType) -> bool:
        code, here = frame.f_code, frame.f_lasti
        if code not in self._checks:
            found = (i.offset for i in dis.get_instructions(code) if i.opname.startswith(CHECKS))
            self._checks[code] = frozenset(found)
            table = dis._parse_exception_table(code)  # type: ignore[attr-defined]  # private, and not in typeshed
            self._handlers[code] = [(entry.start, entry.end, entry.target) for entry in table]
        before = self._before.get(frame, here - 2)  # RESUME, with which a frame begins or goes on, is not traced
        self._before[frame] = here
        # An exception from a handler belongs to the instruction that looked; one from a tracer to the next, which may
        # be behind the end of a `try`.
        return before in self._checks[code] and self._handler(code, before) == self._handler(code, here)

    def _handler(self, code: Any, offset: int) -> int | None:
        return next((target for start, end, target in self._handlers[code] if start <= offset < end), None)


def run(call: Callable[[int], None], work: Callable[[], Result], *, opcodes: bool = False) -> tuple[Result, int]:
    """work(), with call(i) at each place i; and how many places there were."""
    tracer = _Tracer(call, opcodes)
    before = sys.gettrace()
    if opcodes:
        sys._getframe().f_trace_opcodes = True  # from Python 3.12 on, settrace looks whether any frame was to tell them
    sys.settrace(tracer.begin)
    try:
        result = work()
    finally:
        sys.settrace(before)
    return result, tracer.n_places


def count(work: Callable[[], object], *, opcodes: bool = False) -> int:
    """How many places there are in work()."""
    return run(lambda place: None, work, opcodes=opcodes)[1]


def at(place: int, call: Callable[[], object], work: Callable[[], Result], *, opcodes: bool = False) -> Result:
    """work(), with call() at one of its places."""

    def once(i: int) -> None:
        if i == place:
            call()

    return run(once, work, opcodes=opcodes)[0]
