"""Ids that are strings, and the integers that everything below the index knows documents by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ragfast.index.strings import Strings, blocks, pack, refuse_surrogates, repeated, string_list

UNKNOWN_KEY = -1


class Names:
    """User ids that are strings <-> keys, the ordinals of their addition, int64.

    A name keeps its key as long as these Names live, whatever becomes of its document: versions of an index share them.
    :meth:`subset` makes others without the names that are no longer wanted. One writer may append while others read.

    >>> names = Names()
    >>> names.append(["a", "b"]).tolist(), names.find(["b", "c"]).tolist(), names.take(np.array([1, -1])).tolist()
    ([0, 1], [1, -1], ['b', None])
    """

    def __init__(
        self,
        data: NDArray[np.uint8] | None = None,
        offsets: NDArray[np.int64] | None = None,
        keys: NDArray[np.int64] | None = None,
        next_key: int | None = None,
    ) -> None:
        """Begins with what :meth:`packed` returned, or with nothing; the arrays may be mapped files, and are read when
        a name is asked for (:meth:`check` reads all of them). next_key is the key of the next name, by default one
        more than the last.

        ValueError for arrays of another type or size.
        """
        self._strings = _NameStrings(data, offsets)
        n = self._strings.n_stored
        if keys is not None and (keys.dtype != np.int64 or keys.shape != (n,)):
            raise ValueError(f"keys of names: expected int64 ({n},), got {keys.dtype} {keys.shape}")
        after = n if keys is None else int(keys[-1]) + 1 if n else 0
        self._stored_keys = keys  # None: the position of a name is its key
        self._first_added = after if next_key is None else next_key
        if self._first_added < after:
            raise ValueError(f"names: expected the next key to be {after} or more, got {next_key}")
        if keys is None and self._first_added > n:
            self._stored_keys = np.arange(n)

    def __len__(self) -> int:
        return len(self._strings)

    @property
    def next_key(self) -> int:
        return self._first_added + len(self._strings) - self._strings.n_stored

    @property
    def nbytes(self) -> int:
        """Bytes of memory or of mapped files; what Python objects take is an estimate."""
        return self._strings.nbytes + (0 if self._stored_keys is None else self._stored_keys.nbytes)

    def check(self) -> None:
        """Read all that is stored: ValueError for strings that are none, keys that do not ascend, names given twice."""
        keys = self._stored_keys
        if keys is not None and keys.size and (keys[0] < 0 or (keys[1:] <= keys[:-1]).any()):
            raise ValueError("keys of names: expected them to ascend from 0 or more")
        self._strings.check()

    def read(self, x: object, name: str = "ids") -> list[str]:
        """Ids (N,) given by a user, distinct, for :meth:`append`; what errors call them is `name`.

        TypeError for what is not a sequence of str, ValueError for an empty id, for one that is given twice and for
        one with half of a surrogate pair.
        """
        strings: list[str] = string_list(x, name)
        seen: set[str] = set()
        for part in blocks(strings):
            seen.update(part)
        if len(seen) < len(strings):
            raise ValueError(f"{name}: expected distinct ids, got {repeated(strings)!r:.80} twice")
        if "" in strings:
            raise ValueError(f"{name}: expected strings of one character or more, got '' in row {strings.index('')}")
        refuse_surrogates(strings, name)
        return strings

    def append(self, x: object) -> NDArray[np.int64]:
        """New keys (N,), ascending, of ids as in :meth:`read`; ValueError for a name that is known."""
        strings = self.read(x)
        known = np.flatnonzero(self._strings.positions(strings) >= 0)
        if known.size:
            raise ValueError(f"ids: expected ids that the index does not hold, got {strings[known[0]]!r:.80}")
        return self.append_read(strings)

    def append_read(self, strings: list[str]) -> NDArray[np.int64]:
        """:meth:`append` of what :meth:`read` returned and :meth:`find` does not know, without checking it again."""
        first = self.next_key
        self._strings.append(strings)
        return np.arange(first, first + len(strings), dtype=np.int64)

    def take(self, keys: NDArray[np.int64]) -> NDArray[np.object_]:
        """The names of keys, of any shape, as an object array; None for -1.

        ValueError for a key that was never given, or that :meth:`subset` left out.
        """
        keys, stored, n = np.asarray(keys, np.int64), self._stored_keys, self._strings.n_stored
        if keys.size and keys.max() >= self.next_key:
            raise ValueError(f"names: no document has the key {keys.max()}")
        if stored is None:
            return self._strings.take(keys)
        places = np.searchsorted(stored, keys)
        wrong = (keys >= 0) & (keys < self._first_added)
        wrong &= stored[np.minimum(places, n - 1)] != keys if n else True
        if wrong.any():
            raise ValueError(f"names: no document has the key {keys[wrong][0]}")
        positions = np.where(keys < self._first_added, places, keys - self._first_added + n)
        return self._strings.take(np.where(keys < 0, UNKNOWN_KEY, positions))

    def find(self, x: object) -> NDArray[np.int64]:
        """The keys (n,) of strings, which may repeat; -1 for what is not known."""
        positions = self._strings.positions(string_list(x, "ids"))
        stored, n = self._stored_keys, self._strings.n_stored
        if stored is None:
            return positions
        keys = positions - n + self._first_added
        was_stored = positions < n
        keys[was_stored] = stored[positions[was_stored]] if n else UNKNOWN_KEY
        keys[positions < 0] = UNKNOWN_KEY
        return keys

    def subset(self, keys: NDArray[np.int64]) -> Names:
        """Other Names with only these keys, distinct; later ones go on where these do."""
        ascending = np.sort(np.asarray(keys, np.int64))
        return Names(*pack(self.take(ascending).tolist()), ascending, self.next_key)

    def packed(self, next_key: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64] | None]:
        """(data, offsets, keys) for storage, as they were when :attr:`next_key` was that, which is to be stored beside
        them: a writer may append meanwhile. keys None: 0, 1, 2, ..."""
        text = self._strings.packed(self._strings.n_stored + next_key - self._first_added)
        if self._stored_keys is None:
            return (*text, None)
        return (*text, np.concatenate([self._stored_keys, np.arange(self._first_added, next_key)]))


class _NameStrings(Strings):
    kind = "names"
