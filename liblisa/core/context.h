/* context.h - the context behind its handle: backend, threads, counted memory, callbacks. */
#ifndef LISA_CORE_CONTEXT_H
#define LISA_CORE_CONTEXT_H

#include "core/error.h"
#include "lisa/context.h"
#include "lisa/sys/backend.h"

struct lisa__pool;

struct lisa_context {
    uint32_t references;
    uint32_t n_threads;
    lisa_context_options options;
    struct lisa__pool *pool;
    lisa_backend_host host;
    lisa_backend *be;
    uint64_t limited; /* current bytes of the classes that a limit counts */
    uint64_t current[LISA_MEM_CLASSES];
    uint64_t peak[LISA_MEM_CLASSES];
};

/* `options` have been read and checked (api/options.h). */
lisa_status lisa__context_create(lisa_context **out, const lisa_context_options *options);

/* The table of the backend that a context of these options gets. "auto" is found out by creating
 * one: cuda where it starts, else cpu. */
lisa_status lisa__context_choose(const lisa_backend_ops **out, const lisa_context_options *options);

lisa_context *lisa__context_retain(lisa_context *context);
void lisa__context_release(lisa_context *context);

/* Counted host memory, aligned to 64 bytes. NULL: the error text is set, and *status (if given)
 * says LISA_E_NOMEM or LISA_E_BUDGET. Zero bytes give a non-NULL pointer that must be released. */
void *lisa__alloc(lisa_context *context, uint32_t memory_class, uint64_t bytes,
                  lisa_status *status);
void lisa__release(lisa_context *context, uint32_t memory_class, void *ptr, uint64_t bytes);

/* Counts bytes that are held otherwise: mapped files and disk. */
void lisa__account(lisa_context *context, uint32_t memory_class, uint64_t bytes);
void lisa__unaccount(lisa_context *context, uint32_t memory_class, uint64_t bytes);

/* Processors that the process may run on; 1 where the system does not say. */
uint32_t lisa__processors(void);

/* Whether a memory_limit counts the class. */
int lisa__is_limited(uint32_t memory_class);

/* Bytes of the limited classes that a memory_limit still allows; UINT64_MAX where there is none. */
uint64_t lisa__spare(const lisa_context *context);

/* LISA_E_CANCELLED when the host's interrupt callback says stop. */
lisa_status lisa__poll(const lisa_context *context);

void lisa__log(const lisa_context *context, int32_t level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
