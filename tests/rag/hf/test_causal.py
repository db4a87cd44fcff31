"""Generators around models: padding, cache, batches and shared prompts change nothing but the time taken.

What causal models and encoder-decoders have in common is tested here for both; test_encoder_decoder.py has the rest.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tiny_models import CAUSAL, ENCODER_DECODER, EOS, VOCAB

import ragfast
from ragfast.rag.protocols import BatchGenerator, DecodingGenerator

KINDS = [*CAUSAL, *ENCODER_DECODER]
QUESTIONS = ["Where is it?", "Who was he, and when?"]
PASSAGES = [["In Oslo.", "Here and there, but not so much in the north of the country.", ""], ["A man.", "Nobody."]]
ANSWERS: list[list[Any]] = [["yes", "", np.array([5, 250, 7, 9])], ["a longer answer"]]


def every_row() -> list[tuple[int, int]]:
    return [(b, z) for b, docs in enumerate(PASSAGES) for z in range(len(docs))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_tokens", [100, 4096])
def test_a_batch_equals_the_bare_model(kind: str, batch_tokens: int, make_generator: Any, bare_logits: Any) -> None:
    import torch

    generator = make_generator(kind, batch_tokens=batch_tokens)
    given = generator.batch_token_logprobs(QUESTIONS, PASSAGES, ANSWERS)
    generator.model.eval()
    for b, z in every_row():
        for c, answer in enumerate(ANSWERS[b]):
            tokens = torch.from_numpy(generator.answer_tokens(answer) if isinstance(answer, str) else answer)
            with torch.no_grad():
                logprobs = bare_logits(generator, QUESTIONS[b], PASSAGES[b][z], tokens).double().log_softmax(-1)
            assert given[b][c].shape == (len(PASSAGES[b]), len(tokens))
            assert given[b][c].dtype == np.float32
            expected = logprobs.gather(1, tokens[:, None])[:, 0].numpy()
            np.testing.assert_allclose(given[b][c][z], expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_together_equal_each_alone(kind: str, make_generator: Any) -> None:
    together, alone = make_generator(kind), make_generator(kind)
    given = together.batch_token_logprobs(QUESTIONS, PASSAGES, ANSWERS)
    for b, candidates in enumerate(ANSWERS):
        for c, answer in enumerate(candidates):
            alone.forget()
            one = alone.token_logprobs(QUESTIONS[b], PASSAGES[b], answer)
            np.testing.assert_allclose(given[b][c], one, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_tokens", [100, 4096])
def test_steps_over_any_rows_equal_the_bare_model(
    kind: str, batch_tokens: int, make_generator: Any, bare_logits: Any
) -> None:
    import torch

    generator, rng = make_generator(kind, batch_tokens=batch_tokens), np.random.default_rng(0)
    decoder = generator.open(QUESTIONS, PASSAGES)
    answers: list[tuple[int, int, list[int]]] = [(b, z, []) for b, z in every_row()]
    documents = [0, 0, 0, 1, 1, 4, 4]  # beams: more rows than documents
    ways = [documents, [2, 0, 1, 4, 4, 6, 5], range(7), [6, 0, 3, 3], [0, 0, 2, 2], rng.integers(4, size=9)]
    for way in [*ways, *[rng.integers(9, size=9) for _ in range(3)]]:
        rows, tokens = np.array(way), rng.integers(VOCAB, size=len(way))
        logits = decoder.step(rows, tokens)
        assert logits is decoder.logits
        answers = [
            (*answers[row][:2], [*answers[row][2], token])
            for row, token in zip(rows.tolist(), tokens.tolist(), strict=True)
        ]
    generator.model.eval()
    for (b, z, answer), row in zip(answers, logits, strict=True):
        with torch.no_grad():
            expected = bare_logits(generator, QUESTIONS[b], PASSAGES[b][z], [*answer, 0])[-1]
        np.testing.assert_allclose(row, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_read_is_shared_and_not_spoilt(kind: str, make_generator: Any, passes: Any) -> None:
    generator = make_generator(kind)
    seen = passes(generator.model)
    first, second = generator.open(QUESTIONS, PASSAGES), generator.open(QUESTIONS, PASSAGES)
    assert len(seen) == 1
    np.testing.assert_array_equal(first.logits, second.logits)
    rows, tokens = np.array([1, 1, 0, 4]), np.array([5, 6, 7, 8])
    ahead = [first.step(rows, tokens), first.step(np.array([1, 0, 2, 3]), tokens)]
    scores = generator.batch_token_logprobs(QUESTIONS[:1], PASSAGES[:1], [["yes"]])[0][0]
    behind = [second.step(rows, tokens), second.step(np.array([1, 0, 2, 3]), tokens)]
    np.testing.assert_array_equal(ahead, behind)
    assert len(seen) == 1 + 4 + 1  # the prompts, the steps, one candidate's tokens
    part = generator.open(QUESTIONS[:1], [PASSAGES[0][1:]])
    np.testing.assert_array_equal(part.logits, generator.open(QUESTIONS, PASSAGES).logits[1:3])
    assert len(seen) == 6
    generator.forget()
    again = generator.batch_token_logprobs(QUESTIONS[:1], PASSAGES[:1], [["yes"]])[0][0]
    np.testing.assert_allclose(scores, again, atol=1e-4)
    assert len(seen) == 8


@pytest.mark.parametrize("kind", ["llama", "bart"])
def test_a_changed_model_reads_again(kind: str, make_generator: Any) -> None:
    import torch

    generator, fresh = make_generator(kind), make_generator(kind)
    before = generator.token_logprobs(QUESTIONS[0], PASSAGES[0], "yes")
    for model in (generator.model, fresh.model):
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(1.5)
    after = generator.token_logprobs(QUESTIONS[0], PASSAGES[0], "yes")
    np.testing.assert_array_equal(after, fresh.token_logprobs(QUESTIONS[0], PASSAGES[0], "yes"))
    assert np.abs(after - before).max() > 0.01


@pytest.mark.parametrize("kind", ["llama", "bart"])
def test_one_pass_for_prompts_and_one_for_all_candidates(kind: str, make_generator: Any, passes: Any) -> None:
    generator = make_generator(kind)
    seen = passes(generator.model)
    answers = ["one", "three", "four"]
    generator.batch_token_logprobs(QUESTIONS, PASSAGES, [answers, answers[:2]])
    assert [rows for rows, _ in seen] == [5, 3 * 3 + 2 * 2]
    assert seen[1][1] == max(len(generator.answer_tokens(answer)) for answer in answers) - 1
    generator.batch_token_logprobs([QUESTIONS[0]] * 2, [["same", "same"], ["same"]], [answers[:1]] * 2)
    assert [rows for rows, _ in seen[2:]] == [1, 3]  # equal prompts are read once


@pytest.mark.parametrize("kind", KINDS)
def test_logits_for_training_are_those_of_the_bare_model(
    kind: str, make_generator: Any, bare_logits: Any, passes: Any
) -> None:
    import torch

    generator, docs = make_generator(kind), [docs[:2] for docs in PASSAGES]
    generator.model.eval()  # without dropout; logits leaves the mode to its caller
    seen = passes(generator.model)
    logits, targets = generator.logits(QUESTIONS, docs, ["yes", np.array([1, 2])])
    tokens = [generator.answer_tokens("yes"), np.array([1, 2])]
    width = len(tokens[0])
    assert len(seen) == 1
    assert logits.shape == (2, 2, width, VOCAB)
    assert targets.tolist() == [tokens[0].tolist(), [1, 2] + [-100] * (width - 2)]

    def gradients(loss: Any) -> list[Any]:
        generator.model.zero_grad()
        loss.backward()
        return [p.grad.clone() for p in generator.model.parameters() if p.grad is not None]

    rows = [(b, z) for b in range(2) for z in range(2)]
    bare = [bare_logits(generator, QUESTIONS[b], docs[b][z], tokens[b]) for b, z in rows]
    for (b, z), expected in zip(rows, bare, strict=True):
        torch.testing.assert_close(logits[b, z, : len(tokens[b])], expected, atol=1e-4, rtol=0)
    expected_loss = sum(
        torch.nn.functional.cross_entropy(x, torch.as_tensor(tokens[b]), reduction="sum")
        for (b, _), x in zip(rows, bare, strict=True)
    )
    labels = targets[:, None].expand(2, 2, width)
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), labels.reshape(-1), reduction="sum")
    for got, wanted in zip(gradients(loss), gradients(expected_loss), strict=True):
        torch.testing.assert_close(got, wanted, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "bart"])
def test_the_mode_of_the_model_is_left_as_it_was(kind: str, make_generator: Any) -> None:
    generator = make_generator(kind)
    generator.model.get_output_embeddings().eval()
    modes = [module.training for module in generator.model.modules()]
    assert set(modes) == {True, False}
    decoder = generator.open(QUESTIONS, PASSAGES)
    first = decoder.step(np.arange(5), np.zeros(5, np.int64))
    np.testing.assert_array_equal(
        first, generator.open(QUESTIONS, PASSAGES).step(np.arange(5), np.zeros(5, np.int64))
    )  # no dropout
    generator.batch_token_logprobs(QUESTIONS, PASSAGES, ANSWERS)
    with pytest.raises(ValueError, match="rows: expected 0 to 4"):
        decoder.step(np.array([5]), np.array([0]))
    assert [module.training for module in generator.model.modules()] == modes
    assert generator.logits(QUESTIONS[:1], PASSAGES[:1], ["yes"])[0].requires_grad


@pytest.mark.parametrize("kind", ["llama", "bart"])
@pytest.mark.parametrize(("name", "atol"), [("bfloat16", 0.3), ("float64", 1e-4)])
def test_dtype_is_the_models(kind: str, name: str, atol: float, make_generator: Any) -> None:
    import torch

    single, other = make_generator(kind), make_generator(kind, dtype=getattr(torch, name))
    wanted = single.token_logprobs(QUESTIONS[0], PASSAGES[0], "yes")
    got = other.token_logprobs(QUESTIONS[0], PASSAGES[0], "yes")
    decoder = other.open(QUESTIONS, PASSAGES)
    wide = np.float64 if name == "float64" else np.float32
    assert {got.dtype, decoder.logits.dtype, decoder.step(np.arange(2), np.arange(2)).dtype} == {np.dtype(wide)}
    np.testing.assert_allclose(got, wanted, atol=atol)
    assert other.logits(QUESTIONS[:1], PASSAGES[:1], ["yes"])[0].dtype == getattr(torch, name)
    assert next(other.model.parameters()).dtype == getattr(torch, name)


def test_they_are_the_generators_that_rag_models_take(make_generator: Any) -> None:
    for kind in ("llama", "bart"):
        generator = make_generator(kind)
        assert isinstance(generator, BatchGenerator)
        assert isinstance(generator, DecodingGenerator)
        assert generator.stop_tokens == (EOS,)
        tokens = generator.answer_tokens("Brasília, 8,849 m")
        assert tokens.dtype == np.int64
        assert generator.text(tokens) == "Brasília, 8,849 m"
        assert generator.pieces(np.array([65, EOS])) == [generator.text([65]), "</s>"]


def test_answers_of_no_tokens(make_generator: Any) -> None:
    generator = make_generator("llama")
    [[nothing, some], []] = generator.batch_token_logprobs(QUESTIONS, PASSAGES, [[np.array([], int), [3]], []])
    assert nothing.shape == (3, 0)
    assert some.shape == (3, 1)
    stop = generator.token_logprobs(QUESTIONS[0], PASSAGES[0], "")
    first = ragfast.log_softmax(generator.open(QUESTIONS[:1], PASSAGES[:1]).logits)[:, EOS]
    np.testing.assert_allclose(stop[:, 0], first, atol=1e-6)
    assert generator.token_logprobs(QUESTIONS[0], PASSAGES[0], np.array([], int)).shape == (3, 0)


@pytest.mark.parametrize(
    ("docs", "answers", "error", "told"),
    [
        ([["a"], []], [["x"], ["y"]], ValueError, r"doc_tokens\[1\]: expected at least one document"),
        ([["a"], "b"], [["x"], ["y"]], TypeError, r"doc_tokens\[1\]: expected a sequence of passages"),
        ([["a"]], [["x"], ["y"]], ValueError, "doc_tokens: expected 2, one a question, got 1"),
        ([["a"], ["b"]], [["x"]], ValueError, "target_tokens: expected 2"),
        ([["a"], ["b"]], [["x"], [np.array([3, VOCAB])]], ValueError, rf"\[1\]\[0\]: token {VOCAB} is not in"),
        ([["a"], ["b"]], [[np.array([-1])], ["y"]], ValueError, r"\[0\]\[0\]: token -1 is not in"),
        ([["a"], ["b"]], [[np.array([[1]])], ["y"]], ValueError, r"got shape \(1, 1\)"),
        ([["a"], ["b"]], [[np.array([1.0])], ["y"]], TypeError, "got float64"),
    ],
)
def test_bad_input_says_what_is_wrong(docs: Any, answers: Any, error: Any, told: str, make_generator: Any) -> None:
    with pytest.raises(error, match=told):
        make_generator("llama").batch_token_logprobs(QUESTIONS, docs, answers)


def test_bad_training_batches(make_generator: Any) -> None:
    generator = make_generator("llama")
    with pytest.raises(ValueError, match=r"docs: expected as many for each question, got \[2, 3\]"):
        generator.logits(QUESTIONS, PASSAGES, ["x", "y"])
    with pytest.raises(ValueError, match="answers: expected 2"):
        generator.logits(QUESTIONS, PASSAGES, ["x"])
    with pytest.raises(ValueError, match="answers: expected a token in one of them"):
        generator.logits(QUESTIONS[:1], PASSAGES[:1], [np.array([], int)])


def test_bad_steps(make_generator: Any) -> None:
    decoder = make_generator("llama").open(QUESTIONS, PASSAGES)
    for rows, tokens, told in [
        ([], [], "R of 1 or more"),
        ([0, 1], [0], "rows, tokens: expected shapes"),
        ([-1], [0], "rows: expected 0 to 4, got -1"),
        ([0], [VOCAB], f"tokens: expected 0 to {VOCAB - 1}"),
    ]:
        with pytest.raises(ValueError, match=told):
            decoder.step(np.array(rows, int), np.array(tokens, int))
    assert decoder.step(np.array([4]), np.array([0])).shape == (1, VOCAB)


def test_stop_tokens(make_tokenizer: Any, make_model: Any) -> None:
    from ragfast.rag.hf import CausalLM

    model = make_model("llama")
    model.generation_config.eos_token_id = [7, EOS, 9, VOCAB + 5]  # the last is of another vocabulary
    generator = CausalLM(model, make_tokenizer(pad_token=None))
    assert generator.stop_tokens == (EOS, 7, 9)
    assert generator.answer_tokens("a")[-1] == EOS
    assert CausalLM(model, make_tokenizer(), stop_tokens=[7]).answer_tokens("")[-1] == 7
    for wrong in ([], [VOCAB]):
        with pytest.raises(ValueError, match="stop_tokens: expected at least one"):
            CausalLM(model, make_tokenizer(), stop_tokens=wrong)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    with pytest.raises(ValueError, match="pass stop_tokens="):
        CausalLM(model, make_tokenizer(eos_token=None))


def test_a_tokenizer_without_padding(make_tokenizer: Any, make_model: Any) -> None:
    from ragfast.rag.hf import CausalLM

    padded, bare = (CausalLM(make_model("gpt2"), make_tokenizer(**options)) for options in ({}, {"pad_token": None}))
    got, wanted = (x.batch_token_logprobs(QUESTIONS, PASSAGES, ANSWERS) for x in (bare, padded))
    for b, tables in enumerate(wanted):
        for c, table in enumerate(tables):
            np.testing.assert_allclose(got[b][c], table, atol=1e-5)


def test_a_prompt_begins_with_one_bos(make_tokenizer: Any, make_model: Any) -> None:
    from ragfast.rag.hf import CausalLM

    tokenizer = make_tokenizer(bos=True, eos=True)  # an eos at the end of a prompt would end the text
    plain, begun = (
        CausalLM(make_model("llama"), tokenizer, template=f) for f in (lambda q, _: q, lambda q, _: "<s>" + q)
    )
    assert plain._tokenize([plain.template("A", "")]) == begun._tokenize([begun.template("A", "")])
    assert plain._tokenize(["A"])[0] == tokenizer("A")["input_ids"][:-1]


# ---- prompts


def test_templates(make_tokenizer: Any) -> None:
    from ragfast.rag.hf import chat_template, plain_template

    plain = plain_template()
    assert plain("Q?", "P.") == "Passage: P.\nQuestion: Q?\nAnswer:\n"
    assert plain("Q?", "") == "Question: Q?\nAnswer:\n"
    assert plain_template("{passage} {question}")("{0}", "{1}") == "{1} {0}"
    for wrong in ("{passage}", "{question}", "{passage}{question}{more}", "{}"):
        with pytest.raises(ValueError, match="format: expected the fields"):
            plain_template(wrong)
    with pytest.raises(ValueError, match="no chat template"):
        chat_template(make_tokenizer())
    jinja = (
        "{% for m in messages %}[{{ m.role }}|{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    chat = chat_template(make_tokenizer(chat_template=jinja), "Be short.")
    assert chat("Q?", "P.") == "[system|Be short.][user|Passage: P.\nQuestion: Q?]>"
    assert chat("Q?", "") == "[system|Be short.][user|Question: Q?]>"


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_passages_that_are_too_long_are_cut_at_their_end(kind: str, make_generator: Any) -> None:
    from ragfast.rag.hf import TruncationWarning, plain_template

    template = plain_template("{passage}|{question}")
    options = {"template": template, "max_length": 64, "answer_capacity": 10}
    generator, long = make_generator(kind, **options), "0123456789" * 8
    special = 2 if kind == "bart" else 0  # tokens of the tokenizer's own
    room = 64 - (10 if kind == "gpt2" else 0) - len("|Where?") - special
    with pytest.warns(TruncationWarning, match=rf"1 of 2 passages .* to {room} tokens .* '0123.*'Where\?'") as told:
        got = generator.token_logprobs("Where?", ["short", long], "yes")
    assert len(told) == 1
    np.testing.assert_array_equal(got, generator.token_logprobs("Where?", ["short", long[:room]], "yes"))
    if kind == "gpt2":  # a longer answer would need another prompt than decoding and the shorter ones have
        with (
            pytest.warns(TruncationWarning),
            pytest.raises(ValueError, match=r"an answer of 15 tokens: there is room for 10 .* answer_capacity=10"),
        ):
            generator.token_logprobs("Where?", [long], "x" * 14)
    with pytest.warns(TruncationWarning):
        generator.logits(["Where?"], [[long]], ["yes"])
    with pytest.raises(ValueError, match=r"question 'WhoWho.* takes \d+ tokens with the template alone"):
        generator.open(["Who" * 30], [["short"]])


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_an_answer_that_outgrows_the_context(kind: str, make_generator: Any) -> None:
    generator = make_generator(
        kind, template=lambda question, passage: question + passage, max_length=12, answer_capacity=4
    )
    decoder = generator.open(["ab"], [["cdef"]])
    assert decoder.capacity == (12 - 6 if kind == "gpt2" else 12)
    for _ in range(decoder.capacity - 1):
        decoder.step(np.array([0]), np.array([65]))
    with pytest.raises(ValueError, match=f"the context of 12 has room for {decoder.capacity} beside the prompt"):
        decoder.step(np.array([0]), np.array([65]))


def test_room_for_an_answer_is_asked_before_decoding(make_generator: Any) -> None:
    generator = make_generator("gpt2", max_length=60, answer_capacity=8)
    rag = ragfast.RAGToken(ragfast.SimpleRetriever(2), generator)
    found = [ragfast.rag.Retrieved(np.arange(1), np.zeros(1), ["a passage"])]
    with pytest.raises(ValueError, match=r"max_new_tokens: 32, where the prompts leave room for \d+ tokens"):
        rag.generate(["Where?"], retrieved=found)
    assert len(rag.generate(["Where?"], retrieved=found, max_new_tokens=8)[0][0].tokens) <= 8


def test_a_decoders_logits_are_its_own(make_generator: Any) -> None:
    """The reading is shared with later decoders."""
    generator = make_generator("gpt2")
    first = generator.open(["Who?"], [["a passage"]])
    kept = first.logits.copy()
    first.logits[:] = -np.inf
    np.testing.assert_array_equal(generator.open(["Who?"], [["a passage"]]).logits, kept)


def test_threads_share_a_generator(make_generator: Any) -> None:
    """In train mode too: dropout stays off until the last of them is done."""
    generator = make_generator("gpt2")
    generator.model.train()
    questions = [f"Who is {name}?" for name in ("Ada", "Bob", "Cleo", "Dan")]
    expected = [generator.token_logprobs(question, ["a passage"], "yes") for question in questions]

    def ask(i: int) -> bool:
        return np.array_equal(generator.token_logprobs(questions[i % 4], ["a passage"], "yes"), expected[i % 4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(24)))
    assert generator.model.training


def test_a_prompt_without_tokens_is_refused(make_generator: Any) -> None:
    generator = make_generator("gpt2", template=lambda question, passage: "")
    with pytest.raises(ValueError, match="template: no token in the prompt for question 'Who"):
        generator.open(["Who?"], [["a passage"]])


def test_the_context_is_the_models(make_generator: Any) -> None:
    assert make_generator("gpt2").max_length == 512
    assert make_generator("bart").max_length == 512
    assert make_generator("t5").max_length is None
    with pytest.raises(ValueError, match="max_length"):
        make_generator("gpt2", max_length=0)
