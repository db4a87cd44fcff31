#include "search/arguments.h"

#include "core/ranges.h"
#include "search/i8_layout.h"

#include <math.h>

enum { MAX_DIM = 1 << 20 };

static const size_t max_segment_docs = ((size_t)1 << 31) - 1; /* a row is kept in 32 bits, and 31 would do */
static const size_t max_docs = (size_t)1 << 48;               /* of all segments */
static const size_t max_output = SIZE_MAX / 1024; /* elements of queries and of results: bytes do not overflow */

static int codes_in_range(const ragfast_docs *docs) {
    const ragfast_codes *codes = docs->codes;
    if (docs->dtype == RAGFAST_F64 || docs->dim > RAGFAST_MAX_CODE_DIM || !ragfast_is_flag(codes->always)) return 0;
    if (docs->n_docs > 0 && !(docs->norms && codes->high && codes->low && codes->bounds)) return 0;
    if (codes->prefix % RAGFAST_GROUP_DIM || codes->prefix >= docs->dim || (codes->prefix && docs->half_squares))
        return 0;
    return codes->rotation_error >= 0 && codes->rotation_error < 0.01;
}

static int docs_in_range(const ragfast_docs *docs) {
    if (!ragfast_is_dtype(docs->dtype) || !ragfast_is_flag(docs->mapped) || docs->dim < 1 || docs->dim > MAX_DIM)
        return 0;
    if (docs->n_docs > max_segment_docs || docs->first_id < 0) return 0;
    if (!docs->ids && docs->n_docs > 0 && docs->first_id > INT64_MAX - (int64_t)(docs->n_docs - 1)) return 0;
    if (!docs->norms && docs->dtype > RAGFAST_F64) return 0;
    return !docs->codes || codes_in_range(docs);
}

int ragfast_arguments_in_range(const search_arguments *a) {
    if (a->n_segments < 1 || a->n_segments >= (size_t)1 << 31) return 0;
    if (a->k < 1 || a->k > max_output || !(a->temperature > 0) || isinf(a->temperature)) return 0;
    if (!ragfast_is_flag(a->cosine) || (a->cosine && a->segments->half_squares)) return 0;
    size_t n_docs = 0;
    for (size_t i = 0; i < a->n_segments; i++) {
        const ragfast_docs *docs = &a->segments[i], *first = a->segments;
        if (!docs_in_range(docs) || docs->dim != first->dim || docs->dtype != first->dtype ||
            !docs->half_squares != !first->half_squares)
            return 0;
        n_docs += docs->n_docs;
    }
    return n_docs <= max_docs && a->n_queries <= max_output / (a->k + a->segments->dim);
}
