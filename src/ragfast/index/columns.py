"""What documents have beside vectors: columns of metadata, as arrays and as they are stored.

A column is of one kind. int64, float64 and bool are arrays of that type; str is codes, int32, of words in a
:class:`Vocabulary`, -1 for None. int64 and bool have no value for "nothing"; float64 has NaN, str has None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragfast._core import arrays
from ragfast.index.strings import Strings, plain_str, refuse_surrogates, string_list

KINDS = ("int64", "float64", "bool", "str")
DTYPES: dict[str, Any] = {"int64": np.int64, "float64": np.float64, "bool": np.bool_, "str": np.int32}
"""Of the array that holds a column of each kind."""

NULL_CODE = -1
UNKNOWN_CODE = -2
"""No code of any document."""

EXPECTED = {"int64": "integers", "float64": "floats", "bool": "bool"}

_INT64 = np.iinfo(np.int64)


class Vocabulary(Strings):
    """The words of one column of strings; the code of a word, int32, is its position."""

    kind = "words"

    def find(self, words: Iterable[str]) -> NDArray[np.int32]:
        """The code of each word, or UNKNOWN_CODE."""
        codes = self.positions(words).astype(np.int32)
        codes[codes < 0] = UNKNOWN_CODE
        return codes

    def add(self, words: Sequence[str]) -> NDArray[np.int32]:
        """The code of each word, new if it was unknown; distinct words without surrogates."""
        codes = self.find(words)
        new = np.flatnonzero(codes == UNKNOWN_CODE)
        first = len(self)
        if first + len(new) >= 2**31:
            raise ValueError(f"a column of strings has fewer than 2**31 different ones, got {first + len(new)}")
        codes[new] = np.arange(first, first + len(new))
        self.append([words[i] for i in new.tolist()])
        return codes

    def take(self, codes: NDArray[np.int32]) -> NDArray[np.object_]:
        """The words of codes, of any shape, as an object array; None for -1."""
        used, places = np.unique(codes, return_inverse=True)  # documents share words
        return super().take(used)[places].reshape(codes.shape)


class Words(NamedTuple):
    """A column of strings before its vocabulary is known: distinct words, and of each document which one."""

    words: list[str]
    places: NDArray[np.int32]  # (N,), -1: None

    def codes(self, vocabulary: Vocabulary) -> NDArray[np.int32]:
        return np.append(vocabulary.add(self.words), np.int32(NULL_CODE))[self.places]  # the last is that of None, -1


Values = NDArray[Any] | Words


class Schema:
    """The names and kinds of the columns of an index; never changed.

    >>> schema = Schema.of({"year": [1999, 2005], "lang": ["de", None]})
    >>> schema
    Schema(year=int64, lang=str)
    >>> vocabularies = schema.vocabularies()
    >>> columns = schema.encode(schema.read({"year": [1999, 2005], "lang": ["de", None]}, 2), vocabularies)
    >>> columns["lang"].tolist(), schema.decode(columns, vocabularies)["lang"].tolist()
    ([0, -1], ['de', None])
    """

    def __init__(self, kinds: Mapping[str, str]) -> None:
        """kinds: of each name, "int64", "float64", "bool" or "str". ValueError or TypeError for anything else."""
        if not isinstance(kinds, Mapping):
            raise TypeError(f"columns: expected names and their kinds, got {type(kinds).__qualname__}")
        for name, kind in kinds.items():
            _check_name(name)
            if kind not in KINDS:
                raise ValueError(f"column {name!r}: expected a kind of {', '.join(KINDS)}, got {kind!r}")
        self._kinds = {plain_str(name): kind for name, kind in kinds.items()}

    @classmethod
    def of(cls, metadata: Mapping[str, object]) -> Schema:
        """The schema of the first metadata (name -> N values): bool, int64 of any integers, float64 of other numbers,
        str of strings and None. TypeError for values of other types, or of several kinds."""
        _check_mapping(metadata)
        for name in metadata:
            _check_name(name)
        return cls({name: _kind_of(values, name) for name, values in metadata.items()})

    @property
    def kinds(self) -> dict[str, str]:
        return dict(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def __repr__(self) -> str:
        return f"Schema({', '.join(f'{name}={kind}' for name, kind in self._kinds.items())})"

    def kind(self, name: str) -> str:
        """ValueError for a column that there is not, with those that there are."""
        if name not in self._kinds:
            there = ", ".join(map(repr, self._kinds)) or "none"
            raise ValueError(f"column {name!r}: there is no such column; there are {there}")
        return self._kinds[name]

    def vocabularies(self) -> dict[str, Vocabulary]:
        """An empty one for each column of strings."""
        return {name: Vocabulary() for name, kind in self._kinds.items() if kind == "str"}

    def read(self, metadata: Mapping[str, object], n: int) -> dict[str, Values]:
        """Checks metadata of n documents, in full; what comes out is for :meth:`encode`, and shares no memory.

        Values are taken where the kind of the column holds them without loss. ValueError for other columns than those
        of the schema, another shape, values that are out of range or lose digits, and strings with half of a surrogate
        pair; TypeError for values of another type. Each names the column.
        """
        _check_mapping(metadata)
        absent = [name for name in self._kinds if name not in metadata]
        other = [name for name in metadata if name not in self._kinds]
        if absent or other:
            expected = ", ".join(map(repr, self._kinds)) or "none"
            wrong = f"without {absent[0]!r}" if absent else f"with {other[0]!r}"
            raise ValueError(f"metadata: expected the columns {expected}; these come {wrong}")
        return {name: _values(metadata[name], name, kind, n) for name, kind in self._kinds.items()}

    def encode(self, values: Mapping[str, Values], vocabularies: Mapping[str, Vocabulary]) -> dict[str, NDArray[Any]]:
        """The arrays (N,) of what :meth:`read` returned, new words being added to the vocabularies: by the one writer.

        DTYPES has the types."""
        return {
            name: column.codes(vocabularies[name]) if isinstance(column, Words) else column
            for name, column in values.items()
        }

    def empty(self, n: int) -> dict[str, NDArray[Any]]:
        """Arrays (n,) for values to come."""
        return {name: np.empty(n, DTYPES[kind]) for name, kind in self._kinds.items()}

    def decode(
        self, columns: Mapping[str, NDArray[Any]], vocabularies: Mapping[str, Vocabulary]
    ) -> dict[str, NDArray[Any]]:
        """The columns as a user has them, copied: strings and None as object arrays."""
        return {
            name: vocabularies[name].take(columns[name]) if kind == "str" else np.array(columns[name])
            for name, kind in self._kinds.items()
        }


def _check_mapping(metadata: object) -> None:
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata: expected a mapping of column names to values, got {type(metadata).__qualname__}")


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"metadata: expected names of columns that are str, got {name!r:.80}")
    if not name:
        raise ValueError("metadata: expected names of columns of one character or more, got ''")
    refuse_surrogates([name], "metadata: a name of a column")


def _is_sequence(values: object) -> bool:
    """Python's sequences are looked at value by value: NumPy would make strings of numbers beside strings."""
    return isinstance(values, Sequence) and not isinstance(values, (str, bytes))


def _kind_of(values: Any, name: str) -> str:
    what = f"column {name!r}"
    if _is_sequence(values):
        return _kind_of_list(values, what)
    a = arrays.as_array(values, what)
    if a.dtype.kind == "O":
        return _kind_of_list(a.ravel().tolist(), what)
    if a.dtype.kind in "biuUT" or (a.dtype.kind == "f" and a.dtype.itemsize <= 8):
        return {"b": "bool", "i": "int64", "u": "int64", "f": "float64"}.get(a.dtype.kind, "str")
    raise TypeError(f"{what}: expected bool, integers, floats or strings, got {a.dtype}{_hint(a.dtype)}")


def _hint(dtype: np.dtype[Any]) -> str:
    return "; pass numbers, such as days or seconds" if dtype.kind in "mM" else ""


def _kind_of_list(values: Sequence[Any], what: str) -> str:
    if len(values) == 0:
        raise ValueError(f"{what}: no values, so its kind cannot be told; pass an array that has a dtype")
    kinds: dict[str, object] = {}
    for kind in dict.fromkeys(map(type, values)):
        example = next(value for value in values if type(value) is kind)
        if issubclass(kind, (bool, np.bool_)):
            kinds["bool"] = example
        elif issubclass(kind, (int, np.integer)):
            kinds.setdefault("int64", example)
        elif issubclass(kind, (float, np.floating)):
            kinds["float64"] = example
        elif kind is type(None) or issubclass(kind, str):
            kinds["str"] = example if kinds.get("str") is None else kinds["str"]
        else:
            raise TypeError(f"{what}: expected bool, int, float, str or None, got {kind.__qualname__}")
    if set(kinds) == {"int64", "float64"}:
        return "float64"
    if len(kinds) > 1:
        first, second = list(kinds.values())[:2]
        hint = "; only columns of str have None (a float column has NaN)" if None in kinds.values() else ""
        raise TypeError(f"{what}: expected values of one kind, got {first!r:.40} and {second!r:.40}{hint}")
    return next(iter(kinds))


def _values(values: Any, name: str, kind: str, n: int) -> Values:
    what = f"column {name!r}"
    if kind == "str":
        strings = string_list(values, what, missing=True)
        _check_length((len(strings),), n, what)
        found: dict[str, int] = {}
        places = [NULL_CODE if string is None else found.setdefault(string, len(found)) for string in strings]
        refuse_surrogates(found, what)
        return Words(list(found), np.array(places, np.int32))
    if _is_sequence(values):
        _check_length((len(values),), n, what)
        held = (kind, "int64") if kind == "float64" else (kind,)
        if n and _kind_of_list(values, what) not in held:
            row = next(i for i, value in enumerate(values) if _kind_of_list([value], what) not in held)
            raise TypeError(f"{what}: expected {EXPECTED[kind]}, got {values[row]!r:.80} in row {row}")
        a = np.empty(n, object)
        a[:] = values
    else:
        a = arrays.as_array(values, what)
        _check_length(a.shape, n, what)
        if a.dtype.kind == "O" and n:
            return _values(a.tolist(), name, kind, n)
    return _numbers(a, what, kind)


def _check_length(shape: tuple[int, ...], n: int, what: str) -> None:
    if shape != (n,):
        raise ValueError(f"{what}: expected ({n},) values, one for each document, got {shape}")


def _numbers(a: NDArray[Any], what: str, kind: str) -> NDArray[Any]:
    """a (N,), or numbers of Python in an object array, as a new array of this kind."""
    given = a.dtype.kind
    if kind == "bool" and given in "bO":
        return np.array(a, np.bool_)
    if kind == "int64" and given in "iuO":
        _check_range(a, what)
        return np.array(a, np.int64)
    if kind == "float64" and given == "f" and a.dtype.itemsize <= 8:
        return np.array(a, np.float64)
    if kind == "float64" and given in "iuO":
        return _floats(a, what)
    raise TypeError(f"{what}: expected {EXPECTED[kind]}, got {a.dtype}{_hint(a.dtype)}")


def _check_range(a: NDArray[Any], what: str) -> None:
    if a.size and (a.dtype.kind == "O" or a.dtype == np.uint64):
        for bound in (int(a.min()), int(a.max())):
            if not _INT64.min <= bound <= _INT64.max:
                raise ValueError(f"{what}: expected integers from -2**63 to 2**63 - 1, got {bound}")


def _floats(a: NDArray[Any], what: str) -> NDArray[np.float64]:
    """Integers, or numbers of Python, that float64 holds exactly."""
    try:
        out = a.astype(np.float64)
    except OverflowError:
        raise ValueError(f"{what}: expected numbers that float64 holds, got an integer of 2**1024 or more") from None
    if a.dtype.itemsize < 8 or (a.dtype.kind in "iu" and np.abs(out).max(initial=0) < 2**53):
        return out
    for given, held in zip(a.tolist(), out.tolist(), strict=True):
        if given != held and given == given:
            raise ValueError(
                f"{what}: expected numbers that float64 holds exactly, got {given}, of which it makes {held}"
            )
    return out
