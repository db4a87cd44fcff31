"""Ceilings: the work that is counted is done, and every byte is read, at every level."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

import ragfast
from ragfast._core import _kernels

KNOWN = ("float32", "int8")


def checksum(data: bytes) -> int:
    """The sum modulo 2**64 of the 8-byte words, the last one filled up with zeros."""
    padded = data + bytes(-len(data) % 8)
    return sum(np.frombuffer(padded, np.uint64).tolist()) % 2**64


@pytest.mark.parametrize("arithmetic", KNOWN)
def test_operations_are_counted_in_proportion_to_rounds(isa: str, arithmetic: str) -> None:
    one = _kernels.peak_operations(arithmetic, 1)
    assert one >= 8
    assert one % 8 == 0  # a product and an addition, in a whole number of vectors of four lanes or more
    for rounds in (0, 2, 3, 1000):
        assert _kernels.peak_operations(arithmetic, rounds) == rounds * one


@pytest.mark.parametrize("arithmetic", KNOWN)
def test_counts_stay_exact_beyond_what_one_sum_holds(isa: str, arithmetic: str) -> None:
    """The driver works in parts of 2**22 rounds: float32 itself cannot count beyond 2**24."""
    rounds = (1 << 22) + 5
    if isa == "scalar" and arithmetic == "int8":
        rounds = 12345  # a hundred times as slow
    assert _kernels.peak_operations(arithmetic, rounds) == rounds * _kernels.peak_operations(arithmetic, 1)


def test_a_higher_level_does_more_in_a_round() -> None:
    """So the level that was set is the one that is measured."""
    before = ragfast.runtime.isa()
    by_level: dict[str, tuple[int, ...]] = {}
    for level in ragfast.runtime.available_isas():
        ragfast.runtime.set_isa(level)
        by_level[level] = tuple(_kernels.peak_operations(arithmetic, 1) for arithmetic in KNOWN)
    ragfast.runtime.set_isa(before)
    if "avx2" in by_level:
        assert by_level["avx2"] != by_level["scalar"]
    if "avx512vnni" in by_level:
        assert by_level["avx512"][0] > by_level["avx2"][0]
        assert by_level["avx512vnni"][1] > by_level["avx512"][1]


def test_refusals_of_burn() -> None:
    with pytest.raises(ValueError, match="arithmetic: expected 'float32' or 'int8', got 'float64'"):
        _kernels.peak_operations("float64", 1)
    with pytest.raises(ValueError, match="rounds: expected 0 or more, got -1"):
        _kernels.peak_operations("float32", -1)
    with pytest.raises(ValueError, match="outside its range"):
        _kernels.peak_operations("float32", 2**62)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 63, 64, 65, 511, 513, 1023, 1024, 1025, 4096, 65537])
def test_every_byte_is_read_once(isa: str, size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size + 64, dtype=np.uint8)
    for offset in (0, 1, 3, 8, 33, 64):
        part = data[offset : offset + size]
        assert _kernels.peak_read(part) == checksum(part.tobytes())


def test_one_changed_bit_changes_what_is_read(isa: str) -> None:
    data = np.zeros(3000, np.uint8)
    for at in range(0, data.size, 7):
        data[at] = 1
        assert _kernels.peak_read(data) == 1 << 8 * (at % 8)
        data[at] = 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_any_contiguous_array_is_read(isa: str, dtype: type) -> None:
    x: NDArray[np.generic] = np.arange(120).reshape(2, 3, 20).astype(dtype)
    assert _kernels.peak_read(x) == checksum(x.tobytes())
    x.flags.writeable = False
    assert _kernels.peak_read(x) == checksum(x.tobytes())


def test_refusals_of_read() -> None:
    with pytest.raises(ValueError, match="x: expected a contiguous array"):
        _kernels.peak_read(np.zeros((4, 4))[:, :2])
    with pytest.raises(TypeError):
        _kernels.peak_read(b"bytes")  # type: ignore[arg-type]


def test_threads_at_once_count_alike(isa: str) -> None:
    x = np.arange(100_000, dtype=np.uint64)
    with ThreadPoolExecutor(4) as pool:
        counted = set(pool.map(lambda _: _kernels.peak_operations("int8", 2000), range(16)))
        read = set(pool.map(lambda _: _kernels.peak_read(x), range(16)))
    assert counted == {_kernels.peak_operations("int8", 2000)}
    assert read == {sum(range(100_000))}
