/* Which kernels run: one table a level, each a copy of the level below with its own entries written over it. A new
 * level is its kernel files in CMakeLists.txt and one line in `levels`. Compiled for the baseline, like every driver. */
#include "internal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#if defined(__AVX__) && !defined(RAGFAST_NATIVE)
#error "drivers are compiled for the baseline: put -m flags on kernel files only (-DRAGFAST_NATIVE overrides)"
#endif

#if defined(RAGFAST_BUILD_AVX2) || defined(RAGFAST_BUILD_AVX512)
#include <cpuid.h>

/* Bits of CPUID leaf 1 ECX, leaf 7 EBX, and XCR0 (Intel SDM vol. 2A, CPUID; vol. 1, 13.3). */
enum { FMA = 1u << 12, OSXSAVE = 1u << 27, AVX = 1u << 28 };
enum { AVX2 = 1u << 5, AVX512F = 1u << 16, AVX512DQ = 1u << 17, AVX512BW = 1u << 30 };
#define AVX512VL (1u << 31)
enum { STATE_AVX = 0x06, STATE_AVX512 = 0xe6 };

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
static int runs_avx2(void) { return cpu_has(AVX | FMA, AVX2, STATE_AVX); }
#endif
#ifdef RAGFAST_BUILD_AVX512
static int runs_avx512(void) {
    return cpu_has(AVX | FMA, AVX2 | AVX512F | AVX512DQ | AVX512BW | AVX512VL, STATE_AVX512);
}
#endif

static const struct {
    const char *name;
    int (*runs)(void);
    void (*fill_dot)(ragfast_kernels *);
    void (*fill_lse)(ragfast_kernels *);
} levels[] = {
    {"scalar", runs_scalar, ragfast_dot_fill_scalar, ragfast_lse_fill_scalar},
#ifdef RAGFAST_BUILD_AVX2
    {"avx2", runs_avx2, ragfast_dot_fill_avx2, ragfast_lse_fill_avx2},
#endif
#ifdef RAGFAST_BUILD_AVX512
    {"avx512", runs_avx512, ragfast_dot_fill_avx512, ragfast_lse_fill_avx512},
#endif
};
enum { N_LEVELS = sizeof levels / sizeof levels[0] };

static ragfast_kernels tables[N_LEVELS]; /* written once, by fill_tables */
static size_t n_available;               /* levels that run here are a prefix of `levels` */
static _Atomic(const ragfast_kernels *) current;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill_tables(void) {
    for (size_t i = 0; i < N_LEVELS && levels[i].runs(); i++) {
        if (i) tables[i] = tables[i - 1];
        tables[i].name = levels[i].name;
        levels[i].fill_dot(&tables[i]);
        levels[i].fill_lse(&tables[i]);
        n_available = i + 1;
    }
    atomic_store(&current, &tables[n_available - 1]);
}

const ragfast_kernels *ragfast_current_kernels(void) {
    const ragfast_kernels *kernels = atomic_load_explicit(&current, memory_order_acquire);
    if (kernels) return kernels;
    pthread_once(&once, fill_tables);
    return atomic_load(&current);
}

size_t ragfast_isa_count(void) { return N_LEVELS; }

const char *ragfast_isa_name(size_t i) { return levels[i].name; }

int ragfast_isa_available(size_t i) {
    pthread_once(&once, fill_tables);
    return i < n_available;
}

const char *ragfast_isa(void) { return ragfast_current_kernels()->name; }

ragfast_status ragfast_set_isa(const char *name) {
    pthread_once(&once, fill_tables);
    for (size_t i = 0; i < N_LEVELS; i++) {
        if (strcmp(levels[i].name, name) != 0) continue;
        if (i >= n_available) return RAGFAST_ERROR_UNAVAILABLE_ISA;
        atomic_store_explicit(&current, &tables[i], memory_order_release);
        return RAGFAST_OK;
    }
    return RAGFAST_ERROR_UNKNOWN_ISA;
}

const char *ragfast_strerror(ragfast_status status) {
    switch (status) {
    case RAGFAST_OK: return "no error";
    case RAGFAST_ERROR_MEMORY: return "out of memory for the scratch block of this call";
    case RAGFAST_ERROR_ARGUMENT: return "a size or scalar is outside its range";
    case RAGFAST_ERROR_UNKNOWN_ISA: return "no instruction-set level of that name in this build";
    case RAGFAST_ERROR_UNAVAILABLE_ISA: return "this CPU or operating system lacks that instruction-set level";
    case RAGFAST_ERROR_NONFINITE_QUERY: return "a query holds NaN or an infinity";
    case RAGFAST_ERROR_NONFINITE_DOC: return "a document holds NaN or an infinity";
    case RAGFAST_ERROR_OVERFLOW: return "an inner product of float64 values overflows float64";
    }
    return "unknown status";
}
