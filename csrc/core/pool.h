/* The thread pool. */
#ifndef RAGFAST_POOL_H
#define RAGFAST_POOL_H

#include <stddef.h>

enum { RAGFAST_MAX_THREADS = 257 }; /* of one call, its caller counted */

/* The threads of a call: n_threads, or the default where that is 0, at most n_chunks; 1 where the work is too small to be
 * shared. From 1 to MAX_THREADS. */
int ragfast_worker_count(int n_threads, int is_small, size_t n_chunks);

/* Calls run(context, chunk, worker) for each chunk < n_chunks, on up to n_threads threads counting the caller; worker
 * is below n_threads and no two calls under way share one. Returns when all have returned. n_threads 0: the default. */
typedef void ragfast_chunk_fn(void *context, size_t chunk, size_t worker);
void ragfast_parallel_for(ragfast_chunk_fn *run, void *context, size_t n_chunks, int n_threads);

#endif
