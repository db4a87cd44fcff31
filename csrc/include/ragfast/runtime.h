/* Instruction-set levels, threads, and the options of a call. */
#ifndef RAGFAST_RUNTIME_H
#define RAGFAST_RUNTIME_H

#include "ragfast/status.h"

RAGFAST_BEGIN_DECLARATIONS

/* ---- instruction-set levels -------------------------------------------------------------------------------------
 * Levels ascend: "scalar", then on x86-64 "avx2" (AVX2, FMA, F16C), "avx512" (F, BW, DQ, VL), "avx512vnni", "amx" (tiles of
 * int8). Each includes those before it.
 *
 * The first call of any function that needs a level tests each kernel of those above scalar on inputs with known answers,
 * which takes about a millisecond. A level with a kernel that gives a wrong answer is not available, nor are those above it. */

RAGFAST_API size_t ragfast_isa_count(void);         /* levels in this build */
RAGFAST_API const char *ragfast_isa_name(size_t i); /* name of level i, ascending; NULL from the count on */
/* 1 if this CPU and operating system run level i and its kernels passed their tests, else 0. */
RAGFAST_API int ragfast_isa_available(size_t i);
/* The name of the kernel that gave a wrong answer at level i, or at the level below that i includes: the first level for which
 * this is not NULL. NULL if level i is available, or not one that this CPU and operating system run. */
RAGFAST_API const char *ragfast_isa_wrong_kernel(size_t i);
RAGFAST_API const char *ragfast_isa(void); /* the level in use: the highest available one unless set */
/* Sets the level for the whole process; searches under way keep theirs. */
RAGFAST_API ragfast_status ragfast_set_isa(const char *name);

/* ---- threads ----------------------------------------------------------------------------------------------------
 * One pool a process, started at the first call that wants it, restarted in a forked child. The calling thread takes
 * part, and a call never waits for a worker that has not begun. */

RAGFAST_EXPORT int ragfast_get_num_threads(void);   /* used where the options of a call have n_threads 0: 1 until set */
RAGFAST_EXPORT void ragfast_set_num_threads(int n); /* n < 1 counts as 1 */

/* ---- options of a call ------------------------------------------------------------------------------------------ */

/* How a call runs. NULL stands for the defaults, all zero. n_threads < 0 is RAGFAST_ERROR_ARGUMENT. */
typedef struct ragfast_options {
    int n_threads; /* threads of the call, its caller counted; 0: ragfast_get_num_threads() */
    /* Called by the calling thread during a long call, at most every 20 ms, with `context`. If it returns nonzero, all threads of
     * the call stop, and the call returns RAGFAST_ERROR_CANCELLED. Use it for deadlines and for signals. It may call any function
     * of ragfast. NULL: the call cannot be cancelled. */
    int (*poll)(void *context);
    void *context;
} ragfast_options;

RAGFAST_END_DECLARATIONS
#endif
