"""Storage: what is written is read back, by one writer at a time and any readers; nothing wrong is believed."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from faults import Faults
from stored import ARRAYS, commit_in_a_loop, file_of, own_files, save

from ragfast._core import _kernels
from ragfast.index import storage
from ragfast.index.storage import IndexFormatError, manifest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.mark.parametrize("dtype", manifest.DTYPES)
@pytest.mark.parametrize("shape", [(0,), (1,), (5,), (0, 3), (7, 3), (3, 0), (2, 3, 4)])
def test_round_trip(dtype: str, shape: tuple[int, ...], path: Path) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    save(path, {"a": array}, {"text": 'zażółć "\n', "list": [1, 2.5, None, True]})
    stored = storage.open(path)
    found = stored.array("a")
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()
    assert found.ctypes.data % 64 == 0
    assert not found.flags.writeable
    assert stored.meta == {"text": 'zażółć "\n', "list": [1, 2.5, None, True]}
    assert (stored.version, stored.names) == (1, ("a",))
    stored.verify_all()


@pytest.mark.parametrize("name", ARRAYS)
def test_a_stranger_reads_the_files(name: str, path: Path) -> None:
    """With NumPy alone, and the sums with anybody's XXH64 of what follows 128 bytes."""
    save(path)
    file = file_of(path, name)
    read = np.load(file, allow_pickle=False)
    assert read.dtype == ARRAYS[name].dtype
    np.testing.assert_array_equal(read, ARRAYS[name])
    by_numpy = path.parent / "saved.npy"
    np.save(by_numpy, ARRAYS[name])
    assert by_numpy.read_bytes() == file.read_bytes()
    listed = json.loads((path / manifest.NAME).read_text())["arrays"][name]
    assert int(listed["xxh64"], 16) == _kernels.checksum(file.read_bytes()[128:])
    assert (listed["bytes"], listed["file"]) == (file.stat().st_size, file.name)
    lines = (path / manifest.NAME).read_bytes().splitlines(keepends=True)
    assert json.loads(b"{" + lines[-1])["xxh64"] == f"{_kernels.checksum(b''.join(lines[:-1])):016x}"


def test_arrays_of_other_layouts(path: Path) -> None:
    wide = np.arange(3_000_000).reshape(1000, 3000)
    layouts = {
        "columns": np.asfortranarray(wide),
        "steps": wide[::3, ::-1],
        "big": wide[:4].astype(">i8"),
        "list": [1, 2],
    }
    save(path, layouts)
    stored = storage.open(path)
    stored.verify_all()
    for name, array in layouts.items():
        np.testing.assert_array_equal(stored.array(name), array)


def test_stream_is_put_in_pieces(path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((1000, 7)).astype(np.float32)
    with storage.change(path) as transaction:
        transaction.put("put", rows)
        with transaction.stream("streamed", rows.dtype, (7,), rows_checked=True) as out:
            for first in range(0, 1000, 130):
                out.append(rows[first : first + 130])
                assert len(out) == min(first + 130, 1000)
            out.append(rows[:0])
        transaction.commit({})
    stored = storage.open(path)
    stored.verify_all()
    assert file_of(path, "put").read_bytes() == file_of(path, "streamed").read_bytes()
    entries = json.loads((path / "manifest.json").read_text())["arrays"]
    assert {name: entry["rows_checked"] for name, entry in entries.items()} == {"put": False, "streamed": True}


def test_keep_writes_nothing_again(path: Path) -> None:
    save(path)
    kept = file_of(path, "floats")
    first, stamp = storage.open(path), kept.stat().st_mtime_ns
    with storage.change(path) as transaction:
        assert (transaction.version, transaction.before.version, set(transaction.before.arrays)) == (2, 1, set(ARRAYS))
        transaction.keep("floats")
        transaction.put("none", np.arange(4))
        transaction.commit({"second": True})
    second = storage.open(path)
    assert file_of(path, "floats") == kept
    assert kept.stat().st_mtime_ns == stamp
    assert second.array("none").tolist() == [0, 1, 2, 3]
    assert own_files(path) == {kept.name, file_of(path, "none").name}
    first.verify_all()  # its files are gone, but not from it
    np.testing.assert_array_equal(first.array("part/doubles"), ARRAYS["part/doubles"])


def test_what_a_draft_refuses(path: Path) -> None:
    save(path)
    with storage.change(path) as transaction:
        for name in ["", "A", "../a", "/a", "a/", "a/b/c", "a.b", ".a", "ä", "a\n", "a" * 65, "-a", 5]:
            with pytest.raises(ValueError, match="name: expected one or two parts"):
                transaction.put(name, np.zeros(1))  # type: ignore[arg-type]
        for array in [
            np.array(["a"]),
            np.array([None]),
            np.zeros(2, np.complex64),
            np.zeros(2, "M8[s]"),
            np.zeros(2, "i4,f4"),
        ]:
            with pytest.raises(TypeError, match="dtype: expected one of"):
                transaction.put("a", array)
        for array in [np.zeros(()), np.zeros((1, 1, 1, 1))]:
            with pytest.raises(ValueError, match="axes"):
                transaction.put("a", array)
        with pytest.raises(ValueError, match="expected an array of version 1, got 'unknown'"):
            transaction.keep("unknown")
        with (
            pytest.raises(TypeError, match="block: expected float32, got float64"),
            transaction.stream("a", "f4", (2,)) as out,
        ):
            out.append(np.zeros((1, 2)))
        with (
            pytest.raises(ValueError, match=r"block: expected rows of shape \(2,\)"),
            transaction.stream("a", "f4", (2,)) as out,
        ):
            out.append(np.zeros((1, 3), np.float32))
        transaction.put("a", np.zeros(1))
        for refused in (lambda: transaction.put("a", np.zeros(1)), lambda: transaction.keep("a")):
            with pytest.raises(ValueError, match="has not got yet"):
                refused()
        with transaction.stream("b", "f4") as out:
            with pytest.raises(ValueError, match="b is being written"):
                transaction.commit({})
            with pytest.raises(ValueError, match="has not got yet"):
                transaction.put("b", np.zeros(1))
        with pytest.raises(ValueError, match="still being written"):
            out.append(np.zeros(1, np.float32))
        for meta in ({"a": object()}, {"a": float("nan")}, {"a": "x" * manifest.MAX_BYTES}):
            with pytest.raises((TypeError, ValueError)):
                transaction.commit(meta)
        transaction.commit({"good": 1})
        with pytest.raises(ValueError, match="transaction: expected one"):
            transaction.put("c", np.zeros(1))
        with pytest.raises(ValueError, match="transaction: expected one"):
            transaction.commit({})
    assert storage.open(path).meta == {"good": 1}
    assert own_files(path) == {file_of(path, "a").name, file_of(path, "b").name}


@pytest.mark.parametrize("before", [False, True])
def test_a_draft_without_commit_leaves_nothing(before: bool, path: Path) -> None:
    if before:
        save(path)
    files = own_files(path) if before else set()
    with storage.change(path) as transaction:
        transaction.put("a", np.zeros(1))

    def interrupted() -> None:
        with storage.change(path) as transaction:
            transaction.put("a", np.zeros(1))
            with transaction.stream("b", "f4") as out:
                out.append(np.zeros(1, np.float32))
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert own_files(path) == files
    if before:
        storage.open(path).verify_all()
    else:
        with pytest.raises(IndexFormatError, match=r"manifest.json: expected an index"):
            storage.open(path)
    save(path)


def test_an_error_after_the_commit_changes_nothing(path: Path) -> None:
    def commits_and_fails() -> None:
        with storage.change(path) as transaction:
            transaction.put("a", np.zeros(1))
            transaction.commit({})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        commits_and_fails()
    storage.open(path).verify_all()


def test_paths_that_are_no_place_for_an_index(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "missing").symlink_to(tmp_path / "nowhere")
    for name, error in [
        ("file", FileExistsError),
        ("full", FileExistsError),
        ("missing", FileExistsError),
        ("none/index", FileNotFoundError),
        ("file/index", FileNotFoundError),
    ]:
        with pytest.raises(error, match="expected"), storage.change(tmp_path / name):
            pass
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["file", "full", "mine.txt", "missing"]
    for name, open_error in [("none", FileNotFoundError), ("file", NotADirectoryError), ("full", IndexFormatError)]:
        with pytest.raises(open_error):
            storage.open(tmp_path / name)


def test_relative_paths_and_links_to_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with storage.change("index") as transaction:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")
        transaction.put("a", np.arange(2))
        transaction.commit({})
    (tmp_path / "link").symlink_to(tmp_path / "index")
    save(tmp_path / "link", {"b": np.arange(3)})
    assert storage.open(tmp_path / "index").names == ("b",)


def test_files_of_others_stay(path: Path) -> None:
    save(path)
    others = [
        "README.md",
        "data.20240101.npy",
        "floats.npy",
        "a.v1-0000000.npy",
        "A.v1-00000000.npy",
        "a.v1-00000000.npz",
    ]
    ours = ["a.v9-00000000.npy", "a.b.v123-12345678.npy", "manifest.v3-01234567.json"]
    for name in others + ours:
        (path / name).write_text("?")
    named = {file_of(path, name).name for name in ARRAYS}
    with storage.change(path):
        assert own_files(path) == named | set(others)
    save(path)
    assert set(others) < own_files(path)


def test_one_writer_at_a_time(path: Path) -> None:
    code = "import sys; from ragfast.index import storage\nwith storage.change(sys.argv[1]): pass"
    with storage.change(path) as transaction:
        with pytest.raises(BlockingIOError, match="one writer at a time"), storage.change(path):
            pass
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
        assert "BlockingIOError" in done.stderr
        transaction.put("a", np.arange(2))
        transaction.commit({})
    storage.open(path).verify_all()
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_neither_holds_the_lock_nor_ends_the_draft(path: Path) -> None:
    code = """if True:
        import os, sys, numpy as np
        from ragfast.index import storage
        path = sys.argv[1]
        reading, writing = os.pipe()
        try:
            with storage.change(path) as transaction:
                transaction.put("a", np.arange(2))
                if os.fork() == 0:
                    raise KeyError
                os.wait()
                child = os.fork()
                if child == 0:
                    os.read(reading, 1)
                    os._exit(0)
                transaction.commit({})
            with storage.change(path) as transaction:
                transaction.keep("a")
                transaction.commit({"again": 1})
            os.write(writing, b".")
            os.waitpid(child, 0)
        except KeyError:
            os._exit(0)
    """
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    stored = storage.open(path)
    stored.verify_all()
    assert stored.meta == {"again": 1}


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_readers_beside_a_writer_see_whole_versions(kind: str, path: Path) -> None:
    commit_in_a_loop(path, 1)
    n = 60
    writer: threading.Thread | multiprocessing.process.BaseProcess
    if kind == "thread":
        writer = threading.Thread(target=commit_in_a_loop, args=(path, n))
    else:
        writer = multiprocessing.get_context("spawn").Process(target=commit_in_a_loop, args=(path, n))
    failures: list[BaseException] = []

    def read() -> None:
        last = 0
        try:
            while writer.is_alive():
                stored = storage.open(path)
                stored.verify_all()
                count = stored.meta["count"]
                assert set(stored.names) == {"kept", "count", "again"}
                assert set(stored.array("count").tolist()) == {count} == set(stored.array("again").flat)
                assert stored.version >= last
                last = stored.version
        except BaseException as error:
            failures.append(error)
            raise

    writer.start()
    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in [*readers, writer]:
        reader.join()
    assert failures == []
    assert storage.open(path).version == n + 1


def test_threads_verify_an_array_together_and_then_no_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(path, {"a": np.arange(1 << 16)})
    stored, made = storage.open(path), []
    checksum = _kernels.Checksum

    def counted() -> _kernels.Checksum:
        made.append(1)
        return checksum()

    monkeypatch.setattr(_kernels, "Checksum", counted)
    threads = [threading.Thread(target=stored.verify, args=("a",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    n_reads = len(made)  # nobody waits for the verdict of another, which may be waiting for this one
    assert 1 <= n_reads <= 8
    stored.verify_all()
    assert len(made) == n_reads


def test_a_wrong_checksum_is_remembered(path: Path) -> None:
    save(path)
    file = file_of(path, "part/doubles")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    stored = storage.open(path)
    stored.verify("floats")
    for _ in range(2):
        with pytest.raises(
            IndexFormatError, match=rf"{file.name}: expected data of which the XXH64 is [0-9a-f]{{16}}, found"
        ):
            stored.verify("part/doubles")
    with pytest.raises(IndexFormatError, match=file.name):
        stored.verify_all()
    with pytest.raises(IndexFormatError, match=r"manifest.json: expected an array unknown"):
        stored.array("unknown")


def test_verify_reads_by_blocks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "VERIFIED", 1000)
    save(path, {"a": np.arange(1500).astype(np.uint8), "b": np.zeros(700, np.uint8)})
    storage.open(path).verify_all()
    (file,) = path.glob("a.*")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(IndexFormatError, match=file.name):
        storage.open(path).verify_all()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_errors_of_the_disk_at_every_step(code: int, path: Path) -> None:
    """The old version stays and what was begun goes; what fails after the renaming is a version all the same."""
    save(path)
    old = own_files(path)
    kept = path.parent / "kept"
    shutil.copytree(path, kept)

    def save_again(fail_at: int) -> tuple[Faults, int | None]:
        shutil.rmtree(path)
        shutil.copytree(kept, path)
        faults = Faults(fail_at, code, most=100)
        try:
            with faults.installed(), storage.change(path) as transaction:
                transaction.put("x", np.arange(50))
                transaction.keep("floats")
                transaction.commit({"new": 1})
        except OSError as error:
            return faults, error.errno
        return faults, None

    steps = save_again(-1)[0].steps
    raised = 0
    for n, step in enumerate(steps):
        faults, found = save_again(n)
        assert faults.failed
        stored = storage.open(path)
        stored.verify_all()
        assert found in (code, None)
        assert found or stored.version == 2
        if stored.version == 1 and not step.startswith("unlink"):
            assert own_files(path) == old
        save(path, {"last": np.arange(1)})
        assert own_files(path) == {file_of(path, "last").name}
        raised += found is not None
    assert raised >= [step.split()[0] for step in steps].index("replace"), "all that comes before it was noticed"


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_only_be_read(path: Path) -> None:
    save(path)
    path.chmod(0o500)
    try:
        with pytest.raises(PermissionError), storage.change(path) as transaction:
            transaction.put("a", np.arange(2))
        storage.open(path).verify_all()
    finally:
        path.chmod(0o700)
