"""Prompts: how a question and a passage become what a model reads, and the warning of passages that are too long."""

from __future__ import annotations

import string
from collections.abc import Callable
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
