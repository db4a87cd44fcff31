/* The AMX intrinsics that code_amx.c uses, in plain C, for machines without AMX: include instead of <immintrin.h>.
 * After the Intel SDM (vol. 1, chapter 18; vol. 2, the instructions' pages). What would be a fault there ends the
 * program here with a message; so does a second configuration without a release between, which is no fault. */
#ifndef AMX_EMULATED_H
#define AMX_EMULATED_H

#include <immintrin.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbsud
#define _tile_loadconfig emulated_tile_loadconfig
#define _tile_release emulated_tile_release
#define _tile_loadd emulated_tile_loadd
#define _tile_stored emulated_tile_stored
#define _tile_zero emulated_tile_zero
#define _tile_dpbsud emulated_tile_dpbsud

enum { EMULATED_TILES = 8, EMULATED_ROWS = 16, EMULATED_ROW_BYTES = 64 }; /* palette 1 */

/* Weak: one for all the files that include this, as begin_codes is in another than some of what it brackets. */
__attribute__((weak)) _Thread_local struct {
    int configured;
    size_t n_rows[EMULATED_TILES], row_bytes[EMULATED_TILES];
    uint8_t data[EMULATED_TILES][EMULATED_ROWS][EMULATED_ROW_BYTES];
} emulated_tiles;

static inline void emulated_require(int ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "AMX, emulated: %s\n", what);
    abort();
}

static inline void emulated_require_tile(int t) {
    emulated_require(emulated_tiles.configured, "a tile is used before _tile_loadconfig or after _tile_release");
    emulated_require(t >= 0 && t < EMULATED_TILES, "there are eight tiles");
    emulated_require(emulated_tiles.n_rows[t] > 0, "this tile is not configured");
}

static inline void emulated_tile_release(void) { memset(&emulated_tiles, 0, sizeof emulated_tiles); }

static inline void emulated_tile_loadconfig(const void *memory) {
    uint8_t bytes[64]; /* palette, start row, 14 reserved, 16 x 2 bytes of a row, 16 x rows */
    memcpy(bytes, memory, sizeof bytes);
    emulated_require(!emulated_tiles.configured, "tiles are configured again without _tile_release");
    emulated_tile_release();
    if (bytes[0] == 0) return;
    emulated_require(bytes[0] == 1, "the palette is neither 0 nor 1");
    emulated_require(bytes[1] == 0, "a start row would skip rows of the next load or store");
    for (size_t i = 2; i < 16; i++) emulated_require(bytes[i] == 0, "a reserved byte of the configuration is not 0");
    for (size_t t = 0; t < 16; t++) {
        size_t row_bytes = bytes[16 + 2 * t] + 256u * bytes[17 + 2 * t], n_rows = bytes[48 + t];
        emulated_require((row_bytes == 0) == (n_rows == 0), "of rows and bytes of a row, one alone is 0");
        emulated_require(t < EMULATED_TILES || n_rows == 0, "a tile beyond the eighth is configured");
        emulated_require(n_rows <= EMULATED_ROWS && row_bytes <= EMULATED_ROW_BYTES, "the tile is too large");
        if (t < EMULATED_TILES) emulated_tiles.n_rows[t] = n_rows, emulated_tiles.row_bytes[t] = row_bytes;
    }
    emulated_tiles.configured = 1;
}

static inline void emulated_tile_zero(int t) {
    emulated_require_tile(t);
    memset(emulated_tiles.data[t], 0, sizeof emulated_tiles.data[t]);
}

static inline void emulated_tile_loadd(int t, const void *base, size_t stride) {
    emulated_tile_zero(t); /* what lies beyond the configured rows and bytes becomes 0 */
    for (size_t r = 0; r < emulated_tiles.n_rows[t]; r++)
        memcpy(emulated_tiles.data[t][r], (const uint8_t *)base + r * stride, emulated_tiles.row_bytes[t]);
}

static inline void emulated_tile_stored(int t, void *base, size_t stride) {
    emulated_require_tile(t);
    for (size_t r = 0; r < emulated_tiles.n_rows[t]; r++)
        memcpy((uint8_t *)base + r * stride, emulated_tiles.data[t][r], emulated_tiles.row_bytes[t]);
}

/* c += a b: rows of a are signed bytes, b unsigned, four of b's rows in each of its row's 4-byte columns; sums wrap. */
static inline void emulated_tile_dpbsud(int c, int a, int b) {
    emulated_require_tile(c);
    emulated_require_tile(a);
    emulated_require_tile(b);
    emulated_require(c != a && c != b && a != b, "the three tiles of a product are not different ones");
    const size_t m_end = emulated_tiles.n_rows[c], k_end = emulated_tiles.n_rows[b];
    const size_t n_bytes = emulated_tiles.row_bytes[c];
    emulated_require(n_bytes % 4 == 0 && emulated_tiles.row_bytes[a] % 4 == 0, "a row is not of whole 4-byte columns");
    emulated_require(emulated_tiles.n_rows[a] == m_end, "the product's rows are not those of its first factor");
    emulated_require(emulated_tiles.row_bytes[a] == 4 * k_end, "the factors' inner sizes differ");
    emulated_require(emulated_tiles.row_bytes[b] == n_bytes,
                     "the product's columns are not those of its second factor");
    for (size_t m = 0; m < m_end; m++)
        for (size_t n = 0; n < n_bytes; n += 4) {
            uint32_t sum;
            memcpy(&sum, emulated_tiles.data[c][m] + n, sizeof sum);
            for (size_t k = 0; k < k_end; k++)
                for (size_t i = 0; i < 4; i++) {
                    int32_t x = (int8_t)emulated_tiles.data[a][m][4 * k + i], y = emulated_tiles.data[b][k][n + i];
                    sum += (uint32_t)(x * y);
                }
            memcpy(emulated_tiles.data[c][m] + n, &sum, sizeof sum);
        }
}

#endif
