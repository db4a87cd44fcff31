/* Which kernels run: one table a level, each a copy of the level below with its own entries written over it. Before a level
 * is available its kernels pass the known-answer tests of selftest.h. A new level is its kernel files in CMakeLists.txt and
 * one line in `levels`. Compiled for the baseline, like every driver. */
#include "core/dispatch.h"
#include "core/fpenv.h"
#include "core/platform.h"
#include "core/selftest.h"
#include "ragfast/runtime.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#if defined(__AVX__) && !defined(RAGFAST_NATIVE)
#error "drivers are compiled for the baseline: put -m flags on kernel files only (-DRAGFAST_NATIVE overrides)"
#endif

#if defined(RAGFAST_BUILD_AVX2) || defined(RAGFAST_BUILD_AVX512)
#include <cpuid.h>

/* Bits of CPUID leaf 1 ECX, leaf 7 EBX, and XCR0 (Intel SDM vol. 2A, CPUID; vol. 1, 13.3). */
enum { FMA = 1u << 12, OSXSAVE = 1u << 27, AVX = 1u << 28, F16C = 1u << 29 };
enum { AVX2 = 1u << 5, AVX512F = 1u << 16, AVX512DQ = 1u << 17, AVX512BW = 1u << 30 };
#define AVX512VL (1u << 31)
enum { AVX512VNNI = 1u << 11 };                    /* leaf 7 ECX */
enum { AMX_TILE = 1u << 24, AMX_INT8 = 1u << 25 }; /* leaf 7 EDX */
enum { STATE_AVX = 0x06, STATE_AVX512 = 0xe6, STATE_AMX = 0x600e6 };

/* A CPU flag says what the silicon can do; XCR0 says which registers the operating system saves. Both must agree. */
static int cpu_has(unsigned leaf1_ecx, unsigned leaf7_ebx, unsigned state) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (leaf1_ecx | OSXSAVE)) != (leaf1_ecx | OSXSAVE)) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & leaf7_ebx) != leaf7_ebx) return 0;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & state) == state;
}
#endif

static int runs_scalar(void) { return 1; }
#ifdef RAGFAST_BUILD_AVX2
static int runs_avx2(void) { return cpu_has(AVX | FMA | F16C, AVX2, STATE_AVX); }
#endif
#ifdef RAGFAST_BUILD_AVX512
static int runs_avx512(void) {
    return cpu_has(AVX | FMA | F16C, AVX2 | AVX512F | AVX512DQ | AVX512BW | AVX512VL, STATE_AVX512);
}
#endif
#ifdef RAGFAST_BUILD_AVX512VNNI
static int leaf7_has(unsigned ecx, unsigned edx) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & ecx) == ecx && (d & edx) == edx;
}
static int runs_avx512vnni(void) { return leaf7_has(AVX512VNNI, 0); }
#endif
#ifdef RAGFAST_BUILD_AMX
static int runs_amx(void) {
    return leaf7_has(0, AMX_TILE | AMX_INT8) && cpu_has(0, 0, STATE_AMX) && ragfast_may_use_tiles();
}
#endif

enum { N_OPERATIONS = 5 };

static const struct {
    const char *name;
    int (*runs)(void);                             /* given that the levels below run */
    void (*fill[N_OPERATIONS])(ragfast_kernels *); /* those that the level has files of */
} levels[] = {
    {"scalar",
     runs_scalar,
     {ragfast_score_fill_scalar, ragfast_dot_fill_scalar, ragfast_code_fill_scalar, ragfast_lse_fill_scalar,
      ragfast_logits_fill_scalar}},
#ifdef RAGFAST_BUILD_AVX2
    {"avx2",
     runs_avx2,
     {ragfast_score_fill_avx2, ragfast_dot_fill_avx2, ragfast_code_fill_avx2, ragfast_lse_fill_avx2,
      ragfast_logits_fill_avx2}},
#endif
#ifdef RAGFAST_BUILD_AVX512
    {"avx512",
     runs_avx512,
     {ragfast_score_fill_avx512, ragfast_dot_fill_avx512, ragfast_lse_fill_avx512, ragfast_logits_fill_avx512}},
#endif
#ifdef RAGFAST_BUILD_AVX512VNNI
    {"avx512vnni", runs_avx512vnni, {ragfast_code_fill_avx512vnni}},
#endif
#ifdef RAGFAST_BUILD_AMX
    {"amx", runs_amx, {ragfast_code_fill_amx}},
#endif
};
enum { N_LEVELS = sizeof levels / sizeof levels[0] };

/* Written once, by fill_tables. */
static ragfast_kernels tables[N_LEVELS];
static size_t n_supported;       /* levels that the CPU and the operating system run: a prefix of `levels` */
static size_t n_available;       /* those of them below the first with a wrong kernel */
static const char *wrong_kernel; /* of level n_available where that is supported */
static _Atomic(const ragfast_kernels *) current;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A level above one with a wrong kernel is left out as well, because it includes that level. */
static void fill_tables(void) {
    ragfast_fp_state caller_fp = ragfast_fp_enter();
    for (size_t i = 0; i < N_LEVELS && levels[i].runs(); i++) {
        n_supported = i + 1;
        if (wrong_kernel) continue;
        if (i) tables[i] = tables[i - 1];
        tables[i].name = levels[i].name;
        for (size_t f = 0; f < N_OPERATIONS && levels[i].fill[f]; f++) levels[i].fill[f](&tables[i]);
        if (i) wrong_kernel = ragfast_first_wrong_kernel(&tables[i], &tables[i - 1], &tables[0]);
        if (!wrong_kernel) n_available = i + 1;
    }
    ragfast_fp_leave(caller_fp);
    atomic_store(&current, &tables[n_available - 1]);
}

const ragfast_kernels *ragfast_current_kernels(void) {
    const ragfast_kernels *kernels = atomic_load_explicit(&current, memory_order_acquire);
    if (kernels) return kernels;
    pthread_once(&once, fill_tables);
    return atomic_load(&current);
}

const ragfast_kernels *ragfast_scalar_kernels(void) {
    pthread_once(&once, fill_tables);
    return &tables[0];
}

void ragfast_use_kernels(const ragfast_kernels *table) {
    pthread_once(&once, fill_tables); /* which would else put its own choice over this one */
    atomic_store_explicit(&current, table, memory_order_release);
}

size_t ragfast_isa_count(void) { return N_LEVELS; }

const char *ragfast_isa_name(size_t i) { return i < N_LEVELS ? levels[i].name : NULL; }

int ragfast_isa_available(size_t i) {
    pthread_once(&once, fill_tables);
    return i < n_available;
}

const char *ragfast_isa_wrong_kernel(size_t i) {
    pthread_once(&once, fill_tables);
    return i >= n_available && i < n_supported ? wrong_kernel : NULL;
}

const char *ragfast_isa(void) { return ragfast_current_kernels()->name; }

ragfast_status ragfast_set_isa(const char *name) {
    pthread_once(&once, fill_tables);
    for (size_t i = 0; i < N_LEVELS; i++) {
        if (strcmp(levels[i].name, name) != 0) continue;
        if (ragfast_isa_wrong_kernel(i)) return RAGFAST_ERROR_WRONG_KERNEL;
        if (i >= n_available) return RAGFAST_ERROR_UNAVAILABLE_ISA;
        ragfast_use_kernels(&tables[i]);
        return RAGFAST_OK;
    }
    return RAGFAST_ERROR_UNKNOWN_ISA;
}
