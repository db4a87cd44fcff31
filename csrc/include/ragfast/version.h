/* The version of the library, and which symbols it exports. */
#ifndef RAGFAST_VERSION_H
#define RAGFAST_VERSION_H

/* The version of this header, in one place: CMakeLists.txt reads the three numbers too. */
#define RAGFAST_VERSION_MAJOR 0
#define RAGFAST_VERSION_MINOR 1
#define RAGFAST_VERSION_PATCH 0
/* One number, for comparisons: #if RAGFAST_VERSION_NUMBER >= RAGFAST_MAKE_VERSION(0, 2, 0) */
#define RAGFAST_MAKE_VERSION(major, minor, patch) ((major) * 1000000 + (minor) * 1000 + (patch))
#define RAGFAST_VERSION_NUMBER RAGFAST_MAKE_VERSION(RAGFAST_VERSION_MAJOR, RAGFAST_VERSION_MINOR, RAGFAST_VERSION_PATCH)
#define RAGFAST_STRING_OF(x) #x
#define RAGFAST_JOIN_VERSION(major, minor, patch)                                                                      \
    RAGFAST_STRING_OF(major) "." RAGFAST_STRING_OF(minor) "." RAGFAST_STRING_OF(patch)
#define RAGFAST_VERSION                                                                                                \
    RAGFAST_JOIN_VERSION(RAGFAST_VERSION_MAJOR, RAGFAST_VERSION_MINOR, RAGFAST_VERSION_PATCH) /* "0.1.0" */

/* RAGFAST_API marks the public functions; a shared library exports them. RAGFAST_EXPORT marks functions that a host looks up by
 * name in any shared object that contains the library (src/ragfast/runtime.py), so these are exported from a static one too. */
#if defined(__GNUC__)
#define RAGFAST_EXPORT __attribute__((visibility("default")))
#else
#define RAGFAST_EXPORT
#endif
#if defined(RAGFAST_SHARED)
#define RAGFAST_API RAGFAST_EXPORT
#else
#define RAGFAST_API
#endif

#ifdef __cplusplus
#define RAGFAST_BEGIN_DECLARATIONS extern "C" {
#define RAGFAST_END_DECLARATIONS }
#else
#define RAGFAST_BEGIN_DECLARATIONS
#define RAGFAST_END_DECLARATIONS
#endif

RAGFAST_BEGIN_DECLARATIONS

RAGFAST_API const char *ragfast_version(void); /* RAGFAST_VERSION of the library that is linked */

RAGFAST_END_DECLARATIONS
#endif
