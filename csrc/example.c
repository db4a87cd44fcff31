/* The C API in a page: the three best documents for a query, and the log-probability of an answer under all of them.
 *
 *     cc example.c $(pkg-config --cflags --libs ragfast) -o example && ./example */
#include <ragfast/ragfast.h>

#include <stdio.h>

enum { N = 4, D = 3, K = 3, T = 2 }; /* documents, dimension, documents that are retrieved, tokens of the answer */

int main(void) {
    static const float vectors[N * D] = {1, 0, 0, 0, 1, 0, 0, 0, 1, 0.6f, 0.8f, 0}, query[D] = {0.8f, 0.6f, 0};
    const ragfast_docs docs = {.vectors = vectors, .n_docs = N, .dim = D, .dtype = RAGFAST_F32};
    const double temperature = 1;
    double scores[K], doc_logprobs[K], answer_logprob, posterior[K];
    int64_t ids[K];
    ragfast_status status =
        ragfast_search(scores, ids, doc_logprobs, NULL, NULL, query, 1, &docs, 1, NULL, K, 0, temperature, NULL);

    /* log p(y_t | x, z, y_<t): what a generator says about the tokens of an answer, given each document. */
    static const double token_logprobs[K * T] = {-0.1, -0.2, -1.0, -2.0, -3.0, -0.5};
    if (status == RAGFAST_OK)
        status = ragfast_marginalize_sequence(&answer_logprob, posterior, doc_logprobs, token_logprobs, 1, K, T,
                                              RAGFAST_F64, NULL);
    if (status != RAGFAST_OK) {
        fprintf(stderr, "%s\n", ragfast_strerror(status));
        return 1;
    }
    printf("ragfast %s at level %s\n", ragfast_version(), ragfast_isa());
    for (size_t i = 0; i < K; i++)
        printf("document %lld: score %.2f, log p(z|x) %.4f, p(z|x,y) %.4f\n", (long long)ids[i], scores[i],
               doc_logprobs[i], posterior[i]);
    printf("log p(y|x) = %.6f\n", answer_logprob);
    return 0;
}
