/* The floating-point environment of calculations. */
#ifndef RAGFAST_FPENV_H
#define RAGFAST_FPENV_H

/* Default rounding, denormals kept, for as long as the pair brackets. Calls between the two, which the compiler cannot see
 * through, keep the arithmetic there. Workers of ragfast_parallel_for have that environment always. */
#if defined(__x86_64__)
#include <xmmintrin.h>
typedef unsigned ragfast_fp_state;
static inline ragfast_fp_state ragfast_fp_enter(void) {
    ragfast_fp_state saved = _mm_getcsr();
    if ((saved & 0xffc0u) != 0x1f80u) _mm_setcsr(0x1f80u); /* all masked, to nearest, neither FTZ nor DAZ */
    return saved;
}
static inline void ragfast_fp_leave(ragfast_fp_state saved) {
    if ((saved & 0xffc0u) != 0x1f80u) _mm_setcsr(saved);
}
#else
#include <fenv.h>
typedef fenv_t ragfast_fp_state;
static inline ragfast_fp_state ragfast_fp_enter(void) {
    ragfast_fp_state saved;
    fegetenv(&saved);
    fesetenv(FE_DFL_ENV);
    return saved;
}
static inline void ragfast_fp_leave(ragfast_fp_state saved) { fesetenv(&saved); }
#endif

#endif
