/* The one place that makes threads. A job is an atomic chunk counter on its caller's stack: the caller works through
 * the chunks itself, idle workers join while chunks are left, and the caller leaves when those that joined are done.
 * A descheduled idle worker therefore delays nobody, which OpenMP's barriers cannot offer on a shared machine.
 *
 * Workers live as long as the process. fork() keeps only the calling thread, so the child starts with an empty pool. */
#define _POSIX_C_SOURCE 200809L
#include "core/pool.h"

#include "core/fpenv.h"
#include "core/kernels.h"
#include "ragfast/runtime.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

enum { MAX_WORKERS = RAGFAST_MAX_THREADS - 1 };

typedef struct job {
    ragfast_chunk_fn *run;
    void *context;
    size_t n_chunks;
    atomic_size_t next;
    /* under pool.mutex: */
    size_t joined; /* threads that ever took part, the caller first; the next worker's number */
    size_t max_joined;
    size_t active; /* workers inside run_chunks now */
    pthread_cond_t done;
    struct job *next_job;
} job;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    job *jobs; /* newest first */
    size_t n_workers, n_idle;
} pool = {.mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static atomic_int default_threads = 1;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void run_chunks(job *j, size_t worker) {
    for (;;) {
        size_t chunk = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed);
        if (chunk >= j->n_chunks) return;
        j->run(j->context, chunk, worker);
    }
}

static job *job_to_join(void) {
    for (job *j = pool.jobs; j; j = j->next_job)
        if (j->joined < j->max_joined && atomic_load_explicit(&j->next, memory_order_relaxed) < j->n_chunks) return j;
    return NULL;
}

static void *worker_main(void *unused) {
    (void)unused;
    ragfast_fp_enter();
    pthread_mutex_lock(&pool.mutex);
    for (;;) {
        job *j = job_to_join();
        if (!j) {
            pool.n_idle++;
            pthread_cond_wait(&pool.wake, &pool.mutex);
            pool.n_idle--;
            continue;
        }
        size_t worker = j->joined++;
        j->active++;
        pthread_mutex_unlock(&pool.mutex);
        run_chunks(j, worker);
        pthread_mutex_lock(&pool.mutex);
        if (--j->active == 0) pthread_cond_signal(&j->done);
    }
    return NULL;
}

/* The deepest call of a worker takes 60 KB (a scan of float32 vectors 36 of them), and more under a sanitizer. Default sizes
 * differ: 128 KB with musl, with glibc what `ulimit -s` says. Where this size is refused the default stays. */
enum { STACK_BYTES = 1 << 20 };

/* Fewer workers than asked for is not an error: the caller does the rest. */
static void start_workers(size_t wanted) {
    pthread_attr_t attr;
    sigset_t all, saved;
    if (pthread_attr_init(&attr)) return;
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all); /* the host program's signals go to the host's threads */
    pthread_sigmask(SIG_SETMASK, &all, &saved);
    while (pool.n_workers < wanted && pool.n_workers < MAX_WORKERS) {
        pthread_t thread;
        if (pthread_create(&thread, &attr, worker_main, NULL)) break;
        pool.n_workers++;
    }
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
    pthread_attr_destroy(&attr);
}

static void before_fork(void) { pthread_mutex_lock(&pool.mutex); }
static void after_fork_parent(void) { pthread_mutex_unlock(&pool.mutex); }
static void after_fork_child(void) {
    pthread_mutex_init(&pool.mutex, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pool.jobs = NULL;
    pool.n_workers = pool.n_idle = 0;
}
static void register_fork_handlers(void) { pthread_atfork(before_fork, after_fork_parent, after_fork_child); }

int ragfast_worker_count(int n_threads, int is_small, size_t n_chunks) {
    if (n_threads == 0) n_threads = ragfast_get_num_threads();
    size_t n = is_small ? 1 : ragfast_min(ragfast_min((size_t)n_threads, RAGFAST_MAX_THREADS), n_chunks);
    return n ? (int)n : 1;
}

void ragfast_parallel_for(ragfast_chunk_fn *run, void *context, size_t n_chunks, int n_threads) {
    size_t threads = n_threads > 0 ? (size_t)n_threads : (size_t)ragfast_get_num_threads();
    threads = ragfast_min(threads, n_chunks);
    if (threads <= 1) {
        for (size_t chunk = 0; chunk < n_chunks; chunk++) run(context, chunk, 0);
        return;
    }
    pthread_once(&fork_once, register_fork_handlers);
    job j = {.run = run, .context = context, .n_chunks = n_chunks, .joined = 1, .max_joined = threads};
    pthread_cond_init(&j.done, NULL);

    pthread_mutex_lock(&pool.mutex);
    start_workers(threads - 1);
    j.next_job = pool.jobs;
    pool.jobs = &j;
    for (size_t i = ragfast_min(threads - 1, pool.n_idle); i > 0; i--) pthread_cond_signal(&pool.wake);
    pthread_mutex_unlock(&pool.mutex);

    run_chunks(&j, 0);

    pthread_mutex_lock(&pool.mutex);
    job **link = &pool.jobs;
    while (*link != &j) link = &(*link)->next_job;
    *link = j.next_job;
    while (j.active > 0) pthread_cond_wait(&j.done, &pool.mutex);
    pthread_mutex_unlock(&pool.mutex);
    pthread_cond_destroy(&j.done);
}

int ragfast_get_num_threads(void) { return atomic_load_explicit(&default_threads, memory_order_relaxed); }

void ragfast_set_num_threads(int n) { atomic_store_explicit(&default_threads, n < 1 ? 1 : n, memory_order_relaxed); }
