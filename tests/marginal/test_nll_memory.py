"""Where losses read and write: in place, beyond the caches, any layout, tensors of torch, threads, no more memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from exact import layouts
from nll_cases import ALL, IGNORED, LEVELS, LOSSES, assert_is, case, exactly

import ragfast
from ragfast import target_logprobs

pytestmark = LEVELS


@pytest.mark.parametrize("storage", ["float64", "float32", "float16", "bfloat16"])
def test_tensors(by_token: bool, storage: str) -> None:
    """The same bits as of arrays; the gradient is a tensor of their type, in place if so asked."""
    torch = pytest.importorskip("torch", reason="torch is not installed: `make test-all` has it")
    wide, docs, targets = case("float32", 2, 3, 4, 50)
    tensor = torch.tensor(wide).to(getattr(torch, storage))
    expected = LOSSES[by_token](tensor.double().numpy(), docs, targets, ignore_index=IGNORED, **ALL)
    found = LOSSES[by_token](tensor, torch.tensor(docs), torch.tensor(targets), ignore_index=IGNORED, **ALL)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    assert type(found.logits_grad) is torch.Tensor
    assert found.logits_grad.dtype == tensor.dtype
    rounded = torch.tensor(expected.logits_grad)
    rtol = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(storage, 1e-5)
    torch.testing.assert_close(found.logits_grad.double(), rounded, rtol=rtol, atol=2.0**-24)
    transposed = tensor.transpose(0, 1).contiguous().transpose(0, 1)
    again = LOSSES[by_token](transposed, docs, targets, ignore_index=IGNORED, **ALL)
    assert torch.equal(again.logits_grad, found.logits_grad)
    in_place = tensor.clone()
    done = LOSSES[by_token](in_place, docs, targets, ignore_index=IGNORED, out=in_place, **ALL)
    assert done.logits_grad is in_place
    assert torch.equal(in_place, found.logits_grad)
    scored = torch.tensor(targets).clamp(min=0)[:, None]
    np.testing.assert_allclose(
        target_logprobs(tensor, scored), target_logprobs(tensor.double(), scored), rtol=1e-6, atol=1e-7
    )
    for out, error, message in (
        (torch.zeros(2, 3, 4, 50, dtype=torch.int64), TypeError, f"out: expected {storage}, .* got int64"),
        (torch.zeros(2, 3, 4, 50, dtype=tensor.dtype, requires_grad=True), ValueError, "out: expected a contiguous"),
        (torch.zeros(50, 4, 3, 2, dtype=tensor.dtype).permute(3, 2, 1, 0), ValueError, "out: expected a contiguous"),
        (torch.zeros(2, 3, 4, 51, dtype=tensor.dtype), ValueError, r"out: expected shape .* got \(2, 3, 4, 51\)"),
    ):
        with pytest.raises(error, match=f"^{message}"):
            LOSSES[by_token](tensor, docs, targets, ignore_index=IGNORED, grad=["logits"], out=out)
    with pytest.raises(ValueError, match=r"^logits: a tensor that requires a gradient; pass logits.detach\(\)"):
        LOSSES[by_token](tensor.clone().requires_grad_(), docs, targets, ignore_index=IGNORED)


def test_gradient_in_place(by_token: bool, kind: str) -> None:
    for smoothing in (0, 0.1):
        logits, docs, targets = case(kind, 2, 3, 4, 77)
        options = {"ignore_index": IGNORED, "label_smoothing": smoothing}
        expected = LOSSES[by_token](logits, docs, targets, **options, **ALL)
        out = np.empty_like(logits)
        found = LOSSES[by_token](logits, docs, targets, out=out, **options, **ALL)
        assert found.logits_grad is out
        assert out.tobytes() == expected.logits_grad.tobytes()
        found = LOSSES[by_token](logits, docs, targets, out=logits, **options, **ALL)
        assert found.logits_grad is logits
        assert logits.tobytes() == out.tobytes()
        for name in ("loss", "posterior", "doc_scores_grad"):
            assert getattr(found, name).tobytes() == getattr(expected, name).tobytes()


@pytest.mark.parametrize(("shape", "smoothing"), [((2, 3, 20, 40_009), 0), ((1, 4, 15, 40_009), 0.1)])
def test_logits_beyond_the_caches(by_token: bool, shape: tuple[int, int, int, int], smoothing: float) -> None:
    """Several blocks of queries, or of the tokens of one, and a gradient that goes past the caches."""
    logits, docs, targets = case("float32", *shape)
    assert logits.nbytes > 2**23
    options = {"ignore_index": IGNORED, "label_smoothing": smoothing}
    found = LOSSES[by_token](logits, docs, targets, **options, **ALL)
    exact = exactly(by_token, logits, docs, targets, smoothing=smoothing, dtype=np.float64)
    assert_is(found, exact, "float32", smoothing)
    in_place = LOSSES[by_token](logits, docs, targets, out=logits, **options, **ALL)
    assert in_place.loss.tolist() == found.loss.tolist()
    assert in_place.logits_grad.tobytes() == found.logits_grad.tobytes()


def test_any_layout(by_token: bool, kind: str) -> None:
    logits, docs, targets = case(kind, 3, 2, 5, 37)
    expected = LOSSES[by_token](logits, docs, targets, ignore_index=IGNORED, **ALL)
    for x in layouts(logits).values():
        before = x.tobytes()
        found = LOSSES[by_token](
            x, np.asfortranarray(docs), targets[:, ::-1].copy()[:, ::-1], ignore_index=IGNORED, **ALL
        )
        for name in ("loss", "posterior", "doc_scores_grad", "logits_grad"):
            assert getattr(found, name).tobytes() == getattr(expected, name).tobytes()
        assert x.tobytes() == before
        assert found.logits_grad.flags.c_contiguous
        scored = np.where(targets == IGNORED, 0, targets)[:, None]
        assert target_logprobs(x, scored).tolist() == target_logprobs(logits, scored).tolist()
    as_lists = LOSSES[by_token](
        logits.astype(float).tolist(), docs.tolist(), targets.tolist(), ignore_index=IGNORED, **ALL
    )
    assert as_lists.logits_grad.dtype == as_lists.loss.dtype == np.float64
    np.testing.assert_allclose(as_lists.loss, expected.loss, rtol=1e-6)


@pytest.mark.usefixtures("threads")
def test_threads_change_no_bit(by_token: bool, kind: str) -> None:
    """Sizes above the one from which work is shared: many short rows, few long ones, a single answer."""
    for shape in ((6, 5, 40, 257), (1, 3, 7, 30_011)):
        logits, docs, targets = case(kind, *shape, seed=6)
        for smoothing in (0, 0.1):
            results = []
            for n_threads in (None, 1, 2, 3):
                ragfast.set_num_threads(2 if n_threads is None else 1)
                found = LOSSES[by_token](
                    logits,
                    docs,
                    targets,
                    ignore_index=IGNORED,
                    label_smoothing=smoothing,
                    n_threads=n_threads,
                    **ALL,
                )
                assert found.posterior is not None
                results.append(
                    [
                        *(x.tobytes() for x in (found.loss, found.posterior, found.doc_scores_grad, found.logits_grad)),
                        target_logprobs(logits, targets[:, None], ignore_index=IGNORED, n_threads=n_threads).tobytes(),
                    ]
                )
            assert all(other == results[0] for other in results[1:])


MEMORY = """if True:
    import sys
    import numpy as np
    import ragfast
    def peak():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    def calls(logits, docs, targets):
        for loss in (ragfast.rag_sequence_nll, ragfast.rag_token_nll):
            for smoothing in (0.0, 0.1):
                loss(logits, docs, targets, label_smoothing=smoothing)
                loss(logits, docs, targets, label_smoothing=smoothing, grad=["logits", "doc_scores"], out=logits,
                     return_posterior=True)
        ragfast.target_logprobs(logits, targets[:, None])
    rng = np.random.default_rng(0)
    ragfast.runtime.set_isa(sys.argv[1])
    calls(rng.standard_normal((1, 2, 3, 40), dtype=np.float32), np.zeros((1, 2)), np.zeros((1, 3), int))
    logits = rng.standard_normal((4, 5, 10, 20011), dtype=np.float32)
    docs, targets = np.zeros((4, 5)), rng.integers(0, 20011, (4, 10))
    before = peak()
    calls(logits, docs, targets)
    print(logits.nbytes // 1024, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory as Linux shows it")
def test_extra_memory_is_below_a_megabyte(isa: str) -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY, isa], capture_output=True, text=True, check=True)
    logits_kb, extra_kb = map(int, done.stdout.split())
    assert logits_kb > 15_000
    assert extra_kb < 1024
