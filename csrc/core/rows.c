#include "core/rows.h"

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

/* ---- norms and half squares --------------------------------------------------------------------------------------- */

typedef struct rows_job {
    const ragfast_kernels *kernels;
    const void *rows;
    size_t n_rows, dim;
    ragfast_dtype dtype;
    float *wide;          /* (workers, D) if rows are of 16 bits */
    float *norms;         /* of ragfast_row_norms, else NULL */
    double *half_squares; /* of ragfast_half_squares */
    atomic_size_t bad_row;
} rows_job;

static void measure_chunk(void *context, size_t chunk, size_t worker) {
    rows_job *job = context;
    size_t dim = job->dim, end = ragfast_min(job->n_rows, (chunk + 1) * CHUNK_ROWS);
    for (size_t i = chunk * CHUNK_ROWS; i < end; i++) {
        double squared;
        if (job->dtype == RAGFAST_F64) {
            const double *row = (const double *)job->rows + i * dim;
            squared = job->kernels->inner_f64_f64(row, row, dim);
        } else {
            float *wide = job->wide ? job->wide + worker * dim : NULL;
            const float *row = ragfast_widened(job->kernels, wide, job->rows, job->dtype, i, dim);
            squared = job->kernels->inner_f64_f32(row, row, dim);
        }
        if (!job->norms) {
            job->half_squares[i] = squared / 2;
            continue;
        }
        job->norms[i] = ragfast_norm_rounded_up(squared);
        if (isfinite(squared)) continue; /* no float32 square overflows float64 */
        size_t seen = atomic_load(&job->bad_row);
        while (i < seen && !atomic_compare_exchange_weak(&job->bad_row, &seen, i)) {
        }
    }
}

static ragfast_status measure(rows_job *job, int n_threads) {
    size_t dim = job->dim, n_chunks = (job->n_rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    if (dim < 1 || dim > MAX_DIM || job->n_rows > SIZE_MAX / 8 / dim || n_threads < 0) return RAGFAST_ERROR_ARGUMENT;
    n_threads = ragfast_worker_count(n_threads, job->n_rows * dim < INLINE_WORK, n_chunks);
    int is_narrow = ragfast_element_size(job->dtype) == 2;
    job->wide = is_narrow ? malloc((size_t)n_threads * dim * sizeof(float)) : NULL;
    if (!job->wide && is_narrow) return RAGFAST_ERROR_MEMORY;
    job->kernels = ragfast_current_kernels();
    ragfast_fp_state caller_fp = ragfast_fp_enter();
    ragfast_parallel_for(measure_chunk, job, n_chunks, n_threads);
    ragfast_fp_leave(caller_fp);
    free(job->wide);
    return RAGFAST_OK;
}

ragfast_status ragfast_row_norms(float *norms, size_t *bad_row, const void *rows, size_t n_rows, size_t dim,
                                 ragfast_dtype dtype, int n_threads) {
    rows_job job = {.rows = rows, .n_rows = n_rows, .dim = dim, .dtype = dtype, .norms = norms, .bad_row = SIZE_MAX};
    if (dtype == RAGFAST_F64) return RAGFAST_ERROR_ARGUMENT;
    ragfast_status status = measure(&job, n_threads);
    if (status != RAGFAST_OK) return status;
    *bad_row = atomic_load(&job.bad_row);
    return *bad_row == SIZE_MAX ? RAGFAST_OK : RAGFAST_ERROR_NONFINITE_DOC;
}

ragfast_status ragfast_half_squares(double *half_squares, const void *rows, size_t n_rows, size_t dim,
                                    ragfast_dtype dtype, int n_threads) {
    rows_job job = {.rows = rows, .n_rows = n_rows, .dim = dim, .dtype = dtype, .half_squares = half_squares};
    return measure(&job, n_threads);
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
