/* The reference for every code_<isa>.c: what each kernel must compute, in plain C. Contracts: core/kernels.h. */
#include "core/kernels.h"

#include <math.h>

enum {
    PANEL = RAGFAST_PANEL_DOCS,
    TILE = RAGFAST_TILE_QUERIES,
    STEP = 4 * PANEL /* bytes of a step, and of a row of a plane */
};

static float center_f32_scalar(float *y, const float *x, const float *center, const float *weight, size_t dim) {
    float max = 0;
    for (size_t e = 0; e < dim; e++) {
        float v = x[e];
        if (center) v -= center[e];
        if (weight) v *= weight[e];
        y[e] = v;
        if (!(fabsf(v) <= max)) max = isnan(max) ? max : fabsf(v); /* once NaN, always NaN */
    }
    return max;
}

static void encode_f32_scalar(uint8_t *codes, float sums[4], const float *y, size_t dim, float scale) {
    for (size_t s = 0; s < 4; s++) sums[s] = 0;
    for (size_t e = 0; e < dim; e++) {
        float x = y[e] * scale, c = rintf(x);
        codes[e] = (uint8_t)(128 + (int)c);
        float coarse = (float)(codes[e] & 0xfc) - 126.5f;
        sums[0] += (x - c) * (x - c);
        sums[1] += (x - coarse) * (x - coarse);
        sums[2] += c * c;
        sums[3] += coarse * coarse;
    }
}

/* dots (n_queries, PANEL) += codes (n_steps, PANEL, 4) times queries (n_steps, TILE, 4) */
static void add_steps(int32_t *dots, const uint8_t *codes, const int8_t *queries, size_t n_queries, size_t n_steps) {
    for (size_t s = 0; s < n_steps; s++, codes += STEP, queries += 4 * TILE)
        for (size_t i = 0; i < n_queries; i++)
            for (size_t j = 0; j < PANEL; j++)
                for (size_t b = 0; b < 4; b++) dots[i * PANEL + j] += codes[4 * j + b] * queries[4 * i + b];
}

static uint32_t hits_of(const int32_t *dots, const ragfast_code_bounds *bounds, const float *residual,
                        const ragfast_code_threshold *t) {
    uint32_t hits = 0;
    for (size_t j = 0; j < PANEL; j++) {
        float limit = t->offset + t->score * bounds->scale[j] - t->norm * residual[j] - t->residual * bounds->norm[j] -
                      t->tail * bounds->tail[j];
        hits |= (uint32_t)!((float)dots[j] < limit) << j; /* NaN is a hit */
    }
    return hits;
}

static size_t tile_high_scalar(int32_t *dots, uint32_t *hits, const int8_t *packed_queries, size_t n_queries,
                               const uint8_t *high, size_t stride, const ragfast_code_bounds *bounds, size_t n_panels,
                               size_t n_groups, const ragfast_code_threshold *thresholds) {
    for (size_t p = 0; p < n_panels; p++, high += stride, bounds++) {
        for (size_t x = 0; x < n_queries * PANEL; x++) dots[x] = 0;
        for (size_t g = 0; g < n_groups; g++) {
            const uint8_t *a = high + g * RAGFAST_GROUP_HIGH, *b = a + STEP, *c = b + STEP;
            uint8_t codes[RAGFAST_GROUP_CODES];
            for (size_t i = 0; i < STEP; i++) {
                codes[i] = a[i] & 0xfc;
                codes[STEP + i] = b[i] & 0xfc;
                codes[2 * STEP + i] = c[i] & 0xfc;
                codes[3 * STEP + i] = (uint8_t)((a[i] & 3) << 6 | (b[i] & 3) << 4 | (c[i] & 3) << 2);
            }
            add_steps(dots, codes, packed_queries + g * 4 * 4 * TILE, n_queries, 4);
        }
        uint32_t any = 0;
        for (size_t i = 0; i < n_queries; i++)
            any |= hits[i] = hits_of(dots + i * PANEL, bounds, bounds->high_residual, thresholds + i);
        if (any) return p;
    }
    return n_panels;
}

/* To (4 n_groups, PANEL, 4), the whole u: also the order of code_avx512vnni.c. */
static void unpack_codes_scalar(uint8_t *codes, const uint8_t *high, const uint8_t *low, size_t n_groups) {
    for (size_t g = 0; g < n_groups; g++, codes += RAGFAST_GROUP_CODES, low += RAGFAST_GROUP_LOW) {
        const uint8_t *a = high + g * RAGFAST_GROUP_HIGH, *b = a + STEP, *c = b + STEP;
        for (size_t i = 0; i < STEP; i++) {
            codes[i] = (uint8_t)((a[i] & 0xfc) | (low[i] & 3));
            codes[STEP + i] = (uint8_t)((b[i] & 0xfc) | (low[i] >> 2 & 3));
            codes[2 * STEP + i] = (uint8_t)((c[i] & 0xfc) | (low[i] >> 4 & 3));
            codes[3 * STEP + i] = (uint8_t)((a[i] & 3) << 6 | (b[i] & 3) << 4 | (c[i] & 3) << 2 | low[i] >> 6);
        }
    }
}

static void pack_query_codes_scalar(int8_t *packed_queries, const int8_t *queries, size_t n_queries, size_t n_groups) {
    ragfast_interleave_codes(packed_queries, queries, n_queries, n_groups);
}

static void tile_codes_scalar(int32_t *dots, uint32_t *hits, const int8_t *packed_queries, size_t n_queries,
                              const uint8_t *codes, const ragfast_code_bounds *bounds, size_t n_groups,
                              const ragfast_code_threshold *thresholds, const char *ahead, size_t n_ahead) {
    (void)ahead, (void)n_ahead; /* nothing here is fast enough to wait for memory */
    for (size_t x = 0; x < n_queries * PANEL; x++) dots[x] = 0;
    add_steps(dots, codes, packed_queries, n_queries, 4 * n_groups);
    for (size_t i = 0; i < n_queries; i++)
        hits[i] = hits_of(dots + i * PANEL, bounds, bounds->residual, thresholds + i);
}

static void begin_codes_scalar(void) {}
static void end_codes_scalar(void) {}

void ragfast_code_fill_scalar(ragfast_kernels *table) {
    table->center_f32 = center_f32_scalar;
    table->encode_f32 = encode_f32_scalar;
    table->tile_high = tile_high_scalar;
    table->code_queries = TILE;
    table->unpack_min_queries = 16;
    table->code_groups = 1;
    table->code_mask = 0xff;
    table->unpack_codes = unpack_codes_scalar;
    table->pack_query_codes = pack_query_codes_scalar;
    table->tile_codes = tile_codes_scalar;
    table->begin_codes = begin_codes_scalar;
    table->end_codes = end_codes_scalar;
}
