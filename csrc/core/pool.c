/* The one place that makes threads. A job is an atomic chunk counter on its caller's stack: the caller works through
 * the chunks itself, idle workers join while chunks are left, and the caller leaves when those that joined are done.
 * A descheduled idle worker therefore delays nobody, which OpenMP's barriers cannot offer on a shared machine.
 *
 * Workers live as long as the process. fork() keeps only the calling thread, so the child starts with an empty pool. */
#define _POSIX_C_SOURCE 200809L
#if defined(__APPLE__)
#define _DARWIN_C_SOURCE /* pthread_cond_timedwait_relative_np */
#endif
#include "core/pool.h"

#include "core/fpenv.h"
#include "core/kernels.h"
#include "core/platform.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

enum { MAX_WORKERS = RAGFAST_MAX_THREADS - 1 };

uint64_t ragfast_poll_interval = 20 * 1000 * 1000;

typedef struct job {
    ragfast_call *call;
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
    size_t n_forks; /* between the first process and this one */
} pool = {.mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static atomic_int default_threads = 1;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void run_chunks(job *j, size_t worker) {
    for (;;) {
        size_t chunk = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed);
        if (chunk >= j->n_chunks) return;
        j->run(j->context, chunk, worker);
        if (ragfast_stopped(j->call, worker)) atomic_store_explicit(&j->next, j->n_chunks, memory_order_relaxed);
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
    pool.n_forks++;
}
static void register_fork_handlers(void) { pthread_atfork(before_fork, after_fork_parent, after_fork_child); }

/* ---- calls ------------------------------------------------------------------------------------------------------- */

ragfast_status ragfast_begin_call(ragfast_call *call, const ragfast_options *options) {
    static const ragfast_options defaults = {0};
    if (!options) options = &defaults;
    if (options->n_threads < 0) return RAGFAST_ERROR_ARGUMENT;
    size_t n_threads = (size_t)(options->n_threads > 0 ? options->n_threads : ragfast_get_num_threads());
    *call = (ragfast_call){
        .poll = options->poll, .context = options->context, .n_threads = ragfast_min(n_threads, RAGFAST_MAX_THREADS)};
    return RAGFAST_OK;
}

/* The callback may change the floating-point environment. */
void ragfast_poll(ragfast_call *call) {
    uint64_t now = ragfast_now();
    if (now < call->next_poll || atomic_load_explicit(&call->stopped, memory_order_relaxed)) return;
    if (call->next_poll > 0) {
        ragfast_fp_state saved = ragfast_fp_enter();
        if (call->poll(call->context)) atomic_store_explicit(&call->stopped, 1, memory_order_relaxed);
        ragfast_fp_enter();
        ragfast_fp_leave(saved);
        now = ragfast_now();
    }
    call->next_poll = now + ragfast_poll_interval;
}

size_t ragfast_worker_count(const ragfast_call *call, int is_small, size_t n_chunks) {
    size_t n = is_small ? 1 : ragfast_min(call->n_threads, n_chunks);
    return n ? n : 1;
}

/* ---- their work --------------------------------------------------------------------------------------------------- */

static void run_alone(ragfast_call *call, ragfast_chunk_fn *run, void *context, size_t n_chunks) {
    for (size_t chunk = 0; chunk < n_chunks; chunk++) {
        run(context, chunk, 0);
        if (chunk + 1 < n_chunks && ragfast_stopped(call, 0)) return;
    }
}

/* A condition whose timed waits use the monotonic clock, so that setting the time of day does not lengthen them. */
static void init_condition(pthread_cond_t *condition) {
#if defined(__APPLE__)
    pthread_cond_init(condition, NULL);
#else
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attr);
    pthread_condattr_destroy(&attr);
#endif
}

/* Waits for a condition of init_condition, for at most so many ns. */
static void wait_for(pthread_cond_t *condition, pthread_mutex_t *mutex, uint64_t duration) {
    const uint64_t second = 1000000000;
#if defined(__APPLE__)
    struct timespec time = {(time_t)(duration / second), (long)(duration % second)};
    pthread_cond_timedwait_relative_np(condition, mutex, &time);
#else
    uint64_t end = ragfast_now() + duration;
    struct timespec time = {(time_t)(end / second), (long)(end % second)};
    pthread_cond_timedwait(condition, mutex, &time);
#endif
}

/* Waits until no worker is at the job any more, and polls meanwhile. pool.mutex is held, but not while the callback runs. */
static void wait_for_workers(job *j, size_t n_forks) {
    while (j->active > 0 && pool.n_forks == n_forks) {
        if (!j->call->poll) {
            pthread_cond_wait(&j->done, &pool.mutex);
            continue;
        }
        wait_for(&j->done, &pool.mutex, ragfast_poll_interval);
        pthread_mutex_unlock(&pool.mutex);
        ragfast_stopped(j->call, 0);
        pthread_mutex_lock(&pool.mutex);
    }
}

void ragfast_parallel_for(ragfast_call *call, ragfast_chunk_fn *run, void *context, size_t n_chunks, size_t n_workers) {
    size_t threads = ragfast_min(n_workers, n_chunks);
    if (ragfast_end_call(call) != RAGFAST_OK) return;
    if (threads <= 1) {
        run_alone(call, run, context, n_chunks);
        return;
    }
    pthread_once(&fork_once, register_fork_handlers);
    job j = {.call = call, .run = run, .context = context, .n_chunks = n_chunks, .joined = 1, .max_joined = threads};
    init_condition(&j.done);

    pthread_mutex_lock(&pool.mutex);
    size_t n_forks = pool.n_forks;
    start_workers(threads - 1);
    j.next_job = pool.jobs;
    pool.jobs = &j;
    for (size_t i = ragfast_min(threads - 1, pool.n_idle); i > 0; i--) pthread_cond_signal(&pool.wake);
    pthread_mutex_unlock(&pool.mutex);

    run_chunks(&j, 0);

    pthread_mutex_lock(&pool.mutex);
    job **link = &pool.jobs;
    while (*link && *link != &j) link = &(*link)->next_job;
    if (*link) *link = j.next_job;
    wait_for_workers(&j, n_forks);
    if (pool.n_forks !=
        n_forks) /* the callback forked, and this is the child: chunks of other threads will never be done */
        atomic_store_explicit(&call->stopped, 1, memory_order_relaxed);
    pthread_mutex_unlock(&pool.mutex);
    pthread_cond_destroy(&j.done);
}

int ragfast_get_num_threads(void) { return atomic_load_explicit(&default_threads, memory_order_relaxed); }

void ragfast_set_num_threads(int n) { atomic_store_explicit(&default_threads, n < 1 ? 1 : n, memory_order_relaxed); }
