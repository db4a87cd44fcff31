/* What a metric other than the inner product needs to know of each document beforehand. */
#include "core/kernels.h"

#include <stdlib.h>

enum {
    CHUNK_ROWS = 256,
    INLINE_WORK = 1 << 20, /* multiplications below which waking a thread costs more than it brings */
    MAX_DIM = 1 << 20
};

typedef struct squares_job {
    const ragfast_kernels *kernels;
    double *out;
    const void *rows;
    size_t n_rows, dim;
    ragfast_dtype dtype;
    float *wide; /* (workers, D), where rows are of 16 bits */
} squares_job;

static void square_chunk(void *context, size_t chunk, size_t worker) {
    const squares_job *job = context;
    const ragfast_kernels *kernels = job->kernels;
    size_t dim = job->dim, end = ragfast_min(job->n_rows, (chunk + 1) * CHUNK_ROWS);
    for (size_t i = chunk * CHUNK_ROWS; i < end; i++) {
        if (job->dtype == RAGFAST_F64) {
            const double *row = (const double *)job->rows + i * dim;
            job->out[i] = kernels->inner_f64_f64(row, row, dim) / 2;
        } else {
            float *wide = job->wide ? job->wide + worker * dim : NULL;
            const float *row = ragfast_widened(kernels, wide, job->rows, job->dtype, i, dim);
            job->out[i] = kernels->inner_f64_f32(row, row, dim) / 2;
        }
    }
}

ragfast_status ragfast_half_squares(double *half_squares, const void *rows, size_t n_rows, size_t dim,
                                    ragfast_dtype dtype, int n_threads) {
    if (dim < 1 || dim > MAX_DIM || n_rows > SIZE_MAX / 8 / dim || n_threads < 0) return RAGFAST_ERROR_ARGUMENT;
    if (n_threads == 0) n_threads = ragfast_get_num_threads();
    if (n_rows * dim < INLINE_WORK) n_threads = 1;
    if (n_threads > RAGFAST_MAX_THREADS) n_threads = RAGFAST_MAX_THREADS;
    int is_narrow = dtype == RAGFAST_F16 || dtype == RAGFAST_BF16;
    float *wide = is_narrow ? malloc((size_t)n_threads * dim * sizeof(float)) : NULL;
    if (!wide && is_narrow) return RAGFAST_ERROR_MEMORY;
    squares_job job = {.kernels = ragfast_current_kernels(),
                       .out = half_squares,
                       .rows = rows,
                       .n_rows = n_rows,
                       .dim = dim,
                       .dtype = dtype,
                       .wide = wide};
    ragfast_fp_state caller_fp = ragfast_fp_enter();
    ragfast_parallel_for(square_chunk, &job, (n_rows + CHUNK_ROWS - 1) / CHUNK_ROWS, n_threads);
    ragfast_fp_leave(caller_fp);
    free(wide);
    return RAGFAST_OK;
}
