"""Files of ragfast.index.storage that are damaged, foreign or hostile: an IndexFormatError that names the file."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stored import ARRAYS, file_of, own_files, save

from ragfast._core import _kernels
from ragfast.index import storage
from ragfast.index.storage import IndexFormatError, manifest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index"


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def extend(file: Path) -> None:
    with file.open("ab") as out:
        out.write(b"\0")


def header(old: bytes, new: bytes) -> Callable[[Path], None]:
    def edit(file: Path) -> None:
        data = file.read_bytes()
        assert data.count(old) == 1
        file.write_bytes(data.replace(old, new))

    return edit


def link(file: Path) -> None:
    moved = file.parent.parent / file.name
    shutil.move(file, moved)
    file.symlink_to(moved)


def make_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def make_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "expected the file, which the manifest names, found none"),
        (truncate, "expected 152 bytes, found 151 bytes"),
        (extend, "expected 152 bytes, found 153 bytes"),
        (lambda file: os.truncate(file, 0), "expected 152 bytes, found 0 bytes"),
        (header(b"<f4", b"<i4"), "expected the header"),
        (header(b"(2, 3)", b"(3, 2)"), "expected the header"),
        (header(b"False", b"True "), "expected the header"),
        (header(b"\x93NUMPY\x01", b"\x93NUMPY\x02"), "expected the header"),
        (link, "found a symbolic link"),
        (make_directory, "found a directory"),
        (make_pipe, "found a directory or a device"),
    ],
)
def test_files_that_are_not_what_the_manifest_says(damage: Callable[[Path], None], message: str, path: Path) -> None:
    save(path)
    file = file_of(path, "floats")
    damage(file)
    with pytest.raises(IndexFormatError, match=message) as error:
        storage.open(path)
    assert str(file) in str(error.value)
    with pytest.raises(IndexFormatError) as error, storage.change(path) as draft:
        draft.keep("floats")
    assert str(file) in str(error.value)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object] | bytes) -> None:
    """A manifest by somebody who knows how to sum."""
    file = path / manifest.NAME
    if isinstance(change, bytes):
        text = change
    else:
        body = json.loads(file.read_text())
        change(body)
        body.pop("xxh64", None)
        text = json.dumps(body, indent=1).removesuffix("\n}").encode() + b",\n"
    file.write_bytes(text + b'"xxh64": "%016x"}\n' % _kernels.checksum(text))


def floats(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda body: body["arrays"]["floats"].update(values)


HOSTILE: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda body: body.update(format="other"), '"format": "ragfast index", found other'),
    (lambda body: body.update(format_version=2), "format_version 1, the only one that this ragfast reads, found 2"),
    (lambda body: body.update(format_version=True), "format_version as an integer"),
    (lambda body: body.update(format_version="1"), "format_version as an integer"),
    (lambda body: body.pop("format_version"), "format_version as an integer"),
    (lambda body: body.update(version=-1), "version as an integer"),
    (lambda body: body.update(version=1.0), "version as an integer"),
    (lambda body: body.update(version=10**30), "version as an integer"),
    (lambda body: body.update(more=1), "the manifest as an object of arrays, format"),
    (lambda body: body.pop("meta"), "the manifest as an object of arrays, format"),
    (lambda body: body.update(meta=[]), "meta as an object"),
    (lambda body: body.update(arrays=[]), "arrays as an object"),
    (lambda body: body["arrays"].update(floats=5), "array floats as an object"),
    (lambda body: body["arrays"]["floats"].pop("bytes"), "array floats as an object"),
    (lambda body: body["arrays"].update({"../floats": body["arrays"]["floats"]}), "names of arrays"),
    (floats(file="../floats.v1-00000000.npy"), "array floats in a file"),
    (floats(file="/etc/passwd"), "array floats in a file"),
    (floats(file="none.v1-00000000.npy"), "array floats in a file"),
    (floats(file=["floats"]), "array floats in a file"),
    (floats(file="floats.v1-00000000.npy\n"), "array floats in a file"),
    (floats(dtype="|O"), "array floats of dtype"),
    (floats(dtype=">f4"), "array floats of dtype"),
    (floats(dtype=["<f4"]), "array floats of dtype"),
    (floats(shape=[]), "array floats of 1 to 3 axes"),
    (floats(shape=[1, 1, 2, 3]), "array floats of 1 to 3 axes"),
    (floats(shape={"0": 6}), "array floats of 1 to 3 axes"),
    (floats(shape=[-2, -3]), "an axis of array floats as an integer"),
    (floats(shape=[2.0, 3]), "an axis of array floats as an integer"),
    (floats(shape=[True, 6]), "an axis of array floats as an integer"),
    (floats(shape=[2**63, 3]), "an axis of array floats as an integer"),
    (floats(shape=[2**40, 2**40, 2**40], bytes=2**60), "array floats of"),
    (floats(shape=[2**40, 0, 2**40], bytes=128), "152 bytes|128 bytes"),
    (floats(bytes=151), "array floats of 152 bytes"),
    (floats(bytes=152.0), "bytes of array floats as an integer"),
    (floats(xxh64=5), "array floats with an xxh64"),
    (floats(xxh64="0" * 15 + "G"), "array floats with an xxh64"),
    (floats(rows_checked=1), "array floats with rows_checked"),
]


@pytest.mark.parametrize(("edit", "message"), HOSTILE)
def test_hostile_manifests(edit: Callable[[dict[str, Any]], object], message: str, path: Path) -> None:
    save(path)
    rewrite(path, lambda body: None)
    storage.open(path).verify_all()
    rewrite(path, edit)
    with pytest.raises(IndexFormatError, match=message) as error:
        storage.open(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 100_000,
        b'{"format": "ragfast index", "format": "ragfast index"}',
        b'{"format": NaN}',
        b'{"format": "\\ud800"}',
        b'{"format": "ragfast index", "format_version": 1e0}',
        b'{"format": "ragfast index", "format_version": 1}',
        b" " * (manifest.MAX_BYTES + 1),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_manifests_that_are_none(text: bytes, path: Path) -> None:
    save(path)
    for write in (lambda: (path / manifest.NAME).write_bytes(text), lambda: rewrite(path, text)):
        write()
        with pytest.raises(IndexFormatError, match=r"manifest.json: expected"):
            storage.open(path)
        with pytest.raises(IndexFormatError, match=r"manifest.json: expected"), storage.change(path):
            pass
    assert len(own_files(path)) == len(ARRAYS), "nothing goes that a manifest might name"


def test_a_manifest_with_a_wrong_sum_or_key_given_twice(path: Path) -> None:
    save(path, meta={"n": 1})
    text = (path / manifest.NAME).read_bytes()
    (path / manifest.NAME).write_bytes(text.replace(b'"n": 1', b'"n": 2'))
    with pytest.raises(IndexFormatError, match="lines of which the checksum is"):
        storage.open(path)
    (path / manifest.NAME).write_bytes(text + b" ")
    with pytest.raises(IndexFormatError, match="a last line with the checksum"):
        storage.open(path)
    rewrite(path, text[: text.rindex(b'"xxh64"')].replace(b'"n": 1', b'"n": 1, "n": 1'))
    with pytest.raises(IndexFormatError, match="a key that is given twice"):
        storage.open(path)


def test_errors_travel(path: Path) -> None:
    """Between processes, as they do in pools."""
    error = pickle.loads(pickle.dumps(manifest.wrong("there/file", "this", "that")))
    assert (type(error), str(error)) == (IndexFormatError, "there/file: expected this, found that")
