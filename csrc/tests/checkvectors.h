/* Vectors that break selection and bounds, and documents and queries of them with what a search is to find: for checkdot.c,
 * checksearch.c and checkrefusals.c. checkvectors.c has it. */
#ifndef CHECKVECTORS_H
#define CHECKVECTORS_H

#include "tests/checkkernels.h"

/* Ties, rows that float32 cannot tell apart, magnitudes at both ends. */
enum { UNIFORM, INTEGERS, EQUAL, ZERO, NEAR_DUPLICATES, WIDE, TINY, NEAR_OVERFLOW, HUGE_VALUES, N_KINDS };
extern const char *const kind_names[];

void fill(float *x, size_t n_rows, size_t dim, int kind);

/* Towards zero: a value of the type near x, which is all that data needs. binary16 has no place for most exponents of
 * float32: they are moved into its range, denormals included. */
uint16_t near_16_bits(float x, ragfast_dtype dtype);

/* A copy of n values in `dtype` that ends where an unreadable page begins; *size gets its bytes, for input_free. */
void *as_dtype(const float *x, size_t n, ragfast_dtype dtype, size_t *size);

typedef struct ranked {
    double score;
    int64_t id;
} ranked;

/* A corpus, queries, and every query's complete ranking by the contract. */
typedef struct problem {
    ragfast_docs docs; /* without norms and codes, unless a check says so */
    void *vectors, *queries;
    size_t vectors_size, queries_size, n_queries;
    ragfast_codes codes;
    size_t codes_size[3]; /* high, low, bounds */
    float *transform;     /* center, weight and rotation of the codes; NULL: there are no codes */
    float *norms;
    int64_t *ids;
    ranked *ranking; /* (B,N) */
} problem;

problem make_problem(size_t n_queries, size_t n_docs, size_t dim, int kind, ragfast_dtype dtype, int with_ids);

/* The norms, and codes over a transform of random parts, written in two calls at some level. */
void add_norms_and_codes(problem *p);

void free_problem(problem *p);

/* One search against the ranking; the number of wrong entries. No `where`, no check(): threads call it too. */
size_t wrong_entries(double *scores, int64_t *ids, double *logprobs, ragfast_query_stats *stats, const problem *p,
                     const ragfast_docs *docs, size_t k, double temperature, int n_threads);

#endif
