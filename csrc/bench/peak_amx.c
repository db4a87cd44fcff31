/* What AMX reaches: 16384 products of 8 bits an instruction. */
#include "bench/peak.h"

#ifdef RAGFAST_EMULATED_AMX /* of tests/: the same code on a machine without AMX */
#include "tests/amx_emulated.h"
#else
#include <immintrin.h>
#endif

enum { TILE_LANES = 16 * 16, LINE = 64 };

/* Two tiles x two tiles, as sweep of code_amx.c, but loaded once: a product is issued every 16 cycles and takes 52, so
 * four sums hide it. */
static int64_t dot_i8_amx(const uint8_t *u, const int8_t *q, const int32_t *start, size_t rounds) {
    _tile_loadd(0, start, LINE);
    _tile_loadd(1, start, LINE);
    _tile_loadd(2, start, LINE);
    _tile_loadd(3, start, LINE);
    _tile_loadd(4, q, LINE);
    _tile_loadd(5, q, LINE);
    _tile_loadd(6, u, LINE);
    _tile_loadd(7, u, LINE);
    for (size_t r = 0; r < rounds; r++) {
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
    }
    int32_t sums[4][TILE_LANES];
    _tile_stored(0, sums[0], LINE);
    _tile_stored(1, sums[1], LINE);
    _tile_stored(2, sums[2], LINE);
    _tile_stored(3, sums[3], LINE);
    int64_t total = 0;
    for (size_t s = 0; s < 4; s++)
        for (size_t l = 0; l < TILE_LANES; l++) total += sums[s][l];
    return total;
}

void peak_fill_amx(peak_kernels *table) { table->dot_i8 = dot_i8_amx; }
