/* Peak kernels: that the work which is counted is the work which is done, and that reading reads every byte. */
#include "tests/checkkernels.h"

enum { LANES = PEAK_LANES, BYTES = PEAK_BYTES };

static const ragfast_kernels *tiles; /* which configure the registers that dot_i8 of the level uses */

static int64_t dot(const peak_kernels *kernels, const uint8_t *u, const int8_t *q, const int32_t *start,
                   size_t rounds) {
    tiles->begin_codes();
    int64_t total = kernels->dot_i8(u, q, start, rounds);
    tiles->end_codes();
    return total;
}

/* From 0, sums of 1 count; from 2, sums halved and increased by 1 stay; both know the number of lanes. */
static void check_fma(const peak_kernels *kernels) {
    static const float ones[2] = {1, 1}, half[2] = {0.5f, 1};
    const size_t size = LANES * sizeof(float);
    float *zeros = input(size), *twos = input(size);
    for (size_t i = 0; i < LANES; i++) zeros[i] = 0, twos[i] = 2;
    double lanes = kernels->fma_f32(zeros, ones, 1);
    check(lanes >= 4 && lanes <= LANES && lanes == floor(lanes), "fma_f32 has %g lanes", lanes);
    check(kernels->fma_f32(twos, ones, 0) == 2 * lanes, "fma_f32 does something in no round");
    for (size_t rounds = 1; rounds < 3000; rounds = 3 * rounds + 1) {
        double counted = kernels->fma_f32(zeros, ones, rounds);
        check(counted == lanes * (double)rounds, "fma_f32 counts %g in %zu rounds of %g", counted, rounds, lanes);
        check(kernels->fma_f32(twos, half, rounds) == 2 * lanes, "fma_f32 is no multiply-add");
    }
    input_free(zeros, size);
    input_free(twos, size);
}

static void check_dot(const peak_kernels *kernels) {
    const size_t size = LANES * sizeof(int32_t);
    uint8_t *u = input(BYTES);
    int8_t *q = input(BYTES);
    int32_t *start = input(size);
    memset(u, 1, BYTES);
    memset(q, 1, BYTES);
    for (size_t i = 0; i < LANES; i++) start[i] = 0;
    int64_t products = dot(kernels, u, q, start, 1);
    check(products >= 16 && dot(kernels, u, q, start, 0) == 0, "dot_i8 does %lld products a round",
          (long long)products);
    for (size_t rounds = 1; rounds < 200; rounds = 3 * rounds + 1) {
        int64_t total = dot(kernels, u, q, start, rounds);
        check(total == products * (int64_t)rounds, "dot_i8 counts %lld in %zu rounds of %lld", (long long)total, rounds,
              (long long)products);
        for (int value = -127; value <= 127; value += 127) {
            memset(u, 63, BYTES);
            memset(q, value, BYTES);
            total = dot(kernels, u, q, start, rounds);
            check(total == products * (int64_t)rounds * 63 * value, "dot_i8 of 63 and %d is %lld", value,
                  (long long)total);
            memset(u, 1, BYTES);
            memset(q, 1, BYTES);
        }
    }
    int64_t none = dot(kernels, u, q, start, 0);
    for (size_t i = 0; i < LANES; i++) start[i] = 1;
    int64_t sums = dot(kernels, u, q, start, 0);
    check(none == 0 && sums >= 1, "dot_i8 has %lld sums", (long long)sums);
    check(dot(kernels, u, q, start, 5) == sums + 5 * products, "dot_i8 does not begin where it is told");
    input_free(u, BYTES);
    input_free(q, BYTES);
    input_free(start, size);
}

/* At every length, and so at every distance of the beginning from a line, beside an unreadable page. */
static void check_read(const peak_kernels *kernels) {
    for (size_t n = 0; n < 5000; n = n < 1200 ? n + 1 : n + 37) {
        if (skip_case()) continue;
        uint8_t *x = input(n);
        for (size_t i = 0; i < n; i++) x[i] = (uint8_t)random_u64();
        uint64_t sum = 0;
        for (size_t i = 0; i < n; i += 8) {
            uint64_t word = 0;
            memcpy(&word, x + i, n - i < 8 ? n - i : 8);
            sum += word;
        }
        check(kernels->read(x, n) == sum, "read of %zu bytes gives another sum", n);
        input_free(x, n);
    }
}

void check_peak_kernels(const peak_kernels *kernels, const ragfast_kernels *of_level) {
    WHERE("%s peaks", of_level->name);
    tiles = of_level;
    check_fma(kernels);
    check_dot(kernels);
    check_read(kernels);
}

void check_peak(int threads_only) {
    (void)threads_only;
    const char *before = ragfast_isa();
    for (size_t level = 0; level < ragfast_isa_count() && ragfast_isa_available(level); level++) {
        ragfast_set_isa(ragfast_isa_name(level));
        for (int arithmetic = PEAK_FLOAT32; arithmetic <= PEAK_INT8; arithmetic++) {
            WHERE("peak_operations at %s, arithmetic %d", ragfast_isa(), arithmetic);
            uint64_t none = 1, one = 0, many = 0;
            check(!peak_operations(&none, (peak_arithmetic)arithmetic, 0) && none == 0, "no round does something");
            check(!peak_operations(&one, (peak_arithmetic)arithmetic, 1) && one >= 8, "a round does %llu operations",
                  (unsigned long long)one);
            check(!peak_operations(&many, (peak_arithmetic)arithmetic, 1000) && many == 1000 * one,
                  "a thousand rounds are %llu operations", (unsigned long long)many);
        }
        static const uint64_t words[3] = {UINT64_MAX, 5, 7};
        uint64_t sum = 0;
        check(!peak_read(&sum, words, sizeof words) && sum == 11, "peak_read sums wrongly");
    }
    static ragfast_kernels stranger; /* a table that is no level of this build */
    stranger = *ragfast_current_kernels();
    stranger.name = "another level";
    uint64_t operations = 5;
    WHERE("peaks of %s", stranger.name);
    ragfast_use_kernels(&stranger);
    check(peak_operations(&operations, PEAK_INT8, 1) == RAGFAST_ERROR_UNKNOWN_ISA && operations == 5, "were measured");
    check(peak_read(&operations, &operations, 0) == RAGFAST_ERROR_UNKNOWN_ISA && operations == 5, "were measured");
    check(peak_operations(&operations, (peak_arithmetic)2, 1) == RAGFAST_ERROR_ARGUMENT, "arithmetic 2 was taken");
    check(peak_operations(&operations, PEAK_INT8, SIZE_MAX) == RAGFAST_ERROR_ARGUMENT, "SIZE_MAX rounds were taken");
    ragfast_set_isa(before);
}

void bench_peak_kernels(const ragfast_kernels *kernels) {
    enum { ROUNDS = 1 << 16 };
    const size_t size = (size_t)256 << 20;
    uint64_t *x = must(malloc(size)), operations;
    memset(x, 1, size);
    double seconds[3], rates[2];
    for (int arithmetic = PEAK_FLOAT32; arithmetic <= PEAK_INT8; arithmetic++) {
        TIME(seconds[arithmetic], peak_operations(&operations, (peak_arithmetic)arithmetic, ROUNDS));
        rates[arithmetic] = (double)operations * 1e-9 / seconds[arithmetic];
    }
    TIME(seconds[2], sink = (double)peak_read(&operations, x, size));
    printf("%-10s peaks: float32 %5.1f GFLOP/s   int8 %6.1f GOP/s   read from memory %5.1f GB/s\n", kernels->name,
           rates[0], rates[1], (double)size * 1e-9 / seconds[2]);
    free(x);
}
