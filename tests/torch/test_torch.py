"""Tensors of torch as input: float32, float16 and bfloat16 in place, and what is refused. Runs in `make test-all`."""

from __future__ import annotations

import numpy as np
import pytest

import ragfast
from ragfast import FlatIndex
from ragfast._core import arrays

torch = pytest.importorskip("torch", reason="torch is not installed: `make test-all` has it")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_are_those_of_the_tensor(dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)
    docs = torch.randn(200, 17, generator=generator).to(getattr(torch, dtype))
    queries = torch.randn(3, 17, generator=generator).to(getattr(torch, dtype))
    expected = ragfast.search(queries.float().numpy(), docs.float().numpy(), 5, dtype=np.float64)
    for d, q in ((docs, queries), (docs.T.contiguous().T, queries)):  # the second not contiguous
        assert FlatIndex.from_vectors(d).vectors.tolist() == docs.float().tolist()
        hits = FlatIndex.from_vectors(d).search(q, 5, dtype=np.float64)
        assert hits.ids.tolist() == expected.ids.tolist()
        assert hits.scores.tobytes() == expected.scores.tobytes()


def test_storage_rounds_as_torch_does() -> None:
    """Every pattern of 16 bits, and float32 values between and beside them; a tensor's own bits are kept."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    floats = torch.randint(-(2**31), 2**31, (2**20,), generator=generator, dtype=torch.int64).to(torch.int32)
    for dtype, storage in ((torch.bfloat16, "bfloat16"), (torch.float16, "float16")):
        assert arrays.storage_type(dtype) == arrays.storage_type(str(dtype)) == storage
        wide = patterns.view(dtype).float()
        np.testing.assert_array_equal(arrays.widen(patterns.numpy().view(np.uint16), storage), wide.numpy())
        for tensor in (patterns.view(dtype).reshape(-1, 8), patterns.view(dtype).reshape(8, -1).T):
            expected = tensor.contiguous().view(torch.int16).numpy().tobytes()
            assert arrays.stored_rows(tensor, "x", 8, storage).tobytes() == expected
        x = torch.cat([floats.view(torch.float32), wide, wide.nextafter(torch.zeros(()))])
        x = x[x.to(dtype).isfinite()]  # what overflows is refused
        expected = x.to(dtype).view(torch.int16).numpy().view(np.uint16)
        assert arrays.stored_rows(x[:, None], "x", 1, storage).ravel().tobytes() == expected.tobytes()
    assert arrays.storage_type(torch.float32) == "float32"
    with pytest.raises(TypeError, match=r"dtype: expected float32, float16 or bfloat16, got torch\.float64"):
        arrays.storage_type(torch.float64)
    half = torch.randn(5, 4, generator=generator).to(torch.bfloat16)
    other = arrays.stored_rows(half, "x", 4, "float16")
    assert other.tobytes() == half.float().to(torch.float16).numpy().tobytes()


def test_float64_tensors_in_one_shot() -> None:
    docs = torch.randn(100, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert (
        ragfast.search(docs[:2], docs, 1).ids.tolist() == ragfast.search(docs[:2].numpy(), docs.numpy(), 1).ids.tolist()
    )


def test_refused() -> None:
    docs = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"vectors: a tensor that requires a gradient; pass vectors.detach\(\)"):
        FlatIndex.from_vectors(docs.requires_grad_())
    with pytest.raises(TypeError, match=r"vectors: expected float32 .* got int64"):
        FlatIndex.from_vectors(torch.zeros(3, 4, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"vectors: NumPy cannot read this torch\.Tensor"):
        FlatIndex.from_vectors(torch.zeros(3, 4).to_sparse())
    with pytest.raises(TypeError, match=r"vectors: NumPy cannot read this torch\.Tensor: .*meta"):
        FlatIndex.from_vectors(torch.zeros(3, 4, device="meta"))


def test_tensors_that_need_a_gradient_inside_a_list_or_as_ids() -> None:
    row = torch.zeros(4, requires_grad=True)
    with pytest.raises(TypeError, match=r"queries: expected an array, got list: .*grad"):
        FlatIndex(4).search([row, row])
    with pytest.raises(ValueError, match="ids: a tensor that requires a gradient"):
        FlatIndex(4).add(torch.zeros(2, 4), ids=torch.zeros(2, requires_grad=True))
    with pytest.raises(TypeError, match=r"temperature: expected a number above 0, got torch\.Tensor"):
        FlatIndex(4).search(torch.zeros(1, 4), temperature=torch.ones((), requires_grad=True))


def test_flushed_denormals_change_nothing() -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("torch cannot flush denormals on this CPU")
    rng = np.random.default_rng(0)
    tiny = np.float32([[1e-39, 3e-8, -6e-5, 1.0]])
    stored = [arrays.stored_rows(tiny, "x", 4, storage) for storage in ("float16", "bfloat16")]
    stored += [arrays.widen(bits, storage) for bits, storage in zip(stored, ("float16", "bfloat16"), strict=True)]
    docs = rng.standard_normal((400, 8), dtype=np.float32) * np.float32(1e-39)
    queries = rng.standard_normal((30, 8), dtype=np.float32)
    index = FlatIndex.from_vectors(docs)
    calls = (lambda: index.search(queries, 5), lambda: ragfast.search(queries.astype(np.float64), docs, 5))
    expected = [call() for call in calls]
    torch.set_flush_denormal(True)
    try:
        found = [call() for call in calls]
        flushed = [arrays.stored_rows(tiny, "x", 4, storage) for storage in ("float16", "bfloat16")]
        flushed += [arrays.widen(bits, storage) for bits, storage in zip(flushed, ("float16", "bfloat16"), strict=True)]
    finally:
        torch.set_flush_denormal(False)
    for before, within in zip(expected, found, strict=True):
        assert within.ids.tobytes() == before.ids.tobytes()
        assert within.scores.tobytes() == before.scores.tobytes()
    assert [x.tobytes() for x in flushed] == [x.tobytes() for x in stored]
