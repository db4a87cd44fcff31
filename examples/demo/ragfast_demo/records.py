"""The files of an evaluation: questions in, a record of each of them, and the results. No models, no packages."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from ragfast_demo.packages import DemoError

MARK = b'{"settings": "'
"""What every record begins with, by which a half-written one is known for one."""
KEYS = {"settings", "question", "answers", "given", "doc_ids", "doc_titles", "first_hit", "predictions", "em", "f1"}
SHOWN = 5
"""Bad lines that an error names; of the others it says how many there are."""


@dataclass(frozen=True)
class Line:
    """A question with its answers, any of which is right, and what else its line had."""

    question: str
    answers: list[str]
    given: dict[str, Any]

    @property
    def key(self) -> str:
        """The same for equal lines, however they were written."""
        return _key(self.question, self.answers, self.given)

    def gold(self, text_of: Mapping[str, str]) -> str | None:
        """The passage that has the answer: the line's "gold_passage", or the document that its "title" names."""
        for passage in (self.given.get("gold_passage"), _look_up(text_of, self.given.get("title"))):
            if isinstance(passage, str) and passage.strip():
                return passage
        return None


def read_questions(path: Path) -> list[Line]:
    """The questions of a file of JSON lines, UTF-8; blank lines are passed over.

    DemoError where the file cannot be read or has no question, and for lines that are none, with their numbers.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DemoError(f"cannot read the questions {path} ({error.strerror or error})") from error
    lines, bad = [], []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            lines.append(_parse(line))
        except (ValueError, RecursionError) as error:
            bad.append(f"line {number}: {_reason(error)}")
    if bad:
        more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise DemoError(
            f'{path}: expected {{"question": "...", "answers": ["...", ...]}} on each line; '
            + "; ".join(bad[:SHOWN])
            + more
        )
    if not lines:
        raise DemoError(f"{path}: has no questions")
    return lines


class Records:
    """What is known of each question, in a file that grows by whole lines, or in memory alone where path is None.

    A file that is there already is gone on with: :meth:`take` gives its records to equal questions. Records of other
    settings are of no use: their file is put aside, with `.old`, or `.old2` and so on, after its name, and `note` says
    so. A last line without its end was being written when a run was interrupted, and goes.

    DemoError where the file cannot be written, and where it is something else than records, which stays as it is.
    """

    def __init__(self, path: Path | None, settings: str) -> None:
        self._path = path
        self._settings = settings
        self._kept: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.note = ""
        if path is None:
            return
        try:
            self._go_on(path)
            with path.open("ab"):  # whatever keeps it from being written does so before the work
                pass
        except OSError as error:
            raise DemoError(f"cannot write the records {path} ({error.strerror or error})") from error

    def _go_on(self, path: Path) -> None:
        if not path.exists():
            return
        *whole, half = path.read_bytes().split(b"\n")
        records = [_parse_record(path, number, line) for number, line in enumerate(whole, 1)]
        if not (half.startswith(MARK) or MARK.startswith(half)):
            raise _no_record(path, len(whole) + 1)
        if any(record["settings"] != self._settings for record in records):
            old = _free(path.with_name(path.name + ".old"))
            os.replace(path, old)
            self.note = f"{path} is of other settings: starting anew, and keeping it as {old.name}"
            return
        if half:
            os.truncate(path, sum(len(line) + 1 for line in whole))
        for record in records:
            self._kept[_key(record["question"], record["answers"], record["given"])].append(record)
        if records:
            self.note = f"going on from the {len(records)} record{'s'[: len(records) > 1]} in {path}"

    def take(self, line: Line) -> dict[str, Any] | None:
        """The record of a line, if there is one that no line before it took."""
        kept = self._kept[line.key]
        return kept.pop(0) if kept else None

    def add(self, line: Line, measured: Mapping[str, Any]) -> dict[str, Any]:
        """Makes and writes the record of a line. DemoError where it cannot be written: on a full disk, say."""
        record = {
            "settings": self._settings,
            "question": line.question,
            "answers": line.answers,
            "given": line.given,
            **measured,
        }
        if self._path is not None:
            try:
                with self._path.open("ab") as file:
                    file.write(json.dumps(record).encode() + b"\n")
            except OSError as error:
                raise DemoError(
                    f"cannot write the records {self._path} ({error.strerror or error}); "
                    "once that is put right, the same command goes on from them"
                ) from error
        return record


def digest(settings: Mapping[str, Any]) -> str:
    """A short name for settings, as JSON has them."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def refuse_unwritable(path: Path) -> None:
    """DemoError where a file cannot be put at path; for before the work whose results it is to hold."""
    try:
        if path.exists() and not path.is_file():  # a device, say, which would be replaced by a file
            raise OSError("is a folder" if path.is_dir() else "is not a file")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise DemoError(f"cannot write {path} ({error.strerror or error})") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Puts JSON at path, or where a link there leads, whole or not at all. DemoError where that cannot be."""
    path = path.resolve()
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        os.replace(scratch, path)
    except OSError as error:
        raise DemoError(f"cannot write {path} ({error.strerror or error})") from error
    finally:
        scratch.unlink(missing_ok=True)


def _parse(line: bytes) -> Line:
    """ValueError with a reason where a line is no question."""
    value = json.loads(line.decode("utf-8"))
    json.dumps(value, ensure_ascii=False).encode()  # refuses half a character, \ud800, which no tokenizer takes
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {_kind(value)}")
    for key in ("question", "answers"):
        if key not in value:
            raise ValueError(f'"{key}" is missing')
    question, answers = value.pop("question"), value.pop("answers")
    if not isinstance(answers, list):
        raise ValueError(f'"answers": expected a list of texts, got {_kind(answers)}')
    if not answers:
        raise ValueError('"answers": expected at least one, got none')
    for name, text in [("question", question), *((f"answers[{i}]", answer) for i, answer in enumerate(answers))]:
        if not isinstance(text, str):
            raise ValueError(f'"{name}": expected a text, got {_kind(text)}')
        if not text.strip():
            raise ValueError(f'"{name}": is empty')
    return Line(question, answers, value)


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start + 1})"
    if isinstance(error, UnicodeEncodeError):
        return "has half a surrogate pair"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg}, column {error.colno})"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _kind(value: Any) -> str:
    """What JSON calls it."""
    kinds = {str: "a text", bool: "true or false", dict: "an object", list: "a list", type(None): "null"}
    return kinds.get(type(value), "a number")


def _parse_record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not record.keys() >= KEYS:
        raise _no_record(path, number)
    return record


def _no_record(path: Path, number: int) -> DemoError:
    return DemoError(f"{path}: line {number} is no record of an evaluation; remove the file, or name another")


def _free(path: Path) -> Path:
    """path, or where something is there already path2, path3 ...: answers took hours, and none are overwritten."""
    names = (path.with_name(f"{path.name}{number}") for number in count(2))
    return next(name for name in chain([path], names) if not name.exists())


def _key(question: str, answers: Iterable[str], given: Mapping[str, Any]) -> str:
    return json.dumps([question, answers, given], sort_keys=True)


def _look_up(text_of: Mapping[str, str], title: Any) -> str | None:
    return text_of.get(title) if isinstance(title, str) else None
