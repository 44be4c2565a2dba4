/* cases_dropout.c - which elements dropout keeps, to the bit. */
#include "conformance/harness.h"

#include <stdlib.h>

CONF_CALL(dropout, lisa_dropout)

typedef struct drop_shape {
    size_t n;
    double p;
    uint64_t stream, first;
} drop_shape;

static void check_dropout(drop_shape s, int accumulate, int in_place) {
    float *x = conf_noise(s.n, 1.0);
    const lisa_dropout op = {
        .n = s.n,
        .accumulate = (uint32_t)accumulate,
        .p = s.p,
        .seed = conf.seed,
        .stream = s.stream,
        .first = s.first,
    };
    conf_case c;
    conf_begin(&c, call_dropout, &op, sizeof op, "dropout %zu p %g from %llu%s%s", s.n, s.p,
               (unsigned long long)s.first, accumulate ? " +=" : "", in_place ? " in place" : "");
    if (!in_place)
        conf_in(&c, "x", offsetof(lisa_dropout, x), CONF_TYPED_OPERAND, x, s.n);
    conf_arg *y = conf_out(&c, "y", offsetof(lisa_dropout, y), CONF_TYPED_OPERAND,
                           in_place     ? x
                           : accumulate ? conf_noise(s.n, 1.0)
                                        : conf_nans(s.n),
                           1, s.n, s.n, BOUND_ROUNDING);
    if (in_place)
        y->second = offsetof(lisa_dropout, x);
    c.exact = conf.ops->real_dtype == LISA_DTYPE_F32;
    conf_run(&c);
}

START_TEST(dropout) {
    if (conf_use_dtype(_i) == 0)
        return;
    static const drop_shape shapes[] = {
        {0, 0.5, 0, 0},
        {1, 0.5, 1, 3},
        {7, 0.0, 2, 5},
        {1000, 0.1, 3, 0},
        {4097, 0.999, 4, 1},
        {20003, 0.25, UINT64_C(1) << 40, 2},
        {300, 0.5, 6, UINT64_C(5) << 33},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            check_dropout(shapes[i], accumulate, 0);
            if (!accumulate)
                check_dropout(shapes[i], 0, 1);
        }
}
END_TEST

/* A share of p goes, what stays is larger by as much, a draw for each element of its own. */
START_TEST(dropout_means_what_it_says) {
    enum { N = 100000 };
    lisa_backend *be = conf.backends[1];
    static float x[N], y[N];
    for (int i = 0; i < N; i++)
        x[i] = 1;
    void *from, *to, *floats;
    ck_assert_int_eq(conf.ops->alloc(be, &from, LISA_MEM_WORKSPACE, N * sizeof(double)), LISA_OK);
    ck_assert_int_eq(conf.ops->alloc(be, &to, LISA_MEM_WORKSPACE, N * sizeof(double)), LISA_OK);
    ck_assert_int_eq(conf.ops->alloc(be, &floats, LISA_MEM_WORKSPACE, sizeof x), LISA_OK);
    const lisa_typed given = {floats, LISA_DTYPE_F32};
    const lisa_typed held = {from, conf.ops->real_dtype}, dropped = {to, conf.ops->real_dtype};
    ck_assert_int_eq(conf.ops->upload(be, floats, x, sizeof x), LISA_OK);
    ck_assert_int_eq(conf.ops->convert(be, held, given, N), LISA_OK);
    const lisa_dropout op = {.n = N, .x = held, .y = dropped, .p = 0.2, .seed = 7, .stream = 9};
    ck_assert_int_eq(conf.ops->dropout(be, &op), LISA_OK);
    ck_assert_int_eq(conf.ops->convert(be, given, dropped, N), LISA_OK);
    ck_assert_int_eq(conf.ops->download(be, y, floats, sizeof y), LISA_OK);
    int gone = 0, pairs = 0;
    for (int i = 0; i < N; i++) {
        ck_assert(y[i] == 0 || y[i] == (float)(1 / (1 - 0.2)));
        gone += y[i] == 0;
        pairs += i > 0 && y[i] == 0 && y[i - 1] == 0;
    }
    ck_assert_int_lt(abs(gone - N / 5), 700);   /* five standard deviations are 632 */
    ck_assert_int_lt(abs(pairs - N / 25), 400); /* neighbours go independently */
    conf.ops->release(be, floats, LISA_MEM_WORKSPACE, sizeof x);
    conf.ops->release(be, from, LISA_MEM_WORKSPACE, N * sizeof(double));
    conf.ops->release(be, to, LISA_MEM_WORKSPACE, N * sizeof(double));
}
END_TEST

TCase *conformance_dropout(void) {
    TCase *tcase = tcase_create("dropout");
    tcase_add_checked_fixture(tcase, conf_setup, conf_teardown);
    tcase_add_loop_test(tcase, dropout, 0, CONF_DTYPES);
    tcase_add_test(tcase, dropout_means_what_it_says);
    return tcase;
}
