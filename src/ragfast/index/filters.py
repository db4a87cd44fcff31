"""Conditions on metadata: which documents a search may find.

A comparison is bound to the columns of an index first (types checked, words looked up), and then evaluated for arrays
of documents in one pass.
"""

from __future__ import annotations

import functools
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ragfast.index.columns import DTYPES, NULL_CODE, UNKNOWN_CODE, Schema, Vocabulary
from ragfast.index.strings import plain_str

__all__ = ["Column", "Predicate", "column"]

Scalar = bool | int | float | str
Columns = Mapping[str, NDArray[Any]]
Bound = Callable[[Columns], NDArray[np.bool_]]
"""From columns (n,) each to the documents that it is true of, bool (n,)."""
OfValues = Callable[[NDArray[Any]], NDArray[np.bool_]]
"""The same from one column."""

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
MAX_SHOWN_VALUES = 20
"""Values of isin that its representation shows."""

_INT64 = np.iinfo(np.int64)
_TAKES = {"int64": (int, float), "float64": (int, float), "bool": (bool,), "str": (str,)}


def column(name: str) -> Column:
    """The metadata column of this name, to be compared: the comparison is the filter of a search.

    ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=`` with a number, a str or a bool; ``.between(low, high)``, both included;
    ``.isin(values)``; ``.is_null()``. Put together by ``&``, ``|`` and ``~``, each comparison in parentheses.

    Numbers are compared exactly, int64 columns with any int or float. Strings are in the order of their code points. A
    bool column has only ``==``, ``!=`` and ``isin``. Nothing compares with None, which a str column may hold: all six
    comparisons and isin are False there, ``!=`` too, while ``~`` is plain not; so ``column("a") != "x"`` leaves
    documents out that have no a, and ``~(column("a") == "x")`` keeps them. NaN is as everywhere: only ``!=`` is True.
    is_null is True of None and of NaN.

    TypeError for a value of another type. Whether the column exists and holds that kind is seen by the search.

    >>> import ragfast
    >>> recent = (ragfast.column("year") >= 2000) & ~ragfast.column("lang").isin(["de", "fr"])
    >>> recent
    (column('year') >= 2000) & ~column('lang').isin(['de', 'fr'])
    """
    return Column(name)


class Column:
    """What :func:`column` returns: see there."""

    __slots__ = ("name",)
    __array_ufunc__ = None  # np.int64(3) < column("a") is left to us
    __hash__ = None  # type: ignore[assignment]  # == makes a Predicate

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"column: expected a name, got {type(name).__qualname__}")
        if not name:
            raise ValueError("column: expected a name of one character or more, got ''")
        self.name = plain_str(name)

    def __repr__(self) -> str:
        return f"column({self.name!r})"

    def __eq__(self, value: object) -> Predicate:  # type: ignore[override]  # not a bool, as NumPy has it
        return Comparison(self.name, "==", _scalar(value, self.name))

    def __ne__(self, value: object) -> Predicate:  # type: ignore[override]  # not a bool, as NumPy has it
        return Comparison(self.name, "!=", _scalar(value, self.name))

    def __lt__(self, value: object) -> Predicate:
        return Comparison(self.name, "<", _scalar(value, self.name))

    def __le__(self, value: object) -> Predicate:
        return Comparison(self.name, "<=", _scalar(value, self.name))

    def __gt__(self, value: object) -> Predicate:
        return Comparison(self.name, ">", _scalar(value, self.name))

    def __ge__(self, value: object) -> Predicate:
        return Comparison(self.name, ">=", _scalar(value, self.name))

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self!r} is of many documents, neither true nor false; compare it, as in {self!r} == 1")

    def between(self, low: object, high: object) -> Predicate:
        """At least low and at most high."""
        return (self >= low) & (self <= high)

    def isin(self, values: Iterable[object]) -> Predicate:
        """Equal to one of values: a sequence, a set or a NumPy array (n,)."""
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise TypeError(f"column {self.name!r}: isin expects a sequence of values, got {values!r:.80}")
        items = values.tolist() if isinstance(values, np.ndarray) else list(values)
        if isinstance(values, np.ndarray) and values.ndim != 1:
            raise ValueError(f"column {self.name!r}: isin expects values (n,), got shape {values.shape}")
        return Membership(self.name, tuple(_scalar(value, self.name) for value in items))

    def is_null(self) -> Predicate:
        """None, of a str column; NaN, of a float64 column; of the others, no document."""
        return Null(self.name)


def _scalar(value: object, name: str) -> Scalar:
    """value as Python has it."""
    if type(value) in (int, float, str, bool):
        return value  # type: ignore[return-value]  # its type was looked at above
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)) and not isinstance(value, np.longdouble):
        return float(value)
    if isinstance(value, str):
        return plain_str(value)
    hint = "; is_null() is true of None and NaN" if value is None else ""
    raise TypeError(
        f"column {name!r}: expected a bool, int, float or str to compare with, got {type(value).__qualname__}{hint}"
    )


class Predicate(ABC):
    """A condition on metadata columns, made by :func:`column`; ``search(..., filter=predicate)``.

    Predicates are immutable. They are equal if they are written alike, and may be keys of a cache. They have no truth
    value.
    """

    __array_ufunc__ = None  # mask & predicate is an error, not an array of objects

    def __init__(self, *key: object) -> None:
        self._key = key  # what distinguishes it from others of its class

    def __setattr__(self, name: str, value: object) -> None:
        if "_key" in self.__dict__:
            raise AttributeError(f"a predicate cannot be changed; {name!r} is part of the key of a cache")
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, Predicate) and type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self._key))

    def __and__(self, other: object) -> Predicate:
        return And.of(self, other) if isinstance(other, Predicate) else NotImplemented

    def __or__(self, other: object) -> Predicate:
        return Or.of(self, other) if isinstance(other, Predicate) else NotImplemented

    def __invert__(self) -> Predicate:
        return Not(self)

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "a predicate is of many documents, neither true nor false: put predicates together with &, | and ~ instead "
            "of and, or and not, each comparison in parentheses, as in (column('a') >= 1) & (column('a') < 3)"
        )

    @abstractmethod
    def columns(self) -> frozenset[str]:
        """The names of the columns that it reads."""

    @abstractmethod
    def bind(self, schema: Schema, vocabularies: Mapping[str, Vocabulary]) -> Bound:
        """Return the condition as a function of the columns' arrays.

        The arrays may be of any number of documents, encoded with these vocabularies before this call. ValueError for a
        column that the schema does not have, TypeError for a value that is not of its kind.
        """


class _OfColumn(Predicate):
    """A condition on one column."""

    def __init__(self, name: str, *key: object) -> None:
        self.name = name
        super().__init__(name, *key)

    def columns(self) -> frozenset[str]:
        return frozenset([self.name])

    def bind(self, schema: Schema, vocabularies: Mapping[str, Vocabulary]) -> Bound:
        true_of = self._bind(schema.kind(self.name), vocabularies)
        return lambda columns: true_of(columns[self.name])

    @abstractmethod
    def _bind(self, kind: str, vocabularies: Mapping[str, Vocabulary]) -> OfValues:
        """:meth:`bind` for the array of the column, which is of this kind."""


class Comparison(_OfColumn):
    def __init__(self, name: str, sign: str, value: Scalar) -> None:
        self.sign, self.value = sign, value
        super().__init__(name, sign, value, type(value))  # 1, 1.0 and True are equal, and different here

    def __repr__(self) -> str:
        return f"column({self.name!r}) {self.sign} {self.value!r}"

    def _bind(self, kind: str, vocabularies: Mapping[str, Vocabulary]) -> OfValues:
        _check_kind(self.name, kind, [self.value], self.sign)
        if kind == "str":
            return self._bind_strings(vocabularies[self.name])
        sign, bound = _IN_KIND[kind](self.sign, self.value)
        if bound is None:
            return lambda values: np.full(len(values), sign != "")
        return lambda values: COMPARE[sign](values, bound)

    def _bind_strings(self, vocabulary: Vocabulary) -> OfValues:
        if self.sign in ("==", "!="):
            code = vocabulary.find([str(self.value)])[0]
            if self.sign == "==":
                return lambda codes: codes == code
            return lambda codes: (codes != code) & (codes != NULL_CODE)
        compare, words = COMPARE[self.sign], vocabulary.all()
        true = np.zeros(len(words) + 1, np.bool_)  # the last is that of None, whose code is -1
        true[:-1] = [compare(word, self.value) for word in words]
        return lambda codes: true[codes]


class Membership(_OfColumn):
    def __init__(self, name: str, values: tuple[Scalar, ...]) -> None:
        self.values = values
        super().__init__(name, values, tuple(map(type, values)))

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.values[:MAX_SHOWN_VALUES]))
        more = f", ... {len(self.values)} values" if len(self.values) > MAX_SHOWN_VALUES else ""
        return f"column({self.name!r}).isin([{shown}{more}])"

    def _bind(self, kind: str, vocabularies: Mapping[str, Vocabulary]) -> OfValues:
        _check_kind(self.name, kind, self.values, "isin")
        if kind == "str":
            vocabulary = vocabularies[self.name]
            codes = vocabulary.find(map(str, self.values))
            true = np.zeros(len(vocabulary) + 1, np.bool_)
            true[codes[codes != UNKNOWN_CODE]] = True
            return lambda codes: true[codes]
        # A value that a column of this kind cannot hold equals none of its values.
        held = [value for _, value in (_IN_KIND[kind]("==", value) for value in self.values) if value is not None]
        sought: NDArray[Any] = np.array([value for value in held if value == value], DTYPES[kind])
        return lambda values: np.isin(values, sought)


class Null(_OfColumn):
    def __repr__(self) -> str:
        return f"column({self.name!r}).is_null()"

    def _bind(self, kind: str, vocabularies: Mapping[str, Vocabulary]) -> OfValues:
        if kind == "str":
            return lambda codes: codes == NULL_CODE
        return np.isnan if kind == "float64" else lambda values: np.zeros(len(values), np.bool_)


class Not(Predicate):
    def __init__(self, operand: Predicate) -> None:
        self.operand = operand
        super().__init__(operand)

    def __invert__(self) -> Predicate:
        return self.operand

    def __repr__(self) -> str:
        return f"~{self.operand!r}" if isinstance(self.operand, (Membership, Null)) else f"~({self.operand!r})"

    def columns(self) -> frozenset[str]:
        return self.operand.columns()

    def bind(self, schema: Schema, vocabularies: Mapping[str, Vocabulary]) -> Bound:
        true_of = self.operand.bind(schema, vocabularies)
        return lambda columns: ~true_of(columns)


class _Combination(Predicate):
    """Several predicates, flat, so that a chain of thousands is no recursion."""

    sign: str
    _join: Callable[[Any, Any], Any]

    def __init__(self, operands: tuple[Predicate, ...]) -> None:
        self.operands = operands
        super().__init__(operands)

    @classmethod
    def of(cls, *operands: Predicate) -> Predicate:
        return cls(sum((other.operands if isinstance(other, cls) else (other,) for other in operands), ()))

    def __repr__(self) -> str:
        bare = (Membership, Null, Not)
        return f" {self.sign} ".join(f"{p!r}" if isinstance(p, bare) else f"({p!r})" for p in self.operands)

    def columns(self) -> frozenset[str]:
        return frozenset().union(*(operand.columns() for operand in self.operands))

    def bind(self, schema: Schema, vocabularies: Mapping[str, Vocabulary]) -> Bound:
        bound = [operand.bind(schema, vocabularies) for operand in self.operands]
        return lambda columns: functools.reduce(self._join, (true_of(columns) for true_of in bound))


class And(_Combination):
    sign, _join = "&", staticmethod(operator.and_)


class Or(_Combination):
    sign, _join = "|", staticmethod(operator.or_)


def _check_kind(name: str, kind: str, values: Iterable[Scalar], sign: str) -> None:
    for value in values:
        if type(value) not in _TAKES[kind]:
            expected = {"bool": "a bool", "str": "a str"}.get(kind, "a number")
            raise TypeError(
                f"column {name!r} holds {kind}: expected {expected} to compare with, "
                f"got {type(value).__qualname__} {value!r:.80}"
            )
    if kind == "bool" and sign not in ("==", "!=", "isin"):
        raise TypeError(f"column {name!r} holds bool, which has no order: expected ==, != or isin, got {sign}")


def _in_int64(sign: str, value: Any) -> tuple[str, int | None]:
    """A comparison of any int64 with value, as an equal one with an int64; ("", None) is False of all, any other sign
    with None True of all."""
    never, always = ("", None), (sign, None)
    if isinstance(value, float):
        if math.isnan(value):
            return always if sign == "!=" else never
        if math.isinf(value) or (sign in ("==", "!=") and not value.is_integer()):
            value = (2**64) if value > 0 else -(2**64)  # beyond all of them, and so equal to none
        else:  # x < 2.5 is x < 3, x > 2.5 is x > 2
            value = math.ceil(value) if sign in ("<", ">=") else math.floor(value)
    if _INT64.min <= value <= _INT64.max:
        return sign, value
    less = value > _INT64.max
    if sign in ("==", "!="):
        return always if sign == "!=" else never
    return always if (sign in ("<", "<=")) == less else never


def _in_float64(sign: str, value: Any) -> tuple[str, float | None]:
    """A comparison of any float64 with value, as an equal one with a float64; None as of :func:`_in_int64`."""
    try:
        nearest = float(value)
    except OverflowError:
        nearest = math.inf if value > 0 else -math.inf
    if math.isnan(nearest) or nearest == value:
        return sign, nearest
    if sign in ("==", "!="):  # no float64 is this integer
        return sign if sign == "!=" else "", None
    if sign in ("<", "<="):
        return "<=", nearest if nearest < value else math.nextafter(nearest, -math.inf)
    return ">=", nearest if nearest > value else math.nextafter(nearest, math.inf)


_IN_KIND: dict[str, Callable[[str, Any], tuple[str, Any]]] = {
    "int64": _in_int64,
    "float64": _in_float64,
    "bool": lambda sign, value: (sign, value),
}
"""Of each kind of numbers a comparison as an equal one with a value of that kind."""
