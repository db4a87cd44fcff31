#include "search/segment.h"

enum { PANEL = RAGFAST_PANEL_DOCS };

size_t ragfast_count_allowed(const ragfast_docs *docs, size_t first, size_t end, size_t *n_panels) {
    size_t begin = first / PANEL, panels_end = (end + PANEL - 1) / PANEL, n = 0, any = 0;
    *n_panels = panels_end - begin;
    if (!docs->allowed || first == end) return end - first;
    uint32_t first_word = ragfast_present(docs, begin, first, end), last_word = 0;
    if (panels_end > begin + 1) last_word = ragfast_present(docs, panels_end - 1, first, end);
    for (size_t p = begin; p < panels_end; p++) { /* in 32-bit words, as every compiler makes vectors of it */
        uint32_t x = p == begin ? first_word : p + 1 == panels_end ? last_word : docs->allowed[p];
        any += x != 0;
        x -= x >> 1 & 0x55555555;
        x = (x & 0x33333333) + (x >> 2 & 0x33333333);
        n += ((x + (x >> 4)) & 0x0f0f0f0f) * 0x01010101 >> 24;
    }
    *n_panels = any;
    return n;
}

doc_block ragfast_list_rows(const ragfast_docs *docs, uint32_t *rows, size_t max_rows, size_t *first, size_t end) {
    doc_block block = {.rows = rows};
    while (*first < end && block.n_docs + PANEL <= max_rows) {
        size_t panel = *first / PANEL;
        for (uint32_t mask = ragfast_present(docs, panel, *first, end); mask; mask &= mask - 1)
            rows[block.n_docs++] = (uint32_t)(panel * PANEL + (size_t)__builtin_ctz(mask));
        *first = (panel + 1) * PANEL;
    }
    return block;
}

size_t ragfast_next_allowed(const ragfast_docs *docs, size_t p, size_t end) {
    while (docs->allowed && p < end && !docs->allowed[p]) p++;
    return p;
}

size_t ragfast_end_of_run(const ragfast_docs *docs, size_t p, size_t end) {
    if (!docs->allowed) return end;
    while (p < end && docs->allowed[p]) p++;
    return p;
}
