/* What a search remembers of a document, and the order of results. The tie rule lives here and nowhere else. */
#ifndef RAGFAST_CANDIDATE_H
#define RAGFAST_CANDIDATE_H

#include <stddef.h>
#include <stdint.h>

typedef struct ragfast_candidate {
    double lower, upper; /* the float64 score lies between them; both are the score once `exact` */
    int64_t id;
    uint32_t row;
    uint32_t segment : 31, exact : 1;
} ragfast_candidate;

/* What a document of a group must reach: max_per_group others of it are certainly as good. Without these, where fewer than k
 * documents qualify and so no threshold rises, all would be kept and sorted: of fewer than k groups then, so that with k places
 * those numbered one after the other never overwrite each other's. */
typedef struct group_threshold {
    double lower;
    int32_t group; /* -1: none yet */
} group_threshold;

/* (score descending, id ascending). Among inexact candidates it orders lower bounds, where ties mean nothing. Ids are
 * distinct, so no two candidates are equal: selection cannot degenerate on constant scores. */
static inline int ragfast_before(const ragfast_candidate *a, const ragfast_candidate *b) {
    return a->lower > b->lower || (a->lower == b->lower && a->id < b->id);
}

static inline void ragfast_swap(ragfast_candidate *a, ragfast_candidate *b) {
    ragfast_candidate t = *a;
    *a = *b;
    *b = t;
}

typedef int ragfast_order(const void *context, const ragfast_candidate *a, const ragfast_candidate *b);

/* A heap sort, in place, without recursion or bad input, that can be left between any two steps: it begins with start n / 2 and
 * end n, and is done where end is at most 1. */
typedef struct heap_sort {
    ragfast_candidate *items;
    size_t start, end;
} heap_sort;

/* At most n_steps of it. Inlined by force, so that `before` is. */
static inline __attribute__((always_inline)) void ragfast_heap_sort_steps(heap_sort *sort, size_t n_steps,
                                                                          ragfast_order *before, const void *context) {
    ragfast_candidate *items = sort->items;
    size_t start = sort->start, end = sort->end;
    for (; end > 1 && n_steps > 0; n_steps--) {
        if (start > 0)
            start--;
        else
            ragfast_swap(&items[--end], &items[0]);
        for (size_t parent = start, child; (child = 2 * parent + 1) < end; parent = child) {
            if (child + 1 < end && before(context, &items[child], &items[child + 1])) child++;
            if (!before(context, &items[parent], &items[child])) break;
            ragfast_swap(&items[parent], &items[child]);
        }
    }
    sort->start = start;
    sort->end = end;
}

#endif
