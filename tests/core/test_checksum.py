"""Checksums of files and rows: XXH64 with seed 0, against values from elsewhere."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ragfast._core import _kernels

PUBLISHED = {
    b"": 0xEF46DB3751D8E999,
    b"a": 0xD24EC4F1A98C6E5B,
    b"abc": 0x44BC2CF5AD770999,
    b"Nobody inspects the spammish repetition": 0xFBCEA83C8A378BF1,
}

# By length, of the bytes of `made`: around every step of the algorithm. From the xxhash package.
KNOWN = {
    1: 0xD2DA77930F69647C,
    2: 0x9F33D4BD50F99C34,
    3: 0xF7C331CF2042B940,
    4: 0x1B042F821FC4A793,
    5: 0x6E1F98107D9DB571,
    7: 0x41D39023940006C8,
    8: 0xEF7823FCE4AD9AFB,
    9: 0x81CF88E9D8340150,
    11: 0x62C5AD6CE5A70C2E,
    12: 0x4B5E14A3DB724BF4,
    13: 0xB183B09A3B8BA2BD,
    15: 0x6F0095B1C00E82FB,
    16: 0x29965039DF6047BB,
    17: 0x5236FCB96D8FB228,
    23: 0xA012735DBF297A07,
    24: 0x72F6FA358766CA0A,
    28: 0x87D1E7C274AA31E4,
    31: 0x68C3DBB752F3FA97,
    32: 0xAD7DC5A569BB047C,
    33: 0x475B642AC692E380,
    36: 0xB4198E5654A588ED,
    40: 0xF623C5F8CB955C71,
    45: 0x7C73A0C9E45DD7A0,
    63: 0xC18C4743DE1B99A8,
    64: 0x06872C5D6370DE25,
    65: 0x8B5F4E34A32C5A09,
    95: 0xA963F5B187837114,
    96: 0xDF54D08173BDF185,
    97: 0x965C7075E19FC07F,
    100: 0xC6BD897B47FFA277,
    127: 0x77DC651915D836B5,
    128: 0x2E9C4CB0B29BC8EC,
    1000: 0x7AD5B044FB6FA81D,
    3072: 0x9EF0534ECD9F0D47,
    65_537: 0xB233BE7F604D17E9,
}


def made(n: int) -> bytes:
    """Bits 16 to 23 of x -> 1103515245 x + 12345 mod 2^32, from 1."""
    x, out = 1, bytearray()
    for _ in range(n):
        x = (x * 1103515245 + 12345) % 2**32
        out.append(x >> 16 & 255)
    return bytes(out)


def test_published_values() -> None:
    for data, expected in PUBLISHED.items():
        assert _kernels.checksum(data) == expected


@pytest.mark.parametrize("n", KNOWN)
def test_known_lengths(n: int) -> None:
    assert _kernels.checksum(made(n)) == KNOWN[n]


def test_every_alignment() -> None:
    data = made(200)
    room = np.empty(300, np.uint8)
    for n in (100, 127, 128):
        for first in range(33):
            room[first : first + n] = np.frombuffer(data[:n], np.uint8)
            assert _kernels.checksum(room[first : first + n]) == KNOWN[n]


@pytest.mark.parametrize("step", [1, 3, 8, 31, 32, 33, 100, 5000])
def test_pieces(step: int) -> None:
    data = made(3072)
    checksum = _kernels.Checksum()
    assert checksum.value == PUBLISHED[b""]
    for first in range(0, len(data), step):
        checksum.update(data[first : first + step])
        checksum.update(b"")
    assert checksum.value == checksum.value == KNOWN[3072]
    before = checksum.value
    checksum.update(b"more")
    assert checksum.value == _kernels.checksum(data + b"more") != before


def test_a_changed_bit_changes_the_value() -> None:
    data = np.frombuffer(made(100), np.uint8).copy()
    values = set()
    for bit in range(800):
        data[bit // 8] ^= 1 << bit % 8
        values.add(_kernels.checksum(data))
        data[bit // 8] ^= 1 << bit % 8
    assert len(values | {KNOWN[100]}) == 801


@pytest.mark.parametrize(
    "of",
    [
        bytearray,
        memoryview,
        lambda data: np.frombuffer(data, np.float32),
        lambda data: np.frombuffer(data, np.float16).reshape(8, 64, 3),
        lambda data: np.frombuffer(data, np.uint8).reshape(3, -1)[:, :],
        lambda data: np.frombuffer(data, "V96"),
    ],
)
def test_whatever_offers_its_bytes(of: Callable[[bytes], Any]) -> None:
    data = of(made(3072))
    checksum = _kernels.Checksum()
    checksum.update(data)
    assert _kernels.checksum(data) == checksum.value == KNOWN[3072]


def test_a_mapped_file() -> None:
    with mmap.mmap(-1, 3072) as map:
        map[:] = made(3072)
        assert _kernels.checksum(map) == KNOWN[3072]
        # The buffer was given back: a map with a view of it cannot be closed.


@pytest.mark.parametrize("what", [np.zeros((4, 6))[:, ::2], "text", 7, None])
def test_what_has_no_bytes_in_a_row(what: Any) -> None:
    kinds = (TypeError, ValueError, BufferError)
    with pytest.raises(kinds, match=r"contiguous|bytes-like|buffer"):
        _kernels.checksum(what)
    checksum = _kernels.Checksum()
    with pytest.raises(kinds, match=r"contiguous|bytes-like|buffer"):
        checksum.update(what)
    assert checksum.value == PUBLISHED[b""]


@pytest.mark.parametrize("n_threads", [0, 1, 2, 5])
@pytest.mark.parametrize("shape", [(0, 5), (7, 0), (1, 1), (33, 17), (3, 4, 5), (9,), (3000, 384)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int8])
def test_row_sums(shape: tuple[int, ...], dtype: Any, n_threads: int) -> None:
    rows = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    rows.flags.writeable = False
    sums = _kernels.row_sums(rows, n_threads)
    assert sums.dtype == np.uint32
    assert sums.shape == shape[:1]
    some = range(0, shape[0], 1 + shape[0] // 50)
    assert [int(sums[i]) for i in some] == [_kernels.checksum(rows[i].tobytes()) % 2**32 for i in some]


def test_row_sums_refuse() -> None:
    rows = np.zeros((4, 6), np.float32)
    with pytest.raises(ValueError, match="contiguous"):
        _kernels.row_sums(rows[:, ::2])
    with pytest.raises(ValueError, match="contiguous array of rows"):
        _kernels.row_sums(np.zeros(()))
    with pytest.raises(ValueError, match="range"):
        _kernels.row_sums(rows, -1)


def test_many_threads_at_once() -> None:
    data = np.random.default_rng(0).integers(0, 256, 1 << 20).astype(np.uint8)
    expected = _kernels.checksum(data.tobytes())
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(_kernels.checksum, [data] * 32)) == {expected}


def test_the_package_agrees() -> None:
    xxhash = pytest.importorskip("xxhash")
    data = np.random.default_rng(2).integers(0, 256, 5000).astype(np.uint8)
    for n in [*range(300), 1023, 1024, 1025, 4096, 4999]:
        part = data[n % 7 : n % 7 + n]
        assert _kernels.checksum(part) == xxhash.xxh64_intdigest(part.tobytes())
