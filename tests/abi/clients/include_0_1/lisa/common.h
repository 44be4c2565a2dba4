/* common.h - status codes, errors, element types and callbacks shared by every lisa header.
 *
 * SPDX-License-Identifier: MIT */
#ifndef LISA_COMMON_H
#define LISA_COMMON_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(LISA_BUILDING) && defined(__GNUC__)
#define LISA_API __attribute__((visibility("default")))
#else
#define LISA_API
#endif

/* Every fallible function returns one of these. Zero is success, failures are negative, and a
 * number is never reused. */
typedef int32_t lisa_status;

#define LISA_OK 0
#define LISA_E_INVAL (-1)  /* an argument or option has a value that is not allowed */
#define LISA_E_NOMEM (-2)  /* the allocator returned NULL */
#define LISA_E_IO (-3)     /* a file could not be read or written; the text has errno's words */
#define LISA_E_FORMAT (-4) /* a file is malformed: truncated, contradictory, hostile */
#define LISA_E_UNSUPPORTED (-5) /* well-formed, but not something this version implements */
#define LISA_E_STATE (-6)       /* the call is not allowed now (order of calls, bound objects) */
#define LISA_E_BUDGET (-7)      /* a memory limit or a planned capacity would be exceeded */
#define LISA_E_NONFINITE (-8)   /* a loss, gradient or weight is NaN or infinite */
#define LISA_E_BACKEND (-9)     /* a backend is missing, refused to start, or was lost */
#define LISA_E_ABI (-10)        /* a struct_size or option is from an incompatible header */
#define LISA_E_CANCELLED (-11)  /* the host's interrupt callback said stop */
#define LISA_E_NOTFOUND (-12)   /* no tensor, key or file of that name */
#define LISA_E_INTERNAL (-13)   /* a broken promise inside the library: please report it */

/* Element types of tensors. Numbers are fixed. */
#define LISA_DTYPE_F32 1
#define LISA_DTYPE_BF16 2
#define LISA_DTYPE_F16 3
#define LISA_DTYPE_F64 4

/* How an optimizer keeps its moments between steps. Numbers are fixed. */
#define LISA_MOMENTS_F32 1  /* as gradients are: float, or double on reference64 */
#define LISA_MOMENTS_BF16 2 /* rounded stochastically */
#define LISA_MOMENTS_8BIT 3 /* codes of 8 bits in blocks of 256, rounded stochastically */

/* The text of the calling thread's last failure: one line that names the file, tensor, key or
 * argument and what was expected. Empty before the first failure; successful calls leave it alone.
 * Borrowed; valid until the thread's next failing call. */
LISA_API const char *lisa_error_last(void);

/* The constant's own name, e.g. "LISA_E_NOMEM"; "LISA_E_?" for a number that is none. Static. */
LISA_API const char *lisa_status_name(lisa_status status);

/* "f32", "bf16", "f16", "f64", or "?". Static. */
LISA_API const char *lisa_dtype_name(uint32_t dtype);

/* Memory callbacks, per context. `alloc` returns at least `size` bytes aligned to `align` (a power
 * of two, at most 4096) or NULL; `release` gets the same size and alignment back. Both may be
 * called from the thread that is inside a lisa call only. */
typedef void *(*lisa_alloc_fn)(void *user, size_t size, size_t align);
typedef void (*lisa_release_fn)(void *user, void *ptr, size_t size, size_t align);

/* Log lines, per context; one line without a newline. The library itself never prints. */
#define LISA_LOG_ERROR 1
#define LISA_LOG_WARN 2
#define LISA_LOG_INFO 3
typedef void (*lisa_log_fn)(void *user, int32_t level, const char *line);

/* Polled between layers and before an update, never inside one. Non-zero stops the call with
 * LISA_E_CANCELLED. Must not call back into the same context. */
typedef int32_t (*lisa_interrupt_fn)(void *user);

#ifdef __cplusplus
}
#endif

#endif
