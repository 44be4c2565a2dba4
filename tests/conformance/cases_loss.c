/* cases_loss.c - cross-entropy, and sums of squares. */
#include "conformance/harness.h"

CONF_CALL(cross_entropy, lisa_cross_entropy)

typedef struct loss_shape {
    uint32_t rows, cols, pad;
    double reach; /* logits are reach * noise */
} loss_shape;

/* Equal maxima in each third row: which of them is the target decides `greedy`. */
static void tie(float *logits, const loss_shape *s, size_t ld, int32_t *targets) {
    for (size_t i = 0; i < s->rows && s->cols > 2; i += 3) {
        logits[i * ld + 1] = logits[i * ld + s->cols - 1] = (float)s->reach;
        targets[i] = i % 2 == 0 ? 1 : (int32_t)s->cols - 1;
    }
}

static void check_loss(loss_shape s, int gradient, int figures) {
    size_t ld = s.cols + s.pad;
    float *logits = conf_noise(s.rows * ld, s.reach);
    float *weights = conf_take(s.rows * sizeof *weights);
    int32_t *targets = conf_take(s.rows * sizeof *targets);
    for (uint32_t i = 0; i < s.rows; i++) {
        weights[i] = i % 4 == 3 ? 0.0f : 0.5f * (float)(1 + conf_below(4));
        targets[i] = (int32_t)conf_below(s.cols);
    }
    tie(logits, &s, ld, targets);
    double bound = BOUND_CONDITIONED(s.cols, s.reach);
    lisa_cross_entropy op = {
        .rows = s.rows, .cols = s.cols, .ldlogits = ld, .gradient = (uint32_t)gradient};
    conf_case c;
    conf_begin(&c, call_cross_entropy, &op, sizeof op, "cross_entropy %ux%u pad %u reach %g%s",
               s.rows, s.cols, s.pad, s.reach, gradient ? " gradient" : "");
    conf_in(&c, "targets", offsetof(lisa_cross_entropy, targets), CONF_I32, targets, s.rows);
    conf_in(&c, "weights", offsetof(lisa_cross_entropy, weights), LISA_DTYPE_F32, weights, s.rows);
    if (gradient)
        conf_out(&c, "logits", offsetof(lisa_cross_entropy, logits), CONF_REAL, logits, s.rows,
                 s.cols, ld, bound)
            ->floor = 1.0;
    else
        conf_in(&c, "logits", offsetof(lisa_cross_entropy, logits), CONF_REAL, logits, s.rows * ld);
    double *nll = conf_take(s.rows * sizeof *nll);
    for (uint32_t i = 0; i < s.rows; i++)
        nll[i] = NAN;
    conf_out(&c, "nll", offsetof(lisa_cross_entropy, nll), LISA_DTYPE_F64, nll, s.rows, 1, 1, bound)
        ->floor = 1.0;
    conf_out(&c, "log_probs", offsetof(lisa_cross_entropy, log_probs), LISA_DTYPE_F32,
             figures ? conf_nans(s.rows) : NULL, s.rows, 1, 1, bound)
        ->floor = 1.0;
    uint8_t *greedy = conf_take(s.rows);
    memset(greedy, 9, s.rows);
    conf_out(&c, "greedy", offsetof(lisa_cross_entropy, greedy), CONF_U8, figures ? greedy : NULL,
             s.rows, 1, 1, 0.0);
    conf_run(&c);
}

START_TEST(cross_entropy) {
    static const loss_shape shapes[] = {{0, 5, 0, 1.0},     {1, 1, 0, 1.0},    {1, 2, 3, 1.0},
                                        {37, 67, 5, 4.0},   {5, 4099, 0, 8.0}, {130, 33, 1, 1.0},
                                        {9, 257, 0, 2000.0}};
    for (int flags = 0; flags < 4; flags++)
        check_loss(shapes[_i], flags & 1, flags >> 1);
}
END_TEST

/* A weight of zero leaves a row without gradient to the bit, whatever its logits. */
START_TEST(cross_entropy_of_no_weight) {
    enum { COLS = 19 };
    float logits[2 * COLS], weights[2] = {0.0f, 0.0f};
    int32_t targets[2] = {3, 0};
    double nll[2];
    for (int i = 0; i < 2 * COLS; i++)
        logits[i] = i < COLS ? 50.0f * (float)i : -3e30f;
    conf_case c;
    lisa_cross_entropy op = {.rows = 2, .cols = COLS, .ldlogits = COLS, .gradient = 1};
    conf_begin(&c, call_cross_entropy, &op, sizeof op, "cross_entropy of no weight");
    conf_in(&c, "targets", offsetof(lisa_cross_entropy, targets), CONF_I32, targets, 2);
    conf_in(&c, "weights", offsetof(lisa_cross_entropy, weights), LISA_DTYPE_F32, weights, 2);
    conf_out(&c, "logits", offsetof(lisa_cross_entropy, logits), CONF_REAL, logits, 2, COLS, COLS,
             1e-30)
        ->floor = 1e-30;
    conf_out(&c, "nll", offsetof(lisa_cross_entropy, nll), LISA_DTYPE_F64, nll, 2, 1, 1, 1e-30)
        ->floor = 1e-30;
    conf_run(&c);
}
END_TEST

/* ---- sums of squares ---- */

static double squares_on(lisa_backend *be, lisa_typed x, size_t n) {
    double result = NAN;
    lisa_typed device = {NULL, x.dtype};
    size_t bytes = n * lisa__dtype_size(x.dtype);
    ck_assert_int_eq(be->ops->alloc(be, &device.data, LISA_MEM_WORKSPACE, bytes), LISA_OK);
    ck_assert_int_eq(be->ops->upload(be, device.data, x.data, bytes), LISA_OK);
    ck_assert_int_eq(be->ops->sum_squares(be, device, n, &result), LISA_OK);
    be->ops->release(be, device.data, LISA_MEM_WORKSPACE, bytes);
    return result;
}

static double squares_of_subject(lisa_typed x, size_t n) {
    double results[CONF_THREADS];
    for (uint32_t t = 0; t < CONF_THREADS; t++) {
        results[t] = squares_on(conf.backends[t], x, n);
        ck_assert_mem_eq(&results[0], &results[t], sizeof results[0]);
    }
    return results[0];
}

static const uint32_t dtypes[] = {LISA_DTYPE_F32, LISA_DTYPE_BF16, LISA_DTYPE_F16, LISA_DTYPE_F64};

START_TEST(sum_squares) {
    static const size_t sizes[] = {0, 1, 3, 1000, 70001};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t n = sizes[s];
        lisa_typed x = conf_typed_noise(dtypes[_i], n, 3.0);
        double want = 0.0;
        for (size_t i = 0; i < n; i++)
            want += lisa__load(x.data, x.dtype, i) * lisa__load(x.data, x.dtype, i);
        double got = squares_of_subject(x, n);
        ck_assert_msg(fabs(got - want) <= BOUND_DOUBLE_SUM * want, "n %zu: %.17g, not %.17g", n,
                      got, want);
    }
}
END_TEST

/* Squares beyond float's range do not overflow; one value that is not finite shows, wherever. */
START_TEST(sum_squares_of_ends) {
    enum { N = 5003 };
    lisa_typed x = {conf_take(N * sizeof(float)), LISA_DTYPE_F32};
    float *values = x.data;
    for (size_t i = 0; i < N; i++)
        values[i] = 3e38f;
    double want = (double)N * (double)3e38f * (double)3e38f;
    ck_assert_double_eq_tol(squares_of_subject(x, N) / want, 1.0, BOUND_DOUBLE_SUM);
    static const size_t places[] = {0, 1, 17, 2500, N - 2, N - 1};
    for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
        float bad[] = {INFINITY, -INFINITY, NAN};
        values[places[p]] = bad[p % 3];
        ck_assert_msg(!isfinite(squares_of_subject(x, N)), "element %zu hides", places[p]);
        values[places[p]] = 3e38f;
    }
}
END_TEST

TCase *conformance_loss(void) {
    TCase *tcase = tcase_create("loss");
    tcase_add_checked_fixture(tcase, conf_setup, conf_teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, cross_entropy, 0, 7);
    tcase_add_test(tcase, cross_entropy_of_no_weight);
    tcase_add_loop_test(tcase, sum_squares, 0, 4);
    tcase_add_test(tcase, sum_squares_of_ends);
    return tcase;
}
