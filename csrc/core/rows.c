#include "core/rows.h"

#include "core/ranges.h"
#include "core/dispatch.h"
#include "core/elements.h"
#include "core/fpenv.h"
#include "core/pool.h"
#include "ragfast/search.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    TILE = RAGFAST_TILE_QUERIES,
    CHUNK_ROWS = 256,
    CHUNK_BYTES = 1 << 20,
    INLINE_WORK = 1 << 20, /* multiplications below which waking a thread costs more than it brings */
    MAX_DIM = 1 << 20
};

const float *ragfast_widened(const ragfast_kernels *kernels, float *out, const void *vectors, ragfast_dtype dtype,
                             size_t row, size_t dim) {
    if (dtype == RAGFAST_F32) return (const float *)vectors + row * dim;
    (dtype == RAGFAST_F16 ? kernels->widen_f16 : kernels->widen_bf16)(out, (const uint16_t *)vectors + row * dim, dim);
    return out;
}

void ragfast_interleave_f32(float *out, const float *rows, size_t n, size_t dim) {
    memset(out, 0, (n + TILE - 1) / TILE * TILE * dim * sizeof(float));
    for (size_t i = 0; i < n; i++)
        for (size_t e = 0; e < dim; e++) out[(i / TILE * dim + e) * TILE + i % TILE] = rows[i * dim + e];
}

/* ---- measuring rows ----------------------------------------------------------------------------------------------- */

typedef struct rows_job {
    const ragfast_kernels *kernels;
    const char *rows;
    char *copy; /* or NULL */
    size_t n_rows, dim, row_bytes, chunk_rows;
    ragfast_dtype dtype;
    float *wide;          /* (workers, D) if rows are of 16 bits */
    float *norms;         /* or NULL */
    double *half_squares; /* or NULL */
    atomic_size_t bad_row;
} rows_job;

static double squared_norm(const rows_job *job, const char *row, size_t worker) {
    if (job->dtype == RAGFAST_F64)
        return job->kernels->inner_f64_f64((const double *)row, (const double *)row, job->dim);
    float *wide = job->wide ? job->wide + worker * job->dim : NULL;
    const float *x = ragfast_widened(job->kernels, wide, row, job->dtype, 0, job->dim);
    return job->kernels->inner_f64_f32(x, x, job->dim);
}

/* The copy of a row lies in the first-level cache when it is measured. */
static void measure_chunk(void *context, size_t chunk, size_t worker) {
    rows_job *job = context;
    size_t first = chunk * job->chunk_rows, end = ragfast_min(job->n_rows, first + job->chunk_rows);
    for (size_t i = first; i < end; i++) {
        const char *row = job->rows + i * job->row_bytes;
        if (job->copy) row = memcpy(job->copy + i * job->row_bytes, row, job->row_bytes);
        double squared = squared_norm(job, row, worker);
        if (job->half_squares) job->half_squares[i] = squared / 2;
        if (!job->norms) continue;
        job->norms[i] = ragfast_norm_rounded_up(squared);
        if (isfinite(squared)) continue; /* no float32 square overflows float64 */
        size_t seen = atomic_load(&job->bad_row);
        while (i < seen && !atomic_compare_exchange_weak(&job->bad_row, &seen, i)) {
        }
    }
}

ragfast_status ragfast_measure_rows(float *norms, double *half_squares, void *copy, size_t *bad_row, const void *rows,
                                    size_t n_rows, size_t dim, ragfast_dtype dtype, const ragfast_options *options) {
    ragfast_call call;
    if (ragfast_begin_call(&call, options) != RAGFAST_OK || dim < 1 || dim > MAX_DIM || !ragfast_is_dtype(dtype) ||
        (norms && dtype == RAGFAST_F64) || ragfast_product(n_rows, dim) > RAGFAST_MAX_ELEMENTS)
        return RAGFAST_ERROR_ARGUMENT;
    size_t row_bytes = dim * ragfast_element_size(dtype),
           chunk_rows = ragfast_min(CHUNK_ROWS, CHUNK_BYTES / row_bytes + 1);
    size_t n_chunks = (n_rows + chunk_rows - 1) / chunk_rows;
    size_t n_workers = ragfast_worker_count(&call, n_rows * dim < INLINE_WORK, n_chunks);
    rows_job job = {.kernels = ragfast_current_kernels(),
                    .rows = rows,
                    .copy = copy,
                    .n_rows = n_rows,
                    .dim = dim,
                    .row_bytes = row_bytes,
                    .chunk_rows = chunk_rows,
                    .dtype = dtype,
                    .norms = norms,
                    .half_squares = half_squares,
                    .bad_row = SIZE_MAX};
    int is_narrow = ragfast_element_size(dtype) == 2;
    job.wide = is_narrow ? malloc(n_workers * dim * sizeof(float)) : NULL;
    if (!job.wide && is_narrow) return RAGFAST_ERROR_MEMORY;
    ragfast_fp_state caller_fp = ragfast_fp_enter();
    ragfast_parallel_for(&call, measure_chunk, &job, n_chunks, n_workers);
    ragfast_fp_leave(caller_fp);
    free(job.wide);
    if (ragfast_end_call(&call) != RAGFAST_OK) return RAGFAST_ERROR_CANCELLED;
    size_t bad = atomic_load(&job.bad_row);
    if (bad == SIZE_MAX) return RAGFAST_OK;
    *bad_row = bad;
    return RAGFAST_ERROR_NONFINITE_DOC;
}

/* ---- conversions -------------------------------------------------------------------------------------------------- */

/* Not inlined: the compiler knows nothing of the environment and could move a conversion out of the bracket. */
__attribute__((noinline)) static void narrow(float *out, const double *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = (float)x[i];
}

__attribute__((noinline)) static void widen(double *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = x[i];
}

void ragfast_narrow(float *out, const double *x, size_t n) {
    ragfast_fp_state caller_fp = ragfast_fp_enter();
    narrow(out, x, n);
    ragfast_fp_leave(caller_fp);
}

void ragfast_widen(double *out, const float *x, size_t n) {
    ragfast_fp_state caller_fp = ragfast_fp_enter();
    widen(out, x, n);
    ragfast_fp_leave(caller_fp);
}
