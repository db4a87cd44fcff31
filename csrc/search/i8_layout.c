#include "search/i8_layout.h"

#include "core/assumptions.h"

#include <string.h>

enum { TILE = RAGFAST_TILE_QUERIES };

void ragfast_interleave_codes(int8_t *packed, const int8_t *queries, size_t n_queries, size_t n_groups) {
    size_t dim = n_groups * RAGFAST_GROUP_DIM;
    memset(packed, 0, (n_queries + TILE - 1) / TILE * TILE * dim);
    for (size_t q = 0; q < n_queries; q++)
        for (size_t quad = 0; quad < dim / 4; quad++)
            memcpy(packed + ((q / TILE * (dim / 4) + quad) * TILE + q % TILE) * 4, queries + q * dim + quad * 4, 4);
}
