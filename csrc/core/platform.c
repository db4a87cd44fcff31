#define _DEFAULT_SOURCE /* posix_madvise, syscall */
#include "core/platform.h"

#include "core/assumptions.h"

#include <stdint.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

size_t ragfast_page_bytes(void) { return (size_t)sysconf(_SC_PAGESIZE); }

uint64_t ragfast_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec + 1;
}

void ragfast_prefetch_pages(const void *first, size_t n_bytes, size_t page_bytes) {
    uintptr_t address = (uintptr_t)first, before = address % page_bytes;
    posix_madvise((void *)(address - before), n_bytes + before, POSIX_MADV_WILLNEED);
}

/* Linux gives tile registers to a process that asks; it refuses where the kernel is older than 5.16
 * (Documentation/arch/x86/xstate.rst). */
int ragfast_may_use_tiles(void) {
#if defined(__linux__) && defined(__x86_64__) && defined(SYS_arch_prctl)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 0;
#endif
}
