#include "conformance/conformance.h"

#include "conformance/harness.h"

#include <string.h>

START_TEST(table_is_whole) {
    const lisa_backend_ops *ops = conf.ops;
    ck_assert_uint_eq(ops->api_version, LISA_BACKEND_API_VERSION);
    ck_assert(ops->real_dtype == LISA_DTYPE_F32 || ops->real_dtype == LISA_DTYPE_F64);
    ck_assert_ptr_nonnull(ops->name);
    /* From the first function to the last, every slot is written. */
    const char *at = (const char *)ops + offsetof(lisa_backend_ops, start);
    for (; at < (const char *)(ops + 1); at += sizeof(void (*)(void))) {
        void (*function)(void);
        memcpy(&function, at, sizeof function);
        ck_assert_msg(function != NULL, "a slot at %td is empty", at - (const char *)ops);
    }
}
END_TEST

/* What start takes is what the plan was told, and each refusal is a failure without a leak. */
START_TEST(start_takes_what_it_says) {
    for (uint32_t threads = 1; threads <= CONF_THREADS; threads++) {
        test_host host;
        test_host_init(&host, threads);
        lisa_backend *be = test_host_start(&host, conf.ops);
        uint64_t n_allocs = host.n_allocs;
        ck_assert_uint_eq(host.held[LISA_MEM_WORKSPACE], conf.ops->workspace_bytes(threads));
        for (uint32_t k = 0; k < LISA_MEM_CLASSES; k++)
            if (k != LISA_MEM_WORKSPACE && k != LISA_MEM_HANDLES)
                ck_assert_uint_eq(host.held[k], 0);
        conf.ops->stop(be);
        test_host_finish(&host);
        for (uint64_t grants = 0; grants < n_allocs; grants++) {
            test_host_init(&host, threads);
            host.grants_left = (int64_t)grants;
            ck_assert_int_eq(conf.ops->start(&be, &host.host), LISA_E_NOMEM);
            test_host_finish(&host);
        }
    }
}
END_TEST

START_TEST(memory) {
    enum { N = 1000 };
    lisa_backend *be = conf.backends[0];
    const lisa_backend_ops *ops = conf.ops;
    unsigned char in[N], out[N];
    void *a, *b;
    for (size_t i = 0; i < N; i++)
        in[i] = (unsigned char)noise_bits(&conf.seed);
    ck_assert_int_eq(ops->alloc(be, &a, LISA_MEM_MOMENTS, N), LISA_OK);
    ck_assert_int_eq(ops->alloc(be, &b, LISA_MEM_GRADIENTS, N), LISA_OK);
    if (ops->flags & LISA_BACKEND_HOST_MEMORY) {
        ck_assert_uint_eq(conf.hosts[0].held[LISA_MEM_MOMENTS], N);
        ck_assert_uint_eq(conf.hosts[0].held[LISA_MEM_GRADIENTS], N);
    }
    ck_assert_int_eq(ops->upload(be, a, in, N), LISA_OK);
    ck_assert_int_eq(ops->copy(be, b, a, N), LISA_OK);
    ck_assert_int_eq(ops->zero(be, a, N), LISA_OK);
    ck_assert_int_eq(ops->sync(be), LISA_OK);
    ck_assert_int_eq(ops->download(be, out, b, N), LISA_OK);
    ck_assert_mem_eq(in, out, N);
    ck_assert_int_eq(ops->download(be, out, a, N), LISA_OK);
    for (size_t i = 0; i < N; i++)
        ck_assert_uint_eq(out[i], 0);
    ops->release(be, a, LISA_MEM_MOMENTS, N);
    ops->release(be, b, LISA_MEM_GRADIENTS, N);
    ops->release(be, NULL, LISA_MEM_GRADIENTS, N);
    conf.hosts[0].grants_left = 0;
    if (ops->flags & LISA_BACKEND_HOST_MEMORY)
        ck_assert_int_eq(ops->alloc(be, &a, LISA_MEM_MOMENTS, N), LISA_E_NOMEM);
}
END_TEST

TCase *conformance_start(void) {
    TCase *tcase = tcase_create("start");
    tcase_add_checked_fixture(tcase, conf_setup, conf_teardown);
    tcase_add_test(tcase, table_is_whole);
    tcase_add_test(tcase, start_takes_what_it_says);
    tcase_add_test(tcase, memory);
    return tcase;
}

Suite *conformance_suite(const char *name, const lisa_backend_ops *ops, int large_products) {
    conf.ops = ops;
    conf.large_products = large_products != 0;
    Suite *suite = suite_create(name);
    suite_add_tcase(suite, conformance_start());
    suite_add_tcase(suite, conformance_linear());
    suite_add_tcase(suite, conformance_block());
    suite_add_tcase(suite, conformance_loss());
    suite_add_tcase(suite, conformance_dropout());
    suite_add_tcase(suite, conformance_update());
    suite_add_tcase(suite, conformance_spoilt());
    return suite;
}
