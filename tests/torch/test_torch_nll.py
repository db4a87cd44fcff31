"""ragfast.torch: values against the functions of NumPy arrays, and what it refuses. Runs in `make test-all`."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import ragfast

torch = pytest.importorskip("torch", reason="torch is not installed: `make test-all` has it")

from torch_cases import FROM_LOGPROBS, MARGINALS, PAD, VARIANTS, B, K, T, V, as_numpy, random, random_targets  # noqa: E402  # only where torch is

import ragfast.torch as rt  # noqa: E402

pytestmark = pytest.mark.usefixtures("isa")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_values_and_gradients_are_those_of_the_arrays(variant: str, dtype: Any) -> None:
    logits, doc_scores = random(B, K, T, V, grad=True, dtype=dtype), random(B, K, grad=True, dtype=torch.float32)
    targets = random_targets(padded=True)
    result_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    for reduction, options in itertools.product(("sum", "mean", "token_mean"), ({}, {"label_smoothing": 0.1})):
        logits.grad = doc_scores.grad = None
        keywords = {"ignore_index": PAD, "reduction": reduction, **options}
        loss, posterior = VARIANTS[variant](logits, doc_scores, targets, return_posterior=True, **keywords)
        loss.backward()
        expected = getattr(ragfast, f"rag_{variant}_nll")(
            logits.detach(),
            doc_scores.detach(),
            targets,
            return_posterior=True,
            grad=["logits", "doc_scores"],
            **keywords,
        )
        assert loss.dtype == posterior.dtype == result_dtype
        assert (logits.grad.dtype, doc_scores.grad.dtype) == (dtype, torch.float32)
        assert loss.shape == ()
        np.testing.assert_allclose(loss.detach(), expected.loss, rtol=1e-6)
        np.testing.assert_array_equal(posterior.numpy(), expected.posterior)
        np.testing.assert_allclose(doc_scores.grad, expected.doc_scores_grad, rtol=1e-6, atol=1e-9)
        eps = torch.finfo(dtype).eps
        np.testing.assert_allclose(as_numpy(logits.grad), as_numpy(expected.logits_grad), rtol=2 * eps, atol=1e-7)
        assert not logits.grad[0, :, 2:].any()


def test_small_functions_are_those_of_the_arrays() -> None:
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        x, docs = random(B, K, T, dtype=dtype), random(B, K, dtype=dtype)
        wide = x if dtype == torch.float64 else x.float()
        pairs = [
            (rt.logsumexp(x), ragfast.logsumexp(wide)),
            (rt.logsumexp(x, 0), ragfast.logsumexp(wide, 0)),
            (rt.logsumexp(x[0, 0]), ragfast.logsumexp(wide[0, 0])),
            (rt.log_softmax(x, 1), ragfast.log_softmax(wide, 1)),
            (rt.target_logprobs(x, torch.tensor([1, 0])), ragfast.target_logprobs(x, [1, 0])),
        ]
        for variant, marginalize in MARGINALS.items():
            found = marginalize(docs, x, return_posterior=True)
            pairs += zip(found, getattr(ragfast, f"marginalize_{variant}")(docs, x, return_posterior=True), strict=True)
            found = FROM_LOGPROBS[variant](x, docs, return_posterior=True, reduction="none")
            expected = getattr(ragfast, f"rag_{variant}_nll_from_logprobs")(
                x, docs, return_posterior=True, reduction="none"
            )
            pairs += [(found[0], expected.loss), (found[1], expected.posterior)]
        for found, expected in pairs:
            assert found.dtype == wide.dtype
            assert found.shape == np.shape(expected)
            np.testing.assert_array_equal(found.numpy(), expected)


def test_threads_change_no_bit(variant: str) -> None:
    """Of a size above the one from which work is shared."""
    logits, doc_scores = random(2, 3, 4, 50_021, grad=True, dtype=torch.float32), random(2, 3, grad=True)
    targets = random_targets().repeat(1, 2)[:, :4]
    found = []
    for n_threads in (1, 2, 3):
        loss = VARIANTS[variant](logits, doc_scores, targets, n_threads=n_threads)
        found.append((loss.detach(), *torch.autograd.grad(loss, (logits, doc_scores))))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


def test_mixed_dtypes_are_taken_as_float64(variant: str) -> None:
    docs, tokens = random(B, K, dtype=torch.float32, grad=True), random(B, K, T, grad=True)
    out = MARGINALS[variant](docs, tokens)
    assert out.dtype == torch.float64
    out.sum().backward()
    assert (docs.grad.dtype, tokens.grad.dtype) == (torch.float32, torch.float64)


def test_nothing_but_infinities_has_gradients_of_0() -> None:
    x = torch.full((2, 3), -torch.inf, requires_grad=True)
    rt.logsumexp(x).sum().backward()
    assert x.grad.tolist() == [[0.0] * 3] * 2
    doc_scores, logits = torch.full((1, 2), -torch.inf, requires_grad=True), random(1, 2, 3, V, grad=True)
    for loss in VARIANTS.values():
        nll = loss(logits, doc_scores, torch.zeros(1, 3, dtype=torch.int64))
        assert nll == torch.inf
        for grad in torch.autograd.grad(nll, (logits, doc_scores)):
            assert not grad.any()


# ---- refused


def test_a_bos_token_id_beyond_int64_is_no_target() -> None:
    arguments = random(B, K, T, V), random(B, K), random_targets()
    expected = rt.rag_sequence_nll(*arguments, compat="hf")
    assert rt.rag_sequence_nll(*arguments, compat="hf", bos_token_id=2**70) == expected


def test_errors() -> None:
    """Of tensors; the checks of options and shapes are those of the functions of arrays."""
    logits, doc_scores, targets = random(B, K, T, V), random(B, K), random_targets()
    on_meta = logits.to("meta")
    for call in (
        lambda x: rt.logsumexp(x),
        lambda x: rt.log_softmax(x),
        lambda x: rt.marginalize_token(x[..., 0, 0], x[..., 0]),
        lambda x: rt.target_logprobs(x, targets[:, None]),
        lambda x: rt.rag_sequence_nll(x, doc_scores, targets),
        lambda x: rt.rag_token_nll(logits, x[..., 0, 0], targets),
        lambda x: rt.rag_token_nll_from_logprobs(x[..., 0], doc_scores),
        lambda x: rt.kl_divergence(x, logits),
        lambda x: rt.kl_divergence(logits, x),
        lambda x: rt.gather_scores(x[0, 0], logits[0, 0], [[0]]),
    ):
        with pytest.raises(
            ValueError, match=r"^\w+: expected a tensor in CPU memory, got one on meta: .*Pass \w+\.cpu"
        ):
            call(on_meta)
        with pytest.raises(
            TypeError, match=r"^\w+: expected a torch.Tensor, got ndarray; the functions of ragfast take"
        ):
            call(logits.numpy())
    with pytest.raises(TypeError, match=r"^x: expected a dense tensor, got one of layout torch\.sparse_coo$"):
        rt.logsumexp(logits[0, 0].to_sparse())
    with pytest.raises(TypeError, match=r"^logits: expected float32, .*, got torch\.int64$"):
        rt.rag_token_nll(logits.long(), doc_scores, targets)
    with pytest.raises(TypeError, match=r"^doc_scores: expected float32, .*, got torch\.int64$"):
        rt.rag_token_nll(logits, doc_scores.long(), targets)
    with pytest.raises(TypeError, match=r"^x: expected float32 or float64 .*, got int64$"):
        rt.logsumexp(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"^targets: expected integers"):
        rt.rag_token_nll(logits, doc_scores, targets.double())
    with pytest.raises(ValueError, match=r"^logits: expected shape \(B, K, T, V\)"):
        rt.rag_token_nll(logits[0], doc_scores, targets)
    with pytest.raises(ValueError, match=r"^targets: expected shape \(2, 3\), as logits has shape \(2, 2, 3, 37\)"):
        rt.rag_token_nll(logits, doc_scores, targets.T)
    with pytest.raises(ValueError, match=r"^doc_scores: expected shape \(2, 1\), .* null document"):
        rt.rag_sequence_nll(logits, doc_scores, targets, null_score=0.0)
    with pytest.raises(ValueError, match=r"^null_score: expected a number or shape \(2,\), got \(3,\)$"):
        rt.rag_sequence_nll(logits, doc_scores[:, :1], targets, null_score=torch.zeros(3))
    with pytest.raises(ValueError, match=r"^bos_token_id: only rag_sequence_nll with compat"):
        rt.rag_token_nll(logits, doc_scores, targets, compat="hf", bos_token_id=0)
    with pytest.raises(TypeError, match=r"^mask: expected bool, .*, got int64$"):
        rt.rag_token_nll_from_logprobs(logits[..., 0], doc_scores, mask=targets)


def test_ragfast_does_not_import_torch_and_says_what_brings_it() -> None:
    code = """if True:
        import sys
        import ragfast
        assert "torch" not in sys.modules and "ragfast.torch" not in sys.modules
        sys.modules["torch"] = None  # as if it were not installed
        try:
            import ragfast.torch
        except ImportError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ragfast.torch needs torch: pip install 'ragfast-kernels[torch]'"
