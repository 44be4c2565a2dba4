#include "test_host.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#undef fail /* check.h has a macro of that name, the host a member */

enum { ALIGNMENT = 64, MAX_THREADS = 16 };
#define GUARD 0xC9
#define FRESH 0xA5

/* Lies before each piece of memory; ALIGNMENT guard bytes lie behind it. */
typedef struct test_host_block {
    struct test_host_block *next;
    size_t bytes;
    uint32_t memory_class;
} block;

static unsigned char *payload(block *b) {
    return (unsigned char *)b + ALIGNMENT;
}

static block *block_make(uint32_t memory_class, size_t bytes) {
    size_t size = (bytes + 3 * ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    block *b = aligned_alloc(ALIGNMENT, size);
    ck_assert_ptr_nonnull(b);
    b->next = NULL;
    b->bytes = bytes;
    b->memory_class = memory_class;
    memset(payload(b), FRESH, bytes);
    memset(payload(b) + bytes, GUARD, ALIGNMENT);
    return b;
}

static void block_free(block *b) {
    size_t intact = 0;
    while (intact < ALIGNMENT && payload(b)[b->bytes + intact] == GUARD)
        intact++;
    ck_assert_msg(intact == ALIGNMENT, "%zu bytes were written beyond", b->bytes);
    free(b);
}

static lisa_status grant(void *self, void **out, uint32_t memory_class, size_t bytes) {
    test_host *h = self;
    ck_assert_uint_lt(memory_class, LISA_MEM_CLASSES);
    *out = NULL;
    if (h->grants_left == 0)
        return h->host.fail(h, LISA_E_NOMEM, "the test host refuses");
    if (h->grants_left > 0)
        h->grants_left--;
    h->held[memory_class] += bytes;
    h->n_allocs++;
    h->n_live++;
    *out = payload(block_make(memory_class, bytes));
    return LISA_OK;
}

static void take_back(void *self, uint32_t memory_class, void *ptr, size_t bytes) {
    test_host *h = self;
    block *b = (block *)(void *)((unsigned char *)ptr - ALIGNMENT);
    ck_assert_uint_eq(b->memory_class, memory_class);
    ck_assert_uint_eq(b->bytes, bytes);
    h->held[memory_class] -= bytes;
    h->n_live--;
    block_free(b);
}

/* As if it were memory of this host's. */
static lisa_status account(void *self, uint32_t memory_class, size_t bytes) {
    test_host *h = self;
    ck_assert_uint_lt(memory_class, LISA_MEM_CLASSES);
    if (h->grants_left == 0)
        return h->host.fail(h, LISA_E_NOMEM, "the test host refuses");
    if (h->grants_left > 0)
        h->grants_left--;
    h->held[memory_class] += bytes;
    h->n_allocs++;
    h->n_live++;
    return LISA_OK;
}

static void unaccount(void *self, uint32_t memory_class, size_t bytes) {
    test_host *h = self;
    ck_assert_uint_ge(h->held[memory_class], bytes);
    h->held[memory_class] -= bytes;
    h->n_live--;
}

static lisa_status fail(void *self, lisa_status status, const char *text) {
    test_host *h = self;
    h->status = status;
    strncpy(h->text, text, sizeof h->text - 1);
    h->text[sizeof h->text - 1] = '\0';
    return status;
}

typedef struct job {
    uint32_t n;
    void (*task)(void *arg, uint32_t i, uint32_t thread);
    void *arg;
    atomic_uint next;
} job;

typedef struct worker {
    job *job;
    uint32_t thread;
} worker;

static void *work(void *arg) {
    worker *w = arg;
    for (;;) {
        uint32_t i = atomic_fetch_add(&w->job->next, 1);
        if (i >= w->job->n)
            return NULL;
        w->job->task(w->job->arg, i, w->thread);
    }
}

static void parallel(void *self, uint32_t n, void (*task)(void *arg, uint32_t i, uint32_t thread),
                     void *arg) {
    test_host *h = self;
    job j = {.n = n, .task = task, .arg = arg};
    atomic_init(&j.next, 0);
    worker workers[MAX_THREADS];
    pthread_t threads[MAX_THREADS];
    for (uint32_t t = 0; t < h->host.n_threads; t++)
        workers[t] = (worker){&j, t};
    for (uint32_t t = 1; t < h->host.n_threads; t++)
        ck_assert_int_eq(pthread_create(&threads[t], NULL, work, &workers[t]), 0);
    work(&workers[0]);
    for (uint32_t t = 1; t < h->host.n_threads; t++)
        pthread_join(threads[t], NULL);
}

void test_host_init(test_host *h, uint32_t n_threads) {
    ck_assert_uint_le(n_threads, MAX_THREADS);
    memset(h, 0, sizeof *h);
    h->grants_left = -1;
    h->host = (lisa_backend_host){.self = h,
                                  .alloc = grant,
                                  .release = take_back,
                                  .account = account,
                                  .unaccount = unaccount,
                                  .fail = fail,
                                  .parallel = parallel,
                                  .n_threads = n_threads};
}

void test_host_finish(test_host *h) {
    while (h->scratch != NULL) {
        block *b = h->scratch;
        h->scratch = b->next;
        block_free(b);
    }
    ck_assert_msg(h->n_live == 0, "%llu allocations were not released",
                  (unsigned long long)h->n_live);
}

void *test_host_take(test_host *h, size_t bytes) {
    block *b = block_make(0, bytes);
    b->next = h->scratch;
    h->scratch = b;
    memset(payload(b), 0, bytes);
    return payload(b);
}

lisa_backend *test_host_start(test_host *h, const lisa_backend_ops *ops) {
    lisa_backend *be = NULL;
    lisa_status status = ops->start(&be, &h->host);
    ck_assert_msg(status == LISA_OK, "%s does not start: %s", ops->name, h->text);
    ck_assert_ptr_nonnull(be);
    ck_assert_ptr_eq(be->ops, ops);
    ck_assert_ptr_eq(be->host, &h->host);
    return be;
}
