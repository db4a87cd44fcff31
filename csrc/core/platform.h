/* What the library asks of the operating system, threads excepted (pool.c). */
#ifndef RAGFAST_PLATFORM_H
#define RAGFAST_PLATFORM_H

#include <stddef.h>
#include <stdint.h>

size_t ragfast_page_bytes(void);

/* The time in ns by the monotonic clock. Above 0. */
uint64_t ragfast_now(void);

/* Asks for the pages of n_bytes at `first` to be read from the medium that they are mapped from. A hint: where it fails the
 * bytes are read when they are used. */
void ragfast_prefetch_pages(const void *first, size_t n_bytes, size_t page_bytes);

/* Whether this process may use the tile registers of AMX. The first call asks for the permission. */
int ragfast_may_use_tiles(void);

#endif
