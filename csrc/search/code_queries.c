#include "search/code_queries.h"

#include "search/quantize.h"
#include "search/stop.h"

#include <math.h>
#include <string.h>

enum { TILE = RAGFAST_TILE_QUERIES };

static const double unit_roundoff = 0x1p-24;

size_t ragfast_query_code_bytes(const search_plan *plan, size_t n_queries, size_t tile) {
    size_t unit = RAGFAST_GROUP_DIM * plan->kernels->code_groups;
    return (n_queries + tile - 1) / tile * tile * ((plan->dim + unit - 1) / unit * unit);
}

/* z (D) = R (q / weight). Nonzero: the search stops, and z is not whole. */
static int transform_query(search *s, float *z, const float *query, const ragfast_codes *codes) {
    size_t dim = s->plan->dim;
    float *weighted = codes->rotation ? z + dim : z;
    for (size_t e = 0; e < dim; e++) weighted[e] = codes->weight ? query[e] / codes->weight[e] : query[e];
    for (size_t e = 0; e < dim && codes->rotation; e++) {
        z[e] = (float)s->plan->kernels->inner_f64_f32(codes->rotation + e * dim, weighted, dim);
        if (ragfast_stopped_after(s, 0, 2 * dim)) return 1; /* the rows of a large rotation come from memory */
    }
    return 0;
}

/* (Q): the factors of a document's bound. */
static void code_one_query(search *s, size_t q, size_t n_groups) {
    const ragfast_kernels *kernels = s->plan->kernels;
    const ragfast_codes *codes = s->segment->docs->codes;
    size_t dim = s->plan->dim, prefix = codes->prefix;
    const float *query = (const float *)s->queries.vectors + q * dim;
    code_query *out = &s->coded.queries[q];
    float *z = s->coded.query_scratch;
    int8_t *packed = s->coded.codes + q * n_groups * RAGFAST_GROUP_DIM;
    if (transform_query(s, z, query, codes)) return;
    double residual, scale = ragfast_code_query(kernels, (uint8_t *)packed, z, &residual, dim);
    *out = (code_query){0};
    memset(packed + (scale > 0 ? dim : 0), 0, n_groups * RAGFAST_GROUP_DIM - (scale > 0 ? dim : 0));
    if (!(scale > 0)) {
        atomic_store_explicit(&s->shared.codes_disabled[q], 1, memory_order_relaxed);
        return;
    }
    for (size_t e = 0; e < dim; e++) {
        packed[e] = (int8_t)((int)(uint8_t)packed[e] - 128);
        out->sum += packed[e];
        if (e < prefix) out->prefix_sum += packed[e];
    }
    double norm = sqrt(kernels->inner_f64_f32(z, z, dim)) * scale * (1 + 1e-9), error = codes->rotation_error;
    if (codes->center) {
        double center = sqrt(kernels->inner_f64_f32(codes->center, codes->center, dim));
        out->base = kernels->inner_f64_f32(query, codes->center, dim);
        out->base_error = 1e-10 * s->queries.norms[q] * center;
    }
    out->unit = 1 / scale;
    out->norm = norm * (1 + 1e-6 + 4 * error);
    out->residual = residual + norm * (16 * unit_roundoff + 4 * error);
    if (prefix) out->tail = sqrt(kernels->inner_f64_f32(z + prefix, z + prefix, dim - prefix)) * scale * (1 + 1e-6);
}

/* Each layout is one of tiles, so that they can be made one at a time. */
static void pack_codes(search *s, size_t n_groups) {
    const ragfast_kernels *kernels = s->plan->kernels;
    size_t row = n_groups * RAGFAST_GROUP_DIM, packed_row = ragfast_query_code_bytes(s->plan, 1, 1);
    size_t n = s->queries.n, tile = kernels->code_queries;
    for (size_t q = 0; q < n; q += TILE) {
        ragfast_interleave_codes(s->coded.interleaved + q * row, s->coded.codes + q * row, ragfast_min(n - q, TILE),
                                 n_groups);
        if (ragfast_stopped_after(s, 0, TILE * row)) return;
    }
    for (size_t q = 0; q < n && s->coded.packed; q += tile) {
        kernels->pack_query_codes(s->coded.packed + q * packed_row, s->coded.codes + q * row, ragfast_min(n - q, tile),
                                  n_groups);
        if (ragfast_stopped_after(s, 0, tile * row)) return;
    }
}

void ragfast_code_queries(search *s) {
    size_t n_groups = ragfast_code_groups(s->plan->dim);
    for (size_t q = 0; q < s->queries.n; q++) {
        atomic_init(&s->shared.codes_disabled[q], 0);
        code_one_query(s, q, n_groups);
        if (ragfast_stopped_after(s, 0, 8 * s->plan->dim)) return;
    }
    pack_codes(s, n_groups);
}
