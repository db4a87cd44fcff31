#include "search/scratch.h"

#include "search/code_queries.h"
#include "search/scan_f32.h"

#include <string.h>

enum { PANEL = RAGFAST_PANEL_DOCS, ALIGNMENT = RAGFAST_SCRATCH_ALIGNMENT };

/* What is left of the block, or with block NULL only how much has been taken. */
typedef struct carver {
    char *block;
    size_t used;
} carver;

static void *carve(carver *c, size_t count, size_t size) {
    void *piece = c->block ? c->block + c->used : NULL;
    c->used += (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return piece;
}

#define CARVE(field, count) ((field) = carve(c, count, sizeof *(field)))

static void lay_out_queries(search *s, carver *c) {
    const search_plan *plan = s->plan;
    size_t n = plan->pass_queries;
    CARVE(s->queries.candidates, n * plan->n_workers * plan->capacity);
    CARVE(s->queries.group_thresholds, n * plan->n_workers * plan->n_group_thresholds);
    CARVE(s->queries.norms, n);
    CARVE(s->queries.squares, n);
    CARVE(s->shared.thresholds, n);
    if (!plan->needs_codes) return;
    CARVE(s->shared.codes_disabled, n);
    CARVE(s->coded.queries, n);
    CARVE(s->coded.codes, n * ragfast_padded(plan->dim));
    CARVE(s->coded.interleaved, ragfast_query_code_bytes(plan, n, RAGFAST_TILE_QUERIES));
    CARVE(s->coded.query_scratch, 2 * plan->dim);
    if (plan->needs_unpacked || plan->needs_refined)
        CARVE(s->coded.packed, ragfast_query_code_bytes(plan, n, plan->kernels->code_queries));
}

/* A panel as tile_codes takes it: zero when first used. */
static uint8_t *carve_panel(carver *c, const search_plan *plan) {
    size_t bytes = ragfast_query_code_bytes(plan, PANEL, 1);
    uint8_t *panel = carve(c, bytes, 1);
    if (panel) memset(panel, 0, bytes);
    return panel;
}

static void lay_out_worker(const search_plan *plan, search_worker *w, carver *c) {
    size_t n = plan->pass_queries, block = plan->block_docs;
    CARVE(w->slots, n);
    if (plan->needs_rows) CARVE(w->rows, block);
    if (plan->needs_norms) CARVE(w->block_norms, block);
    if (plan->needs_wide) CARVE(w->wide_docs, block * plan->dim);
    if (plan->needs_scan) {
        CARVE(w->listed, n);
        CARVE(w->scan_queries, ragfast_scan_queries_size(plan, n));
        CARVE(w->packed_docs, block * plan->dim);
    }
    if (plan->needs_codes) {
        CARVE(w->is_listed, n);
        CARVE(w->code_thresholds, n);
        CARVE(w->refine_thresholds, n);
        CARVE(w->waiting, RAGFAST_MAX_REFINEMENTS);
    }
    if (plan->needs_unpacked) w->panel_codes = carve_panel(c, plan);
    if (plan->needs_refined) w->refine_codes = carve_panel(c, plan);
}

static size_t lay_out(search *s, char *block) {
    carver c = {.block = block};
    const search_plan *plan = s->plan;
    lay_out_queries(s, &c);
    s->workers = carve(&c, plan->n_workers, sizeof *s->workers);
    for (size_t i = 0; i < plan->n_workers; i++) {
        search_worker w = {0};
        lay_out_worker(plan, &w, &c);
        if (block) s->workers[i] = w;
    }
    return c.used;
}

size_t ragfast_scratch_bytes(const search_plan *plan) {
    search s = {.plan = plan};
    return lay_out(&s, NULL);
}

void ragfast_lay_out(search *s, char *block) { lay_out(s, block); }
