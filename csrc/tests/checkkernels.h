/* What the C checks share, which checkkernels.c has with main, and what main calls in the files of its subjects. */
#ifndef CHECKKERNELS_H
#define CHECKKERNELS_H

#define _DEFAULT_SOURCE /* mmap, fork, alarm under -std=c11 */

#include "bench/peak.h"
#include "core/dispatch.h"
#include "core/elements.h"
#include "core/fpenv.h"
#include "core/pool.h"
#include "core/rows.h"
#include "ragfast/ragfast.h"
#include "search/quantize.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS(n) (&(ragfast_options){.n_threads = (n)}) /* options of a call */

extern char where[256]; /* what is being checked, for messages; written by the main thread alone */
#define WHERE(...) snprintf(where, sizeof where, __VA_ARGS__)

/* Whether to leave out the next case: with --every N all but one in N. */
int skip_case(void);

/* Counts a check and, if not ok, a failure. Of the main thread alone. */
void check(int ok, const char *format, ...) __attribute__((format(printf, 2, 3)));

void *must(void *block); /* the block, or the end of the program if it could not be had */

void *input(size_t bytes); /* ends where an unreadable page begins */
void input_free(void *data, size_t bytes);

void *output(size_t bytes); /* 0xa5 throughout, and between canaries that output_free checks */
void output_free(void *data, size_t bytes);

uint64_t random_u64(void); /* the same in every run */
size_t random_below(size_t n);
double random_unit(void); /* from -1 to below 1 */

int same_bits(double a, double b);

/* The floating-point environment of a caller that flushes denormals and rounds up, or the default: it changes no bit. */
void set_strange(int strange);

extern const char *const dtype_names[]; /* by ragfast_dtype */
double value_of_16_bits(uint16_t x, ragfast_dtype dtype);
size_t element_size(ragfast_dtype dtype);
ragfast_dtype query_dtype(ragfast_dtype dtype); /* of queries, by that of documents */
double element(const void *x, size_t i, ragfast_dtype dtype);

/* The canonical score, from the contract in core/kernels.h: 16 lanes, then 16 -> 8 -> 4 -> 2 -> 1. dtype is of documents. */
double canonical_score(const void *query, const void *doc, size_t dim, ragfast_dtype dtype, int l2);

/* In checkdot.c: inner products and the float32 tiles of a scan. */
void check_dot_kernels(const ragfast_kernels *kernels);
void bench_dot_kernels(const ragfast_kernels *kernels);

/* In checksearch.c: norms, and searches of one segment. */
void check_row_norms(int threads_only);
void check_searches(int threads_only);
void check_callers(int threads_only); /* many at once, and one with a floating-point environment of its own */

/* In checkcancel.c: the poll callback. */
void check_cancel(int threads_only);

/* In checkcontract.c: the ranges of the arguments of all other functions. */
void check_contract(int threads_only);

/* In checkrefusals.c: what searching, encoding and norms refuse. */
void check_search_refusals(int threads_only);

/* In checklse.c. */
void check_lse_kernels(const ragfast_kernels *kernels);
void check_marginals(int threads_only);
void bench_lse_kernels(const ragfast_kernels *kernels);

/* In checklogits.c. */
void check_logits_kernels(const ragfast_kernels *kernels);
void bench_logits_kernels(const ragfast_kernels *kernels);

/* In checknll.c: losses from logits. */
void check_nll(int threads_only);

/* In checkmixtures.c: steps of decoding, divergences, keys. */
void check_mixtures(int threads_only);

/* In checkgather.c: chosen documents, and merging. */
void check_gather(int threads_only);

/* In checkmetric.c: float64 scores, half squares and their codes, checksums. */
void check_score_kernels(const ragfast_kernels *kernels);
void check_metric(int threads_only);

/* In checksegments.c: searches of several segments, bitmaps, groups, distances. */
void check_segments(int threads_only);
void check_segments_with(const ragfast_kernels *table); /* a table that is no level of this machine */

/* In checkcodes.c. */
void check_code_kernels(const ragfast_kernels *kernels);
void check_emulated_amx(int threads_only); /* once, after the levels: says so where it cannot be checked */
void bench_code_kernels(const ragfast_kernels *kernels);

/* In checkselftest.c. */
void check_selftest_with(const ragfast_kernels *table); /* also of the emulated AMX */
void check_planted_level(int threads_only);

/* In checkpeak.c. */
void check_peak_kernels(const peak_kernels *kernels, const ragfast_kernels *of_level); /* also of the emulated AMX */
void check_peak(int threads_only);
void bench_peak_kernels(const ragfast_kernels *kernels); /* of the level in use */

double now(void); /* seconds */

extern volatile double sink; /* so that nothing timed is optimised away */

/* Best of some repetitions of `call`, 20 ms each or more, in seconds a call. */
#define TIME(seconds, call)                                                                                            \
    do {                                                                                                               \
        size_t repeats = 1;                                                                                            \
        double best = INFINITY;                                                                                        \
        for (int round = 0; round < 12;) {                                                                             \
            double start = now();                                                                                      \
            for (size_t r = 0; r < repeats; r++) call;                                                                 \
            double took = now() - start;                                                                               \
            if (took < 0.02) {                                                                                         \
                repeats *= 2;                                                                                          \
                continue;                                                                                              \
            }                                                                                                          \
            best = fmin(best, took / (double)repeats);                                                                 \
            round++;                                                                                                   \
        }                                                                                                              \
        (seconds) = best;                                                                                              \
    } while (0)

#endif
