/* pool.h - a context's own threads. */
#ifndef LISA_CORE_POOL_H
#define LISA_CORE_POOL_H

#include "lisa/common.h"

/* Threads: one thread at a time per pool, and never from inside a task. Distinct pools are
 * independent. In a forked child the pool goes on with the calling thread alone. */
struct lisa__pool;

/* A pool of `n_threads` >= 1 threads, the calling one included: n_threads - 1 are started, with all
 * signals blocked. `alloc` and `release` are kept. LISA_E_NOMEM when a thread does not start. */
lisa_status lisa__pool_create(struct lisa__pool **out, uint32_t n_threads, lisa_alloc_fn alloc,
                              lisa_release_fn release, void *alloc_user);

/* Calls task(arg, i, thread) once for every i in [0, n), in any order and on any threads, and
 * returns when all are done. `thread` is in [0, n_threads); two tasks that run at the same time
 * never have the same. */
void lisa__pool_run(struct lisa__pool *pool, uint32_t n,
                    void (*task)(void *arg, uint32_t i, uint32_t thread), void *arg);

uint32_t lisa__pool_n_threads(const struct lisa__pool *pool);

/* Ends and joins the threads; NULL is a no-op. */
void lisa__pool_destroy(struct lisa__pool *pool);

#endif
