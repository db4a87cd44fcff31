/* The state of a search, by who writes it and when. Types and inline helpers only. */
#ifndef RAGFAST_STATE_H
#define RAGFAST_STATE_H

#include "search/candidate.h"
#include "search/plan.h"
#include "search/segment.h"

#include <stdatomic.h>

/* ---- a worker: written by the thread that has its number -------------------------------------------------------- */

/* One query on one worker. */
typedef struct query_slot {
    ragfast_candidate *candidates; /* (capacity,) */
    size_t count;                  /* candidates held */
    uint64_t rescored;             /* float64 scores calculated */
    uint64_t unscanned;            /* of them, of rows that no scan had looked at */
    uint64_t by_codes;             /* documents that its codes were compared with */
    uint64_t by_float32;           /* documents that went through the float32 scan */
    uint64_t hits;                 /* of by_codes, candidates */
    size_t likely;                 /* of the candidates since the last pruning, those that should be among the best k */
} query_slot;

/* A query's panel that a prefix, or in a mapped segment the high plane, let through. */
typedef struct refinement {
    uint32_t q, hits;
    size_t panel;
} refinement;

enum { RAGFAST_MAX_REFINEMENTS = 64 }; /* waiting while their panels are fetched */

/* Each begins a line of the caches, which no two of them then share. */
typedef struct search_worker {
    _Alignas(64) query_slot *slots; /* (queries,) */
    size_t work;                    /* multiply-adds since the last cancellation point */
    int in_codes;                   /* between begin_codes and end_codes of the kernels */
    /* The float32 scan. Queries join `listed` when the codes do not repay them, all at the start where there are none. */
    size_t n_listed;
    uint32_t *listed;    /* (queries,) */
    float *scan_queries; /* the listed ones as the kernels want them: (n / TILE, D, TILE), or (n, padded D) */
    float *packed_docs;  /* (block_docs, D) */
    float *wide_docs;    /* (block_docs, D), where documents are of 16 bits or gathered */
    float *block_norms;  /* (block_docs,), where the caller has none or documents are gathered */
    uint32_t *rows;      /* (block_docs,), where the caller says which are allowed */
    /* The scan of codes. */
    uint8_t *is_listed;                        /* (queries,) */
    uint8_t *panel_codes;                      /* unpacked */
    uint8_t *refine_codes;                     /* of a panel that is refined by all bits */
    ragfast_code_threshold *code_thresholds;   /* (queries,), for the scan: of the prefix or of everything */
    ragfast_code_threshold *refine_thresholds; /* (queries,), for refining */
    refinement *waiting;                       /* (MAX_REFINEMENTS,) */
    size_t n_waiting;
    int use_prefix;
    uint64_t pairs_scanned, pairs_refined;      /* (panel, query) pairs of this chunk */
    size_t chunks_until_prefix, prefix_backoff; /* before the prefix is tried again, now and the next time */
} search_worker;

/* ---- queries: written by the calling thread, while no other works ------------------------------------------------ */

/* The queries of a pass: written when it begins. */
typedef struct query_state {
    size_t first, n;
    const char *vectors;
    const int32_t *excluded_groups;    /* or NULL */
    double *norms;                     /* (n,) */
    double *squares;                   /* (n,), by inner_f64, for distances and cosines */
    ragfast_candidate *candidates;     /* (n, workers, capacity), which slots point to: each worker writes its own */
    group_threshold *group_thresholds; /* (n, workers, n_group_thresholds): each worker writes its own */
} query_state;

/* One query in the space of codes: its score with document j is base + unit / scale_j (Z . Y_j); docs/exactness.md (S). */
typedef struct code_query {
    double base, base_error; /* q . center */
    double unit;             /* 1 / its scale; 0: it cannot be coded */
    double norm, residual;   /* factors of a document's residual and norm in the bound */
    double tail;             /* factor of a document's tail */
    double sum, prefix_sum;  /* of its codes, over all and over the prefix */
} code_query;

/* The same queries for a transform of codes: written when a segment begins that has another one. */
typedef struct code_state {
    code_query *queries;  /* (n,) */
    int8_t *codes;        /* (n, padded D) */
    int8_t *interleaved;  /* for tile_high */
    int8_t *packed;       /* for tile_codes */
    float *query_scratch; /* (2, D) */
} code_state;

/* ---- shared: written by any worker at any time ------------------------------------------------------------------- */

typedef struct shared_state {
    _Atomic double *thresholds; /* (queries,) they only rise */
    atomic_uchar *
        codes_disabled; /* (queries,): the codes keep too many candidates; workers list the query at their next chunk */
    atomic_int status;  /* not RAGFAST_OK: the search stops */
    ragfast_place corrupt; /* by the one that sets the flag */
    atomic_flag corrupt_is_known;
} shared_state;

/* ---- the search -------------------------------------------------------------------------------------------------- */

/* Arrays of the caller. */
typedef struct search_output {
    double *scores;             /* (B,K) */
    int64_t *doc_ids;           /* (B,K) */
    double *doc_logprobs;       /* (B,K), or NULL */
    ragfast_query_stats *stats; /* (B,), or NULL */
    size_t k;
    double temperature;
} search_output;

typedef struct search {
    const search_plan *plan;
    ragfast_call *call;
    search_output out; /* a query's places by the worker that finishes it */
    query_state queries;
    code_state coded;
    shared_state shared;
    search_worker *workers; /* (n_workers,) */
    /* Written by the calling thread when a segment begins. */
    const segment_plan *segment;
    size_t n_warmup_rows; /* its first rows, which are scored already */
} search;

static inline double ragfast_threshold_of(const search *s, size_t q) {
    return atomic_load_explicit(&s->shared.thresholds[q], memory_order_relaxed);
}

/* The threshold of what scans look at: of inner products, or of q.x - |x|^2 / 2 where the score is a distance, (L1). */
static inline double ragfast_scan_threshold(const search *s, size_t q) {
    double threshold = ragfast_threshold_of(s, q);
    return s->plan->l2 ? (s->queries.squares[q] * (1 - 1e-11) + threshold * (1 + 1e-11)) / 2 : threshold;
}

static inline ragfast_status ragfast_status_of(const search *s) {
    return (ragfast_status)atomic_load_explicit(&s->shared.status, memory_order_relaxed);
}

/* The search stops with this status. */
static inline void ragfast_fail(search *s, ragfast_status status) {
    atomic_store_explicit(&s->shared.status, (int)status, memory_order_relaxed);
}

#endif
