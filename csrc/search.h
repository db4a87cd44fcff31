/* What the parts of a search share: search.c (driver, candidates, results), scan_float32.c and scan_codes.c (the two ways
 * of finding candidates). */
#ifndef RAGFAST_SEARCH_H
#define RAGFAST_SEARCH_H

#include "candidates.h"
#include "internal.h"

#include <stdatomic.h>

/* One query on one worker. */
typedef struct query_slot {
    size_t count;      /* candidates held */
    uint64_t rescored; /* float64 scores calculated */
    uint64_t by_codes; /* documents that its codes were compared with */
    uint64_t hits;     /* of these, candidates */
    size_t likely;     /* of the candidates since the last settling, those that should be among the best k */
} query_slot;

/* One query in the space of codes: its score with document j is base + unit / scale_j (Z . Y_j); docs/exactness.md (S). */
typedef struct code_query {
    double base, base_error; /* q . center */
    double unit;             /* 1 / its scale; 0: it cannot be coded */
    double norm, residual;   /* factors of a document's residual and norm in the bound */
    double tail;             /* factor of a document's tail */
    double sum, prefix_sum;  /* of its codes, over all and over the prefix */
} code_query;

/* A query's panel that a prefix let through. */
typedef struct second_look {
    uint32_t q, hits;
    size_t panel;
} second_look;

enum { RAGFAST_SECOND_LOOKS = 64 }; /* waiting while their panels are fetched */

/* What one worker has to itself. */
typedef struct search_worker {
    query_slot *slots; /* (group,) */
    /* The float32 scan. Queries join `listed` when the codes do not repay them, all at the start where there are none. */
    size_t n_listed;
    uint32_t *listed;    /* (group,) */
    float *scan_queries; /* the listed ones as the kernels want them: (n / TILE, D, TILE), or (n, padded D) */
    float *packed_docs;  /* (block_docs, D) */
    float *wide_docs;    /* (block_docs, D), where documents are of 16 bits */
    float *block_norms;  /* (block_docs,), where the caller has none */
    /* The scan of codes. */
    uint8_t *is_listed;                 /* (group,) */
    uint8_t *panel_codes;               /* unpacked */
    ragfast_code_threshold *thresholds; /* (group,), of the first look: the prefix or everything */
    ragfast_code_threshold
        *whole_thresholds; /* (group,), of the second look, the high plane; without a prefix unused */
    second_look *waiting;  /* (SECOND_LOOKS,) */
    size_t n_waiting;
    int use_prefix;
    uint64_t looks, second_looks;    /* (panel, query) pairs of this chunk */
    size_t chunks_without, patience; /* before the prefix is tried again, now and the next time */
} search_worker;

typedef struct search {
    const ragfast_kernels *kernels;
    const ragfast_docs *docs;
    const char *queries; /* of the group */
    size_t n_queries;    /* of the group */
    size_t k;            /* min(K, N) */
    int exact_only;      /* no scan: float64 documents, or too few to repay one */
    int coded;           /* by codes as long as they repay it */
    int many;            /* codes are unpacked; else read from the high plane */
    size_t block_docs;   /* that the caches hold */
    size_t chunk_docs;   /* that a worker takes at a time: some blocks */
    size_t n_chunks, chunk_step;
    size_t n_seeds; /* documents rescored beforehand, for a floor to begin with */
    size_t n_workers;
    double gamma, underflow;

    size_t capacity;               /* candidates a query may hold on one worker: k and room beyond */
    ragfast_candidate *candidates; /* (group, workers, capacity) */
    _Atomic double *floors;        /* (group,) */
    double *query_norms;           /* (group,) */
    code_query *code_queries;      /* (group,) */
    int8_t *query_codes;           /* (group, padded D) */
    int8_t *interleaved_codes;     /* for tile_high */
    int8_t *packed_codes;          /* for tile_codes */
    float *query_scratch;          /* (2, D) */
    atomic_uchar *given_up; /* (group,): the codes do not repay this query; workers list it at their next chunk */
    search_worker *workers; /* (n_workers,) */

    double *scores; /* outputs of the group */
    int64_t *doc_ids;
    double *doc_logprobs;
    ragfast_query_stats *stats;
    size_t k_out;
    double temperature;
    atomic_int status;
} search;

static inline int64_t ragfast_id_of(const search *s, size_t row) {
    return s->docs->ids ? s->docs->ids[row] : (int64_t)row;
}

static inline double ragfast_floor_of(const search *s, size_t q) {
    return atomic_load_explicit(&s->floors[q], memory_order_relaxed);
}

/* search.c: keeps the candidate, settling the query's reservoir when it is full. */
void ragfast_add_candidate(search *s, size_t q, size_t worker, ragfast_candidate candidate);
void ragfast_settle(search *s, size_t q, size_t worker);

/* scan_float32.c: documents first <= i < first + n_docs against the listed queries; n_next after them will be asked for by
 * the same worker, if anything is. After a change to the list it is to be laid out. */
size_t ragfast_scan_queries_size(const search *s, size_t n_queries);
void ragfast_lay_out_listed(const search *s, search_worker *w);
void ragfast_scan_float32(search *s, size_t first, size_t n_docs, size_t n_next, size_t worker);

/* scan_codes.c: once a group, then documents first <= i < end, where first need not begin a panel. Packed codes of queries,
 * in either form, take query_code_bytes. */
size_t ragfast_query_code_bytes(const search *s, size_t n_queries, size_t tile);
void ragfast_prepare_codes(search *s);
void ragfast_scan_codes(search *s, size_t first, size_t end, size_t worker);

#endif
