"""Tensors of torch as input: float32, float16 and bfloat16 in place, and what is refused. Runs in `make test-all`."""

from __future__ import annotations

import numpy as np
import pytest

import ragfast
from ragfast import FlatIndex

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
