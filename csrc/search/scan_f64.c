#include "search/scan_f64.h"

#include "search/groups.h"
#include "search/rescore.h"
#include "search/stop.h"
#include "search/topk.h"

enum { BATCH = RAGFAST_SCORED_ROWS };

/* Rows outside, queries inside: a batch of rows comes from memory once. */
void ragfast_scan_f64(search *s, const doc_block *block, size_t worker) {
    const ragfast_docs *docs = s->segment->docs;
    size_t row_work = s->plan->dim + RAGFAST_ROW_WORK;
    for (size_t first = 0; first < block->n_docs; first += BATCH) {
        const void *ahead[BATCH];
        size_t end = ragfast_min(first + BATCH, block->n_docs), n_ahead = ragfast_min(block->n_docs - end, BATCH);
        for (size_t i = 0; i < n_ahead; i++) ahead[i] = ragfast_row_at(docs, ragfast_row_of(block, end + i));
        for (size_t q = 0; q < s->queries.n; q++) {
            const void *vectors[BATCH];
            double scores[BATCH];
            size_t rows[BATCH];
            size_t n = 0;
            for (size_t j = first; j < end; j++) {
                size_t row = ragfast_row_of(block, j);
                if (ragfast_is_excluded(s, q, row)) continue;
                vectors[n] = ragfast_row_at(docs, row);
                rows[n++] = row;
            }
            ragfast_score_vectors(s, q, scores, vectors, n, ahead, q == 0 ? n_ahead : 0);
            for (size_t i = 0; i < n; i++)
                if (scores[i] >= ragfast_threshold_of(s, q) &&
                    !ragfast_is_below_group(s, q, worker, rows[i], scores[i]))
                    ragfast_add(s, q, worker, rows[i], scores[i], scores[i], 1);
            s->workers[worker].slots[q].rescored += n;
            s->workers[worker].slots[q].unscanned += n;
            if (ragfast_stopped_after(s, worker, n * row_work)) return;
        }
    }
}
