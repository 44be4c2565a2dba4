/* test_host.h - what a backend is lent in tests: counted and guarded memory, threads per call. */
#ifndef LISA_TEST_HOST_H
#define LISA_TEST_HOST_H

#include "lisa/context.h"
#include "lisa/sys/backend.h"

typedef struct test_host {
    lisa_backend_host host;
    uint64_t held[LISA_MEM_CLASSES]; /* bytes, by class */
    uint64_t n_allocs;               /* granted so far */
    uint64_t n_live;                 /* granted and not released */
    int64_t grants_left;             /* refuses when 0; negative: never */
    lisa_status status;              /* of the last failure */
    char text[256];
    struct test_host_block *scratch; /* of test_host_take */
} test_host;

void test_host_init(test_host *h, uint32_t n_threads);

/* Ends the test if the backend has not given all its memory back; frees what was taken. */
void test_host_finish(test_host *h);

/* Zeroed memory until test_host_finish, guarded and not counted. */
void *test_host_take(test_host *h, size_t bytes);

/* Starts a backend on an initialised host; ends the test when it does not start. */
lisa_backend *test_host_start(test_host *h, const lisa_backend_ops *ops);

#endif
