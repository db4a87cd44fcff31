/* XXH64 with seed 0, from its published specification: four sums of 64 bits that each take 8 bytes of every 32, merged at
 * the end, and what is left over after them by 8, 4 and 1. Words are little-endian on every machine. */
#include "core/ranges.h"
#include "core/kernels.h"
#include "core/pool.h"
#include "ragfast/search.h"

#include <string.h>

enum { STRIPE = 32, ROWS_CHUNK_BYTES = 256 << 10, INLINE_BYTES = 1 << 20 /* below, waking a thread costs more */ };

static const uint64_t prime_1 = 0x9E3779B185EBCA87, prime_2 = 0xC2B2AE3D27D4EB4F, prime_3 = 0x165667B19E3779F9,
                      prime_4 = 0x85EBCA77C2B2AE63, prime_5 = 0x27D4EB2F165667C5;

static inline uint64_t rotated(uint64_t x, unsigned n) { return x << n | x >> (64 - n); }

/* n <= 8 bytes as a number. */
static inline uint64_t word_of(const uint8_t *x, size_t n) {
    uint64_t word = 0;
    memcpy(&word, x, n);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

static inline uint64_t mixed(uint64_t sum, uint64_t word) { return rotated(sum + word * prime_2, 31) * prime_1; }

/* Whole stripes; returns the first byte after them. The sums in variables of their own, or they would live in memory. */
static const uint8_t *take_stripes(uint64_t sums[4], const uint8_t *x, size_t n_stripes) {
    uint64_t a = sums[0], b = sums[1], c = sums[2], d = sums[3];
    for (; n_stripes > 0; n_stripes--, x += STRIPE) {
        a = mixed(a, word_of(x, 8));
        b = mixed(b, word_of(x + 8, 8));
        c = mixed(c, word_of(x + 16, 8));
        d = mixed(d, word_of(x + 24, 8));
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
    return x;
}

/* The sums of n_bytes in all, of which n < STRIPE at `rest` have not gone into them. */
static uint64_t finish(const uint64_t sums[4], uint64_t n_bytes, const uint8_t *rest, size_t n) {
    uint64_t hash = prime_5;
    if (n_bytes >= STRIPE) {
        hash = rotated(sums[0], 1) + rotated(sums[1], 7) + rotated(sums[2], 12) + rotated(sums[3], 18);
        for (size_t i = 0; i < 4; i++) hash = (hash ^ mixed(0, sums[i])) * prime_1 + prime_4;
    }
    hash += n_bytes;
    for (; n >= 8; n -= 8, rest += 8) hash = rotated(hash ^ mixed(0, word_of(rest, 8)), 27) * prime_1 + prime_4;
    for (; n >= 4; n -= 4, rest += 4) hash = rotated(hash ^ word_of(rest, 4) * prime_1, 23) * prime_2 + prime_3;
    for (; n > 0; n--, rest++) hash = rotated(hash ^ *rest * prime_5, 11) * prime_1;
    hash = (hash ^ hash >> 33) * prime_2;
    hash = (hash ^ hash >> 29) * prime_3;
    return hash ^ hash >> 32;
}

void ragfast_checksum_begin(ragfast_checksum_state *state) {
    *state = (ragfast_checksum_state){.sums = {prime_1 + prime_2, prime_2, 0, -prime_1}};
}

void ragfast_checksum_update(ragfast_checksum_state *state, const void *x, size_t n_bytes) {
    const uint8_t *next = x;
    size_t held = state->n_bytes % STRIPE;
    state->n_bytes += n_bytes;
    if (held > 0) { /* first the stripe that has begun */
        size_t n = ragfast_min(STRIPE - held, n_bytes);
        if (n > 0) memcpy(state->rest + held, next, n);
        if (held + n < STRIPE) return;
        take_stripes(state->sums, state->rest, 1);
        next += n, n_bytes -= n;
    }
    next = take_stripes(state->sums, next, n_bytes / STRIPE);
    if (n_bytes % STRIPE > 0) memcpy(state->rest, next, n_bytes % STRIPE);
}

uint64_t ragfast_checksum_end(const ragfast_checksum_state *state) {
    return finish(state->sums, state->n_bytes, state->rest, state->n_bytes % STRIPE);
}

uint64_t ragfast_checksum(const void *x, size_t n_bytes) {
    ragfast_checksum_state state;
    ragfast_checksum_begin(&state);
    const uint8_t *rest = take_stripes(state.sums, x, n_bytes / STRIPE);
    return finish(state.sums, n_bytes, rest, n_bytes % STRIPE);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

typedef struct sums_job {
    uint32_t *sums;
    const uint8_t *rows;
    size_t n_rows, row_bytes, chunk_rows;
} sums_job;

static void sum_chunk(void *context, size_t chunk, size_t worker) {
    (void)worker;
    const sums_job *job = context;
    size_t first = chunk * job->chunk_rows, end = first + ragfast_min(job->chunk_rows, job->n_rows - first);
    for (size_t i = first; i < end; i++)
        job->sums[i] = (uint32_t)ragfast_checksum(ragfast_offset(job->rows, i * job->row_bytes), job->row_bytes);
}

ragfast_status ragfast_row_sums(uint32_t *sums, const void *rows, size_t n_rows, size_t row_bytes,
                                const ragfast_options *options) {
    ragfast_call call;
    if (ragfast_begin_call(&call, options) != RAGFAST_OK || n_rows > RAGFAST_MAX_ELEMENTS ||
        ragfast_product(n_rows, row_bytes) > SIZE_MAX / 2)
        return RAGFAST_ERROR_ARGUMENT;
    if (n_rows == 0) return RAGFAST_OK;
    sums_job job = {sums, rows, n_rows, row_bytes, ROWS_CHUNK_BYTES / (row_bytes + 1) + 1};
    size_t n_chunks = n_rows / job.chunk_rows + (n_rows % job.chunk_rows > 0);
    ragfast_parallel_for(&call, sum_chunk, &job, n_chunks,
                         ragfast_worker_count(&call, n_rows * row_bytes < INLINE_BYTES, n_chunks));
    return ragfast_end_call(&call);
}
