/* What a search remembers: a candidate buffer of candidates for each query on each worker, thresholds, and the order of results.
 *
 * With at most n documents of a group, a set of documents is feasible if it has no more of any group. The results are then the
 * greedy choice: by (score, id), leaving out whatever n better ones of its group come before. Feasible sets are the
 * independent sets of a partition matroid, so
 *   - the k-th of *any* k feasible documents by their lower bounds is a threshold: greedy's k-th is the greatest there is;
 *   - a document goes for good when n others of its group are certainly before it, or k feasible ones: greedy never takes it,
 *     and what greedy takes instead is not changed by its absence. */
#include "core/elements.h"
#include "core/platform.h"
#include "search/state.h"

#include <math.h>
#include <string.h>

/* MAX_FETCHED: bytes of a row up to which a batch is worked on while another comes, both in the second-level cache; longer ones the
 * hardware foresees. */
enum { BATCH = RAGFAST_SCORED_ROWS, MAX_FETCHED = 16 << 10 };

static void raise_threshold(search *s, size_t q, double threshold) {
    double seen = ragfast_threshold_of(s, q);
    while (threshold > seen && !atomic_compare_exchange_weak_explicit(&s->thresholds[q], &seen, threshold,
                                                                      memory_order_relaxed, memory_order_relaxed)) {
    }
}

void ragfast_fail(search *s, ragfast_status status) {
    atomic_store_explicit(&s->status, (int)status, memory_order_relaxed);
}

/* ---- float64 scores ---------------------------------------------------------------------------------------------- */

static const void *row_at(const ragfast_docs *docs, size_t row) {
    return (const char *)docs->vectors + row * docs->dim * ragfast_element_size(docs->dtype);
}

int ragfast_row_checksum_ok(search *s, size_t segment, size_t row) {
    const ragfast_docs *docs = &s->segments[segment];
    if (!docs->row_sums) return 1;
    size_t bytes = docs->dim * ragfast_element_size(docs->dtype);
    if ((uint32_t)ragfast_checksum(row_at(docs, row), bytes) == docs->row_sums[row]) return 1;
    if (!atomic_flag_test_and_set(&s->corrupt_is_known)) s->corrupt = (ragfast_place){segment, row};
    ragfast_fail(s, RAGFAST_ERROR_CORRUPT_DOC);
    return 0;
}

/* Of query q with rows of any segments, out (n,); those that come next are fetched meanwhile. */
static void score_vectors(search *s, size_t q, double *out, const void *const *vectors, size_t n,
                          const void *const *ahead, size_t n_ahead) {
    ragfast_dtype dtype = s->segments->dtype; /* of all segments, as dim is */
    size_t dim = s->segments->dim, query_bytes = dim * (dtype == RAGFAST_F64 ? sizeof(double) : sizeof(float));
    if (dim * ragfast_element_size(dtype) > MAX_FETCHED) n_ahead = 0;
    s->kernels->score_rows(out, s->queries + q * query_bytes, vectors, n, ahead, n_ahead, dim, dtype, s->l2);
    for (size_t i = 0; i < n && dtype == RAGFAST_F64; i++)
        if (!isfinite(out[i])) ragfast_fail(s, RAGFAST_ERROR_OVERFLOW);
}

void ragfast_ask_for_row(const search *s, const ragfast_docs *docs, size_t row) {
    ragfast_prefetch_pages(row_at(docs, row), docs->dim * ragfast_element_size(docs->dtype), s->page_bytes);
}

/* The next candidates from *from on that have no score yet, up to as many as are scored at a time. */
static size_t list_unscored(const search *s, ragfast_candidate **listed, const void **vectors, ragfast_candidate *items,
                            size_t *from, size_t n) {
    size_t n_listed = 0;
    for (; *from < n && n_listed < BATCH; ++*from) {
        if (items[*from].exact) continue;
        listed[n_listed] = &items[*from];
        vectors[n_listed++] = row_at(&s->segments[items[*from].segment], items[*from].row);
    }
    return n_listed;
}

static void rescore(search *s, size_t q, query_slot *slot, ragfast_candidate *items, size_t n) {
    for (size_t i = 0; i < n && s->any_mapped;
         i++) /* all at once: the medium sees a queue, not one row after the other */
        if (!items[i].exact && s->segments[items[i].segment].mapped)
            ragfast_ask_for_row(s, &s->segments[items[i].segment], items[i].row);
    ragfast_candidate *listed[2][BATCH];
    const void *vectors[2][BATCH];
    size_t from = 0, now = 0, count[2] = {list_unscored(s, listed[0], vectors[0], items, &from, n)};
    for (; count[now] > 0; now = !now) {
        double scores[BATCH];
        count[!now] = list_unscored(s, listed[!now], vectors[!now], items, &from, n);
        score_vectors(s, q, scores, vectors[now], count[now], vectors[!now], count[!now]);
        for (size_t i = 0; i < count[now]; i++) {
            ragfast_candidate *item = listed[now][i];
            item->lower = item->upper = ragfast_row_checksum_ok(s, item->segment, item->row) ? scores[i] : -INFINITY;
            item->exact = 1;
        }
        slot->rescored += count[now];
    }
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

static int32_t group_of(const search *s, const ragfast_candidate *c) {
    const int32_t *groups = s->segments[c->segment].groups;
    return groups ? groups[c->row] : -1;
}

/* Order of (group, then as results): a group's best n stand side by side. A heap sort, like ragfast_sort_best. */
static int before_by_group(const search *s, const ragfast_candidate *a, const ragfast_candidate *b) {
    int32_t group_a = group_of(s, a), group_b = group_of(s, b);
    return group_a != group_b ? group_a < group_b : ragfast_before(a, b);
}

static void sort_by_group(const search *s, ragfast_candidate *items, size_t n) {
    for (size_t end = n, start = n / 2; end > 1;) {
        if (start > 0)
            start--;
        else
            ragfast_swap(&items[--end], &items[0]);
        for (size_t parent = start, child; (child = 2 * parent + 1) < end; parent = child) {
            if (child + 1 < end && before_by_group(s, &items[child], &items[child + 1])) child++;
            if (!before_by_group(s, &items[parent], &items[child])) break;
            ragfast_swap(&items[parent], &items[child]);
        }
    }
}

static group_threshold *group_threshold_of(const search *s, size_t q, size_t worker, int32_t group) {
    return s->group_thresholds + (q * s->n_workers + worker) * s->n_group_thresholds +
           (size_t)group % s->n_group_thresholds;
}

/* Whether max_per_group others of its group are certainly before a row, as far as this worker remembers. */
static int is_below_group(const search *s, size_t q, size_t worker, size_t row, double upper) {
    if (!s->max_per_group || !s->docs->groups || s->docs->groups[row] < 0) return 0;
    const group_threshold *threshold = group_threshold_of(s, q, worker, s->docs->groups[row]);
    return threshold->group == s->docs->groups[row] && upper < threshold->lower;
}

/* Puts the best max_per_group of each group, by lower bounds, first and drops what max_per_group others of its group are certainly before.
 * An exact one behind them is: their lower bounds, and at a tie their ids, are before its score. Returns how many are first;
 * *n becomes how many are left. */
static size_t put_feasible_first(const search *s, size_t q, size_t worker, ragfast_candidate *items, size_t *n) {
    sort_by_group(s, items, *n);
    size_t n_feasible = 0, n_left = 0, in_group = 0;
    int32_t before = -1;
    double last_lower = 0; /* of the max_per_group-th of the group */
    for (size_t i = 0; i < *n; i++) {
        int32_t group = group_of(s, &items[i]);
        in_group = group < 0 || group != before ? 1 : in_group + 1;
        before = group;
        if (in_group == s->max_per_group) {
            last_lower = items[i].lower;
            if (group >= 0) *group_threshold_of(s, q, worker, group) = (group_threshold){last_lower, group};
        }
        if (in_group > s->max_per_group && (items[i].exact || items[i].upper < last_lower)) continue;
        items[n_left++] = items[i];
        if (in_group <= s->max_per_group) ragfast_swap(&items[n_left - 1], &items[n_feasible++]);
    }
    *n = n_left;
    return n_feasible;
}

/* ---- candidate buffers -------------------------------------------------------------------------------------------------- */

/* Puts the best feasible ones first, where there are k or more the k-th at k - 1. Returns how many, at most k. */
static size_t put_best_first(const search *s, size_t q, size_t worker, ragfast_candidate *items, size_t *n) {
    size_t n_best = s->max_per_group ? put_feasible_first(s, q, worker, items, n) : *n;
    if (n_best < s->k) return n_best;
    ragfast_select_best(items, n_best, s->k);
    return s->k;
}

/* Drops what cannot be among the results, raising the threshold by what is there. Returns how many stay. */
static size_t drop_below_threshold(search *s, size_t q, size_t worker, ragfast_candidate *items, size_t n) {
    if (n < s->k) return n;
    if (put_best_first(s, q, worker, items, &n) == s->k) raise_threshold(s, q, items[s->k - 1].lower);
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
    rescore(s, q, slot, items, n_likely);
    return drop_below_threshold(s, q, worker, items, n);
}

static ragfast_candidate *items_of(const search *s, size_t q, size_t worker) {
    return s->candidates + (q * s->n_workers + worker) * s->capacity;
}

void ragfast_raise_threshold(search *s, size_t q, size_t worker) {
    query_slot *slot = &s->workers[worker].slots[q];
    slot->count = drop_below_threshold(s, q, worker, items_of(s, q, worker), slot->count);
}

/* Makes room in a candidate buffer, by the cheapest means that does: by the bounds alone; by float64 scores of the likeliest; and
 * where bounds cannot tell enough candidates apart (near-duplicates, huge norms) by scores of all, of which k are enough. */
void ragfast_prune(search *s, size_t q, size_t worker) {
    query_slot *slot = &s->workers[worker].slots[q];
    ragfast_candidate *items = items_of(s, q, worker);
    size_t extra = s->capacity - s->k;
    slot->likely = 0;
    slot->count = drop_below_threshold(s, q, worker, items, slot->count);
    if (slot->count > s->k + extra / 2) slot->count = drop_by_likely(s, q, worker, slot, items, slot->count);
    if (slot->count <= s->k + extra / 4 * 3) return;
    rescore(s, q, slot, items, slot->count);
    slot->count = put_best_first(s, q, worker, items, &slot->count);
    if (slot->count == s->k) raise_threshold(s, q, items[s->k - 1].lower);
}

static void add(search *s, size_t q, size_t worker, ragfast_candidate candidate) {
    query_slot *slot = &s->workers[worker].slots[q];
    items_of(s, q, worker)[slot->count++] = candidate;
    if (slot->count == s->capacity) ragfast_prune(s, q, worker);
}

static int is_excluded(const search *s, size_t q, size_t row) {
    return s->excluded_groups && s->excluded_groups[q] >= 0 && s->docs->groups &&
           s->docs->groups[row] == s->excluded_groups[q];
}

ragfast_outcome ragfast_offer(search *s, size_t q, size_t worker, size_t row, double middle, double error) {
    if (s->l2) { /* (L3), (L2) */
        double half = s->docs->half_squares[row], square = s->query_squares[q];
        middle = 2 * (middle - half) - square;
        error = 2 * (error + 1e-11 * half) * (1 + 1e-10) + 1e-11 * (square + fabs(middle));
    }
    if (!isfinite(error)) middle = 0, error = INFINITY; /* nothing is known of it */
    double threshold = ragfast_threshold_of(s, q);
    if (middle + error < threshold || is_excluded(s, q, row) || is_below_group(s, q, worker, row, middle + error))
        return RAGFAST_DROPPED;
    add(s, q, worker,
        (ragfast_candidate){middle - error, middle + error, ragfast_id_of(s->docs, row), (uint32_t)row, s->segment, 0});
    return middle >= threshold ? RAGFAST_LIKELY : RAGFAST_BUFFERED;
}

/* Rows outside, queries inside: a batch of rows comes from memory once. */
void ragfast_score_rows(search *s, const doc_block *block, size_t worker) {
    const ragfast_docs *docs = s->docs;
    for (size_t first = 0; first < block->n_docs; first += BATCH) {
        const void *ahead[BATCH];
        size_t end = ragfast_min(first + BATCH, block->n_docs), n_ahead = ragfast_min(block->n_docs - end, BATCH);
        for (size_t i = 0; i < n_ahead; i++) ahead[i] = row_at(docs, ragfast_row_of(block, end + i));
        for (size_t q = 0; q < s->n_queries; q++) {
            const void *vectors[BATCH];
            double scores[BATCH];
            uint32_t rows[BATCH];
            size_t n = 0;
            for (size_t j = first; j < end; j++) {
                size_t row = ragfast_row_of(block, j);
                if (is_excluded(s, q, row)) continue;
                vectors[n] = row_at(docs, row);
                rows[n++] = (uint32_t)row;
            }
            score_vectors(s, q, scores, vectors, n, ahead, q == 0 ? n_ahead : 0);
            for (size_t i = 0; i < n; i++)
                if (scores[i] >= ragfast_threshold_of(s, q) && !is_below_group(s, q, worker, rows[i], scores[i]))
                    add(s, q, worker,
                        (ragfast_candidate){scores[i], scores[i], ragfast_id_of(docs, rows[i]), rows[i], s->segment,
                                            1});
            s->workers[worker].slots[q].rescored += n;
            s->workers[worker].slots[q].unscanned += n;
        }
    }
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

static void write_results(const search *s, size_t q, const ragfast_candidate *best, size_t n) {
    double *scores = s->scores + q * s->k_out;
    int64_t *doc_ids = s->doc_ids + q * s->k_out;
    for (size_t i = 0; i < s->k_out; i++) {
        scores[i] = i < n ? best[i].lower : -INFINITY;
        doc_ids[i] = i < n ? best[i].id : -1;
    }
    if (!s->doc_logprobs) return;
    double *logprobs = s->doc_logprobs + q * s->k_out, sum = 0;
    for (size_t i = 0; i < n; i++) {
        logprobs[i] = (scores[i] - scores[0]) / s->temperature;
        if (i > 0) sum += exp(logprobs[i]); /* the best one's 1 stays apart: log p near 0 keeps its digits */
    }
    double log_sum = log1p(sum);
    for (size_t i = 0; i < s->k_out; i++) logprobs[i] = i < n ? logprobs[i] - log_sum : -INFINITY;
}

void ragfast_finish_query(search *s, size_t q) {
    ragfast_candidate *items = items_of(s, q, 0);
    query_slot total = {0};
    for (size_t w = 0; w < s->n_workers; w++) {
        const query_slot *slot = &s->workers[w].slots[q];
        memmove(items + total.count, items + w * s->capacity, slot->count * sizeof *items);
        total.count += slot->count;
        total.rescored += slot->rescored;
        total.by_codes += slot->by_codes;
        total.by_float32 += slot->by_float32;
    }
    size_t n = drop_below_threshold(s, q, 0, items, total.count);
    n = drop_by_likely(s, q, 0, &total, items, n);
    rescore(s, q, &total, items, n);
    size_t n_best = put_best_first(s, q, 0, items, &n);
    ragfast_sort_best(items, n_best);
    write_results(s, q, items, n_best);
    if (s->stats) s->stats[q] = (ragfast_query_stats){total.rescored, total.by_codes, total.by_float32};
}
