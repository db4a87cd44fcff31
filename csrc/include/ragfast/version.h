/* The version of the library, and which symbols it exports. */
#ifndef RAGFAST_VERSION_H
#define RAGFAST_VERSION_H

#define RAGFAST_VERSION "0.1.0"

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
