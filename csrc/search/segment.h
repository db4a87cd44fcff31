/* A segment as a search reads it: its rows, and which of them take part. */
#ifndef RAGFAST_SEGMENT_H
#define RAGFAST_SEGMENT_H

#include "core/elements.h"
#include "ragfast/search.h"
#include "search/i8_layout.h"

/* Documents of the segment that are looked at together: rows from first on, or those listed. */
typedef struct doc_block {
    size_t first, n_docs;
    const uint32_t *rows; /* ascending, or NULL */
    size_t n_next;        /* rows after the last that the same worker will ask for, where none are listed */
} doc_block;

static inline size_t ragfast_row_of(const doc_block *block, size_t j) {
    return block->rows ? block->rows[j] : block->first + j;
}

static inline int64_t ragfast_id_of(const ragfast_docs *docs, size_t row) {
    return docs->ids ? docs->ids[row] : docs->first_id + (int64_t)row;
}

static inline int ragfast_is_allowed(const ragfast_docs *docs, size_t row) {
    return !docs->allowed || (docs->allowed[row / 32] >> row % 32 & 1);
}

/* Of a panel's documents, those that take part: of rows first <= i < end, as codes may be there of later ones. */
static inline uint32_t ragfast_present(const ragfast_docs *docs, size_t panel, size_t first, size_t end) {
    uint32_t mask = docs->allowed ? docs->allowed[panel] : UINT32_MAX;
    if (first > panel * RAGFAST_PANEL_DOCS) mask &= UINT32_MAX << (first - panel * RAGFAST_PANEL_DOCS);
    if (end - panel * RAGFAST_PANEL_DOCS < RAGFAST_PANEL_DOCS) mask &= (1u << (end - panel * RAGFAST_PANEL_DOCS)) - 1;
    return mask;
}

static inline const void *ragfast_row_at(const ragfast_docs *docs, size_t row) {
    return (const char *)docs->vectors + row * docs->dim * ragfast_element_size(docs->dtype);
}

/* The number of rows first <= i < end that take part; *n_panels: the number of panels that they are in. */
size_t ragfast_count_allowed(const ragfast_docs *docs, size_t first, size_t end, size_t *n_panels);

/* The next rows of *first <= i < end that take part, at most max_rows of them, which is a multiple of a panel. */
doc_block ragfast_list_rows(const ragfast_docs *docs, uint32_t *rows, size_t max_rows, size_t *first, size_t end);

/* The first panel from p on, below end, of which a document takes part; or end. */
size_t ragfast_next_allowed(const ragfast_docs *docs, size_t p, size_t end);

/* The end of the run of such panels that begins at p. */
size_t ragfast_end_of_run(const ragfast_docs *docs, size_t p, size_t end);

#endif
