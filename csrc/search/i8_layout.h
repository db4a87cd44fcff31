/* Codes: the documents again in one byte an element, for a scan in integers. Where they lie, and what their bounds mean; the
 * mathematics is in docs/exactness.md.
 *
 * A document x is transformed to y (quantize.c), and y * scale = Y to integers c, |c| <= 127, kept as u = c + 128. 32
 * documents make a panel, whose bytes, were they whole, would lie as (D / 4, 32, 4): a step is four elements of each of 32
 * documents, so that a dot product of four bytes needs no lane to be crossed. D is padded with u = 128 to groups of four steps
 * A B C D, and each group lies in two planes:
 *
 *     high (3, 128)   byte i of the three rows: A_i & 0xfc | D_i >> 6, B_i & 0xfc | D_i >> 4 & 3, C_i & 0xfc | D_i >> 2 & 3
 *     low  (128)      A_i & 3 | (B_i & 3) << 2 | (C_i & 3) << 4 | (D_i & 3) << 6
 *
 * The upper six bits of each u are all that few queries read: three quarters of the bytes. */
#ifndef RAGFAST_I8_LAYOUT_H
#define RAGFAST_I8_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

enum {
    RAGFAST_PANEL_DOCS = 32,
    RAGFAST_TILE_QUERIES = 12, /* of a packed tile, of codes or of float32 */
    RAGFAST_GROUP_DIM = 16,    /* elements of a group */
    RAGFAST_GROUP_HIGH = 3 * 128,
    RAGFAST_GROUP_LOW = 128,
    RAGFAST_GROUP_CODES = 4 * 128, /* unpacked */
    RAGFAST_MAX_CODE_DIM = 1 << 15 /* so that 255 x 127 x D stays far below 2^31 */
};

/* One panel's documents. In code units, that is of Y; all but `scale` are upper bounds, infinite where y is beyond coding,
 * but for `tail` where the metric is the distance. */
typedef struct ragfast_code_bounds {
    float scale[RAGFAST_PANEL_DOCS];
    float high_residual[RAGFAST_PANEL_DOCS]; /* |Y - c'|, c' = (u & 0xfc) - 126.5 */
    float residual[RAGFAST_PANEL_DOCS];      /* |Y - c| */
    float norm[RAGFAST_PANEL_DOCS];          /* |c| and |c'| */
    float tail[RAGFAST_PANEL_DOCS];          /* |Y| beyond the prefix, finite; or a lower bound of |x|^2 / 2 */
} ragfast_code_bounds;

/* One query's side of the comparison in ragfast_kernels.tile_high. */
typedef struct ragfast_code_threshold {
    float offset, score, norm, residual, tail;
} ragfast_code_threshold;

/* Codes (n, n_groups x 16) as tile_high has queries: (tiles, 4 n_groups, TILE_QUERIES, 4), absent ones zero. */
void ragfast_interleave_codes(int8_t *packed, const int8_t *queries, size_t n_queries, size_t n_groups);

static inline size_t ragfast_code_groups(size_t dim) { return (dim + RAGFAST_GROUP_DIM - 1) / RAGFAST_GROUP_DIM; }

#endif
