"""A bag-of-words RAG: which documents a question finds, and which of them explains the answer."""

import numpy as np

import ragfast

documents = ["the eiffel tower was built in 1889", "paris is the capital of france", "everest is 8849 meters tall"]
question, answer = "when was the eiffel tower built", "in 1889"
words = sorted({word for text in [*documents, question] for word in text.split()})
one_hot = {
    text: np.eye(len(words))[[words.index(word) for word in text.split()]] for text in [*documents, question, answer]
}

retriever = ragfast.SimpleRetriever(embedding_dim=len(words))
retriever.query_encoder_W = np.eye(len(words))
generator = ragfast.SimpleGenerator(vocab_size=len(words), embedding_dim=len(words), hidden_dim=len(words))
generator.encoder_W = generator.output_W = 9 * np.eye(len(words))  # makes the words of question and document likely
embeddings = np.stack([retriever.encode_query(one_hot[text]) for text in documents])

texts = [one_hot[text] for text in documents]
rag = ragfast.RAGSequence(retriever, generator, index=embeddings, documents=texts, k=2)
(score,) = rag.score([one_hot[question]], [one_hot[answer]])  # one of each here; several questions and answers go too
for doc_id, log_prior, posterior in zip(score.doc_ids, score.doc_logprobs, score.posteriors[0], strict=True):
    print(f"p(z|x) {np.exp(log_prior):.2f}  p(z|x,y) {posterior:.2f}  {documents[doc_id]}")
print(f"log p(y|x) {score.logprobs[0]:.2f} for {answer!r}")
