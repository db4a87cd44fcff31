#include "search/topk.h"

#include "search/groups.h"
#include "search/rescore.h"
#include "search/stop.h"

#include <math.h>
#include <string.h>

static int is_before(const void *unused, const ragfast_candidate *a, const ragfast_candidate *b) {
    (void)unused;
    return ragfast_before(a, b);
}

void ragfast_sort_best(search *s, size_t worker, ragfast_candidate *items, size_t n) {
    ragfast_heap_sort(s, worker, items, n, is_before, NULL);
}

/* Puts the k best of n first, the k-th of them at k-1, the others in no order. 1 <= k <= n. Quickselect by the median
 * of three; an input on which that goes badly is sorted instead, so the cost is at most n log n. If the search stops, in any
 * order. */
static void select_best(search *s, size_t worker, ragfast_candidate *items, size_t n, size_t k) {
    size_t first = 0, last = n - 1, rounds_left = 4;
    for (size_t m = n; m > 1; m /= 2) rounds_left += 2;
    while (first < last) {
        if (ragfast_stopped_after(s, worker, (last - first) * RAGFAST_ITEM_WORK)) return;
        if (rounds_left-- == 0) {
            ragfast_sort_best(s, worker, items + first, last - first + 1);
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

static void raise_threshold(search *s, size_t q, double threshold) {
    double seen = ragfast_threshold_of(s, q);
    while (threshold > seen && !atomic_compare_exchange_weak_explicit(&s->shared.thresholds[q], &seen, threshold,
                                                                      memory_order_relaxed, memory_order_relaxed)) {
    }
}

/* ---- candidate buffers -------------------------------------------------------------------------------------------------- */

/* Puts the best feasible ones first, where there are k or more the k-th at k - 1. Returns how many, at most k. */
static size_t put_best_first(search *s, size_t q, size_t worker, ragfast_candidate *items, size_t *n) {
    size_t n_best = s->plan->max_per_group ? ragfast_put_feasible_first(s, q, worker, items, n) : *n;
    if (n_best < s->plan->k) return n_best;
    select_best(s, worker, items, n_best, s->plan->k);
    return s->plan->k;
}

/* Drops what cannot be among the results, raising the threshold by what is there. Returns how many stay. */
static size_t drop_below_threshold(search *s, size_t q, size_t worker, ragfast_candidate *items, size_t n) {
    if (n < s->plan->k) return n;
    if (put_best_first(s, q, worker, items, &n) == s->plan->k) raise_threshold(s, q, items[s->plan->k - 1].lower);
    double threshold = ragfast_threshold_of(s, q);
    size_t n_left = 0;
    for (size_t i = 0; i < n; i++)
        if (items[i].upper >= threshold) items[n_left++] = items[i];
    return n_left;
}

/* Scores those that should be above the threshold: it rises to where it belongs, and most of the others go without being read. */
static size_t drop_by_likely(search *s, size_t q, size_t worker, query_slot *slot, ragfast_candidate *items, size_t n) {
    double threshold = ragfast_threshold_of(s, q);
    size_t n_likely = 0;
    for (size_t i = 0; i < n; i++)
        if (!items[i].exact && items[i].lower / 2 + items[i].upper / 2 >= threshold)
            ragfast_swap(&items[i], &items[n_likely++]);
    ragfast_rescore(s, q, worker, slot, items, n_likely);
    return drop_below_threshold(s, q, worker, items, n);
}

void ragfast_raise_threshold(search *s, size_t q, size_t worker) {
    query_slot *slot = &s->workers[worker].slots[q];
    slot->count = drop_below_threshold(s, q, worker, slot->candidates, slot->count);
}

/* Makes room in a candidate buffer, by the cheapest means that does: by the bounds alone; by float64 scores of the likeliest; and
 * where bounds cannot tell enough candidates apart (near-duplicates, huge norms) by scores of all, of which k are enough. */
void ragfast_prune(search *s, size_t q, size_t worker) {
    query_slot *slot = &s->workers[worker].slots[q];
    ragfast_candidate *items = slot->candidates;
    size_t extra = s->plan->capacity - s->plan->k;
    slot->likely = 0;
    slot->count = drop_below_threshold(s, q, worker, items, slot->count);
    if (slot->count > s->plan->k + extra / 2) slot->count = drop_by_likely(s, q, worker, slot, items, slot->count);
    if (slot->count <= s->plan->k + extra / 4 * 3) return;
    ragfast_rescore(s, q, worker, slot, items, slot->count);
    slot->count = put_best_first(s, q, worker, items, &slot->count);
    if (slot->count == s->plan->k) raise_threshold(s, q, items[s->plan->k - 1].lower);
}

/* Inlined by force: every hit of a scan comes here. */
static inline __attribute__((always_inline)) void add(search *s, size_t q, size_t worker, size_t row, double lower,
                                                      double upper, int exact) {
    query_slot *slot = &s->workers[worker].slots[q];
    const segment_plan *segment = s->segment;
    slot->candidates[slot->count++] = (ragfast_candidate){
        lower, upper, ragfast_id_of(segment->docs, row), (uint32_t)row, segment->number & INT32_MAX, exact != 0};
    if (slot->count == s->plan->capacity) ragfast_prune(s, q, worker);
}

void ragfast_add(search *s, size_t q, size_t worker, size_t row, double lower, double upper, int exact) {
    add(s, q, worker, row, lower, upper, exact);
}

ragfast_outcome ragfast_offer(search *s, size_t q, size_t worker, size_t row, double middle, double error) {
    if (s->plan->l2) { /* (L3), (L2) */
        double half = s->segment->docs->half_squares[row], square = s->queries.squares[q];
        middle = 2 * (middle - half) - square;
        error = 2 * (error + 1e-11 * half) * (1 + 1e-10) + 1e-11 * (square + fabs(middle));
    }
    if (!isfinite(error)) middle = 0, error = INFINITY; /* nothing is known of it */
    double threshold = ragfast_threshold_of(s, q);
    if (middle + error < threshold || ragfast_is_excluded(s, q, row) ||
        ragfast_is_below_group(s, q, worker, row, middle + error))
        return RAGFAST_DROPPED;
    add(s, q, worker, row, middle - error, middle + error, 0);
    return middle >= threshold ? RAGFAST_LIKELY : RAGFAST_BUFFERED;
}

size_t ragfast_take_best(search *s, size_t q, size_t worker, query_slot *total) {
    ragfast_candidate *items = s->workers[0].slots[q].candidates;
    *total = (query_slot){0};
    for (size_t w = 0; w < s->plan->n_workers; w++) {
        const query_slot *slot = &s->workers[w].slots[q];
        memmove(items + total->count, slot->candidates, slot->count * sizeof *items);
        total->count += slot->count;
        total->rescored += slot->rescored;
        total->by_codes += slot->by_codes;
        total->by_float32 += slot->by_float32;
    }
    size_t n = drop_below_threshold(s, q, worker, items, total->count);
    n = drop_by_likely(s, q, worker, total, items, n);
    ragfast_rescore(s, q, worker, total, items, n);
    if (ragfast_stopped_after(s, worker, 0)) return 0;
    size_t n_best = put_best_first(s, q, worker, items, &n);
    ragfast_sort_best(s, worker, items, n_best);
    return n_best;
}
