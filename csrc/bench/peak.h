/* What this machine reaches at a level: work that is all arithmetic, or all reading. Benchmarks compare other kernels with
 * these peaks. A call measures the calling thread; to measure several cores, call it on several threads. */
#ifndef RAGFAST_PEAK_H
#define RAGFAST_PEAK_H

#include "core/kernels.h"

enum { PEAK_LANES = 256, PEAK_BYTES = 1024 }; /* sums in AVX-512's registers; bytes of a tile of AMX */

/* The kernels of one level: peak_<isa>.c writes its own over those of the level below. */
typedef struct peak_kernels {
    /* As many sums as keep this level's multipliers busy, in registers; each begins as an element of start (PEAK_LANES) and
     * takes one multiply-add a round, sum = sum * factors[0] + factors[1], fused or not. Returns their total: from 0 with
     * factors of 1 the number of multiply-adds, while each is below 2^24. */
    double (*fma_f32)(const float *start, const float factors[2], size_t rounds);
    /* The same with the fastest products of 8 bits that the tiles of codes use: each round adds the same u[i] q[i] to each
     * sum. Every sum begins as an element of start (PEAK_LANES). u and q (PEAK_BYTES), u below 64. Sums stay below 2^31,
     * where |u q| is 1 for 2^22 rounds. Call it between begin_codes and end_codes of ragfast_kernels. */
    int64_t (*dot_i8)(const uint8_t *u, const int8_t *q, const int32_t *start, size_t rounds);
    /* Loads x once. Returns the sum modulo 2^64 of its words of 8 bytes, the last one filled up with zeros. */
    uint64_t (*read)(const void *x, size_t n_bytes);
} peak_kernels;

void peak_fill_scalar(peak_kernels *table);
void peak_fill_avx2(peak_kernels *table);
void peak_fill_avx512(peak_kernels *table);
void peak_fill_avx512vnni(peak_kernels *table);
void peak_fill_amx(peak_kernels *table);

/* Those of a level by its name; RAGFAST_ERROR_UNKNOWN_ISA if this build has none. */
ragfast_status peak_fill(peak_kernels *table, const char *isa);

typedef enum peak_arithmetic {
    PEAK_FLOAT32 = 0, /* multiply-adds in registers */
    PEAK_INT8 = 1     /* the fastest 8-bit products, summed in 32 bits, of those that the scan of codes uses */
} peak_arithmetic;

/* *operations = the multiplications and additions that were done, each lane's counted, which is proportional to rounds; a
 * round takes a few nanoseconds, one of plain C's int8 up to a hundred. rounds below 2^40. */
ragfast_status peak_operations(uint64_t *operations, peak_arithmetic arithmetic, size_t rounds);

/* Reads x once, from its first byte to its last. *sum is that of its 8-byte words modulo 2^64, the last one filled up with
 * zeros: the same at every level. */
ragfast_status peak_read(uint64_t *sum, const void *x, size_t n_bytes);

#endif
