"""Names, ids that are strings, against a list and a dictionary."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import interruptions
import numpy as np
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ragfast.index import strings
from ragfast.index.names import Names

SOME = ["a", "b", "ä", "日本", "\0", "a\0", "x y", "\U0001f600", "1", "10"]
some_names = st.lists(st.sampled_from(SOME), unique=True, max_size=4)


class NamesMachine(RuleBasedStateMachine):
    """Names that grow, are stored and cut down, beside a dictionary; versions of before are asked too."""

    def __init__(self) -> None:
        super().__init__()
        self.names = Names()
        self.keys: dict[str, int] = {}
        self.next_key = 0
        self.before: list[tuple[Names, dict[str, int]]] = []  # what snapshots hold

    @rule(new=some_names)
    def append(self, new: list[str]) -> None:
        known = [name for name in new if name in self.keys]
        if known:
            with pytest.raises(ValueError, match=re.escape(f"got {known[0]!r}")):
                self.names.append(new)
            return
        assert self.names.append(new).tolist() == list(range(self.next_key, self.next_key + len(new)))
        for name in new:
            self.keys[name] = self.next_key
            self.next_key += 1

    @rule()
    def look(self) -> None:
        self.before = [*self.before[-2:], (self.names, dict(self.keys))]

    @rule()
    def store(self) -> None:
        data, offsets, keys = self.names.packed(self.names.next_key)
        self.names = Names(data, offsets, keys, self.names.next_key)
        self.names.check()

    @rule(kept=some_names)
    def keep(self, kept: list[str]) -> None:
        self.keys = {name: key for name, key in self.keys.items() if name in kept}
        self.names = self.names.subset(np.array(list(self.keys.values()), np.int64))

    @invariant()
    def answers(self) -> None:
        names = self.names
        assert names.find(SOME).tolist() == [self.keys.get(name, -1) for name in SOME]
        keys = [-1, *self.keys.values()]
        assert names.take(np.array([keys, keys])).tolist() == [[None, *self.keys]] * 2
        assert len(names) == len(self.keys)
        assert names.next_key == self.next_key
        for wrong in {*range(self.next_key + 2)} - {*keys}:
            with pytest.raises(ValueError, match=f"no document has the key {wrong}"):
                names.take(np.array([wrong]))

    @invariant()
    def versions_of_before_know_their_names(self) -> None:
        for names, keys in self.before:
            assert names.find(list(keys)).tolist() == list(keys.values())
            assert names.take(np.array(list(keys.values()), np.int64)).tolist() == list(keys)


TestNames = NamesMachine.TestCase
TestNames.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize(
    ("ids", "error", "words"),
    [
        (["a", "b", "a"], ValueError, "ids: expected distinct ids, got 'a' twice"),
        (["a", ""], ValueError, "one character or more, got '' in row 1"),
        (["a", "\ud83d"], ValueError, "half of a surrogate pair"),
        (["a", None], TypeError, "expected str, got NoneType None in row 1"),
        (["a", 3], TypeError, "expected str, got int 3 in row 1"),
        ("abc", TypeError, "expected a sequence of strings, got 'abc'"),
        (3, TypeError, "expected a sequence of strings, got 3"),
        (np.array([1, 2]), TypeError, "expected strings, got int64"),
        (np.array([["a"]]), ValueError, r"expected one dimension, got shape \(1, 1\)"),
        (np.array([b"a"]), TypeError, "expected strings, got |S1"),
        (["c", "old"], ValueError, "expected ids that the index does not hold, got 'old'"),
    ],
)
def test_refuses(ids: Any, error: type[Exception], words: str) -> None:
    names = Names()
    names.append(["old"])
    with pytest.raises(error, match=words):
        names.append(ids)
    assert len(names) == names.next_key == 1
    assert names.find(["a", "c"]).tolist() == [-1, -1]


@pytest.mark.parametrize(
    "ids", [("a", "b"), np.array(["a", "b"]), np.array(["a", "b"], object), {"a": 1, "b": 2}.keys()]
)
def test_takes_sequences_of_strings(ids: Any) -> None:
    names = Names()
    if not hasattr(ids, "__getitem__"):
        with pytest.raises(TypeError, match="expected a sequence"):
            names.append(ids)
        return
    assert names.append(ids).tolist() == [0, 1]
    found = names.take(np.array([1, 0, 1]))
    assert found.dtype == object
    assert found.tolist() == ["b", "a", "b"]
    assert {type(name) for name in found} == {str}


def stored(keys: Any = None, next_key: int | None = None) -> Names:
    names = Names()
    names.append(["a", "b", "c"])
    return Names(*names.packed(names.next_key)[:2], keys, next_key)


@pytest.mark.parametrize(
    ("keys", "next_key", "words"),
    [
        (np.array([0, 1], np.int64), None, r"keys of names: expected int64 \(3,\), got int64 \(2,\)"),
        (np.array([0, 1, 2], np.int32), None, "got int32"),
        (None, 2, "expected the next key to be 3 or more, got 2"),
        (np.array([0, 1, 9], np.int64), 9, "expected the next key to be 10 or more"),
    ],
)
def test_refuses_arrays_of_another_shape(keys: Any, next_key: int | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        stored(keys, next_key)


@pytest.mark.parametrize("keys", [[0, 2, 2], [-1, 0, 1], [3, 2, 5]])
def test_checks_that_keys_ascend(keys: list[int]) -> None:
    with pytest.raises(ValueError, match="expected them to ascend from 0 or more"):
        stored(np.array(keys, np.int64)).check()


def test_checks_that_names_are_distinct() -> None:
    names = Names(np.frombuffer(b"abab", np.uint8), np.array([0, 2, 4]))
    with pytest.raises(ValueError, match="expected distinct names, got 'ab' twice"):
        names.find(["x"])


def test_stored_names_are_read_when_asked_for() -> None:
    names = Names()
    names.append([f"name {i}" for i in range(1000)])
    data, offsets, _ = names.packed(names.next_key)
    broken = data.copy()
    broken[offsets[500] : offsets[501]] = 0xFF
    lazy = Names(broken, offsets)
    assert lazy.take(np.array([[7], [999]])).tolist() == [["name 7"], ["name 999"]]
    with pytest.raises(ValueError, match="the text of string 500: expected UTF-8"):
        lazy.check()


def test_readers_beside_a_writer() -> None:
    names = stored()
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            last = names.next_key - 1
            name = names.take(np.array([last]))[0]
            if name not in ("a", "b", "c", f"name {last}"):
                wrong.append(f"{last} is {name}")
            if names.find(["a"]).tolist() != [0]:
                wrong.append("a lost its key")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for key in range(3, 1000):
        names.append([f"name {key}"])
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert len(names) == 1000


def test_handlers_run_between_blocks_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ctrl-C would otherwise wait for all of a million names. What an interrupt leaves is a beginning of them.
    class StopWork(Exception):
        pass

    def stop() -> None:
        raise StopWork

    monkeypatch.setattr(strings, "BLOCK", 3)
    new, later = [f"name {i}" for i in range(20)], [f"later {i}" for i in range(20)]
    lengths = set()

    def places_of(work: Callable[[], object]) -> int:
        return max(interruptions.count(work, opcodes=True) for _ in range(2))  # Python 3.13 tells few the first time

    interruptions.run(lambda place: None, lambda: Names().append_read(new), opcodes=True)
    known = Names()
    known.append(["first"])
    for place in range(interruptions.count(lambda: known.append_read(new), opcodes=True)):
        names = Names()
        names.append(["first"])
        with pytest.raises(StopWork):
            interruptions.at(place, stop, lambda names=names: names.append_read(new), opcodes=True)
        lengths.add(len(names))
        assert names.take(np.arange(len(names))).tolist() == ["first", *new][: len(names)]
        keys = names.append(later)
        assert names.take(keys).tolist() == later
        assert np.array_equal(names.find(later), keys)
    assert lengths == {1, 4, 7, 10, 13, 16, 19, 21}

    of_blocks = places_of(lambda: Names().read(new))
    monkeypatch.setattr(strings, "BLOCK", 100)
    assert of_blocks > places_of(lambda: Names().read(new))
