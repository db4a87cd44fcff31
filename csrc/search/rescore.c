#include "search/rescore.h"

#include "core/platform.h"
#include "search/stop.h"

#include <math.h>

/* MAX_FETCHED: bytes of a row up to which a batch is worked on while another comes, both in the second-level cache; longer ones the
 * hardware foresees. */
enum { BATCH = RAGFAST_SCORED_ROWS, MAX_FETCHED = 16 << 10 };

int ragfast_has_its_checksum(search *s, size_t segment, size_t row) {
    const ragfast_docs *docs = &s->plan->docs[segment];
    size_t bytes = docs->dim * ragfast_element_size(docs->dtype);
    if ((uint32_t)ragfast_checksum(ragfast_row_at(docs, row), bytes) == docs->row_sums[row]) return 1;
    if (!atomic_flag_test_and_set(&s->shared.corrupt_is_known)) s->shared.corrupt = (ragfast_place){segment, row};
    ragfast_fail(s, RAGFAST_ERROR_CORRUPT_DOC);
    return 0;
}

void ragfast_score_vectors(search *s, size_t q, double *out, const void *const *vectors, size_t n,
                           const void *const *ahead, size_t n_ahead) {
    const search_plan *plan = s->plan;
    if (plan->dim * ragfast_element_size(plan->dtype) > MAX_FETCHED) n_ahead = 0;
    plan->kernels->score_rows(out, s->queries.vectors + q * plan->query_bytes, vectors, n, ahead, n_ahead, plan->dim,
                              plan->dtype, plan->l2);
    for (size_t i = 0; i < n && plan->dtype == RAGFAST_F64; i++)
        if (!isfinite(out[i])) ragfast_fail(s, RAGFAST_ERROR_OVERFLOW);
}

void ragfast_prefetch_row(const search *s, const ragfast_docs *docs, size_t row) {
    ragfast_prefetch_pages(ragfast_row_at(docs, row), docs->dim * ragfast_element_size(docs->dtype),
                           s->plan->page_bytes);
}

/* The next candidates from *from on that have no score yet, up to as many as are scored at a time. */
static size_t list_unscored(const search *s, ragfast_candidate **listed, const void **vectors, ragfast_candidate *items,
                            size_t *from, size_t n) {
    size_t n_listed = 0;
    for (; *from < n && n_listed < BATCH; ++*from) {
        if (items[*from].exact) continue;
        listed[n_listed] = &items[*from];
        vectors[n_listed++] = ragfast_row_at(&s->plan->docs[items[*from].segment], items[*from].row);
    }
    return n_listed;
}

void ragfast_rescore(search *s, size_t q, size_t worker, query_slot *slot, ragfast_candidate *items, size_t n) {
    for (size_t i = 0; i < n && s->plan->any_mapped;
         i++) /* all at once: the medium serves a queue faster than single rows */
        if (!items[i].exact && s->plan->docs[items[i].segment].mapped)
            ragfast_prefetch_row(s, &s->plan->docs[items[i].segment], items[i].row);
    ragfast_candidate *listed[2][BATCH];
    const void *vectors[2][BATCH];
    size_t row_work = s->plan->dim + (s->plan->any_mapped ? RAGFAST_MAPPED_WORK : RAGFAST_ROW_WORK);
    size_t from = 0, now = 0, count[2] = {list_unscored(s, listed[0], vectors[0], items, &from, n)};
    for (; count[now] > 0; now = !now) {
        double scores[BATCH];
        count[!now] = list_unscored(s, listed[!now], vectors[!now], items, &from, n);
        ragfast_score_vectors(s, q, scores, vectors[now], count[now], vectors[!now], count[!now]);
        for (size_t i = 0; i < count[now]; i++) {
            ragfast_candidate *item = listed[now][i];
            item->lower = item->upper = ragfast_row_checksum_ok(s, item->segment, item->row) ? scores[i] : -INFINITY;
            item->exact = 1;
        }
        slot->rescored += count[now];
        if (ragfast_stopped_after(s, worker, count[now] * row_work)) return;
    }
}
