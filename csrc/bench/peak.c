#include "bench/peak.h"

#include "core/dispatch.h"
#include "core/fpenv.h"
#include "ragfast/runtime.h"

#include <string.h>

/* A sum counts the multiply-adds itself: each adds 1 x 1 for int8, and multiplies by 1 and adds 1 for float32. Float32
 * counts to 2^24; in integers plain C counts fastest, 256 a round. */
enum { MAX_ROUNDS = 1 << 22 };

static const struct {
    const char *isa;
    void (*fill)(peak_kernels *);
} levels[] = {
    {"scalar", peak_fill_scalar},
#ifdef RAGFAST_BUILD_AVX2
    {"avx2", peak_fill_avx2},
#endif
#ifdef RAGFAST_BUILD_AVX512
    {"avx512", peak_fill_avx512},
#endif
#ifdef RAGFAST_BUILD_AVX512VNNI
    {"avx512vnni", peak_fill_avx512vnni},
#endif
#ifdef RAGFAST_BUILD_AMX
    {"amx", peak_fill_amx},
#endif
};

ragfast_status peak_fill(peak_kernels *table, const char *isa) {
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        levels[i].fill(table);
        if (strcmp(levels[i].isa, isa) == 0) return RAGFAST_OK;
    }
    return RAGFAST_ERROR_UNKNOWN_ISA;
}

ragfast_status peak_operations(uint64_t *operations, peak_arithmetic arithmetic, size_t rounds) {
    if (arithmetic != PEAK_FLOAT32 && arithmetic != PEAK_INT8) return RAGFAST_ERROR_ARGUMENT;
    if (rounds > SIZE_MAX >> 24) return RAGFAST_ERROR_ARGUMENT; /* the count would overflow */
    static const float zeros[PEAK_LANES], factors[2] = {1, 1};
    static const int32_t integer_zeros[PEAK_LANES];
    uint8_t codes[PEAK_BYTES];
    int8_t query[PEAK_BYTES];
    for (size_t i = 0; i < PEAK_BYTES; i++) codes[i] = 1, query[i] = 1;
    const ragfast_kernels *kernels = ragfast_current_kernels();
    peak_kernels peak;
    ragfast_status status = peak_fill(&peak, kernels->name);
    if (status) return status;
    uint64_t products = 0;
    ragfast_fp_state caller_fp = ragfast_fp_enter();
    if (arithmetic == PEAK_INT8) kernels->begin_codes();
    for (size_t n; rounds > 0; rounds -= n) {
        n = ragfast_min(rounds, MAX_ROUNDS);
        products += arithmetic == PEAK_FLOAT32 ? (uint64_t)peak.fma_f32(zeros, factors, n)
                                               : (uint64_t)peak.dot_i8(codes, query, integer_zeros, n);
    }
    if (arithmetic == PEAK_INT8) kernels->end_codes();
    ragfast_fp_leave(caller_fp);
    *operations = 2 * products;
    return RAGFAST_OK;
}

ragfast_status peak_read(uint64_t *sum, const void *x, size_t n_bytes) {
    peak_kernels peak;
    ragfast_status status = peak_fill(&peak, ragfast_isa());
    if (!status) *sum = peak.read(x, n_bytes);
    return status;
}
