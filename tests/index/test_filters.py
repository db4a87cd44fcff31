"""Predicates against the plainest evaluation: Python's own comparison, row by row."""

from __future__ import annotations

import copy
import math
import operator
import pickle
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import ragfast
from ragfast import column
from ragfast.index.columns import Schema
from ragfast.index.filters import And, Column, Predicate

SIGNS = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
INTS = [0, 1, -1, 2, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63 - 2, -(2**63), 7]
FLOATS = [
    0.0,
    -0.0,
    0.5,
    1.0,
    2.0,
    -2.5,
    2.0**53,
    2.0**53 + 2,
    2.0**63,
    -(2.0**63),
    1e300,
    math.inf,
    -math.inf,
    math.nan,
]
BEYOND = [2**63, -(2**63) - 1, 2**64, 10**400, -(10**400), 2**1024 - 2**970, 2**1024 - 2**970 - 1]
WORDS = ["", "a", "b", "ab", "ä", "日本", "\U0001f600", "\0", "a\0", "z"]

ints = st.sampled_from(INTS) | st.integers(-(2**63), 2**63 - 1)
floats = st.sampled_from(FLOATS) | st.floats()
words = st.sampled_from(WORDS)
numbers = ints | floats | st.sampled_from(BEYOND)
rows = st.lists(st.tuples(ints, floats, st.booleans(), words | st.none()), min_size=1, max_size=12)
VALUES: dict[str, st.SearchStrategy[Any]] = {"i": numbers, "f": numbers, "b": st.booleans(), "s": words}
SCHEMA = Schema({"i": "int64", "f": "float64", "b": "bool", "s": "str"})

Plain = Any  # of one row, as a dict: bool


def one(name: str) -> st.SearchStrategy[tuple[Predicate, Plain]]:
    """A condition on one column, and what it means."""

    def compared(sign: str, value: Any) -> tuple[Predicate, Plain]:
        return SIGNS[sign](column(name), value), lambda row: row[name] is not None and SIGNS[sign](row[name], value)

    def between(low: Any, high: Any) -> tuple[Predicate, Plain]:
        return column(name).between(low, high), lambda row: row[name] is not None and low <= row[name] <= high

    def isin(values: list[Any]) -> tuple[Predicate, Plain]:
        return column(name).isin(values), lambda row: any(row[name] == value for value in values)

    def null(row: Any) -> bool:
        return row[name] is None or row[name] != row[name]

    value = VALUES[name]
    ordered = [] if name == "b" else [st.builds(between, value, value)]
    signs = ["==", "!="] if name == "b" else list(SIGNS)
    return st.one_of(
        st.builds(compared, st.sampled_from(signs), value),
        st.builds(isin, st.lists(value, max_size=4)),
        st.just((column(name).is_null(), null)),
        *ordered,
    )


def several(parts: st.SearchStrategy[tuple[Predicate, Plain]]) -> st.SearchStrategy[tuple[Predicate, Plain]]:
    return st.one_of(
        st.builds(lambda a, b: (a[0] & b[0], lambda row: a[1](row) and b[1](row)), parts, parts),
        st.builds(lambda a, b: (a[0] | b[0], lambda row: a[1](row) or b[1](row)), parts, parts),
        st.builds(lambda a: (~a[0], lambda row: not a[1](row)), parts),
    )


conditions = st.recursive(st.one_of(*map(one, VALUES)), several, max_leaves=6)


def encoded(table: list[tuple[Any, ...]]) -> tuple[dict[str, Any], dict[str, Any]]:
    vocabularies = SCHEMA.vocabularies()
    metadata = {name: list(values) for name, values in zip("ifbs", zip(*table, strict=True), strict=True)}
    return SCHEMA.encode(SCHEMA.read(metadata, len(table)), vocabularies), vocabularies


@given(table=rows, condition=conditions)
def test_is_what_python_says_row_by_row(table: list[tuple[Any, ...]], condition: tuple[Predicate, Plain]) -> None:
    predicate, plain = condition
    columns, vocabularies = encoded(table)
    found = predicate.bind(SCHEMA, vocabularies)(columns)
    assert found.dtype == np.bool_
    assert found.tolist() == [plain(dict(zip("ifbs", row, strict=True))) for row in table]


@given(condition=conditions)
def test_written_alike_is_equal(condition: tuple[Predicate, Plain]) -> None:
    predicate = condition[0]
    again = eval(repr(predicate), {"column": column, "nan": math.nan, "inf": math.inf})
    assert repr(again) == repr(predicate)
    if "nan" not in repr(predicate):
        assert again == predicate
        assert hash(again) == hash(predicate)
        assert pickle.loads(pickle.dumps(predicate)) == predicate
        assert predicate.columns() == set(re.findall(r"column\('(.)'\)", repr(predicate)))


@given(name=st.sampled_from("if"), values=st.lists(numbers, min_size=1, max_size=60), table=rows)
def test_isin_of_many_numbers(name: str, values: list[Any], table: list[tuple[Any, ...]]) -> None:
    columns, vocabularies = encoded(table)
    found = column(name).isin(values).bind(SCHEMA, vocabularies)(columns)
    assert found.tolist() == [any(row["if".index(name)] == value for value in values) for row in table]


def test_bound_once_serves_any_number_of_documents() -> None:
    columns, vocabularies = encoded([(1, 0.5, True, "b"), (2, 1.5, False, None), (3, 2.5, True, "a")])
    bound = (column("s") <= "a").bind(SCHEMA, vocabularies)
    assert bound(columns).tolist() == [False, False, True]
    assert bound({name: a[1:] for name, a in columns.items()}).tolist() == [False, True]
    assert bound({name: a[:0] for name, a in columns.items()}).tolist() == []


def test_words_added_later_are_no_matter_to_what_was_bound() -> None:
    columns, vocabularies = encoded([(1, 0.5, True, "b"), (2, 1.5, False, None)])
    predicates = [column("s") == "c", column("s").isin(["c", "b"]), column("s") > "a", column("s") != "c"]
    bound = [predicate.bind(SCHEMA, vocabularies) for predicate in predicates]
    vocabularies["s"].add(["c"])
    assert [f(columns).tolist() for f in bound] == [[False, False], [True, False], [True, False], [True, False]]


def test_a_word_that_nobody_has() -> None:
    columns, vocabularies = encoded([(1, 0.5, True, "b"), (2, 1.5, False, None)])
    assert (column("s") == "?").bind(SCHEMA, vocabularies)(columns).tolist() == [False, False]
    assert (column("s") != "?").bind(SCHEMA, vocabularies)(columns).tolist() == [True, False]
    assert len(vocabularies["s"]) == 1  # asking adds nothing


def test_numpy_values_are_taken_as_numbers() -> None:
    assert repr(column("i") == np.int8(3)) == "column('i') == 3"
    assert repr(np.int64(3) < column("i")) == "column('i') > 3"
    assert repr(column("f") >= np.float32(0.1)) == "column('f') >= 0.10000000149011612"
    assert repr(column("b") == np.True_) == "column('b') == True"
    assert repr(column("s").isin(np.array(["x", "y"]))) == "column('s').isin(['x', 'y'])"
    assert type((column("s") == np.str_("x")).value) is str  # type: ignore[attr-defined]


def test_equal_numbers_of_other_types_are_other_predicates() -> None:
    predicates = [column("i") == 1, column("i") == 1.0, column("i") == True]  # noqa: E712
    assert len(set(predicates)) == 3
    assert len({column("i").isin([1]), column("i").isin([True])}) == 2


def test_predicates_cannot_be_changed() -> None:
    predicate: Any = column("i") == 1
    with pytest.raises(AttributeError, match="cannot be changed"):
        predicate.value = 2
    for same in (copy.deepcopy(predicate), pickle.loads(pickle.dumps(predicate))):
        assert same == predicate
        assert hash(same) == hash(predicate)


def test_long_chains_are_flat() -> None:
    columns, vocabularies = encoded([(1, 0.5, True, "b"), (7, 1.5, False, None)])
    predicate: Predicate = column("i") == 0
    for value in range(1, 3000):
        predicate = predicate | (column("i") == value)
    assert predicate.bind(SCHEMA, vocabularies)(columns).tolist() == [True, True]
    a, b, c = (column("i") == value for value in range(3))
    assert (a & b) & c == a & (b & c) == And((a, b, c))
    assert ~~a == a


def test_long_lists_are_not_written_out() -> None:
    assert len(repr(column("i").isin(range(100_000)))) < 200


@pytest.mark.parametrize(
    "use",
    [
        lambda: bool(column("a") == 1),
        lambda: (column("a") > 1) and (column("a") < 3),
        lambda: 1 < column("a") < 3,
        lambda: not (column("a") > 1),
        lambda: bool(column("a")),
    ],
)
def test_have_no_truth(use: Any) -> None:
    with pytest.raises(TypeError, match="neither true nor false"):
        use()


def test_says_how_to_put_them_together() -> None:
    with pytest.raises(TypeError, match=re.escape("&, | and ~ instead of and, or and not, each comparison in paren")):
        bool(column("a") == 1)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: column("a") == None, TypeError, r"column 'a'.*NoneType; is_null\(\)"),  # noqa: E711
        (lambda: column("a").isin([1, None]), TypeError, r"NoneType; is_null\(\)"),
        (lambda: column("a") == column("b"), TypeError, "got Column"),
        (lambda: column("a") == [1], TypeError, "got list"),
        (lambda: column("a") < np.datetime64("2000-01-01"), TypeError, "got datetime64"),
        (lambda: column("a") == np.longdouble(1), TypeError, "got longdouble"),
        (lambda: column("a").isin("abc"), TypeError, "isin expects a sequence of values, got 'abc'"),
        (lambda: column("a").isin(3), TypeError, "isin expects a sequence"),
        (lambda: column("a").isin(np.eye(2)), ValueError, r"got shape \(2, 2\)"),
        (lambda: column(3), TypeError, "expected a name, got int"),  # type: ignore[arg-type]
        (lambda: column(""), ValueError, "one character or more"),
        (lambda: (column("a") == 1) & True, TypeError, "unsupported operand"),
        (lambda: np.array([True]) & (column("a") == 1), TypeError, "unsupported operand"),
        (lambda: hash(column("a")), TypeError, "unhashable"),
    ],
)
def test_refuses_when_made(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("predicate", "error", "words"),
    [
        (column("s") == 3, TypeError, "column 's' holds str: expected a str to compare with, got int 3"),
        (column("i") == "3", TypeError, "column 'i' holds int64: expected a number to compare with, got str '3'"),
        (column("i") == True, TypeError, "expected a number to compare with, got bool True"),  # noqa: E712
        (column("f") > "x", TypeError, "holds float64: expected a number"),
        (column("b") == 1, TypeError, "holds bool: expected a bool to compare with, got int 1"),
        (column("b") < True, TypeError, "column 'b' holds bool, which has no order"),
        (column("s").isin(["a", 1]), TypeError, "expected a str to compare with, got int 1"),
        (column("nope") == 1, ValueError, "'nope': there is no such column; there are 'i', 'f', 'b', 's'"),
        (column("nope").is_null(), ValueError, "no such column"),
        ((column("i") == 1) | ~(column("nope").isin([1])), ValueError, "no such column"),
    ],
)
def test_refuses_what_does_not_fit_the_columns(predicate: Predicate, error: type[Exception], words: str) -> None:
    columns, vocabularies = encoded([(1, 0.5, True, "b")])
    with pytest.raises(error, match=words):
        predicate.bind(SCHEMA, vocabularies)(columns)


def test_public_names() -> None:
    assert isinstance(ragfast.column("a"), Column)
    assert isinstance(ragfast.column("a") == 1, ragfast.index.Predicate)
