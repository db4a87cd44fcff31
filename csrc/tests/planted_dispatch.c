/* core/dispatch.c again, under other names, with a wrong kernel in the level planted_level: a level that fails its test. */
#define ragfast_current_kernels planted_current_kernels
#define ragfast_scalar_kernels planted_scalar_kernels
#define ragfast_use_kernels planted_use_kernels
#define ragfast_isa_count planted_isa_count
#define ragfast_isa_name planted_isa_name
#define ragfast_isa_available planted_isa_available
#define ragfast_isa_wrong_kernel planted_isa_wrong_kernel
#define ragfast_isa planted_isa
#define ragfast_set_isa planted_set_isa
#define ragfast_lse_fill_avx2 planted_lse_fill_avx2
#define ragfast_lse_fill_avx512 planted_lse_fill_avx512
#include "core/dispatch.c"
#undef ragfast_lse_fill_avx2
#undef ragfast_lse_fill_avx512

size_t planted_level; /* set before the first call */

static double wrong_max_f64(const double *x, size_t n) { return tables[0].max_f64(x, n) + (n == 17 ? 0x1p-46 : 0); }

#ifdef RAGFAST_BUILD_AVX2
void ragfast_lse_fill_avx2(ragfast_kernels *table);
void planted_lse_fill_avx2(ragfast_kernels *table) {
    ragfast_lse_fill_avx2(table);
    if (planted_level == 1) table->max_f64 = wrong_max_f64;
}
#endif
#ifdef RAGFAST_BUILD_AVX512
void ragfast_lse_fill_avx512(ragfast_kernels *table);
void planted_lse_fill_avx512(ragfast_kernels *table) {
    ragfast_lse_fill_avx512(table);
    if (planted_level == 2) table->max_f64 = wrong_max_f64;
}
#endif
