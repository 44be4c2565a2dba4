#include "core/pool.h"

#include "core/error.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

/* The state word: a generation in the high half, then whether the generation's run may still be
 * joined, then how many workers have joined it. A worker that wakes too late finds the run closed
 * and stays out, so nobody ever waits for a thread that the system has not scheduled. */
#define GENERATION ((uint64_t)1 << 32)
#define OPEN ((uint64_t)1 << 31)
#define JOINED (OPEN - 1)

/* Turns of `pause` before parking: some 20 us, which is longer than the gap between two operations
 * of a step and shorter than what a sleep and a wake-up cost. */
#define SPIN_TURNS 1000

/* Small enough that the kernel does not back a stack by a huge page of which 4 KiB are used. */
#define STACK_BYTES ((size_t)1 << 20)

#define CACHE_LINE 64

struct worker {
    struct lisa__pool *pool;
    pthread_t handle;
    uint32_t thread;
};

struct lisa__pool {
    lisa_alloc_fn alloc;
    lisa_release_fn release;
    void *alloc_user;
    uint32_t n_threads;
    uint32_t n_started;
    pid_t owner;
    pthread_mutex_t mutex;
    pthread_cond_t wake; /* a run was opened, or stop */
    pthread_cond_t done; /* the last joined worker left a closed run */
    atomic_uint parked;
    atomic_bool stop;

    void (*task)(void *arg, uint32_t i, uint32_t thread);
    void *arg;
    uint32_t n;
    _Alignas(CACHE_LINE) _Atomic uint64_t state;
    _Alignas(CACHE_LINE) _Atomic uint64_t next;
    struct worker workers[];
};

static size_t pool_bytes(uint32_t n_threads) {
    return sizeof(struct lisa__pool) + (n_threads - 1) * sizeof(struct worker);
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static void work(struct lisa__pool *pool, uint32_t thread) {
    for (;;) {
        uint64_t i = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (i >= pool->n)
            return;
        pool->task(pool->arg, (uint32_t)i, thread);
    }
}

/* Whether there is something for a worker that last worked in the generation `seen`. */
static bool called(struct lisa__pool *pool, uint64_t seen) {
    uint64_t state = atomic_load(&pool->state);
    return atomic_load(&pool->stop) || ((state & OPEN) != 0 && state / GENERATION != seen);
}

static void await_call(struct lisa__pool *pool, uint64_t seen) {
    for (int turn = 0; turn < SPIN_TURNS; turn++) {
        if (called(pool, seen))
            return;
        relax();
    }
    pthread_mutex_lock(&pool->mutex);
    /* Before the look at the state: lisa__pool_run opens the run and then looks at `parked`. */
    atomic_fetch_add(&pool->parked, 1);
    while (!called(pool, seen))
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->parked, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static bool join_run(struct lisa__pool *pool, uint64_t *seen) {
    uint64_t state = atomic_load(&pool->state);
    while ((state & OPEN) != 0 && state / GENERATION != *seen) {
        if (atomic_compare_exchange_weak(&pool->state, &state, state + 1)) {
            *seen = state / GENERATION;
            return true;
        }
    }
    return false;
}

static void leave_run(struct lisa__pool *pool) {
    uint64_t state = atomic_fetch_sub(&pool->state, 1) - 1;
    if ((state & (OPEN | JOINED)) != 0)
        return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *arg) {
    struct worker *worker = arg;
    struct lisa__pool *pool = worker->pool;
    uint64_t seen = 0;
    while (!atomic_load(&pool->stop)) {
        await_call(pool, seen);
        if (join_run(pool, &seen)) {
            work(pool, worker->thread);
            leave_run(pool);
        }
    }
    return NULL;
}

static void close_run(struct lisa__pool *pool) {
    uint64_t state = atomic_fetch_and(&pool->state, ~OPEN);
    for (int turn = 0; turn < SPIN_TURNS && (state & JOINED) != 0; turn++) {
        relax();
        state = atomic_load(&pool->state);
    }
    if ((state & JOINED) == 0)
        return;
    pthread_mutex_lock(&pool->mutex);
    while ((atomic_load(&pool->state) & JOINED) != 0)
        pthread_cond_wait(&pool->done, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

void lisa__pool_run(struct lisa__pool *pool, uint32_t n,
                    void (*task)(void *arg, uint32_t i, uint32_t thread), void *arg) {
    if (n <= 1 || pool->n_started == 0 || getpid() != pool->owner) {
        for (uint32_t i = 0; i < n; i++)
            task(arg, i, 0);
        return;
    }
    pool->task = task;
    pool->arg = arg;
    pool->n = n;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    uint64_t generation = atomic_load(&pool->state) / GENERATION + 1;
    atomic_store(&pool->state, (generation * GENERATION) | OPEN);
    if (atomic_load(&pool->parked) != 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
    work(pool, 0);
    close_run(pool);
}

static int start_worker(struct lisa__pool *pool, pthread_attr_t *attributes) {
    struct worker *worker = &pool->workers[pool->n_started];
    worker->pool = pool;
    worker->thread = pool->n_started + 1;
    int error = pthread_create(&worker->handle, attributes, worker_main, worker);
    if (error == 0)
        pool->n_started++;
    return error;
}

static int start_workers(struct lisa__pool *pool) {
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error != 0)
        return error;
    error = pthread_attr_setstacksize(&attributes, STACK_BYTES);
    /* Workers inherit the mask: the host's handlers run on the host's threads. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (error == 0 && pool->n_started + 1 < pool->n_threads)
        error = start_worker(pool, &attributes);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
    return error;
}

lisa_status lisa__pool_create(struct lisa__pool **out, uint32_t n_threads, lisa_alloc_fn alloc,
                              lisa_release_fn release, void *alloc_user) {
    *out = NULL;
    struct lisa__pool *pool = alloc(alloc_user, pool_bytes(n_threads), CACHE_LINE);
    if (pool == NULL)
        return lisa__fail(LISA_E_NOMEM, "no memory for a pool of %u threads", n_threads);
    memset(pool, 0, pool_bytes(n_threads));
    pool->alloc = alloc;
    pool->release = release;
    pool->alloc_user = alloc_user;
    pool->n_threads = n_threads;
    pool->owner = getpid();
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    int error = start_workers(pool);
    if (error != 0) {
        char words[128];
        uint32_t thread = pool->n_started + 2;
        lisa__pool_destroy(pool);
        return lisa__fail(LISA_E_NOMEM, "thread %u of n_threads = %u did not start: %s", thread,
                          n_threads, strerror_r(error, words, sizeof words));
    }
    *out = pool;
    return LISA_OK;
}

uint32_t lisa__pool_n_threads(const struct lisa__pool *pool) {
    return pool->n_threads;
}

/* In a forked child the workers do not exist, and the condition variables would wait for them. */
static void end_workers(struct lisa__pool *pool) {
    if (getpid() != pool->owner)
        return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (uint32_t i = 0; i < pool->n_started; i++)
        pthread_join(pool->workers[i].handle, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
}

void lisa__pool_destroy(struct lisa__pool *pool) {
    if (pool == NULL)
        return;
    end_workers(pool);
    pool->release(pool->alloc_user, pool, pool_bytes(pool->n_threads), CACHE_LINE);
}
