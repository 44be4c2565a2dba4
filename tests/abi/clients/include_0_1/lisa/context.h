/* context.h - one backend, its threads, memory accounting and callbacks.
 *
 * SPDX-License-Identifier: MIT */
#ifndef LISA_CONTEXT_H
#define LISA_CONTEXT_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Threads: one thread at a time per context and everything made from it; distinct contexts are
 * independent. */
typedef struct lisa_context lisa_context;

/* Classes of memory, counted apart. See docs/memory.md for what each holds. */
#define LISA_MEM_WEIGHTS_MAPPED 0  /* file pages, shared and reclaimable; not counted in a limit */
#define LISA_MEM_WEIGHTS_PRIVATE 1 /* copied or trained weights */
#define LISA_MEM_GRADIENTS 2
#define LISA_MEM_MOMENTS 3     /* AdamW's m and v */
#define LISA_MEM_LOW_BITS 4    /* what a 16-bit weight lacks of its fp32 master */
#define LISA_MEM_ACTIVATIONS 5 /* saved by forward for backward */
#define LISA_MEM_RECOMPUTE 6   /* one layer's activations, rebuilt in backward */
#define LISA_MEM_LOGITS 7      /* one chunk of rows through head and loss */
#define LISA_MEM_WORKSPACE 8   /* buffers of forward and backward, thread and BLAS scratch */
#define LISA_MEM_EVALUATION 9  /* evaluate and generate, held during the call alone */
#define LISA_MEM_STAGING 10    /* conversions while opening and saving */
#define LISA_MEM_DISK 11       /* scratch file, in bytes on disk; not counted in a limit */
#define LISA_MEM_HANDLES 12    /* handles, names and tables; small, and not in the plan */
#define LISA_MEM_DRIVER 13     /* a device's driver's own, measured after start; not in a limit */
#define LISA_MEM_HOST 14       /* host memory that a device copies to and from; not in a limit */
#define LISA_MEM_CLASSES 15

/* "gradients", "moments", ...: a LISA_MEM_* class in words; "?" for none. Static. */
LISA_API const char *lisa_memory_class_name(uint32_t memory_class);

typedef struct lisa_context_options {
    size_t struct_size;
    const char *backend;   /* "cpu" (default), "cuda", "auto", "reference", "reference64" */
    uint64_t memory_limit; /* bytes for all classes but MAPPED and DISK; 0 means none */
    uint32_t n_threads;    /* 0: as many as the process may run on. Results do not depend on it */
    int32_t log_level;     /* most verbose level passed on; 0 means none */
    lisa_alloc_fn alloc;   /* NULL: the system's. Set with release or not at all */
    lisa_release_fn release;
    void *alloc_user;
    lisa_log_fn log; /* NULL: silent */
    void *log_user;
    lisa_interrupt_fn interrupt; /* NULL: never */
    void *interrupt_user;
} lisa_context_options;

LISA_API lisa_status lisa_context_options_init(lisa_context_options *options, size_t struct_size);

/* Creates a context; options = NULL is "cpu" with defaults. LISA_E_BACKEND when the backend is
 * unknown or does not start. */
LISA_API lisa_status lisa_context_create(lisa_context **out, const lisa_context_options *options);

/* Gives up the host's reference; NULL is a no-op. The context lives until everything made from it
 * is destroyed, in any order. */
LISA_API void lisa_context_destroy(lisa_context *context);

/* Bytes of one LISA_MEM_* class, now and at most so far. Either out may be NULL. */
LISA_API lisa_status lisa_context_memory(const lisa_context *context, uint32_t memory_class,
                                         uint64_t *current, uint64_t *peak);

/* "cpu", "cuda", ...: the backend in use. Borrowed from the context. */
LISA_API const char *lisa_context_backend(const lisa_context *context);

/* Threads in use, the calling one included. */
LISA_API uint32_t lisa_context_n_threads(const lisa_context *context);

#ifdef __cplusplus
}
#endif

#endif
