"""Prompts: how a question and a passage become what a model reads, and what happens to passages that are too long."""

from __future__ import annotations

import string
import warnings
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["PLAIN_FORMAT", "Template", "TruncationWarning", "chat_template", "plain_template"]

Template = Callable[[str, str], str]
"""(question, passage) -> the text that a model reads; the passage is "" where nothing was retrieved."""

PLAIN_FORMAT = "Passage: {passage}\nQuestion: {question}\nAnswer:\n"
"""Ends in a line break, with which no token of an answer merges."""


class TruncationWarning(UserWarning):
    """Texts were cut at their end, because they would not have fitted the model's context."""


def plain_template(format: str = PLAIN_FORMAT) -> Template:
    """A template that fills ``{passage}`` and ``{question}`` into a text; other braces are doubled, as in str.format.

    Where the passage is "", the lines that have {passage} in them are left out.

    ValueError where a field is missing or unknown.

    >>> from ragfast.rag.hf import plain_template
    >>> template = plain_template("Passage: {passage}\\nQ: {question}\\nA:")
    >>> template("Where?", "Here."), template("Where?", "")
    ('Passage: Here.\\nQ: Where?\\nA:', 'Q: Where?\\nA:')
    """
    fields = {name for _, name, _, _ in string.Formatter().parse(format) if name is not None}
    if fields != {"passage", "question"}:
        raise ValueError(f"format: expected the fields {{passage}} and {{question}}, got {format!r}")
    lines = format.splitlines(keepends=True)
    without = "".join(line for line in lines if "{passage}" not in line)
    if "{question}" not in without:  # both in one line
        without = format

    def template(question: str, passage: str) -> str:
        return (format if passage else without).format(question=question, passage=passage)

    return template


def chat_template(tokenizer: Any, instruction: str | None = None) -> Template:
    """A template that is the chat template of a Hugging Face tokenizer, up to where the answer begins.

    instruction is the system's turn. The user's is "Passage: ...", a line break, "Question: ..."; the question alone
    where the passage is "".

    ValueError for a tokenizer without a chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("tokenizer: has no chat template; plain_template makes prompts for any model")
    system = [] if instruction is None else [{"role": "system", "content": instruction}]

    def template(question: str, passage: str) -> str:
        asked = f"Passage: {passage}\nQuestion: {question}" if passage else f"Question: {question}"
        turns = [*system, {"role": "user", "content": asked}]
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return text

    return template


def fitted(
    pairs: Sequence[tuple[str, str]],
    template: Template,
    tokenizer: Any,
    tokenize: Callable[[list[str]], list[list[int]]],
    limit: int | None,
) -> list[list[int]]:
    """The tokens of the prompt of each (question, passage), with passages cut so that none is longer than limit.

    tokenize is how the model at hand reads texts, with the special tokens that it wants.
    """
    prompts = tokenize([template(*pair) for pair in pairs])
    if limit is None:
        return prompts
    too_long = [i for i, prompt in enumerate(prompts) if len(prompt) > limit]
    if not too_long:
        return prompts
    n_left = []
    for i in too_long:
        prompts[i], n_kept = _cut(*pairs[i], template, tokenizer, tokenize, limit)
        n_left.append(n_kept)
    question, passage = pairs[too_long[0]]
    warnings.warn(
        f"{len(too_long)} of {len(pairs)} passages are too long for prompts of {limit} tokens and were cut at their "
        f"end, to {min(n_left)} tokens or more; the first is {passage[:60]!r}, for the question {question[:60]!r}",
        TruncationWarning,
        stacklevel=4,  # whoever asks the generator
    )
    return prompts


def _cut(
    question: str,
    passage: str,
    template: Template,
    tokenizer: Any,
    tokenize: Callable[[list[str]], list[list[int]]],
    limit: int,
) -> tuple[list[int], int]:
    """The prompt with as much of the passage's beginning as there is room for, and how many tokens that is."""
    encoded = tokenizer(passage, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False)
    tokens, n_kept = encoded["input_ids"], len(encoded["input_ids"])
    prompt = tokenize([template(question, passage)])[0]
    while len(prompt) > limit:
        if n_kept <= 0:
            raise ValueError(
                f"question {question[:60]!r}: takes {len(prompt)} tokens with the template alone, where prompts may "
                f"have {limit}"
            )
        # Not exact where tokens merge across the cut, hence the loop; each round takes at least one away.
        n_kept = max(0, n_kept - (len(prompt) - limit))
        if n_kept == 0:
            text = ""
        elif tokenizer.is_fast:
            text = passage[: encoded["offset_mapping"][n_kept - 1][1]]
        else:
            text = tokenizer.decode(tokens[:n_kept])
        prompt = tokenize([template(question, text)])[0]
    return prompt, n_kept
