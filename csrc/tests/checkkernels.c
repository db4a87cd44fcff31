/* Checks every kernel of every available level against its contract, then the functions of the public headers. Exit status 1
 * if anything was wrong.
 *
 *     checkkernels [subject ...]   everything, or these subjects
 *     --not subject                everything else
 *     --every N                    one case in N
 *     --quick                      --every 16
 *     --threads                    for ThreadSanitizer: calls with several threads only, because kernels share nothing
 *     --bench                      times the kernels instead
 *
 * `make sanitize` runs it under AddressSanitizer with UBSan, and under ThreadSanitizer; `make clang` under clang's UBSan, which
 * sees more; `make memcheck` under valgrind. Sanitizers do not see masked vector loads, so inputs end where an unreadable page
 * begins; outputs lie between canaries. */
#include "tests/checkkernels.h"

#include <stdarg.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { CANARY = 72 /* malloc aligns to 16, so that outputs are aligned to 8 bytes and no further */ };

char where[256];
static size_t n_checks, n_failures;

/* Results of the subject are not compared, because what they would be compared with is too coarse. */
static int is_coarse;

void check(int ok, const char *format, ...) {
    n_checks++;
    if (ok || is_coarse) return;
    if (++n_failures > 20) return; /* the first failures tell the most */
    va_list args;
    va_start(args, format);
    fprintf(stderr, "FAIL %s: ", where);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static size_t whole_pages(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

void *must(void *block) {
    if (block && block != MAP_FAILED) return block;
    fprintf(stderr, "out of memory\n");
    exit(2);
}

void *input(size_t bytes) {
    size_t capacity = whole_pages(bytes), page = whole_pages(1);
    char *map = must(mmap(NULL, capacity + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0));
    if (mprotect(map + capacity, page, PROT_NONE)) must(NULL);
    return map + capacity - bytes;
}

void input_free(void *data, size_t bytes) {
    size_t capacity = whole_pages(bytes);
    munmap((char *)data + bytes - capacity, capacity + whole_pages(1));
}

void *output(size_t bytes) {
    unsigned char *block = must(malloc(bytes + 2 * CANARY));
    memset(block, 0xa5, bytes + 2 * CANARY);
    return block + CANARY;
}

void output_free(void *data, size_t bytes) {
    unsigned char *block = (unsigned char *)data - CANARY;
    size_t touched = 0;
    for (size_t i = 0; i < CANARY; i++) touched += (size_t)((block[i] != 0xa5) + (block[CANARY + bytes + i] != 0xa5));
    check(touched == 0, "%zu bytes written outside an output of %zu bytes", touched, bytes);
    free(block);
}

/* ---- data ------------------------------------------------------------------------------------------------------- */

static uint64_t random_state = 1;

uint64_t random_u64(void) { /* splitmix64 */
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
size_t random_below(size_t n) { return (size_t)(random_u64() % n); }
double random_unit(void) { return (double)(int64_t)random_u64() * 0x1p-63; }

int same_bits(double a, double b) { return memcmp(&a, &b, sizeof a) == 0; }

void set_strange(int strange) {
#if defined(__x86_64__)
    _mm_setcsr(strange ? 0x1f80u | 0x8040u | 0x4000u : 0x1f80u);
#else
    (void)strange;
#endif
}

const char *const dtype_names[] = {"float32", "float64", "float16", "bfloat16"};

/* The value of 16 bits by the definition of its format: (-1)^sign 2^exponent 1.fraction, below the least exponent
 * 0.fraction. */
double value_of_16_bits(uint16_t x, ragfast_dtype dtype) {
    int fraction_bits = dtype == RAGFAST_F16 ? 10 : 7, top = dtype == RAGFAST_F16 ? 31 : 255;
    int exponent = x >> fraction_bits & top, fraction = x & ((1 << fraction_bits) - 1), bias = top / 2;
    double sign = x & 0x8000 ? -1 : 1;
    if (exponent == top) return fraction ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * ldexp(fraction, 1 - bias - fraction_bits);
    return sign * ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}

size_t element_size(ragfast_dtype dtype) {
    return dtype == RAGFAST_F64 ? sizeof(double) : dtype == RAGFAST_F32 ? sizeof(float) : sizeof(uint16_t);
}
ragfast_dtype query_dtype(ragfast_dtype dtype) { return dtype == RAGFAST_F64 ? RAGFAST_F64 : RAGFAST_F32; }

double element(const void *x, size_t i, ragfast_dtype dtype) {
    if (dtype == RAGFAST_F64) return ((const double *)x)[i];
    return dtype == RAGFAST_F32 ? (double)((const float *)x)[i] : value_of_16_bits(((const uint16_t *)x)[i], dtype);
}

double canonical_score(const void *query, const void *doc, size_t dim, ragfast_dtype dtype, int l2) {
    double lanes[16] = {0};
    for (size_t i = 0; i < dim; i++) { /* a compiler that contracts must not here */
        double x = element(query, i, query_dtype(dtype)), y = element(doc, i, dtype);
        volatile double difference = x - y, term = l2 ? difference * difference : x * y;
        lanes[i % 16] += term;
    }
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t l = 0; l < half; l++) lanes[l] += lanes[l + half];
    return l2 ? 0 - lanes[0] : lanes[0];
}

/* ---- timings ----------------------------------------------------------------------------------------------------- */

double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

volatile double sink;

/* ---- subjects ---------------------------------------------------------------------------------------------------- */

static size_t every = 1;

int skip_case(void) {
    static size_t n_cases;
    return n_cases++ % every != 0;
}

static void check_peak_of_level(const ragfast_kernels *kernels) {
    peak_kernels peak;
    check(!peak_fill(&peak, kernels->name), "%s has no peaks", kernels->name);
    check_peak_kernels(&peak, kernels);
}

static const struct {
    const char *name;
    int wants_long_double;                           /* compares with sums in long double */
    void (*kernels)(const ragfast_kernels *kernels); /* at each level, with the table of the level in use */
    void (*calls)(int threads_only);                 /* once */
    void (*bench)(const ragfast_kernels *kernels);
} subjects[] = {
    {"dot", 0, check_dot_kernels, NULL, bench_dot_kernels},
    {"score", 0, check_score_kernels, NULL, NULL},
    {"codes", 0, check_code_kernels, NULL, bench_code_kernels},
    {"lse", 1, check_lse_kernels, NULL, bench_lse_kernels},
    {"logits", 1, check_logits_kernels, NULL, bench_logits_kernels},
    {"selftest", 0, check_selftest_with, check_planted_level, NULL},
    {"peak", 0, check_peak_of_level, check_peak, bench_peak_kernels},
    {"amx", 0, NULL, check_emulated_amx, NULL},
    {"norms", 0, NULL, check_row_norms, NULL},
    {"refusals", 0, NULL, check_search_refusals, NULL},
    {"contract", 0, NULL, check_contract, NULL},
    {"search", 0, NULL, check_searches, NULL},
    {"marginal", 1, NULL, check_marginals, NULL},
    {"loss", 1, NULL, check_nll, NULL},
    {"mixtures", 1, NULL, check_mixtures, NULL},
    {"gather", 0, NULL, check_gather, NULL},
    {"metric", 0, NULL, check_metric, NULL},
    {"segments", 0, NULL, check_segments, NULL},
    {"callers", 1, NULL, check_callers, NULL},
    {"cancel", 0, NULL, check_cancel, NULL},
};
enum { N_SUBJECTS = sizeof subjects / sizeof subjects[0] };

static void run_subject(size_t x, int bench, int threads_only) {
    volatile long double one = 1; /* 64 bits in valgrind, and on some machines always */
    is_coarse = subjects[x].wants_long_double && one + DBL_EPSILON / 2 == one;
    random_state = 1; /* the cases of a subject do not depend on those before it */
    const char *before = ragfast_isa();
    for (size_t level = 0; level < ragfast_isa_count() && ragfast_isa_available(level) && !threads_only; level++) {
        void (*run)(const ragfast_kernels *) = bench ? subjects[x].bench : subjects[x].kernels;
        ragfast_set_isa(ragfast_isa_name(level));
        if (run) run(ragfast_current_kernels());
    }
    ragfast_set_isa(before);
    if (!bench && subjects[x].calls) subjects[x].calls(threads_only);
    if (!bench)
        printf("%s: %s\n", subjects[x].name,
               is_coarse ? "ran, but long double is too coarse here to compare with" : "checked");
}

static size_t subject_of(const char *name) {
    size_t x = 0;
    while (x < N_SUBJECTS && strcmp(name, subjects[x].name) != 0) x++;
    return x;
}

int main(int argc, char **argv) {
    int bench = 0, threads_only = 0, chosen[N_SUBJECTS] = {0}, left_out[N_SUBJECTS] = {0}, any = 0;
    for (int i = 1; i < argc; i++) {
        size_t x = subject_of(argv[i]);
        if (x < N_SUBJECTS)
            chosen[x] = any = 1;
        else if (strcmp(argv[i], "--not") == 0 && i + 1 < argc && subject_of(argv[i + 1]) < N_SUBJECTS)
            left_out[subject_of(argv[++i])] = 1;
        else if (strcmp(argv[i], "--bench") == 0)
            bench = 1;
        else if (strcmp(argv[i], "--quick") == 0)
            every = 16;
        else if (strcmp(argv[i], "--every") == 0 && i + 1 < argc && atoi(argv[i + 1]) > 0)
            every = (size_t)atoi(argv[++i]);
        else if (strcmp(argv[i], "--threads") == 0)
            threads_only = 1;
        else {
            fprintf(stderr,
                    "usage: %s [--bench | --quick | --every N | --threads] [--not subject] [subject ...]\nsubjects:",
                    argv[0]);
            for (x = 0; x < N_SUBJECTS; x++) fprintf(stderr, " %s", subjects[x].name);
            fprintf(stderr, "\n");
            return 2;
        }
    }
    for (size_t level = 0; level < ragfast_isa_count(); level++)
        if (!ragfast_isa_available(level)) printf("%s: not on this machine\n", ragfast_isa_name(level));
    for (size_t x = 0; x < N_SUBJECTS; x++)
        if ((!any || chosen[x]) && !left_out[x]) run_subject(x, bench, threads_only);
    if (!bench) printf("%zu checks, %zu failures\n", n_checks, n_failures);
    return n_failures != 0;
}
