/* Makes codes of documents: transform, round to integers, measure what was lost, lay out in planes. Layout: i8_layout.h.
 * Every bound here is rounded up; the inequalities are numbered in docs/exactness.md. */
#include "search/quantize.h"

#include "core/ranges.h"
#include "core/dispatch.h"
#include "core/fpenv.h"
#include "core/pool.h"
#include "core/rows.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    PANEL = RAGFAST_PANEL_DOCS,
    TILE = RAGFAST_TILE_QUERIES,
    INLINE_WORK = 1 << 18 /* elements below which waking a thread costs more than it brings: 100 us of one */
};

/* Rows whose largest element lies outside are not coded: scale and its reciprocal stay far from the ends of float32. */
#define MIN_CODED 0x1p-60f
#define MAX_CODED 0x1p60f
#define MAX_HALF_SQUARE 0x1p60f /* in code units; times a query's scale, below 2^67, it stays finite: (L5) */

#define MAX_DOCS ((size_t)1 << 31)

static const double unit_roundoff = 0x1p-24;

void ragfast_codes_size(size_t *high, size_t *low, size_t *bounds, size_t n_docs, size_t dim) {
    int possible = dim >= 1 && dim <= RAGFAST_MAX_CODE_DIM && n_docs < MAX_DOCS;
    size_t panels = possible ? (n_docs + PANEL - 1) / PANEL : 0, groups = possible ? ragfast_code_groups(dim) : 0;
    *high = panels * groups * RAGFAST_GROUP_HIGH;
    *low = panels * groups * RAGFAST_GROUP_LOW;
    *bounds = panels * sizeof(ragfast_code_bounds);
}

double ragfast_code_query(const ragfast_kernels *kernels, uint8_t *codes, float *z, double *residual, size_t dim) {
    float largest = kernels->center_f32(z, z, NULL, NULL, dim), sums[4];
    if (!(largest >= MIN_CODED && largest <= MAX_CODED)) return 0;
    float scale = 127 / largest;
    kernels->encode_f32(codes, sums, z, dim, scale);
    double roundings = (double)(dim + 8) * unit_roundoff;
    *residual = sqrt((double)sums[0]) * (1 + roundings);
    return scale;
}

/* ---- documents --------------------------------------------------------------------------------------------------- */

typedef struct encode_job {
    const ragfast_kernels *kernels;
    const ragfast_codes *codes;
    const void *vectors;
    const double *half_squares;
    ragfast_dtype dtype;
    size_t first, n_docs, dim;
    float *rotation; /* packed as queries of tile_packed_f32: (D / TILE, D, TILE) */
    char *scratch;   /* worker_bytes a worker */
    size_t worker_bytes;
} encode_job;

/* A worker's scratch: a panel of y; before rotation, and packed for it; one row of codes. */
typedef struct encode_scratch {
    float *y, *rows, *packed;
    uint8_t *codes;
} encode_scratch;

static size_t scratch_bytes(size_t dim, int rotated) {
    size_t rows = PANEL * ragfast_padded(dim) * sizeof(float);
    return ((rotated ? 3 : 1) * rows + ragfast_code_groups(dim) * RAGFAST_GROUP_DIM + 63) / 64 * 64;
}

static encode_scratch carve(char *block, size_t dim, int rotated) {
    size_t rows = PANEL * ragfast_padded(dim);
    float *y = (float *)(void *)block, *last = rotated ? y + 2 * rows : y;
    return (encode_scratch){
        .y = y, .rows = rotated ? y + rows : NULL, .packed = last, .codes = (uint8_t *)(last + rows)};
}

static void rotate(const encode_job *job, float *y, const float *rows, size_t n, float *packed) {
    size_t dim = job->dim;
    float scores[TILE * PANEL], thresholds[TILE];
    uint32_t hits[TILE];
    for (size_t i = 0; i < TILE; i++) thresholds[i] = -INFINITY; /* every score is wanted */
    job->kernels->pack_docs_f32(packed, rows, n, dim);
    for (size_t e = 0; e < dim; e += TILE) {
        size_t n_rows = ragfast_min(dim - e, TILE);
        job->kernels->tile_packed_f32(scores, hits, job->rotation + e * dim, n_rows, packed, n, dim, thresholds,
                                      (const char *)packed, 0);
        for (size_t j = 0; j < n; j++)
            for (size_t i = 0; i < n_rows; i++) y[j * dim + e + i] = scores[i * PANEL + j];
    }
}

static void put_in_planes(uint8_t *high, uint8_t *low, const uint8_t *codes, size_t n_groups, size_t j) {
    for (size_t g = 0; g < n_groups; g++) {
        uint32_t u[4]; /* four steps of four elements */
        memcpy(u, codes + g * RAGFAST_GROUP_DIM, sizeof u);
        const uint32_t upper = 0xfcfcfcfc, lower = 0x03030303;
        uint32_t out[4] = {(u[0] & upper) | (u[3] >> 6 & lower), (u[1] & upper) | (u[3] >> 4 & lower),
                           (u[2] & upper) | (u[3] >> 2 & lower),
                           (u[0] & lower) | (u[1] & lower) << 2 | (u[2] & lower) << 4 | (u[3] & lower) << 6};
        for (size_t x = 0; x < 3; x++) memcpy(high + g * RAGFAST_GROUP_HIGH + x * 128 + 4 * j, &out[x], 4);
        memcpy(low + g * RAGFAST_GROUP_LOW + 4 * j, &out[3], 4);
    }
}

/* (L5): NaN counts as 0, the lowest there is. */
static float half_square_below(double half_square, float scale) {
    double x = half_square * scale;
    float f = x < MAX_HALF_SQUARE ? (float)x : x > 0 ? MAX_HALF_SQUARE : 0;
    return (double)f > x ? nextafterf(f, 0) : f;
}

static void encode_row(const encode_job *job, const float *y, float largest, uint8_t *codes, size_t row) {
    size_t panel = row / PANEL, j = row % PANEL;
    size_t dim = job->dim, groups = ragfast_code_groups(dim), prefix = job->codes->prefix;
    ragfast_code_bounds *bounds = (ragfast_code_bounds *)job->codes->bounds + panel;
    memset(codes, 128, groups * RAGFAST_GROUP_DIM);
    float scale = 1, sums[4] = {0};
    int coded = largest == 0 || (largest >= MIN_CODED && largest <= MAX_CODED);
    if (coded) {
        scale = largest > 0 ? 127 / largest
                            : MAX_CODED; /* a zero row is 1.5 of a unit off in the high plane: a tiny unit */
        job->kernels->encode_f32(codes, sums, y, dim, scale);
    }
    put_in_planes(job->codes->high + panel * groups * RAGFAST_GROUP_HIGH,
                  job->codes->low + panel * groups * RAGFAST_GROUP_LOW, codes, groups, j);
    /* (E2): sums of D terms in float32, then what the roundings of y and Y moved. */
    double up = 1 + (double)(dim + 8) * unit_roundoff;
    double norm = sqrt((double)fmaxf(sums[2], sums[3])) * up, whole = norm + sqrt((double)sums[0]) * up;
    double moved = 4 * unit_roundoff * whole + 1e-15;
    if (job->codes->rotation) { /* (E1): each element of y is an inner product in float32 */
        double g = 1.01 * (double)(dim + 8) * unit_roundoff * sqrt((double)dim);
        moved += g / (0.99 - g) * whole;
    }
    double tail = prefix ? sqrt(job->kernels->inner_f64_f32(y + prefix, y + prefix, dim - prefix)) * scale : 0;
    bounds->scale[j] = scale;
    bounds->high_residual[j] = coded ? ragfast_rounded_up(sqrt((double)sums[1]) * up + moved) : INFINITY;
    bounds->residual[j] = coded ? ragfast_rounded_up(sqrt((double)sums[0]) * up + moved) : INFINITY;
    bounds->norm[j] = ragfast_rounded_up(norm);
    bounds->tail[j] = coded && prefix ? ragfast_rounded_up(tail * (1 + 0x1p-20) + moved) : 0;
    if (coded && job->half_squares) bounds->tail[j] = half_square_below(job->half_squares[row], scale);
}

static void encode_chunk(void *context, size_t chunk, size_t worker) {
    encode_job *job = context;
    const ragfast_kernels *kernels = job->kernels;
    size_t dim = job->dim, panel = job->first / PANEL + chunk;
    size_t first = panel * PANEL > job->first ? panel * PANEL : job->first;
    size_t n = ragfast_min(job->n_docs, (panel + 1) * PANEL) - first;
    encode_scratch scratch = carve(job->scratch + worker * job->worker_bytes, dim, job->codes->rotation != NULL);
    float largest[PANEL];
    for (size_t j = 0; j < n; j++) {
        float *y = (job->codes->rotation ? scratch.rows : scratch.y) + j * dim;
        const float *row = ragfast_widened(kernels, y, job->vectors, job->dtype, first + j, dim);
        largest[j] = kernels->center_f32(y, row, job->codes->center, job->codes->weight, dim);
    }
    if (job->codes->rotation) {
        rotate(job, scratch.y, scratch.rows, n, scratch.packed);
        for (size_t j = 0; j < n; j++)
            largest[j] = kernels->center_f32(scratch.y + j * dim, scratch.y + j * dim, NULL, NULL, dim);
    }
    for (size_t j = 0; j < n; j++) encode_row(job, scratch.y + j * dim, largest[j], scratch.codes, first + j);
}

ragfast_status ragfast_encode(const ragfast_codes *codes, const void *vectors, const double *half_squares,
                              ragfast_dtype dtype, size_t first, size_t n_docs, size_t dim,
                              const ragfast_options *options) {
    ragfast_call call;
    if (ragfast_begin_call(&call, options) != RAGFAST_OK || dim < 1 || dim > RAGFAST_MAX_CODE_DIM ||
        n_docs >= MAX_DOCS || first > n_docs || !ragfast_is_dtype(dtype) || dtype == RAGFAST_F64 ||
        !ragfast_is_flag(codes->always) || codes->prefix % RAGFAST_GROUP_DIM ||
        (codes->prefix && (half_squares || codes->prefix >= dim)) ||
        !(codes->rotation_error >= 0 && codes->rotation_error < 0.01))
        return RAGFAST_ERROR_ARGUMENT;
    if (first == n_docs) return RAGFAST_OK;
    size_t n_chunks = (n_docs + PANEL - 1) / PANEL - first / PANEL;
    int is_small = !codes->rotation && (n_docs - first) * dim < INLINE_WORK;
    size_t n_workers = ragfast_worker_count(&call, is_small, n_chunks);
    encode_job job = {.kernels = ragfast_current_kernels(),
                      .codes = codes,
                      .vectors = vectors,
                      .half_squares = half_squares,
                      .dtype = dtype,
                      .first = first,
                      .n_docs = n_docs,
                      .dim = dim};
    job.worker_bytes = scratch_bytes(dim, codes->rotation != NULL);
    size_t tiles = (dim + TILE - 1) / TILE, rotation = codes->rotation ? tiles * TILE * dim * sizeof(float) : 0;
    char *block = malloc(64 + (rotation + 63) / 64 * 64 + n_workers * job.worker_bytes);
    if (!block) return RAGFAST_ERROR_MEMORY;
    job.rotation = (float *)(void *)(block + (64 - (uintptr_t)block % 64));
    job.scratch = (char *)job.rotation + (rotation + 63) / 64 * 64;
    ragfast_fp_state caller_fp = ragfast_fp_enter();
    if (rotation) ragfast_interleave_f32(job.rotation, codes->rotation, dim, dim);
    ragfast_parallel_for(&call, encode_chunk, &job, n_chunks, n_workers);
    ragfast_fp_leave(caller_fp);
    free(block);
    return ragfast_end_call(&call);
}
