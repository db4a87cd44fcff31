"""The files of an evaluation: what is a question and what is not, records that are gone on with, results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from question_files import line, read, write
from ragfast_demo import packages, records


def test_questions_are_read_with_what_else_they_have(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"question": "Where?", "answers": ["Paris", "Lyon"], "id": 7, "title": "Paris"}\r\n'
        b"\n"
        b'{"answers": ["Bras\xc3\xadlia\xe2\x80\xa8"], "question": "What?"}'  # with a line separator, which is no end
    )
    first, second = records.read_questions(path)
    assert first == line("Where?", "Paris", "Lyon", id=7, title="Paris")
    assert second == line("What?", "Brasília\u2028")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{", "line 2: not JSON (Expecting property name"),
        (b'"text"', "line 2: expected an object, got a text"),
        (b"3", "line 2: expected an object, got a number"),
        (b'{"question": "Where?"}', 'line 2: "answers" is missing'),
        (b'{"answers": ["Paris"]}', 'line 2: "question" is missing'),
        (b'{"question": 5, "answers": ["Paris"]}', 'line 2: "question": expected a text, got a number'),
        (b'{"question": " ", "answers": ["Paris"]}', 'line 2: "question": is empty'),
        (b'{"question": "Where?", "answers": "Paris"}', 'line 2: "answers": expected a list of texts, got a text'),
        (b'{"question": "Where?", "answers": []}', 'line 2: "answers": expected at least one, got none'),
        (b'{"question": "Where?", "answers": ["Paris", null]}', 'line 2: "answers[1]": expected a text, got null'),
        (b'{"question": "Where?", "answers": [""]}', 'line 2: "answers[0]": is empty'),
        (b'{"question": "Where\xff", "answers": ["Paris"]}', "line 2: not UTF-8 (byte 20)"),
        (b'{"question": "\\ud800", "answers": ["Paris"]}', "line 2: has half a surrogate pair"),
        (b'{"question": "Where?", "answers": ["x"], "deep": ' + b"[" * 10**5, "line 2: nested too deeply"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_reason(bad: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b'{"question": "Where?", "answers": ["Paris"]}\n' + bad + b"\n")
    with pytest.raises(packages.DemoError) as raised:
        records.read_questions(path)
    assert reason in str(raised.value)
    assert "questions.jsonl" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "questions.jsonl", *[{}] * 8)
    with pytest.raises(packages.DemoError, match=r"line 1: .*line 5: .*and 3 more$"):
        records.read_questions(path)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_no_questions(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(content)
    with pytest.raises(packages.DemoError, match="has no questions"):
        records.read_questions(path)
    with pytest.raises(packages.DemoError, match="cannot read"):
        records.read_questions(tmp_path)


def test_gold_passages() -> None:
    text_of = {"Paris": "Paris is a city.", "Void": " "}
    assert line("?", "x", title="Paris").gold(text_of) == "Paris is a city."
    assert line("?", "x", title="Paris", gold_passage="It is here.").gold(text_of) == "It is here."
    assert line("?", "x", title="Paris", gold_passage="").gold(text_of) == "Paris is a city."
    for given in ({}, {"title": "Rome"}, {"title": ["Paris"]}, {"title": "Void"}, {"gold_passage": 3}):
        assert records.Line("?", ["x"], given).gold(text_of) is None


# ---- records

MEASURED: dict[str, Any] = {
    "doc_ids": [0],
    "doc_titles": ["Paris"],
    "first_hit": 1,
    "predictions": {},
    "em": {},
    "f1": {},
}


def test_records_are_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    where, what = line("Where?", "Paris", id=1), line("What?", "Lyon")
    first = records.Records(path, "now")
    assert (first.take(where), first.note) == (None, "")
    first.add(where, MEASURED)
    first.add(what, MEASURED)
    second = records.Records(path, "now")
    assert "2 records" in second.note
    assert second.take(line("Where?", "Paris")) is None  # another line, for it had no id
    taken = second.take(line("Where?", "Paris", id=1))
    assert taken == {"settings": "now", "question": "Where?", "answers": ["Paris"], "given": {"id": 1}, **MEASURED}
    assert second.take(where) is None  # each serves once
    assert second.take(what) is not None


@pytest.mark.parametrize("n_bytes", [1, 5, 20, 120])
def test_a_half_written_last_record_goes(n_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records.Records(path, "now").add(line("Where?", "Paris"), MEASURED)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:n_bytes])
    again = records.Records(path, "now")
    assert path.read_bytes() == whole
    again.add(line("What?", "Lyon"), MEASURED)
    assert [record["question"] for record in read(path)] == ["Where?", "What?"]


def test_records_of_other_settings_are_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records.Records(path, "before").add(line("Where?", "Paris"), MEASURED)
    before = path.read_bytes()
    now = records.Records(path, "now")
    assert "starting anew" in now.note
    assert now.take(line("Where?", "Paris")) is None
    assert (tmp_path / "records.jsonl.old").read_bytes() == before
    assert path.read_bytes() == b""
    now.add(line("Where?", "Paris"), MEASURED)
    again = records.Records(path, "before")  # as after a wrong command: neither of the two may be lost
    assert "records.jsonl.old2" in again.note
    assert (tmp_path / "records.jsonl.old").read_bytes() == before
    assert [record["settings"] for record in read(tmp_path / "records.jsonl.old2")] == ["now"]


def test_a_full_disk_is_told_and_can_be_put_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.jsonl"
    kept = records.Records(path, "now")
    kept.add(line("Where?", "Paris"), MEASURED)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(packages.DemoError, match=r"cannot write the records .*No space left.*goes on"):
            kept.add(line("What?", "Lyon"), MEASURED)
    assert records.Records(path, "now").take(line("Where?", "Paris")) is not None


@pytest.mark.parametrize(
    "content", [b"my diary", b"my diary\n", b'{"question": "Where?"}\n', b"[]\n", b"\xff\n", b"\n"]
)
def test_what_is_no_record_is_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(content)
    with pytest.raises(packages.DemoError, match="line 1 is no record"):
        records.Records(path, "now")
    assert path.read_bytes() == content


def test_results_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.json"
    records.write_json(out, {"n": 1})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(packages.DemoError, match="No space left"):
        records.write_json(out, {"n": 2})
    assert json.loads(out.read_text()) == {"n": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_results_go_where_a_link_leads_and_never_in_place_of_a_device(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out.json")
    records.write_json(tmp_path / "link", {"n": 1})
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "out.json").read_text()) == {"n": 1}
    with pytest.raises(packages.DemoError, match="is not a file"):
        records.refuse_unwritable(Path(os.devnull))
