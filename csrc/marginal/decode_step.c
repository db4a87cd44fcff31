/* A step of RAG-Token decoding: the log-mixture over documents of what each predicts next, and its greatest entries.
 *
 * A beam's rows are read from memory once, for their LSE; the mixture then reads them again, in blocks of columns, from
 * the caches. Without `out` it goes through a buffer of one block and is never stored.
 *
 * A row's LSE is that of the whole row and a column's mixture is its own, so neither pieces nor threads change a bit;
 * nor do they change the best, since their order (value descending, column ascending) leaves no two equal.
 *
 * A NaN or +inf anywhere in a document that is not missing leaves no distribution: all of its beam is NaN, and its
 * first columns are its best. A document of nothing but -inf predicts nothing, as if it were missing. */
#include "core/ranges.h"
#include "core/dispatch.h"
#include "core/elements.h"
#include "core/fpenv.h"
#include "core/pool.h"
#include "marginal/row_lse.h"
#include "ragfast/marginal.h"

#include <math.h>
#include <stdlib.h>

enum {
    BLOCK_COLS = 1024,       /* mixed at a time: with a few documents they stay in the first cache */
    PIECE_COLS = 8 * 1024,   /* columns of one piece of work where beams are split; whole blocks */
    INLINE_WORK = 200 * 1000 /* logits below which waking a thread costs more than it brings */
};

/* log_softmax of rows as flat as this is accurate through ragfast_fast_lse if the documents' probabilities add up to no
 * more than 1, nearly: then what such rows bring to a mixture is at most e^-2 of it or the mixture is that far from 1.
 * */
#define MAX_LOG_TOTAL 1e-3

typedef struct entry {
    double value;
    size_t column;
} entry;

typedef struct job {
    const ragfast_kernels *kernels;
    ragfast_dtype dtype;
    char *out, *best;
    int64_t *best_ids;
    const char *logits;
    const double *doc_logprobs;
    size_t n, n_docs, vocab, n_best;
    size_t cols_each, n_pieces, piece_best; /* of a beam */
    double *offsets;                        /* (n,K) doc_logprobs - LSE; NaN at the first document: all is NaN */
    double *present;            /* (workers,K,BLOCK_COLS) float64 rows of documents that are not missing, or NULL */
    double *present_offsets;    /* (workers,K) */
    entry *entries;             /* (n, at most n_pieces * piece_best), a heap for each piece */
    unsigned char *may_be_fast; /* (n,) */
} job;

static ragfast_dtype out_dtype(ragfast_dtype dtype) { return dtype == RAGFAST_F64 ? RAGFAST_F64 : RAGFAST_F32; }

static const char *row_of(const job *j, size_t beam, size_t doc) {
    return j->logits + (beam * j->n_docs + doc) * j->vocab * ragfast_element_size(j->dtype);
}

/* ---- the best of a piece: a heap with the worst on top ----------------------------------------------------------- */

/* All NaN, as the values of a beam are if one is, count as equal. */
static int is_worse(entry a, entry b) { return a.value < b.value || (!(a.value > b.value) && a.column > b.column); }

static void sift_down(entry *heap, size_t n, size_t i) {
    const entry moved = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && is_worse(heap[child + 1], heap[child])) child++;
        if (!is_worse(heap[child], moved)) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

static void make_heap(entry *heap, size_t n) {
    for (size_t i = n / 2; i-- > 0;) sift_down(heap, n, i);
}

/* Best first. */
static void sort_entries(entry *entries, size_t n) {
    make_heap(entries, n);
    while (n > 1) {
        const entry worst = entries[0];
        entries[0] = entries[--n];
        entries[n] = worst;
        sift_down(entries, n, 0);
    }
}

/* Takes the mixture of n columns from `first` into a heap that holds `filled` of its `capacity`, and returns how many then.
 * Later columns lose ties, so a block whose maximum is not above the worst held has nothing to give. */
static size_t take_best(const job *j, entry *heap, size_t filled, size_t capacity, const void *mixture, size_t first,
                        size_t n) {
    const int is_f64 = j->dtype == RAGFAST_F64;
    size_t i = 0;
    for (; i < n && filled < capacity; i++) {
        heap[filled++] = (entry){is_f64 ? ((const double *)mixture)[i] : ((const float *)mixture)[i], first + i};
        if (filled == capacity) make_heap(heap, capacity);
    }
    if (i == n) return filled;
    double greatest = is_f64 ? j->kernels->max_f64((const double *)mixture + i, n - i)
                             : j->kernels->max_f32((const float *)mixture + i, n - i);
    if (!(greatest > heap[0].value)) return filled;
    for (; i < n; i++) {
        const double value = is_f64 ? ((const double *)mixture)[i] : ((const float *)mixture)[i];
        if (!(value > heap[0].value)) continue;
        heap[0] = (entry){value, first + i};
        sift_down(heap, capacity, 0);
    }
    return filled;
}

/* ---- offsets ----------------------------------------------------------------------------------------------------- */

/* LSE of a row, for x - lse to be as accurate as float32 can tell. Where one element has much of the sum, others'
 * float32 errors are seen in its log-probability, which is near 0. */
static double row_lse(const job *j, const void *x, int may_be_fast) {
    if (may_be_fast && j->vocab > RAGFAST_SHORT_ROW && j->dtype != RAGFAST_F64) {
        const double top = ragfast_row_max(j->kernels, x, j->vocab, j->dtype);
        double lse;
        if (isfinite(top) && ragfast_fast_lse(j->kernels, &lse, NULL, x, j->vocab, top, j->dtype) &&
            lse - top >= RAGFAST_FAST_RESULT)
            return lse;
    }
    const ragfast_lse terms = ragfast_careful_lse(j->kernels, x, j->vocab, j->dtype);
    return terms.top + terms.log_rest;
}

/* Nearly, or to less: then flat rows of the beam may be summed in float32. */
static int adds_up_to_one(const job *j, size_t beam) {
    const ragfast_lse total =
        ragfast_careful_lse(j->kernels, j->doc_logprobs + beam * j->n_docs, j->n_docs, RAGFAST_F64);
    return total.top + total.log_rest <= MAX_LOG_TOTAL;
}

/* -inf for a document that is missing or predicts nothing, NaN for one whose row or log-probability is none. */
static void find_offset(const job *j, size_t beam, size_t doc) {
    const double prior = j->doc_logprobs[beam * j->n_docs + doc];
    double *offset = &j->offsets[beam * j->n_docs + doc];
    if (prior == -INFINITY) {
        *offset = -INFINITY;
        return;
    }
    const double lse = row_lse(j, row_of(j, beam, doc), j->may_be_fast[beam]);
    *offset = lse == -INFINITY ? prior - INFINITY : lse == INFINITY ? NAN : prior - lse;
    if (*offset == INFINITY) *offset = NAN;
}

static int is_nan_throughout(const job *j, size_t beam) {
    int found = 0;
    for (size_t k = 0; k < j->n_docs; k++) found |= isnan(j->offsets[beam * j->n_docs + k]);
    return found;
}

/* ---- pieces ------------------------------------------------------------------------------------------------------ */

/* mix_f64 reads all its rows, so those of missing documents, which may hold anything, are left out by copying others.
 * */
static void mix_present(const job *j, double *out, size_t beam, size_t first, size_t n, size_t worker) {
    double *rows = j->present + worker * j->n_docs * BLOCK_COLS, *offsets = j->present_offsets + worker * j->n_docs;
    size_t n_present = 0;
    for (size_t k = 0; k < j->n_docs; k++) {
        const double offset = j->offsets[beam * j->n_docs + k];
        if (offset == -INFINITY) continue;
        const double *row = (const double *)(const void *)row_of(j, beam, k) + first;
        for (size_t i = 0; i < n; i++) rows[n_present * BLOCK_COLS + i] = row[i];
        offsets[n_present++] = offset;
    }
    if (n_present)
        j->kernels->mix_f64(out, NULL, offsets, rows, n_present, n, BLOCK_COLS);
    else
        for (size_t i = 0; i < n; i++) out[i] = -INFINITY;
}

static void mix_block(const job *j, void *out, size_t beam, size_t first, size_t n, size_t worker) {
    const double *offsets = j->offsets + beam * j->n_docs;
    const char *x = row_of(j, beam, 0) + first * ragfast_element_size(j->dtype);
    if (is_nan_throughout(j, beam)) {
        for (size_t i = 0; i < n; i++) ragfast_put_element(out, i, NAN, out_dtype(j->dtype));
    } else if (j->dtype != RAGFAST_F64)
        j->kernels->mix_logits[j->dtype](out, x, offsets, j->n_docs, n, j->vocab);
    else if (j->present)
        mix_present(j, out, beam, first, n, worker);
    else
        j->kernels->mix_f64(out, NULL, offsets, (const double *)(const void *)x, j->n_docs, n, j->vocab);
}

static void mix_piece(const job *j, size_t beam, size_t piece, size_t worker) {
    union {
        double f64[BLOCK_COLS];
        float f32[BLOCK_COLS];
    } buffer;
    const size_t size = ragfast_element_size(out_dtype(j->dtype)), first = piece * j->cols_each,
                 last = ragfast_min(first + j->cols_each, j->vocab), capacity = ragfast_min(j->n_best, last - first);
    entry *heap = j->n_best ? j->entries + (beam * j->n_pieces + piece) * j->piece_best : NULL;
    size_t filled = 0;
    for (size_t col = first, n; col < last; col += n) {
        n = ragfast_min(BLOCK_COLS, last - col);
        void *mixture = j->out ? (void *)(j->out + (beam * j->vocab + col) * size) : &buffer;
        mix_block(j, mixture, beam, col, n, worker);
        if (capacity) filled = take_best(j, heap, filled, capacity, mixture, col, n);
    }
}

/* What pieces hold lies one after another, each but the last having piece_best. */
static void finish_beam(void *context, size_t beam, size_t worker) {
    (void)worker;
    const job *j = context;
    entry *entries = j->entries + beam * j->n_pieces * j->piece_best;
    const size_t last_cols = j->vocab - (j->n_pieces - 1) * j->cols_each;
    sort_entries(entries, (j->n_pieces - 1) * j->piece_best + ragfast_min(j->n_best, last_cols));
    for (size_t i = 0; i < j->n_best; i++) {
        ragfast_put_element(j->best, beam * j->n_best + i, entries[i].value, out_dtype(j->dtype));
        j->best_ids[beam * j->n_best + i] = (int64_t)entries[i].column;
    }
}

static void run_beam(void *context, size_t beam, size_t worker) {
    const job *j = context;
    for (size_t k = 0; k < j->n_docs; k++) find_offset(j, beam, k);
    mix_piece(j, beam, 0, worker);
}

static void run_row(void *context, size_t row, size_t worker) {
    (void)worker;
    const job *j = context;
    find_offset(j, row / j->n_docs, row % j->n_docs);
}

static void run_piece(void *context, size_t piece, size_t worker) {
    const job *j = context;
    mix_piece(j, piece / j->n_pieces, piece % j->n_pieces, worker);
}

/* a + b * c * d, or SIZE_MAX if that overflows. */
static size_t add_product(size_t a, size_t b, size_t c, size_t d) {
    return ragfast_sum(a, ragfast_product(ragfast_product(b, c), d));
}

ragfast_status ragfast_marginalize_step(void *out, void *best, int64_t *best_ids, const void *logits,
                                        const double *doc_logprobs, size_t n, size_t n_docs, size_t vocab,
                                        ragfast_dtype dtype, size_t n_best, const ragfast_options *options) {
    ragfast_call call;
    if (ragfast_begin_call(&call, options) != RAGFAST_OK || !ragfast_is_dtype(dtype) || n_docs == 0 || n_best > vocab ||
        add_product(0, n, n_docs, vocab) > RAGFAST_MAX_ELEMENTS)
        return RAGFAST_ERROR_ARGUMENT;
    if (n == 0 || vocab == 0) return RAGFAST_OK;
    job j = {.dtype = dtype,
             .out = out,
             .best = best,
             .best_ids = best_ids,
             .logits = logits,
             .doc_logprobs = doc_logprobs,
             .n = n,
             .n_docs = n_docs,
             .vocab = vocab,
             .n_best = n_best,
             .cols_each = vocab,
             .n_pieces = 1};
    const size_t n_workers = ragfast_worker_count(&call, n * n_docs * vocab < INLINE_WORK, SIZE_MAX);
    /* Whole beams read memory least; columns of them share the work evenly where beams would not. */
    const int whole = n % n_workers == 0 || n >= 4 * n_workers;
    if (!whole) {
        j.cols_each = PIECE_COLS;
        j.n_pieces = (vocab + PIECE_COLS - 1) / PIECE_COLS;
    }
    j.piece_best = ragfast_min(n_best, j.cols_each);

    int copies = 0;
    for (size_t i = 0; dtype == RAGFAST_F64 && i < n * n_docs; i++) copies |= doc_logprobs[i] == -INFINITY;
    size_t bytes = add_product(0, n, n_docs, sizeof(double));
    if (copies) bytes = add_product(bytes, n_workers, n_docs, (BLOCK_COLS + 1) * sizeof(double));
    bytes = add_product(bytes, n * j.n_pieces, j.piece_best, sizeof(entry));
    bytes = add_product(bytes, n, 1, 1);
    if (bytes == SIZE_MAX) return RAGFAST_ERROR_ARGUMENT;
    char *scratch = malloc(bytes);
    if (!scratch) return RAGFAST_ERROR_MEMORY;
    double *free_doubles = (double *)(void *)scratch;
    j.offsets = free_doubles, free_doubles += n * n_docs;
    if (copies) {
        j.present = free_doubles, free_doubles += n_workers * n_docs * BLOCK_COLS;
        j.present_offsets = free_doubles, free_doubles += n_workers * n_docs;
    }
    j.entries = (entry *)(void *)free_doubles;
    j.may_be_fast = (unsigned char *)(j.entries + n * j.n_pieces * j.piece_best);

    const ragfast_fp_state saved = ragfast_fp_enter();
    j.kernels = ragfast_current_kernels();
    for (size_t i = 0; i < n; i++) j.may_be_fast[i] = (unsigned char)adds_up_to_one(&j, i);
    if (whole)
        ragfast_parallel_for(&call, run_beam, &j, n, n_workers);
    else {
        ragfast_parallel_for(&call, run_row, &j, n * n_docs, n_workers);
        ragfast_parallel_for(&call, run_piece, &j, n * j.n_pieces, n_workers);
    }
    if (n_best) ragfast_parallel_for(&call, finish_beam, &j, n, n * n_best < INLINE_WORK / 10 ? 1 : n_workers);
    ragfast_fp_leave(saved);
    free(scratch);
    return ragfast_end_call(&call);
}
