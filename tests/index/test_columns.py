"""Metadata columns: what is taken, what is refused, and that nothing is lost on the way to storage and back."""

from __future__ import annotations

import enum
import math
import re
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ragfast.index import strings
from ragfast.index.columns import DTYPES, UNKNOWN_CODE, Schema, Vocabulary

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "str": texts | st.none(),
}
tables = st.integers(1, 6).flatmap(
    lambda n: st.dictionaries(
        st.sampled_from(["a", "b", "ä c", "d"]),
        st.sampled_from(list(COLUMNS)).flatmap(
            lambda kind: st.tuples(st.just(kind), st.lists(COLUMNS[kind], min_size=n, max_size=n))
        ),
    ).map(lambda table: (n, table))
)


def round_trip(values: Any, kind: str | None = None) -> list[Any]:
    """What a column of this kind (by default its own) gives back."""
    schema = Schema.of({"a": values}) if kind is None else Schema({"a": kind})
    vocabularies = schema.vocabularies()
    columns = schema.encode(schema.read({"a": values}, len(values)), vocabularies)
    assert columns["a"].dtype == DTYPES[schema.kind("a")]
    return schema.decode(columns, vocabularies)["a"].tolist()  # type: ignore[no-any-return]


@given(tables)
def test_what_goes_in_comes_out(case: tuple[int, dict[str, tuple[str, list[Any]]]]) -> None:
    n, table = case
    schema = Schema({name: kind for name, (kind, _) in table.items()})
    vocabularies = schema.vocabularies()
    metadata = {name: values for name, (_, values) in table.items()}
    columns = schema.encode(schema.read(metadata, n), vocabularies)
    stored = {name: Vocabulary(*vocabulary.packed(len(vocabulary))) for name, vocabulary in vocabularies.items()}
    for words in (vocabularies, stored):
        decoded = schema.decode(columns, words)
        assert {name: a.tolist() for name, a in decoded.items()} == metadata
    assert {name: a.dtype for name, a in schema.empty(3).items()} == {name: a.dtype for name, a in columns.items()}


@pytest.mark.parametrize(
    ("values", "kind", "given_back"),
    [
        ([True, False], "bool", None),
        ([1, -(2**63)], "int64", None),
        ([1, 2.5], "float64", None),
        ([np.float32(0.1), np.int8(2)], "float64", [float(np.float32(0.1)), 2.0]),
        (["a", None], "str", None),
        ([None, None], "str", None),
        (("a", "b"), "str", ["a", "b"]),
        (range(3), "int64", [0, 1, 2]),
        (np.array([1, 2], np.uint8), "int64", [1, 2]),
        (np.array([1, 2**63 - 1], np.uint64), "int64", [1, 2**63 - 1]),
        (np.array([1, 2], ">i4"), "int64", [1, 2]),
        (np.array([0.5, 1], np.float16), "float64", [0.5, 1.0]),
        (np.array([True, False])[::-1], "bool", [False, True]),
        (np.array(["a", "bc"]), "str", ["a", "bc"]),
        (np.array(["a", None], object), "str", ["a", None]),
        (np.array([1, 2], object), "int64", [1, 2]),
        (np.array(["a", "bc"], np.dtypes.StringDType()), "str", ["a", "bc"]),
        (np.array(["a", None], np.dtypes.StringDType(na_object=None)), "str", ["a", None]),
        (np.array(["a", math.nan], np.dtypes.StringDType(na_object=math.nan)), "str", ["a", None]),
        (np.array([np.str_("a")]), "str", ["a"]),
    ],
)
def test_kinds_are_told_from_values(values: Any, kind: str, given_back: list[Any] | None) -> None:
    assert Schema.of({"a": values}).kinds == {"a": kind}
    assert round_trip(values) == (list(values) if given_back is None else given_back)


def test_nan_stays() -> None:
    assert math.isnan(round_trip([1.5, math.nan])[1])
    assert math.isnan(round_trip(np.array([np.nan], np.float32), "float64")[0])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "float64"),
        ([2**53, -(2**60), 2**1023], "float64"),
        (np.array([2**53 + 2]), "float64"),
        (np.array([1, 2], np.uint16), "float64"),
        (np.array([2.5], np.float32), "float64"),
        ([None], "str"),
        ([], "int64"),
        ([], "str"),
        (np.array([], object), "bool"),
    ],
)
def test_later_values_are_taken_where_nothing_is_lost(values: Any, kind: str) -> None:
    assert round_trip(values, kind) == list(values)


@pytest.mark.parametrize(
    ("values", "kind", "error", "words"),
    [
        ([1.0], "int64", TypeError, "expected integers, got 1.0 in row 0"),
        ([1, 2.5], "int64", TypeError, "expected integers, got 2.5 in row 1"),
        ([True], "int64", TypeError, "expected integers, got True in row 0"),
        (["1"], "int64", TypeError, "expected integers, got '1' in row 0"),
        ([1, None], "int64", TypeError, "only columns of str have None"),
        (np.array([1.0]), "int64", TypeError, "expected integers, got float64"),
        (np.array([True]), "int64", TypeError, "expected integers, got bool"),
        ([2**63], "int64", ValueError, "expected integers from -2**63 to 2**63 - 1, got 9223372036854775808"),
        ([-(2**63) - 1], "int64", ValueError, "got -9223372036854775809"),
        (np.array([2**63], np.uint64), "int64", ValueError, "got 9223372036854775808"),
        ([2**53 + 1], "float64", ValueError, "holds exactly, got 9007199254740993, of which it makes 9007199254740992"),
        (np.array([1, 2**53 + 1]), "float64", ValueError, "holds exactly, got 9007199254740993"),
        ([10**400], "float64", ValueError, "an integer of 2**1024 or more"),
        ([True], "float64", TypeError, "expected floats, got True"),
        (["x"], "float64", TypeError, "expected floats, got 'x'"),
        (np.array([1], np.longdouble), "float64", TypeError, "expected floats, got"),
        ([1], "bool", TypeError, "expected bool, got 1"),
        (np.array([0, 1]), "bool", TypeError, "expected bool, got int64"),
        ([1], "str", TypeError, "expected str or None, got int 1 in row 0"),
        (["a", math.nan], "str", TypeError, "expected str or None, got float nan in row 1"),
        ("ab", "str", TypeError, "expected a sequence of strings, got 'ab'"),
        ([b"a"], "str", TypeError, "expected str or None, got bytes"),
        (np.array([b"a"]), "str", TypeError, "expected strings, got |S1"),
        (["a\ud800"], "str", ValueError, "half of a surrogate pair"),
        ([["a"]], "str", TypeError, "expected str or None, got list"),
        (np.array(["2000-01-01"], "M8[D]"), "int64", TypeError, "pass numbers, such as days or seconds"),
        (np.ma.array([1], mask=[True]), "int64", TypeError, "masked array"),
        (3, "int64", ValueError, "expected (1,) values"),
    ],
)
def test_refuses_what_a_column_does_not_hold(values: Any, kind: str, error: type[Exception], words: str) -> None:
    schema, vocabularies = Schema({"name": kind}), {"name": Vocabulary()}
    with pytest.raises(error, match=re.escape(words)) as caught:
        schema.encode(schema.read({"name": values}, 2 if isinstance(values, str) else np.size(values)), vocabularies)
    assert str(caught.value).startswith("column 'name'")
    assert len(vocabularies["name"]) == 0


@pytest.mark.parametrize("values", [["a"], ["a"] * 3, np.array(["a"]), np.full((2, 1), "a"), "a"])
def test_refuses_another_number_of_strings(values: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="column 'x'"):
        Schema({"x": "str"}).read({"x": values}, 2)


@pytest.mark.parametrize("values", [[1], [1] * 3, np.ones(3, int), np.ones((2, 1), int), np.array(1), 1])
def test_refuses_another_number_of_integers(values: Any) -> None:
    with pytest.raises(ValueError, match=r"column 'x': expected \(2,\) values, one for each document, got"):
        Schema({"x": "int64"}).read({"x": values}, 2)


@pytest.mark.parametrize(
    ("metadata", "error", "words"),
    [
        ([1], TypeError, "expected a mapping of column names to values, got list"),
        ({1: [1]}, TypeError, "names of columns that are str, got 1"),
        ({"": [1]}, ValueError, "one character or more"),
        ({"\udc00": [1]}, ValueError, "surrogate"),
        ({"a": []}, ValueError, "column 'a': no values, so its kind cannot be told"),
        ({"a": [1, "x"]}, TypeError, "column 'a': expected values of one kind, got 1 and 'x'"),
        ({"a": [True, 1]}, TypeError, "expected values of one kind, got True and 1"),
        ({"a": [1.5, None]}, TypeError, "only columns of str have None (a float column has NaN)"),
        ({"a": [1j]}, TypeError, "got complex"),
        ({"a": np.array([1j])}, TypeError, "column 'a': expected bool, integers, floats or strings, got complex128"),
        ({"a": np.array(["2000"], "M8[Y]")}, TypeError, "pass numbers"),
    ],
)
def test_refuses_metadata_of_which_there_is_no_schema(metadata: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        Schema.of(metadata)


@pytest.mark.parametrize(
    ("kinds", "error"),
    [({"a": "int32"}, ValueError), ({"a": []}, ValueError), ({"": "bool"}, ValueError), ([], TypeError)],
)
def test_refuses_kinds_that_there_are_not(kinds: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Schema(kinds)


def test_refuses_other_columns() -> None:
    schema = Schema({"a": "int64", "b": "str"})
    with pytest.raises(ValueError, match="expected the columns 'a', 'b'; these come without 'b'"):
        schema.read({"a": [1]}, 1)
    with pytest.raises(ValueError, match="these come with 'c'"):
        schema.read({"a": [1], "b": ["x"], "c": [1]}, 1)
    with pytest.raises(TypeError, match="expected a mapping"):
        schema.read([1], 1)  # type: ignore[arg-type]


def test_what_was_read_shares_no_memory() -> None:
    schema = Schema({"a": "int64", "b": "float64", "c": "bool"})
    given_arrays: dict[str, Any] = {"a": np.arange(3), "b": np.ones(3), "c": np.ones(3, bool)}
    columns = schema.encode(schema.read(given_arrays, 3), {})
    decoded = schema.decode(columns, {})
    for name, a in given_arrays.items():
        assert not np.shares_memory(a, columns[name])
        assert not np.shares_memory(decoded[name], columns[name])


def test_subclasses_of_str_are_what_they_compare_as() -> None:
    class Language(enum.StrEnum):
        GERMAN = "de"

    schema = Schema.of({"a": [Language.GERMAN, "de", np.str_("de")]})
    vocabularies = schema.vocabularies()
    columns = schema.encode(schema.read({"a": [Language.GERMAN, "de", np.str_("de")]}, 3), vocabularies)
    assert columns["a"].tolist() == [0, 0, 0]
    assert type(vocabularies["a"].all()[0]) is str


# ---- vocabularies


def test_codes_are_the_order_of_addition() -> None:
    vocabulary = Vocabulary()
    assert vocabulary.add(["b", "a"]).tolist() == [0, 1]
    assert vocabulary.add(["c", "a", "d"]).tolist() == [2, 1, 3]
    assert vocabulary.find(["d", "x", "b"]).tolist() == [3, UNKNOWN_CODE, 0]
    assert vocabulary.all() == ["b", "a", "c", "d"]
    assert vocabulary.take(np.array([[3, -1], [0, 0]], np.int32)).tolist() == [["d", None], ["b", "b"]]
    assert vocabulary.take(np.array([], np.int32)).tolist() == []


@given(st.lists(texts, unique=True), st.lists(texts, unique=True))
def test_a_stored_vocabulary_goes_on(first: list[str], second: list[str]) -> None:
    vocabulary = Vocabulary()
    vocabulary.add(first)
    data, offsets = vocabulary.packed(len(vocabulary))
    data.flags.writeable = offsets.flags.writeable = False
    again = Vocabulary(data, offsets)
    again.check()
    assert again.packed(len(again))[0] is data  # nothing was added: nothing is to be written
    assert again.add(second).tolist() == vocabulary.add(second).tolist()
    assert again.all() == vocabulary.all()
    assert [a.tolist() for a in again.packed(len(again))] == [a.tolist() for a in vocabulary.packed(len(vocabulary))]


def test_a_few_words_of_many_are_read_alone() -> None:
    vocabulary = Vocabulary()
    vocabulary.add([f"word {i} ä" for i in range(1000)])
    data, offsets = vocabulary.packed(len(vocabulary))
    broken = data.copy()
    broken[offsets[500] : offsets[501]] = 0xFF
    again = Vocabulary(broken, offsets)
    assert again.take(np.array([7, 999, -1], np.int32)).tolist() == ["word 7 ä", "word 999 ä", None]
    with pytest.raises(ValueError, match="the text of string 500: expected UTF-8"):
        again.take(np.array([500], np.int32))
    with pytest.raises(ValueError, match="the text of string 500: expected UTF-8"):
        again.find(["word 1 ä"])


def packed(*words: str) -> tuple[Any, Any]:
    return strings.pack(words)


@pytest.mark.parametrize(
    ("data", "offsets", "words"),
    [
        (b"ab", [0, 1], "from 0 to 2, the bytes of text there are; they run from 0 to 1"),
        (b"ab", [1, 2], "they run from 1 to 2"),
        (b"ab", [0, 3], "they run from 0 to 3"),
        (b"ab", [0, 2, 1, 2], "expected them to ascend; string 1 ends before it begins"),
        (b"ab", [0, -1, 2], "ascend"),
        (b"a\xff", [0, 1, 2], "the text of string 1: expected UTF-8"),
        ("ä".encode(), [0, 1, 2], "byte 1 is inside of a character"),
        (b"\xed\xa0\x80", [0, 3], "the text of string 0: expected UTF-8"),  # a surrogate
        (b"aa", [0, 1, 2], "expected distinct words, got 'a' twice"),
    ],
)
def test_refuses_arrays_that_are_no_words(data: bytes, offsets: list[int], words: str) -> None:
    vocabulary = Vocabulary(np.frombuffer(data, np.uint8), np.array(offsets, np.int64))
    with pytest.raises(ValueError, match=words):
        vocabulary.check()
    with pytest.raises(ValueError, match=words):
        vocabulary.find(["a"])


@pytest.mark.parametrize(
    ("data", "offsets"),
    [
        (np.zeros(1, np.int8), np.array([0, 1])),
        (np.zeros((1, 1), np.uint8), np.array([0, 1])),
        (np.zeros(1, np.uint8), np.array([0, 1], np.int32)),
        (np.zeros(0, np.uint8), np.zeros(0, np.int64)),
        (np.zeros(0, np.uint8), np.zeros((1, 1), np.int64)),
    ],
)
def test_refuses_arrays_of_another_type(data: Any, offsets: Any) -> None:
    with pytest.raises(ValueError, match=r"expected (uint8|int64)"):
        Vocabulary(data, offsets)


@given(st.binary(max_size=12), st.lists(st.integers(-2, 14), min_size=1, max_size=6))
def test_any_arrays_are_words_or_an_error(data: bytes, offsets: list[int]) -> None:
    vocabulary = Vocabulary(np.frombuffer(data, np.uint8), np.array(offsets, np.int64))
    try:
        vocabulary.check()
    except ValueError:
        for i in range(len(vocabulary)):  # without the check: a word or an error, and never more than the text
            try:
                word = strings.Strings(np.frombuffer(data, np.uint8), np.array(offsets, np.int64))._at(i)
            except ValueError:
                continue
            assert word.encode() in data
    else:
        assert "".join(vocabulary.all()).encode() == data


def test_readers_beside_a_writer_see_whole_words() -> None:
    vocabulary = Vocabulary(*packed("old", "older"))
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            n = len(vocabulary)
            if vocabulary.find([f"{n - 3}"])[0] not in (n - 1, UNKNOWN_CODE):
                wrong.append("another code")
            words = vocabulary.all()
            if words[:2] != ["old", "older"] or words[2:] != [str(i) for i in range(len(words) - 2)]:
                wrong.append("other words")
            if vocabulary.take(np.array([n - 1], np.int32))[0] != words[n - 1]:
                wrong.append("another word")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for first in range(0, 1000, 10):
        vocabulary.add([str(i) for i in range(first, first + 10)])
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
