/* Cancellation points. Every loop that does the work says how much it has done; about each RAGFAST_STOP_WORK multiply-adds of a
 * worker, one question whether the search is to stop. The smallest piece between two is one call of a kernel, which is more
 * than that where D is above 2^15.
 *
 * A search that stops leaves its loops at once and returns its status; what it has written by then means nothing. */
#ifndef RAGFAST_STOP_H
#define RAGFAST_STOP_H

#include "search/state.h"

/* What else takes time, in multiply-adds. */
enum {
    RAGFAST_ROW_WORK = 64,         /* to reach a row that lies anywhere */
    RAGFAST_MAPPED_WORK = 1 << 18, /* to read a row from a slower medium, */
    RAGFAST_STREAMED_WORK = 8,     /* and an element of rows side by side */
    RAGFAST_PAIR_WORK = 8,         /* to compare a score with its threshold */
    RAGFAST_ITEM_WORK = 16,        /* of a candidate, to put the best ones first */
    RAGFAST_SORT_STEPS = 1 << 14,  /* of a sort of candidates between two cancellation points, */
    RAGFAST_SORT_WORK = 1 << 24,   /* and what they count for: the whole of RAGFAST_STOP_WORK */
    RAGFAST_HIT_WORK = 64          /* to look at a pair that a kernel let through */
};

/* The cancellation point. Never reached between begin_codes and end_codes; worker 0 is the calling thread. */
static inline int ragfast_search_stopped(search *s, size_t worker) {
    if (ragfast_stopped(s->call, worker) && ragfast_status_of(s) == RAGFAST_OK)
        ragfast_fail(s, RAGFAST_ERROR_CANCELLED);
    return ragfast_status_of(s) != RAGFAST_OK;
}

/* Whether the search has stopped. It does not poll, so that a small search reads no clock. */
static inline int ragfast_search_has_stopped(search *s) {
    if (ragfast_end_call(s->call) != RAGFAST_OK && ragfast_status_of(s) == RAGFAST_OK)
        ragfast_fail(s, RAGFAST_ERROR_CANCELLED);
    return ragfast_status_of(s) != RAGFAST_OK;
}

/* The cancellation point, whether or not the worker is between begin_codes and end_codes. */
int ragfast_search_stopped_in_codes(search *s, size_t worker);

/* Whether the search is to stop, as far as that is known; every so often it asks. */
static inline int ragfast_stopped_after(search *s, size_t worker, size_t work) {
    search_worker *w = &s->workers[worker];
    w->work += work;
    if (w->work < RAGFAST_STOP_WORK) return ragfast_status_of(s) != RAGFAST_OK;
    return ragfast_search_stopped_in_codes(s, worker);
}

/* Sorts, or stops with the items in some order. Inlined by force, so that `before` is. */
static inline __attribute__((always_inline)) void ragfast_heap_sort(search *s, size_t worker, ragfast_candidate *items,
                                                                    size_t n, ragfast_order *before,
                                                                    const void *context) {
    heap_sort sort = {items, n / 2, n};
    for (;;) {
        ragfast_heap_sort_steps(&sort, RAGFAST_SORT_STEPS, before, context);
        if (sort.end <= 1 || ragfast_stopped_after(s, worker, RAGFAST_SORT_WORK)) return;
    }
}

#endif
