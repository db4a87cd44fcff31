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

/* Best first. A heap sort: in place, no recursion, no bad input. */
static inline void ragfast_sort_best(ragfast_candidate *items, size_t n) {
    for (size_t end = n, start = n / 2; end > 1;) {
        if (start > 0)
            start--;
        else
            ragfast_swap(&items[--end], &items[0]);
        for (size_t parent = start, child; (child = 2 * parent + 1) < end; parent = child) {
            if (child + 1 < end && ragfast_before(&items[child], &items[child + 1])) child++;
            if (!ragfast_before(&items[parent], &items[child])) break;
            ragfast_swap(&items[parent], &items[child]);
        }
    }
}

/* Puts the k best of n first, the k-th of them at k-1, the others in no order. 1 <= k <= n. Quickselect by the median
 * of three; an input on which that goes badly is sorted instead, so the cost is at most n log n. */
static inline void ragfast_select_best(ragfast_candidate *items, size_t n, size_t k) {
    size_t first = 0, last = n - 1, rounds_left = 4;
    for (size_t m = n; m > 1; m /= 2) rounds_left += 2;
    while (first < last) {
        if (rounds_left-- == 0) {
            ragfast_sort_best(items + first, last - first + 1);
            return;
        }
        size_t middle = first + (last - first) / 2;
        if (ragfast_before(&items[middle], &items[first])) ragfast_swap(&items[middle], &items[first]);
        if (ragfast_before(&items[last], &items[first])) ragfast_swap(&items[last], &items[first]);
        if (ragfast_before(&items[last], &items[middle])) ragfast_swap(&items[last], &items[middle]);
        ragfast_candidate pivot = items[middle];
        size_t i = first, j = last;
        for (;;) {
            while (ragfast_before(&items[i], &pivot)) i++;
            while (ragfast_before(&pivot, &items[j])) j--;
            if (i >= j) break;
            ragfast_swap(&items[i++], &items[j--]);
        }
        if (k - 1 <= j)
            last = j;
        else
            first = j + 1;
    }
}

#endif
