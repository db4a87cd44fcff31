/* Vectors that break selection and bounds, and searches of them with what is to be found: see checkvectors.h. */
#include "tests/checkvectors.h"

const char *const kind_names[] = {"uniform", "integers", "equal",         "zero", "near duplicates",
                                  "wide",    "tiny",     "near overflow", "huge"};

void fill(float *x, size_t n_rows, size_t dim, int kind) {
    for (size_t i = 0; i < n_rows * dim; i++) {
        float first = i < dim ? (float)random_unit() : x[i % dim];
        switch (kind) {
        case UNIFORM: x[i] = (float)random_unit(); break;
        case INTEGERS: x[i] = (float)random_below(5) - 2.0f; break;
        case EQUAL: x[i] = first; break;
        case ZERO: x[i] = i % 2 ? 0.0f : -0.0f; break;
        case NEAR_DUPLICATES: x[i] = random_below(4) ? first : nextafterf(first, (float)random_unit()); break;
        case WIDE: x[i] = (float)ldexp(random_unit(), (int)random_below(41) - 20); break;
        case TINY: x[i] = (float)ldexp(random_unit(), -70 - (int)random_below(78)); break;
        case NEAR_OVERFLOW: x[i] = (float)ldexp(random_unit(), 62 + (int)random_below(3)); break;
        default: x[i] = (float)ldexp(random_unit(), 60 + (int)random_below(68)); break;
        }
    }
}

uint16_t near_16_bits(float x, ragfast_dtype dtype) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (dtype == RAGFAST_BF16) return (uint16_t)(bits >> 16);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    double magnitude = fabs((double)x);
    while (magnitude >= 0x1p16) magnitude *= 0x1p-36;
    while (magnitude > 0 && magnitude < 0x1p-24) magnitude *= 0x1p30;
    if (magnitude < 0x1p-14) return (uint16_t)(sign | (int)(magnitude * 0x1p24));
    int exponent;
    int fraction = (int)(frexp(magnitude, &exponent) * 0x1p11) - 0x400;
    return (uint16_t)(sign | (exponent + 14) << 10 | fraction);
}

static int by_score_then_id(const void *x, const void *y) {
    const ranked *a = x, *b = y;
    if (a->score != b->score) return a->score < b->score ? 1 : -1;
    return (a->id > b->id) - (a->id < b->id);
}

void *as_dtype(const float *x, size_t n, ragfast_dtype dtype, size_t *size) {
    *size = n * element_size(dtype);
    void *copy = input(*size);
    if (dtype == RAGFAST_F32 && n) memcpy(copy, x, *size);
    for (size_t i = 0; i < n; i++) {
        if (dtype == RAGFAST_F64) ((double *)copy)[i] = x[i] == 0 ? 0 : x[i] * (1 + 0x1p-40 * (double)random_below(3));
        if (dtype > RAGFAST_F64) ((uint16_t *)copy)[i] = near_16_bits(x[i], dtype);
    }
    return copy;
}

problem make_problem(size_t n_queries, size_t n_docs, size_t dim, int kind, ragfast_dtype dtype, int with_ids) {
    problem p = {.n_queries = n_queries};
    float *rows = must(malloc((n_docs + n_queries + 1) * dim * sizeof(float))), *queries = rows + n_docs * dim;
    fill(rows, n_docs, dim, kind);
    fill(queries, n_queries, dim, kind == NEAR_DUPLICATES || kind == EQUAL ? UNIFORM : kind);
    p.vectors = as_dtype(rows, n_docs * dim, dtype, &p.vectors_size);
    p.queries = as_dtype(queries, n_queries * dim, query_dtype(dtype), &p.queries_size);
    free(rows);
    p.norms = must(malloc((n_docs + 1) * sizeof(float)));
    p.ids = must(malloc((n_docs + 1) * sizeof(int64_t)));
    for (size_t i = 0; i < n_docs; i++) { /* shuffled, far apart, some beyond 32 bits */
        size_t j = random_below(i + 1);
        p.ids[i] = p.ids[j];
        p.ids[j] = (int64_t)i * 0x7fffffff;
    }
    p.docs = (ragfast_docs){
        .vectors = p.vectors, .ids = with_ids ? p.ids : NULL, .n_docs = n_docs, .dim = dim, .dtype = dtype};
    p.ranking = must(malloc((n_queries * n_docs + 1) * sizeof(ranked)));
    size_t query_row = dim * element_size(query_dtype(dtype)), row = dim * element_size(dtype);
    for (size_t i = 0; i < n_queries; i++) {
        for (size_t j = 0; j < n_docs; j++)
            p.ranking[i * n_docs + j] =
                (ranked){canonical_score((char *)p.queries + i * query_row, (char *)p.vectors + j * row, dim, dtype, 0),
                         with_ids ? p.ids[j] : (int64_t)j};
        qsort(p.ranking + i * n_docs, n_docs, sizeof(ranked), by_score_then_id);
    }
    return p;
}

void add_norms_and_codes(problem *p) {
    size_t n_docs = p->docs.n_docs, dim = p->docs.dim, bad_row, *size = p->codes_size;
    check(!ragfast_measure_rows(p->norms, NULL, NULL, &bad_row, p->vectors, n_docs, dim, p->docs.dtype, THREADS(2)),
          "norms failed");
    int has_center = n_docs && random_below(2), has_weight = random_below(2) != 0;
    int has_rotation = dim <= 800 && random_below(2); /* larger ones take their time under a sanitizer */
    float *center = p->transform = must(malloc((dim + 2) * dim * sizeof(float))), *weight = center + dim;
    float *rotation = weight + dim;
    size_t center_row = has_center ? random_below(n_docs) : 0;
    double *axis = must(malloc(dim * sizeof *axis)), square = 0;
    for (size_t e = 0; e < dim; e++) {
        if (has_center) center[e] = (float)element(p->vectors, center_row * dim + e, p->docs.dtype);
        weight[e] = ldexpf(1, (int)random_below(7) - 3);
        axis[e] = random_unit() + 2 * (e == 0);
        square += axis[e] * axis[e];
    }
    for (size_t i = 0; i < dim && has_rotation; i++) /* a reflection, each element rounded once */
        for (size_t e = 0; e < dim; e++) rotation[i * dim + e] = (float)((i == e) - 2 * axis[i] * axis[e] / square);
    free(axis);

    ragfast_codes_size(&size[0], &size[1], &size[2], n_docs, dim);
    size_t shift = random_below(2); /* any address will do */
    size[0] += shift, size[1] += shift, size[2] += 4 * shift;
    p->codes = (ragfast_codes){.high = input(size[0]),
                               .low = input(size[1]),
                               .bounds = input(size[2]),
                               .center = has_center ? center : NULL,
                               .weight = has_weight ? weight : NULL,
                               .rotation = has_rotation ? rotation : NULL,
                               .rotation_error = has_rotation ? 3 * 0x1p-24 * sqrt((double)dim) : 0,
                               .prefix = random_below(2) ? (dim - 1) / 64 * 64 / (1 + random_below(2)) / 64 * 64 : 0,
                               .always = 1};
    memset(p->codes.high, 0xa5, size[0]);
    memset(p->codes.low, 0xa5, size[1]);
    memset(p->codes.bounds, 0xa5, size[2]);
    size_t level = random_below(ragfast_isa_count()), first = random_below(n_docs + 1);
    if (ragfast_isa_available(level)) ragfast_set_isa(ragfast_isa_name(level));
    for (int part = 0; part < 2; part++)
        check(!ragfast_encode(&p->codes, p->vectors, NULL, p->docs.dtype, part ? first : 0, part ? n_docs : first, dim,
                              THREADS(1 + (int)random_below(3))),
              "ragfast_encode failed");
}

void free_problem(problem *p) {
    if (p->transform) {
        input_free(p->codes.high, p->codes_size[0]);
        input_free(p->codes.low, p->codes_size[1]);
        input_free(p->codes.bounds, p->codes_size[2]);
        free(p->transform);
    }
    input_free(p->vectors, p->vectors_size);
    input_free(p->queries, p->queries_size);
    free(p->norms);
    free(p->ids);
    free(p->ranking);
}

size_t wrong_entries(double *scores, int64_t *ids, double *logprobs, ragfast_query_stats *stats, const problem *p,
                     const ragfast_docs *docs, size_t k, double temperature, int n_threads) {
    size_t n_docs = p->docs.n_docs, n_found = ragfast_min(k, n_docs), wrong = 0;
    if (ragfast_search(scores, ids, logprobs, stats, NULL, p->queries, p->n_queries, docs, 1, NULL, k, 0, temperature,
                       THREADS(n_threads)))
        return 1;
    for (size_t i = 0; i < p->n_queries; i++) {
        const ranked *expected = p->ranking + i * n_docs;
        long double sum = 0;
        for (size_t j = 0; j < n_found; j++)
            sum += expl(((long double)expected[j].score - expected[0].score) / temperature);
        for (size_t j = 0; j < k; j++) {
            double score = scores[i * k + j], logprob = logprobs[i * k + j];
            if (j >= n_found) {
                wrong += !(score == -INFINITY && logprob == -INFINITY && ids[i * k + j] == -1);
                continue;
            }
            long double log_p = ((long double)expected[j].score - expected[0].score) / temperature - logl(sum);
            long double scale = 1 + fabsl(expected[j].score / temperature) + fabsl(expected[0].score / temperature);
            wrong += !(same_bits(score, expected[j].score) && ids[i * k + j] == expected[j].id &&
                       fabsl(logprob - log_p) <= (double)(8 + n_found) * DBL_EPSILON * scale);
        }
    }
    return wrong;
}
