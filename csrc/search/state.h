/* The state of a search: of the query, of the segment and of each worker. Types and inline helpers only. */
#ifndef RAGFAST_STATE_H
#define RAGFAST_STATE_H

#include "core/kernels.h"
#include "ragfast/search.h"
#include "search/candidate.h"
#include "search/segment.h"

#include <stdatomic.h>

/* One query on one worker. */
typedef struct query_slot {
    size_t count;        /* candidates held */
    uint64_t rescored;   /* float64 scores calculated */
    uint64_t unscanned;  /* of them, of rows that no scan had looked at */
    uint64_t by_codes;   /* documents that its codes were compared with */
    uint64_t by_float32; /* documents that went through the float32 scan */
    uint64_t hits;       /* of by_codes, candidates */
    size_t likely;       /* of the candidates since the last pruning, those that should be among the best k */
} query_slot;

/* One query in the space of codes: its score with document j is base + unit / scale_j (Z . Y_j); docs/exactness.md (S). */
typedef struct code_query {
    double base, base_error; /* q . center */
    double unit;             /* 1 / its scale; 0: it cannot be coded */
    double norm, residual;   /* factors of a document's residual and norm in the bound */
    double tail;             /* factor of a document's tail */
    double sum, prefix_sum;  /* of its codes, over all and over the prefix */
} code_query;

/* A query's panel that a prefix, or in a mapped segment the high plane, let through. */
typedef struct refinement {
    uint32_t q, hits;
    size_t panel;
} refinement;

enum { RAGFAST_MAX_REFINEMENTS = 64 }; /* waiting while their panels are fetched */

/* What a document of a group must reach: max_per_group others of it are certainly as good. Without these, where fewer than k
 * documents qualify and so no threshold rises, all would be kept and sorted: of fewer than k groups then, so that with k places
 * those numbered one after the other never overwrite each other's. */
typedef struct group_threshold {
    double lower;
    int32_t group; /* -1: none yet */
} group_threshold;

/* What one worker has to itself. */
typedef struct search_worker {
    query_slot *slots; /* (group,) */
    /* The float32 scan. Queries join `listed` when the codes do not repay them, all at the start where there are none. */
    size_t n_listed;
    uint32_t *listed;    /* (group,) */
    float *scan_queries; /* the listed ones as the kernels want them: (n / TILE, D, TILE), or (n, padded D) */
    float *packed_docs;  /* (block_docs, D) */
    float *wide_docs;    /* (block_docs, D), where documents are of 16 bits or gathered */
    float *block_norms;  /* (block_docs,), where the caller has none or documents are gathered */
    uint32_t *rows;      /* (block_docs,), where the caller says which are allowed */
    /* The scan of codes. */
    uint8_t *is_listed;                        /* (group,) */
    uint8_t *panel_codes;                      /* unpacked */
    uint8_t *refine_codes;                     /* of a panel that is refined */
    ragfast_code_threshold *code_thresholds;   /* (group,), for the scan: of the prefix or of everything */
    ragfast_code_threshold *refine_thresholds; /* (group,), for refining */
    refinement *waiting;                       /* (MAX_REFINEMENTS,) */
    size_t n_waiting;
    int use_prefix;
    uint64_t pairs_scanned, pairs_refined;      /* (panel, query) pairs of this chunk */
    size_t chunks_until_prefix, prefix_backoff; /* before the prefix is tried again, now and the next time */
} search_worker;

typedef struct search {
    const ragfast_kernels *kernels;
    const ragfast_docs *segments;
    size_t n_segments;
    const char *queries;            /* of the group */
    const int32_t *excluded_groups; /* of the group, or NULL */
    size_t n_queries;               /* of the group */
    size_t n_all_queries;
    size_t k;             /* min(K, N of all segments) */
    size_t max_per_group; /* documents of a group, 0: any number */
    int l2, any_mapped;
    size_t page_bytes; /* of memory, if any segment is mapped */
    size_t block_docs; /* that the caches hold */
    size_t n_workers;
    double gamma, underflow;
    int needs_code_buffers, needs_unpacked_buffers, needs_scan_buffers; /* scratch is there for */

    /* Of the segment that is being searched. */
    const ragfast_docs *docs;
    uint32_t segment;
    size_t n_allowed;    /* its documents that take part */
    size_t seen;         /* those of segments before */
    int exact_only;      /* no scan: float64 documents, or too few to repay one */
    int coded;           /* by codes as long as they repay it */
    int unpacked;        /* codes are unpacked; else read from the high plane */
    int refine_all_bits; /* mapped: refine by all eight bits, also what the high plane let through */
    int listed;          /* the float32 scan, or float64, takes rows from a list made of the bitmap */
    size_t chunk_docs;   /* that a worker takes at a time: some blocks */
    size_t n_chunks, chunk_stride;
    size_t n_warmup_rows;          /* rows rescored beforehand, for a threshold to begin with */
    const ragfast_codes *prepared; /* the transform that queries are prepared for, or NULL */

    size_t n_group_thresholds;         /* of a query on a worker: k, but not very few; 0 without max_per_group */
    size_t capacity;                   /* candidates a query may hold on one worker: k and some beyond */
    ragfast_candidate *candidates;     /* (group, workers, capacity) */
    group_threshold *group_thresholds; /* (group, workers, n_group_thresholds) */
    _Atomic double *thresholds;        /* (group,) */
    double *query_norms;               /* (group,) */
    double *query_squares;             /* (group,), by inner_f64, for distances */
    code_query *code_queries;          /* (group,) */
    int8_t *query_codes;               /* (group, padded D) */
    int8_t *interleaved_codes;         /* for tile_high */
    int8_t *packed_codes;              /* for tile_codes */
    float *query_scratch;              /* (2, D) */
    atomic_uchar *codes_disabled; /* (group,): the codes do not repay this query; workers list it at their next chunk */
    search_worker *workers;       /* (n_workers,) */

    double *scores; /* outputs of the group */
    int64_t *doc_ids;
    double *doc_logprobs;
    ragfast_query_stats *stats;
    size_t k_out;
    double temperature;
    atomic_int status;
    ragfast_place corrupt;
    atomic_flag corrupt_is_known;
} search;

static inline double ragfast_threshold_of(const search *s, size_t q) {
    return atomic_load_explicit(&s->thresholds[q], memory_order_relaxed);
}

/* The threshold of what scans look at: of inner products, or of q.x - |x|^2 / 2 where the score is a distance, (L1). */
static inline double ragfast_scan_threshold(const search *s, size_t q) {
    double threshold = ragfast_threshold_of(s, q);
    return s->l2 ? (s->query_squares[q] * (1 - 1e-11) + threshold * (1 + 1e-11)) / 2 : threshold;
}

static inline void ragfast_fail(search *s, ragfast_status status) {
    atomic_store_explicit(&s->status, (int)status, memory_order_relaxed);
}

/* The candidates that a query holds on a worker. */
static inline ragfast_candidate *ragfast_candidates_of(const search *s, size_t q, size_t worker) {
    return s->candidates + (q * s->n_workers + worker) * s->capacity;
}

#endif
