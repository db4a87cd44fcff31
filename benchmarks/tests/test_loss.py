"""Every way of calculating a loss gives it, and its gradients, as the formulas in extended precision do."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any, get_args

import numpy as np
import pytest
from nll_oracle import Exact, exact_nll
from ragfast_bench import decode_step, loss, loss_peers as peers, verdicts
from ragfast_bench.contest import Contender, array_of
from ragfast_bench.loss import Asked
from ragfast_bench.loss_peers import Answers, Dtype, Reference
from ragfast_bench.results import Machine
from ragfast_bench.sections import Settings

SHAPE = (3, 3, 11, 101)  # 33 rows a query, and 25 are a part
MACHINE = Machine("", 1, 0, {"L1": 1.0}, "", "", "", 1, (), 1e9, {"float32": 1e9})
FULL, QUICK = Settings("full"), Settings("quick")
ALL_PEERS = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "transformers", "scipy")),
    reason="torch, transformers or SciPy is not installed: `make test-all` has them",
)
TYPES = [
    "float32",
    pytest.param("bfloat16", marks=pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="without torch")),
]


def say(_: str) -> None:
    pass


def exact(answers: Answers, by_token: bool, skipped: int = 0, smoothing: float = 0.0) -> Exact:
    b, k, t, _ = answers.held.shape
    logits = np.stack([[answers.wide(i, j) for j in range(k)] for i in range(b)])
    targets = np.where(np.arange(t) < t - skipped, answers.targets, -1)
    return exact_nll(by_token, logits, answers.doc_scores, targets, smoothing=smoothing)


def found_by(contender: Contender) -> Any:
    return contender.build()()


def taking_part(contenders: list[Contender]) -> list[Contender]:
    """torch.compile is tried where it runs: it takes half a minute."""
    return [contender for contender in contenders if not contender.left_out and "compile" not in contender.name]


def check(contender: Contender, answers: Answers, by_token: bool, gradient: bool, **keywords: Any) -> None:
    wide = answers.dtype == "float32"
    rtol = 2e-6 if wide else 2e-2
    expected = exact(answers, by_token, int("Hugging" in contender.name), **keywords)
    found = found_by(contender)
    if not gradient:
        np.testing.assert_allclose(array_of(found), expected.nll.astype(float), rtol=rtol, atol=1e-6)
        return
    losses, logits_grad, docs_grad = map(array_of, found)
    np.testing.assert_allclose(losses, expected.nll.astype(float), rtol=rtol)
    # 16-bit sums of log p lose whole percents of the posterior.
    atol = 1e-5 if wide else 5e-2
    np.testing.assert_allclose(logits_grad.reshape(expected.logits_grad.shape), expected.logits_grad, atol=atol)
    np.testing.assert_allclose(docs_grad, expected.doc_scores_grad, atol=max(atol, 1e-5 * SHAPE[2]))


@ALL_PEERS
@pytest.mark.parametrize("asked", get_args(Asked))
@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_contenders(dtype: Dtype, by_token: bool, asked: Asked) -> None:
    answers = peers.random_answers(SHAPE, dtype)
    every = taking_part(loss.contenders(answers, None, by_token, asked, FULL))
    assert len(every) >= 4
    assert every[0].ours
    for contender in every:
        check(contender, answers, by_token, asked != "value")
    np.testing.assert_array_equal(answers.held, peers.random_answers(SHAPE, dtype).held, "a contender overwrote them")


@ALL_PEERS
def test_contenders_off_the_fast_path() -> None:
    certain = peers.random_answers(SHAPE, certain=True)
    for contender in loss.certain_contenders(certain):
        check(contender, certain, False, False)
    answers = peers.random_answers(SHAPE)
    smoothed = loss.smoothed_contenders(answers, Reference(answers))
    assert len(smoothed) == 3
    for contender in smoothed:
        check(contender, answers, True, False, smoothing=peers.SMOOTHING)


@pytest.mark.parametrize("skipped", [0, 1])
@pytest.mark.parametrize("by_token", [False, True])
def test_reference(by_token: bool, skipped: int) -> None:
    answers = peers.random_answers(SHAPE)
    reference, expected = Reference(answers), exact(answers, by_token, skipped)
    scored = SHAPE[2] - skipped
    np.testing.assert_allclose(reference.loss(by_token, scored)[0], expected.nll.astype(float), rtol=1e-13)
    rows, of_rows, of_docs = reference.gradients(by_token, scored)
    every = expected.logits_grad.reshape(-1, SHAPE[3]).astype(float)
    np.testing.assert_allclose(of_rows, every[rows], atol=1e-13)
    np.testing.assert_allclose(of_docs, expected.doc_scores_grad.astype(float), atol=1e-12)
    if by_token:
        smoothed = exact(answers, True, skipped, smoothing=peers.SMOOTHING)
        np.testing.assert_allclose(reference.smoothed(scored), smoothed.nll.astype(float), rtol=1e-12)


def test_wrong_results_are_told() -> None:
    answers = peers.random_answers(SHAPE)
    reference = Reference(answers)
    error = reference.error(False, True)
    losses, grad, docs_grad = loss.our_gradient(answers, False, "new memory")()
    tolerance = loss.TOLERANCE["float32"]
    assert error((losses, grad, docs_grad)) < tolerance
    assert error((losses * 1.001, grad, docs_grad)) > tolerance
    assert error((losses / SHAPE[0], grad, docs_grad)) > tolerance
    assert error((losses, grad * 1.001, docs_grad)) > tolerance
    assert error((losses, np.roll(grad, 1, axis=-1), docs_grad)) > tolerance
    assert error((losses, grad, -docs_grad)) > tolerance
    assert error((losses * np.nan, grad, docs_grad)) > tolerance
    assert reference.error(True, False)(losses) > tolerance  # of the other model
    assert reference.error(False, False, skipped=1)(losses) > tolerance


def test_bfloat16_rounds_as_torch_does() -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal(10_000, np.float32) * 40
    expected = torch.from_numpy(x).bfloat16().view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(peers.bfloat16_bits(x), expected)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QUICK", "WHOLE", "SMALLER"):
        monkeypatch.setattr(loss, name, SHAPE)
    monkeypatch.setattr(loss, "seconds_of", lambda settings: 0.01)


def run(section: Any, settings: Settings) -> Any:
    left_out: dict[str, str] = {}
    tasks = list(section.measure(settings, MACHINE, say, left_out.__setitem__))
    assert len(tasks) == section.planned(settings)
    assert len({task.name for task in tasks}) == len(tasks)
    assert not left_out
    for task in tasks:
        assert task.section == section.NAME
        assert task.results[0].ours
        assert not [result for result in task.results if "WRONG" in result.note]
        assert all(result.floor is not None for result in task.results)
    return tasks


@ALL_PEERS
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("size", ["quick", "default"])
def test_section(size: Any) -> None:
    tasks = run(loss, Settings(size))
    assert all(one.verdict != "alone" for task in tasks for one in verdicts.comparisons(task))
    sequence = next(task for task in tasks if task.name == "RAG-Sequence, value, float32")
    names = {result.contender for result in sequence.results}
    assert {"ragfast", "torch cross_entropy", "Hugging Face get_nll", "SciPy logsumexp"} <= names
    assert sequence.left_out == {f"torch.compile of {of}": loss.COMPILING for of in loss.COMPILED}


@pytest.fixture
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] in ("torch", "transformers", "scipy", "ml_dtypes"):
            monkeypatch.setitem(sys.modules, name, None)
    for name in ("torch", "transformers", "scipy", "ml_dtypes"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("tiny", "without_libraries")
def test_without_any_peer() -> None:
    tasks = run(loss, QUICK)
    value, gradient = tasks[0], tasks[2]
    assert [result.contender for result in value.results] == ["ragfast", "NumPy max, exp, sum"]
    assert value.left_out["torch cross_entropy"] == value.left_out["Hugging Face get_nll"] == "not installed"
    assert [result.contender for result in gradient.results] == ["ragfast, new memory"]
    assert gradient.left_out["ragfast.torch autograd"] == "not installed"


@pytest.mark.usefixtures("tiny", "without_libraries")
def test_without_bfloat16() -> None:
    left_out: dict[str, str] = {}
    tasks = list(loss.measure(Settings("default"), MACHINE, say, left_out.__setitem__))
    assert list(left_out) == ["loss of bfloat16 logits"]
    assert not [task for task in tasks if "bfloat16" in task.name]


# ---- a step of decoding


@ALL_PEERS
def test_step_contenders() -> None:
    arrays = decode_step.random_step(3, 4, 500)
    exact = decode_step.exact_step(*arrays)
    wide = arrays[0].astype(np.longdouble)
    probs = np.exp(wide) / np.exp(wide).sum(-1, keepdims=True)
    np.testing.assert_allclose(np.exp(exact), (np.exp(arrays[1])[..., None] * probs).sum(1).astype(float), rtol=1e-6)
    order = np.argsort(-exact, axis=-1, kind="stable")[:, :6]
    for contender in taking_part(decode_step.contenders(arrays, None, False)):
        np.testing.assert_allclose(array_of(found_by(contender)), exact, rtol=1e-6)
    every = taking_part(decode_step.contenders(arrays, 6, False))
    assert len(every) == 4
    for contender in every:
        found, tokens = found_by(contender)
        np.testing.assert_array_equal(tokens, order)
        assert decode_step.best_error(exact, 6, (found, tokens)) < decode_step.TOLERANCE
        assert decode_step.best_error(exact, 6, (found, np.asarray(tokens)[:, ::-1])) > decode_step.TOLERANCE
        assert decode_step.best_error(exact, 6, (array_of(found) + 1e-3, tokens)) > decode_step.TOLERANCE


def test_step_section(monkeypatch: pytest.MonkeyPatch) -> None:
    step_of = decode_step.random_step
    monkeypatch.setattr(decode_step, "random_step", lambda beams: step_of(beams, 4, 500))
    tasks = run(decode_step, QUICK)
    assert all(task.left_out["torch.compile" + ", topk" * ("best" in task.name)] for task in tasks)
