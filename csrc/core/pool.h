/* Calls under way, and the thread pool that shares their work. */
#ifndef RAGFAST_POOL_H
#define RAGFAST_POOL_H

#include "ragfast/runtime.h"

#include <stdatomic.h>

enum { RAGFAST_MAX_THREADS = 257 }; /* of one call, its caller counted */

/* A public call while it runs: its options, and whether it stops before its end. It lies on the stack of the calling thread, and no
 * call that takes options does without one. */
typedef struct ragfast_call {
    int (*poll)(void *context);
    void *context;
    size_t n_threads;   /* from 1 to MAX_THREADS */
    uint64_t next_poll; /* in ns; 0: no time was read yet. Of the calling thread only */
    atomic_int stopped;
} ragfast_call;

/* Returns RAGFAST_ERROR_ARGUMENT, and begins nothing, for a negative number of threads. */
ragfast_status ragfast_begin_call(ragfast_call *call, const ragfast_options *options);

extern uint64_t ragfast_poll_interval; /* in ns, 20 ms; the checks make it 0 */

/* Calls the poll callback, if there is one and if the last call of it was long enough ago. */
void ragfast_poll(ragfast_call *call);

/* Whether the call stops: then the rest of its work may be left undone. Worker 0 is the calling thread, which polls here: it must
 * hold no lock, and no tile registers (begin_codes), because the callback may begin another call. */
static inline int ragfast_stopped(ragfast_call *call, size_t worker) {
    if (worker == 0 && call->poll) ragfast_poll(call);
    return atomic_load_explicit(&call->stopped, memory_order_relaxed);
}

/* RAGFAST_OK, or RAGFAST_ERROR_CANCELLED if the call stopped. */
static inline ragfast_status ragfast_end_call(ragfast_call *call) {
    return atomic_load_explicit(&call->stopped, memory_order_relaxed) ? RAGFAST_ERROR_CANCELLED : RAGFAST_OK;
}

/* The number of threads that n_chunks pieces of work get: 1 if the work is too small to be shared. At least 1. */
size_t ragfast_worker_count(const ragfast_call *call, int is_small, size_t n_chunks);

/* Calls run(context, chunk, worker) for each chunk < n_chunks, on up to n_workers threads: the calling one, worker 0, and those of
 * the pool. worker is below n_workers, and no two chunks under way have the same. Returns when all of them have returned. If the
 * call stops, which is looked for between chunks, it leaves the other chunks out; all of them, if it has stopped before. */
typedef void ragfast_chunk_fn(void *context, size_t chunk, size_t worker);
void ragfast_parallel_for(ragfast_call *call, ragfast_chunk_fn *run, void *context, size_t n_chunks, size_t n_workers);

#endif
