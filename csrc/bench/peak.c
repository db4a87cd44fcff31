/* What this machine can do at a level: the ceilings that benchmarks hold other kernels against. */
#include "core/kernels.h"

/* A sum counts the multiply-adds itself: each adds 1 x 1 for int8, and multiplies by 1 and adds 1 for float32. Float32
 * counts to 2^24; in integers plain C counts fastest, 256 a round. */
enum { MOST_ROUNDS = 1 << 22 };

ragfast_status ragfast_burn(uint64_t *operations, ragfast_arithmetic arithmetic, size_t rounds) {
    if (arithmetic != RAGFAST_FLOAT32 && arithmetic != RAGFAST_INT8) return RAGFAST_ERROR_ARGUMENT;
    if (rounds > SIZE_MAX >> 24) return RAGFAST_ERROR_ARGUMENT; /* the count would overflow */
    static const float zeros[RAGFAST_ROOF_LANES], factors[2] = {1, 1};
    static const int32_t integer_zeros[RAGFAST_ROOF_LANES];
    uint8_t codes[RAGFAST_ROOF_BYTES];
    int8_t query[RAGFAST_ROOF_BYTES];
    for (size_t i = 0; i < RAGFAST_ROOF_BYTES; i++) codes[i] = 1, query[i] = 1;
    const ragfast_kernels *kernels = ragfast_current_kernels();
    uint64_t products = 0;
    ragfast_fp_state caller_fp = ragfast_fp_enter();
    if (arithmetic == RAGFAST_INT8) kernels->begin_codes();
    for (size_t n; rounds > 0; rounds -= n) {
        n = ragfast_min(rounds, MOST_ROUNDS);
        products += arithmetic == RAGFAST_FLOAT32 ? (uint64_t)kernels->fma_f32(zeros, factors, n)
                                                  : (uint64_t)kernels->dot_i8(codes, query, integer_zeros, n);
    }
    if (arithmetic == RAGFAST_INT8) kernels->end_codes();
    ragfast_fp_leave(caller_fp);
    *operations = 2 * products;
    return RAGFAST_OK;
}

uint64_t ragfast_read(const void *x, size_t n_bytes) { return ragfast_current_kernels()->read(x, n_bytes); }
