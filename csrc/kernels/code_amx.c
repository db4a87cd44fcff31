/* AMX int8 tiles, for many queries. THE HOT LOOP is sweep below. What few queries read and how a panel is unpacked
 * stay the AVX-512 VNNI level's: its unpacked (steps, 32 documents, 4) is, sixteen steps at a time, two tiles side
 * by side. */
#include "core/kernels.h"

#include <string.h>

#ifdef RAGFAST_EMULATED_AMX /* of tests/: the same code on a machine without AMX */
#include "tests/amx_emulated.h"
#else
#include <immintrin.h>
#endif

enum {
    PANEL = RAGFAST_PANEL_DOCS,
    ROWS = 16, /* of a tile: queries, or steps */
    LINE = 64, /* bytes of a row: 64 elements, or 16 documents' steps or sums */
    QUERIES = 32,
    GROUPS = LINE / RAGFAST_GROUP_DIM,
    STEP = 4 * PANEL
};

#define INLINE static inline __attribute__((always_inline))

static void begin_codes_amx(void) {
    /* Intel SDM vol. 1, 18.3: palette, first row, 14 reserved bytes, bytes of a row, rows. All eight tiles are
     * whole. */
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t n_rows[16];
    } config = {.palette = 1,
                .row_bytes = {LINE, LINE, LINE, LINE, LINE, LINE, LINE, LINE},
                .n_rows = {ROWS, ROWS, ROWS, ROWS, ROWS, ROWS, ROWS, ROWS}};
    _tile_loadconfig(&config);
}

static void end_codes_amx(void) { _tile_release(); }

/* To (tiles of QUERIES, n_groups / GROUPS, QUERIES, LINE), zero beyond n_queries and n_groups: sixteen queries are a
 * tile register, and the first groups of a tile are its first bytes. */
static void pack_query_codes_amx(int8_t *packed_queries, const int8_t *queries, size_t n_queries, size_t n_groups) {
    const size_t row = n_groups * RAGFAST_GROUP_DIM, n_blocks = (n_groups + GROUPS - 1) / GROUPS;
    memset(packed_queries, 0, (n_queries + QUERIES - 1) / QUERIES * n_blocks * QUERIES * LINE);
    for (size_t i = 0; i < n_queries; i++)
        for (size_t b = 0; b < n_blocks; b++)
            memcpy(packed_queries + ((i / QUERIES * n_blocks + b) * QUERIES + i % QUERIES) * LINE,
                   queries + i * row + b * LINE, ragfast_min(row - b * LINE, LINE));
}

/* sums (QUERIES, PANEL). Two query tiles (one where `both` is 0, a constant where inlined) x two document tiles:
 * each tile loaded is used twice, so that 4 loads of 8 cycles go beside 4 products of 16. Lines to come are fetched
 * a few a block, as in a burst they would hold up the tile loads behind them. */
INLINE void sweep(int32_t *sums, const int8_t *q, const uint8_t *codes, size_t n_blocks, const int both,
                  const char *ahead, size_t n_ahead) {
    const size_t lines = (n_ahead + n_blocks - 1) / n_blocks;
    _tile_zero(0);
    _tile_zero(1);
    if (both) _tile_zero(2);
    if (both) _tile_zero(3);
    for (size_t b = 0; b < n_blocks; b++, q += QUERIES * LINE, codes += ROWS * STEP) {
        _tile_loadd(4, q, LINE);
        _tile_loadd(6, codes, STEP);
        _tile_dpbsud(0, 4, 6);
        _tile_loadd(7, codes + LINE, STEP);
        _tile_dpbsud(1, 4, 7);
        if (both) {
            _tile_loadd(5, q + ROWS * LINE, LINE);
            _tile_dpbsud(2, 5, 6);
            _tile_dpbsud(3, 5, 7);
        }
        const size_t n = ragfast_min(lines, n_ahead);
        for (size_t l = 0; l < n; l++) _mm_prefetch(ahead + l * LINE, _MM_HINT_T1);
        ahead += n * LINE, n_ahead -= n;
    }
    _tile_stored(0, sums, STEP);
    _tile_stored(1, sums + ROWS, STEP);
    if (both) _tile_stored(2, sums + ROWS * PANEL, STEP);
    if (both) _tile_stored(3, sums + ROWS * PANEL + ROWS, STEP);
}

/* Bits of the 16 documents from j whose dot is not below its threshold, or where that is NaN. */
INLINE uint32_t compare(__m512i sums, const ragfast_code_bounds *bounds, size_t j, const ragfast_code_threshold *t) {
    __m512 limit =
        _mm512_fmadd_ps(_mm512_set1_ps(t->score), _mm512_loadu_ps(bounds->scale + j), _mm512_set1_ps(t->offset));
    limit = _mm512_fnmadd_ps(_mm512_set1_ps(t->norm), _mm512_loadu_ps(bounds->residual + j), limit);
    limit = _mm512_fnmadd_ps(_mm512_set1_ps(t->residual), _mm512_loadu_ps(bounds->norm + j), limit);
    limit = _mm512_fnmadd_ps(_mm512_set1_ps(t->tail), _mm512_loadu_ps(bounds->tail + j), limit);
    return (uint32_t)_mm512_cmp_ps_mask(_mm512_cvtepi32_ps(sums), limit, _CMP_NLT_UQ) << j;
}

static void tile_codes_amx(int32_t *dots, uint32_t *hits, const int8_t *packed_queries, size_t n_queries,
                           const uint8_t *codes, const ragfast_code_bounds *bounds, size_t n_groups,
                           const ragfast_code_threshold *thresholds, const char *ahead, size_t n_ahead) {
    const size_t n_blocks = (n_groups + GROUPS - 1) / GROUPS;
    _Alignas(64) int32_t sums[QUERIES * PANEL]; /* tiles reach vectors through memory alone; dots may be unaligned */
    if (n_queries > ROWS)
        sweep(sums, packed_queries, codes, n_blocks, 1, ahead, n_ahead);
    else
        sweep(sums, packed_queries, codes, n_blocks, 0, ahead, n_ahead);
    for (size_t i = 0; i < n_queries; i++) {
        __m512i low = _mm512_load_si512(sums + i * PANEL), high = _mm512_load_si512(sums + i * PANEL + ROWS);
        hits[i] = compare(low, bounds, 0, thresholds + i) | compare(high, bounds, ROWS, thresholds + i);
        if (hits[i]) { /* after the first blocks nearly never */
            _mm512_storeu_si512(dots + i * PANEL, low);
            _mm512_storeu_si512(dots + i * PANEL + ROWS, high);
        }
    }
}

void ragfast_code_fill_amx(ragfast_kernels *table) {
    table->code_queries = QUERIES;
    table->unpack_min_queries = 16;
    table->code_groups = GROUPS;
    table->code_mask = 0xff; /* unpack_codes is that of AVX-512 VNNI */
    table->pack_query_codes = pack_query_codes_amx;
    table->tile_codes = tile_codes_amx;
    table->begin_codes = begin_codes_amx;
    table->end_codes = end_codes_amx;
}
