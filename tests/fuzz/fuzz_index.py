"""Damages tiny index directories in every way it can think of: what opens must be right, and nothing may crash.

    python tests/fuzz/fuzz_index.py fuzz FOLDER SECONDS SEED  # as tests/fuzz/test_fuzz_files.py does for some seconds
    python tests/fuzz/fuzz_index.py make  # writes tests/fuzz/corpus again: only for another format version

A trial is a corpus directory, how it is opened, and a list of edits, which are plain data. Then all of it is used:
either that is an IndexFormatError which names something in the directory, or every answer is that of before.
Where an edit put checksums right again, whoever made it is free to have changed the contents, and there are answers, a
ValueError or a TypeError, but no crash; so it is where an index is opened with verify=False. The trial under way stands
in the file ``trial`` of the folder, so that a crash is known by it; trials that found something are added to
tests/fuzz/corpus/trials.jsonl, which runs first.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ragfast
from ragfast._core import _kernels
from ragfast.index import storage

CORPUS = Path(__file__).parent / "corpus"
TRIALS = CORPUS / "trials.jsonl"
MANIFEST = "manifest.json"
OTHERS = [
    *("0", "1", "-1", "2", "3", "127", "128", "255", "65536", "2147483648", "4294967297", "9223372036854775807"),
    *("9223372036854775808", "18446744073709551616", "-9223372036854775809", "1e400", "-0", "1.0", "1e3", "9" * 5000),
    *("null", "true", "false", "[]", "{}", '""', "NaN", "-Infinity", '"\\ud800"', '"\\u0000"', "[[[[]]]]", "[1, 2]"),
    *(
        '"<f4"',
        '"<f8"',
        '"|u1"',
        '"|O"',
        '">f4"',
        '"float32"',
        '"../x"',
        '"/etc/passwd"',
        '"a/b"',
        '"."',
        '"int8"',
        '"ip"',
    ),
    *("[" * 5000 + "]" * 5000, '{"a":' * 3000 + "1" + "}" * 3000, '"' + "x" * 70000 + '"'),
]
"""What a value of the manifest becomes."""

Edit = list[Any]


def stem(file: Path) -> str:
    """A file without the part that differs each time it is written."""
    return file.name.rsplit(".v", 1)[0]


def tokens(text: bytes) -> list[tuple[int, int]]:
    """Where values and keys of JSON stand that was written with a line for each."""
    found, place = [], 0
    for line in text.splitlines(keepends=True):
        bare = line.strip().rstrip(b",")
        start = place + line.index(bare) if bare else place
        key, colon, _ = bare.partition(b": ")
        if colon:
            found.append((start, start + len(key)))
            found.append((start + len(key) + 2, start + len(bare)))
        elif bare:
            found.append((start, start + len(bare)))
        place += len(line)
    return found


def draw(rng: random.Random, files: dict[str, bytes]) -> list[Edit]:
    edits: list[Edit] = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        name = MANIFEST if rng.random() < 0.4 else rng.choice(sorted(files))
        size = len(files[name])
        near = rng.randrange(size) if rng.random() < 0.6 else rng.randrange(min(size, 140))
        kinds: list[Edit] = [
            ["flip", name, near, rng.randrange(8)],
            ["set", name, near, rng.randbytes(rng.choice([1, 2, 4, 8])).hex()],
            ["set", name, near // 8 * 8, rng.choice(["00" * 8, "ff" * 8, "ff" * 7 + "7f", "00007ff8" * 2])],
            ["cut", name, near],
            ["cut", name, size - rng.choice([1, 4, 64])],
            ["extend", name, rng.randbytes(rng.choice([1, 4, 64, 4096])).hex()],
            ["drop", name, near, rng.choice([1, 4, 64])],
            ["delete", name],
            ["swap", name, rng.choice(sorted(files))],
            ["copy", name, rng.choice(sorted(files))],
            ["link", name],
            ["directory", name],
            ["token", rng.randrange(1000), rng.choice(OTHERS)],
            ["token", rng.randrange(1000), rng.choice(OTHERS)],
            ["number", rng.randrange(1000), rng.choice([-1, 1, 2, 63, -64, 1 << 32])],
            ["tokens", rng.randrange(1000), rng.randrange(1000)],
        ]
        edits.append(rng.choice(kinds))
    if rng.random() < 0.6:  # most of what is wrong is found by a sum, and no test of what comes after it
        edits.append(["sum", rng.random() < 0.7])
    return edits


def resum(directory: Path, arrays: bool) -> None:
    """Makes checksums right: that of the manifest and, if asked, those of the arrays."""
    file = directory / MANIFEST
    if not file.is_file():
        return
    text = file.read_bytes()
    if arrays:
        for array in sorted(directory.glob("*.npy")):
            where = text.find(f'"{array.name}"'.encode())
            digits = text.find(b'"xxh64": "', where) + 10
            if where >= 0 and digits >= 10 and array.is_file():
                text = text[:digits] + b"%016x" % _kernels.checksum(array.read_bytes()[128:]) + text[digits + 16 :]
    if (last := text.rfind(b'"xxh64"')) >= 0:
        file.write_bytes(text[:last] + b'"xxh64": "%016x"}\n' % _kernels.checksum(text[:last]))


def apply(edit: Edit, directory: Path) -> None:
    """An edit whose file is gone does nothing."""
    kind, *values = edit
    if kind == "sum":
        return resum(directory, values[0])
    here = {stem(file): file for file in directory.iterdir()}
    file = here.get(MANIFEST if kind in ("token", "tokens", "number") else values[0])
    if file is None or not file.is_file():
        return None
    data = file.read_bytes()
    if kind == "delete":
        file.unlink()
    elif kind == "directory":
        file.unlink()
        file.mkdir()
    elif kind == "link":
        elsewhere = directory.parent / "elsewhere"
        elsewhere.unlink(missing_ok=True)
        file.rename(elsewhere)
        file.symlink_to(elsewhere)
    elif kind in ("swap", "copy"):
        other = here.get(values[1])
        if other is not None and other.is_file():
            if kind == "swap":
                file.write_bytes(other.read_bytes())
            other.write_bytes(data)
    elif kind in ("token", "tokens", "number"):
        places = tokens(data)
        if places:
            start, end = places[values[0] % len(places)]
            new = str(values[1]).encode()
            if kind == "tokens":
                first, last = places[values[1] % len(places)]
                new = data[first:last]
            elif kind == "number":
                if not data[start:end].isdigit():
                    return None
                new = str(int(data[start:end]) + values[1]).encode()
            file.write_bytes(data[:start] + new + data[end:])
    else:
        at = min(values[1], len(data)) if kind != "extend" else 0
        changed = {
            "flip": lambda: data[:at] + bytes([data[at] ^ 1 << values[2]]) + data[at + 1 :] if at < len(data) else data,
            "set": lambda: data[:at] + bytes.fromhex(values[2]) + data[at + len(values[2]) // 2 :],
            "cut": lambda: data[:at],
            "drop": lambda: data[:at] + data[at + values[2] :],
            "extend": lambda: data + bytes.fromhex(values[1]),
        }[kind]()
        file.write_bytes(changed)
    return None


# ---- what is done with a directory


def use_arrays(path: Path, how: str) -> Any:
    stored = storage.open(path)
    stored.verify_all()
    return {
        name: (str(a.dtype), a.shape, a.tobytes()) for name in stored.names for a in [stored.array(name)]
    }, stored.meta


def make_arrays(path: Path) -> None:
    rng = np.random.default_rng(0)
    with storage.change(path) as transaction:
        transaction.put("segment-1/vectors", rng.standard_normal((9, 5)).astype(np.float32), rows_checked=True)
        transaction.put("segment-1/ids", rng.permutation(9))
        transaction.put("segment-1/alive", rng.random(9) < 0.5)
        transaction.put("codes", rng.integers(-127, 127, (2, 9, 5), np.int8))
        transaction.put("empty", np.empty((0, 5), np.uint16))
        transaction.commit({"dim": 5, "names": ["a", "ä"], "nested": {"value": 0.5, "none": None}})


HOW = {"mapped": True, "vectors mapped": "vectors", "in memory": False, "not verified": True, "verified first": True}
"""How an index is opened: mmap."""


def use_index(path: Path, how: str) -> Any:
    """Every answer that an index gives, as plain data."""
    index = ragfast.FlatIndex.open(path, mmap=HOW[how], verify=how != "not verified")
    if how == "verified first":
        index.verify()
    queries = np.random.default_rng(1).standard_normal((3, index.dim)).astype(np.float32)
    found = []
    for options in ({"k": 1}, {"k": 7}, {"k": 100}, {"k": 5, "filter": ragfast.column("year") > 2003}):
        if "filter" not in options or "year" in index.metadata:
            hits = index.search(queries, dtype=np.float64, n_threads=1, **options)
            found += [hits.scores.tolist(), hits.ids.tolist(), hits.logprobs.tolist()]
    metadata = {name: column.tolist() for name, column in index.metadata.items()}
    if "kind" in metadata:
        hits = index.search(queries, k=3, group_by="kind", max_per_group=1, n_threads=1)
        found.append(hits.ids.tolist())
    found += [index.ids.tolist(), metadata, index.vectors.tobytes(), len(index), index.ids[0] in index]
    found.append(index.gather_scores(queries[:1], [index.ids[:4].tolist()]).tolist() if len(index) else None)
    if how == "in memory":
        index.remove(index.ids[:1])
        row = {name: list(column[1:2]) for name, column in metadata.items()}
        index.upsert(index.ids[:1], queries[:1] + 1, metadata=row or None)
        found.append(index.search(queries, k=3, n_threads=1).ids.tolist())
    return found


def make_plain(path: Path) -> None:
    rng = np.random.default_rng(2)
    index = ragfast.FlatIndex(7)
    index.add(rng.standard_normal((20, 7)).astype(np.float32))
    index.save(path)


def make_strings(path: Path) -> None:
    rng = np.random.default_rng(3)
    index = ragfast.FlatIndex(8, dtype=np.float16, metric="cosine")
    for first in (0, 15):
        names = [f"document {i}" for i in range(first, first + 15)]
        columns = {"year": np.arange(2000, 2015), "kind": ["a", "é", None] * 5, "open": rng.random(15) < 0.5}
        index.add(rng.standard_normal((15, 8)).astype(np.float32), names, metadata=columns)
        index.save(path)
    index.remove(["document 3", "document 20"])
    index.save(path)


def make_coded(path: Path) -> None:
    rng = np.random.default_rng(4)
    index = ragfast.FlatIndex(16, scan="int8", dtype="bfloat16", metric="l2")
    index.add(
        rng.standard_normal((40, 16)).astype(np.float32),
        rng.permutation(1000)[:40],
        metadata={"year": np.arange(1980, 2020)},
    )
    index.remove(index.ids[::9])
    index.save(path)


USES: dict[str, Callable[[Path, str], Any]] = {"arrays": use_arrays, "index": use_index}
MAKES: dict[str, Callable[[Path], None]] = {
    "arrays": make_arrays,
    "index-plain": make_plain,
    "index-strings": make_strings,
    "index-coded": make_coded,
}


# ---- trials


def same(found: Any, right: Any) -> bool:
    return repr(found) == repr(right)


class Fuzzer:
    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.files: dict[str, dict[str, bytes]] = {}  # of a corpus directory, by stem
        self.names: dict[str, list[str]] = {}
        self.right: dict[tuple[str, str], Any] = {}
        for kind, use in USES.items():
            for directory in sorted(CORPUS.glob(f"{kind}*/")):
                self.files[directory.name] = {stem(file): file.read_bytes() for file in directory.iterdir()}
                self.names[directory.name] = sorted(file.name for file in directory.iterdir())
                for how in HOW:
                    self.right[directory.name, how] = use(directory, how)

    def trial(self, name: str, how: str, edits: list[Edit]) -> bool:
        """Whether all was answered; AssertionError where something is wrong."""
        (self.folder / "trial").write_text(json.dumps([name, how, edits]))
        path = self.folder / "index"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for file in self.names[name]:
            (path / file).write_bytes(self.files[name][stem(Path(file))])
        for edit in edits:
            apply(edit, path)
        free = how == "not verified" or any(edit[0] == "sum" for edit in edits)
        use = next(use for kind, use in USES.items() if name.startswith(kind))
        try:
            found = use(path, how)
        except (ValueError, TypeError) as error:
            if isinstance(error, storage.IndexFormatError):
                if not str(error).startswith(f"{path}{os.sep}"):
                    raise AssertionError("an error that names no file of the directory") from error
            elif not free:
                raise
            return False
        assert free or same(found, self.right[name, how]), f"a wrong answer: {found!r}"
        return True


def recorded() -> list[tuple[str, str, list[Edit]]]:
    return [tuple(json.loads(line)) for line in TRIALS.read_text().splitlines() if line]


def fuzz(folder: Path, seconds: float, seed: int) -> None:
    fuzzer = Fuzzer(folder)
    for name, how in fuzzer.right:
        assert fuzzer.trial(name, how, [])
    for trial in recorded():
        fuzzer.trial(*trial)
    rng, end, n, opened = random.Random(seed), time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        name, how = rng.choice(sorted(fuzzer.right))
        opened += fuzzer.trial(name, how, draw(rng, fuzzer.files[name]))
        n += 1
    print(json.dumps({"trials": n, "opened": opened}))


def make() -> None:
    for name, save in MAKES.items():
        shutil.rmtree(CORPUS / name, ignore_errors=True)
        CORPUS.mkdir(exist_ok=True)
        save(CORPUS / name)
        (CORPUS / name / "lock").unlink()
    TRIALS.touch()


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make()
    else:
        fuzz(Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
