/* Merging sorted lists: a heap of the lists by what each has next. An entry costs log(lists), and no more than a look
 * at all of them even where they are two, so there is no second way for few lists. */
#include "core/ranges.h"
#include "core/fpenv.h"
#include "core/kernels.h"
#include "ragfast/search.h"
#include "search/candidate.h"

#include <math.h>
#include <stdlib.h>

/* What a list has next, and where it stands. */
typedef struct head {
    ragfast_candidate entry;
    size_t next, end; /* in the inputs */
} head;

typedef struct merge {
    const double *scores;
    const int64_t *ids;
    head *heap;    /* (lists,) the best one first */
    int64_t *seen; /* ids of this query that are in the output, by hash; -1 where there is none */
    size_t n_lists, n_seen;
    unsigned hash_shift;
} merge;

static ragfast_candidate entry_of(double score, int64_t id) {
    return (ragfast_candidate){.lower = score, .upper = score, .id = id, .exact = 1};
}

/* Best first, then ids of -1 alone; a NaN has no place in any order. */
static int is_sorted(const double *scores, const int64_t *ids, size_t n) {
    size_t i = 0;
    for (ragfast_candidate last = {0}; i < n && ids[i] >= 0; i++) {
        ragfast_candidate entry = entry_of(scores[i], ids[i]);
        if (isnan(scores[i]) || (i > 0 && ragfast_before(&entry, &last))) return 0;
        last = entry;
    }
    for (; i < n; i++)
        if (ids[i] != -1) return 0;
    return 1;
}

/* Puts x where it belongs at or below `parent`. */
static void sift_down(merge *m, size_t parent, head x) {
    for (size_t child; (child = 2 * parent + 1) < m->n_lists; parent = child) {
        if (child + 1 < m->n_lists && ragfast_before(&m->heap[child + 1].entry, &m->heap[child].entry)) child++;
        if (!ragfast_before(&m->heap[child].entry, &x.entry)) break;
        m->heap[parent] = m->heap[child];
    }
    m->heap[parent] = x;
}

/* The best list goes on to its next entry, or away. */
static void advance(merge *m) {
    head x = m->heap[0];
    if (x.next == x.end || m->ids[x.next] < 0) {
        if (--m->n_lists == 0) return;
        x = m->heap[m->n_lists];
    } else {
        x.entry = entry_of(m->scores[x.next], m->ids[x.next]);
        x.next++;
    }
    sift_down(m, 0, x);
}

/* Whether the id is new, which it then is no longer. The same id need not follow itself: another list may have it at a
 * lower score. */
static int is_new(merge *m, int64_t id) {
    size_t at = (size_t)((uint64_t)id * 0x9e3779b97f4a7c15u >> m->hash_shift);
    for (; m->seen[at] >= 0; at = (at + 1) % m->n_seen)
        if (m->seen[at] == id) return 0;
    m->seen[at] = id;
    return 1;
}

static void merge_query(merge *m, double *scores, int64_t *ids, size_t k) {
    for (size_t i = 0; i < m->n_seen; i++) m->seen[i] = -1;
    for (size_t i = m->n_lists / 2; i-- > 0;) sift_down(m, i, m->heap[i]);
    size_t n = 0;
    for (; n < k && m->n_lists > 0; advance(m)) {
        const ragfast_candidate *best = &m->heap[0].entry;
        if (!is_new(m, best->id)) continue;
        scores[n] = best->lower;
        ids[n++] = best->id;
    }
    for (; n < k; n++) {
        scores[n] = -INFINITY;
        ids[n] = -1;
    }
}

ragfast_status ragfast_merge_topk(double *scores, int64_t *ids, const double *in_scores, const int64_t *in_ids,
                                  size_t n_lists, size_t n_queries, size_t n_in, size_t k) {
    size_t most = SIZE_MAX / 256,
           n_entries = ragfast_product(n_lists, n_in); /* most: of anything that is counted here */
    if (n_lists > most || k > most || n_entries > most || ragfast_product(n_entries, n_queries) > most ||
        ragfast_product(k, n_queries) > most)
        return RAGFAST_ERROR_ARGUMENT;
    if (n_queries == 0) return RAGFAST_OK;
    size_t n_out = ragfast_min(k, n_entries);
    unsigned bits = 1;
    while (((size_t)1 << bits) < 2 * n_out + 2) bits++; /* at most half full */
    merge m = {.scores = in_scores, .ids = in_ids, .n_seen = (size_t)1 << bits, .hash_shift = 64 - bits};
    char *block = malloc(n_lists * sizeof *m.heap + m.n_seen * sizeof *m.seen);
    if (!block) return RAGFAST_ERROR_MEMORY;
    m.heap = (head *)block;
    m.seen = (int64_t *)(block + n_lists * sizeof *m.heap);

    ragfast_fp_state caller_fp = ragfast_fp_enter(); /* comparisons too take denormals for 0 where they are flushed */
    ragfast_status status = RAGFAST_OK;
    for (size_t q = 0; q < n_queries && status == RAGFAST_OK; q++) {
        m.n_lists = 0;
        for (size_t list = 0; list < n_lists; list++) {
            size_t first = (list * n_queries + q) * n_in;
            if (n_in == 0) break;
            if (!is_sorted(in_scores + first, in_ids + first, n_in)) status = RAGFAST_ERROR_ARGUMENT;
            if (in_ids[first] >= 0)
                m.heap[m.n_lists++] = (head){entry_of(in_scores[first], in_ids[first]), first + 1, first + n_in};
        }
        if (status == RAGFAST_OK && k > 0) merge_query(&m, scores + q * k, ids + q * k, k);
    }
    ragfast_fp_leave(caller_fp);
    free(block);
    return status;
}
