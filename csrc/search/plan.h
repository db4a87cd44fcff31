/* The plan of a search: every rule of cost and every threshold, decided once a call and once a segment, before a document is
 * looked at. Pure functions of the arguments and of the level make it; after that it is constant, and both the scratch
 * block and the search follow from it. */
#ifndef RAGFAST_PLAN_H
#define RAGFAST_PLAN_H

#include "core/kernels.h"
#include "core/pool.h"
#include "search/arguments.h"

/* BLOCK_BYTES: documents of a block. It, its packed copy and the next block share a 1 MB cache. MAX_BLOCK_PANELS: of documents of
 * one element. STOP_WORK: multiply-adds between two cancellation points (stop.h), 10 ms of scalar kernels. */
enum {
    RAGFAST_BLOCK_BYTES = 256 << 10,
    RAGFAST_MAX_BLOCK_PANELS = RAGFAST_BLOCK_BYTES / sizeof(float) / RAGFAST_PANEL_DOCS,
    RAGFAST_STOP_WORK = 1 << 24
};

/* How the rows of a segment are looked at; those by codes come last. */
typedef enum segment_scan {
    RAGFAST_BY_SCORES,        /* no scan: all rows are scored in float64 */
    RAGFAST_BY_FLOAT32,       /* scan_f32.c */
    RAGFAST_BY_PACKED_CODES,  /* scan_i8.c, from the high plane */
    RAGFAST_BY_UNPACKED_CODES /* scan_i8.c, panel by panel */
} segment_scan;

typedef struct segment_plan {
    const ragfast_docs *docs;
    uint32_t number;
    size_t n_allowed; /* documents that take part */
    segment_scan scan;
    int lists_rows; /* rows come from a list made of the bitmap; else by panels, of which codes and vectors are read whole */
    size_t chunk_docs; /* that a worker takes at a time: some blocks */
    size_t n_chunks, chunk_stride;

    /* Of a scan by codes. A query for which the codes keep too many candidates falls back to float32 at the worker's next chunk. */
    int new_transform;    /* queries must be coded: the transform is not that of the coded segment before */
    int refines_all_bits; /* what the high plane let through is refined by all eight bits */
    int tries_prefix;
    size_t prefix_groups;         /* that the prefix has */
    double prefix_part;           /* of the elements */
    double refine_cost;           /* of a (panel, query) pair, where all elements of it in the scan cost 1 */
    size_t block_panels;          /* that all queries meet before the next ones, from the high plane */
    size_t n_warmup_rows;         /* rows scored beforehand, if no threshold is known yet */
    size_t n_warmup_allowed;      /* of them, documents that take part */
    double hits_always;           /* hits of a query on a worker that are never too many, */
    double hits_least, hits_part; /* and beyond them as many, or this part of the documents compared */
} segment_plan;

typedef struct search_plan {
    /* As asked. */
    const ragfast_kernels *kernels;
    const ragfast_docs *docs; /* (n_segments,) */
    size_t n_segments, n_queries;
    size_t dim;
    ragfast_dtype dtype;
    int l2, cosine;
    size_t query_bytes;   /* of one */
    size_t k;             /* min(K, N of all segments) */
    size_t max_per_group; /* documents of a group, 0: any number */

    /* Decided for the call. */
    double gamma, underflow; /* (F) */
    int any_mapped;
    size_t page_bytes; /* of memory, if any segment is mapped */
    size_t block_docs; /* that the caches hold */
    size_t n_workers;
    size_t capacity;           /* candidates a query may hold on one worker: k and some beyond */
    size_t n_group_thresholds; /* of a query on a worker: k, but not very few; 0 without max_per_group */
    size_t pass_queries;       /* that one pass over the documents serves; the last pass may have fewer */
    size_t pack_min_queries;   /* of the float32 scan: from here it packs */

    /* Buffers that some segment needs. */
    int needs_scan;     /* float32, also where codes may fall back to it */
    int needs_wide;     /* rows copied as float32 */
    int needs_norms;    /* of a block */
    int needs_rows;     /* listed */
    int needs_codes;    /* of queries */
    int needs_unpacked; /* a panel */
    int needs_refined;  /* a panel that is refined by all bits */

    const segment_plan *segments; /* (n_segments,) */
} search_plan;

/* Arguments in range, with at least one query. segments: room for the plans of all segments, which the plan points to. */
void ragfast_plan_search(search_plan *plan, segment_plan *segments, const search_arguments *arguments,
                         const ragfast_call *call);

static inline int ragfast_is_coded(const segment_plan *segment) { return segment->scan >= RAGFAST_BY_PACKED_CODES; }

#endif
