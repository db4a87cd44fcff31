/* ragfast: exact batched top-k retrieval by inner product, and log-sum-exp marginalization over documents.
 *
 * Letters: B queries, N documents, D dimension, K retrieved documents, T target tokens, V vocabulary.
 *
 * Rules for every function here:
 *   - Arguments stand in the order outputs, inputs (each followed by its sizes), scalars. Arrays are row-major and
 *     contiguous, aligned to their element type and no further. Pointers are non-NULL unless the comment says so;
 *     a pointer to an empty array is never read.
 *   - Checked, before any output is written: every size, element type, flag (0 or 1) and other scalar, and the numbers in targets,
 *     keys and rows. Outside its stated range, or where arrays of such sizes cannot exist, the status is RAGFAST_ERROR_ARGUMENT.
 *     Structs are checked as far as the function uses them.
 *   - Not checked, so the caller's to keep: pointers, and that arrays have the stated sizes and do not overlap unless the comment
 *     allows it; what other arrays hold, where the comment says how it must be.
 *   - The caller owns every buffer. A call makes at most one scratch allocation and frees it before it returns.
 *   - Outputs are undefined after any status but RAGFAST_OK, except where stated.
 *   - Nothing here prints, aborts, reads the environment or knows of Python. All functions may be called from many
 *     threads at once, and from a child process after fork().
 *   - Functions that calculate do so in the default floating-point environment (round to nearest, no flushing of
 *     denormals) and restore the caller's.
 */
#ifndef RAGFAST_H
#define RAGFAST_H

#include "ragfast/marginal.h"
#include "ragfast/runtime.h"
#include "ragfast/search.h"
#include "ragfast/status.h"
#include "ragfast/version.h"

#endif
