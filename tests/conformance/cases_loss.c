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

static void check_loss(loss_shape s, int gradient, int figures, double scale) {
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
    lisa_cross_entropy op = {.rows = s.rows,
                             .cols = s.cols,
                             .ldlogits = ld,
                             .lddlogits = ld + s.pad,
                             .gradient_scale = scale};
    conf_case c;
    conf_begin(&c, call_cross_entropy, &op, sizeof op, "cross_entropy %ux%u pad %u reach %g%s",
               s.rows, s.cols, s.pad, s.reach, gradient ? " gradient" : "");
    conf_in(&c, "targets", offsetof(lisa_cross_entropy, targets), CONF_I32, targets, s.rows);
    conf_in(&c, "weights", offsetof(lisa_cross_entropy, weights), LISA_DTYPE_F32, weights, s.rows);
    conf_in(&c, "logits", offsetof(lisa_cross_entropy, logits), CONF_REAL, logits, s.rows * ld);
    conf_out(&c, "dlogits", offsetof(lisa_cross_entropy, dlogits), CONF_TYPED_OPERAND,
             gradient ? conf_nans(s.rows * op.lddlogits) : NULL, s.rows, s.cols, op.lddlogits,
             bound)
        ->floor = scale;
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
        for (int type = 0; type < (conf.operand != 0 ? CONF_DTYPES : 1); type++)
            if (conf_use_dtype(type) != 0)
                check_loss(shapes[_i], flags & 1, flags >> 1, type == 2 ? 32.0 : 1.0);
}
END_TEST

static void *on_device(lisa_backend *be, const void *data, size_t bytes) {
    void *device;
    ck_assert_int_eq(be->ops->alloc(be, &device, LISA_MEM_WORKSPACE, bytes), LISA_OK);
    ck_assert_int_eq(be->ops->upload(be, device, data, bytes), LISA_OK);
    return device;
}

/* Gradients of ROWS rows of LOGITS logits, over the logits or apart from them. */
enum { ROWS = 5, LOGITS = 1030 };

static void gradients(lisa_backend *be, uint32_t dtype, int in_place, unsigned char *out) {
    float weights[ROWS];
    int32_t targets[ROWS];
    const size_t bytes = ROWS * LOGITS * sizeof(float), row = LOGITS * lisa__dtype_size(dtype);
    for (int i = 0; i < ROWS; i++) {
        weights[i] = 1.0f;
        targets[i] = i * 100;
    }
    conf.seed = 5;
    double nll[ROWS] = {0};
    void *logits = on_device(be, conf_noise(ROWS * LOGITS, 4.0), bytes);
    void *apart = on_device(be, conf_nans(ROWS * LOGITS), bytes);
    lisa_cross_entropy op = {.rows = ROWS,
                             .cols = LOGITS,
                             .logits = logits,
                             .ldlogits = LOGITS,
                             .dlogits = {in_place ? logits : apart, dtype},
                             .lddlogits = LOGITS * (sizeof(float) / lisa__dtype_size(dtype)),
                             .gradient_scale = 1.0};
    void *index = on_device(be, targets, sizeof targets);
    void *weight = on_device(be, weights, sizeof weights);
    void *losses = on_device(be, nll, sizeof nll);
    op.targets = index;
    op.weights = weight;
    op.nll = losses;
    ck_assert_int_eq(be->ops->cross_entropy(be, &op), LISA_OK);
    for (size_t i = 0; i < ROWS; i++)
        ck_assert_int_eq(
            be->ops->download(be, out + i * row,
                              (unsigned char *)op.dlogits.data + i * LOGITS * sizeof(float), row),
            LISA_OK);
    be->ops->release(be, logits, LISA_MEM_WORKSPACE, bytes);
    be->ops->release(be, apart, LISA_MEM_WORKSPACE, bytes);
    be->ops->release(be, index, LISA_MEM_WORKSPACE, sizeof targets);
    be->ops->release(be, weight, LISA_MEM_WORKSPACE, sizeof weights);
    be->ops->release(be, losses, LISA_MEM_WORKSPACE, sizeof nll);
}

START_TEST(cross_entropy_in_place) {
    const uint32_t dtype = conf_use_dtype(_i) != 0 ? conf.operand : 0;
    if (conf.ops->real_dtype != LISA_DTYPE_F32 || (dtype == 0 && _i > 0))
        return;
    unsigned char *apart = conf_take(ROWS * LOGITS * sizeof(float));
    unsigned char *in_place = conf_take(ROWS * LOGITS * sizeof(float));
    gradients(conf.backends[1], dtype != 0 ? dtype : LISA_DTYPE_F32, 0, apart);
    gradients(conf.backends[1], dtype != 0 ? dtype : LISA_DTYPE_F32, 1, in_place);
    ck_assert_mem_eq(apart, in_place,
                     ROWS * LOGITS * lisa__dtype_size(dtype != 0 ? dtype : LISA_DTYPE_F32));
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
    lisa_cross_entropy op = {
        .rows = 2, .cols = COLS, .ldlogits = COLS, .lddlogits = COLS, .gradient_scale = 1.0};
    conf_begin(&c, call_cross_entropy, &op, sizeof op, "cross_entropy of no weight");
    conf_in(&c, "targets", offsetof(lisa_cross_entropy, targets), CONF_I32, targets, 2);
    conf_in(&c, "weights", offsetof(lisa_cross_entropy, weights), LISA_DTYPE_F32, weights, 2);
    conf_in(&c, "logits", offsetof(lisa_cross_entropy, logits), CONF_REAL, logits, 2 * COLS);
    conf_out(&c, "dlogits", offsetof(lisa_cross_entropy, dlogits), CONF_TYPED_OPERAND,
             conf_nans(2 * COLS), 2, COLS, COLS, 1e-30)
        ->floor = 1e-30;
    conf_out(&c, "nll", offsetof(lisa_cross_entropy, nll), LISA_DTYPE_F64, nll, 2, 1, 1, 1e-30)
        ->floor = 1e-30;
    conf_run(&c);
}
END_TEST

/* ---- sums of squares ---- */

static double squares_on(lisa_backend *be, lisa_typed x, size_t n) {
    double result = NAN;
    size_t bytes = n * lisa__dtype_size(x.dtype);
    lisa_typed device = {on_device(be, x.data, bytes), x.dtype};
    double *sum = on_device(be, &result, sizeof result);
    ck_assert_int_eq(be->ops->sum_squares(be, device, n, sum), LISA_OK);
    ck_assert_int_eq(be->ops->download(be, &result, sum, sizeof result), LISA_OK);
    be->ops->release(be, device.data, LISA_MEM_WORKSPACE, bytes);
    be->ops->release(be, sum, LISA_MEM_WORKSPACE, sizeof *sum);
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

START_TEST(sum_squares) {
    const uint32_t dtype = conf_use_dtype(_i);
    if (dtype == 0)
        return;
    static const size_t sizes[] = {0, 1, 3, 1000, 70001};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t n = sizes[s];
        lisa_typed x = conf_typed_noise(dtype, n, 3.0);
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

/* Each number is added to what is there, in order: to the bit. */
START_TEST(sum) {
    static const size_t sizes[] = {0, 1, 2, 33, 1000, 5003};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t n = sizes[s], bytes = n * sizeof(double);
        double *x = conf_take(bytes), total = 0.0, result = 0.1;
        for (size_t i = 0; i < n; i++) {
            x[i] = noise_uniform(&conf.seed);
            total += x[i];
        }
        lisa_backend *be = conf.backends[2];
        double *device = on_device(be, x, bytes), *to = on_device(be, &result, sizeof result);
        ck_assert_int_eq(be->ops->sum(be, device, n, to), LISA_OK);
        ck_assert_int_eq(be->ops->download(be, &result, to, sizeof result), LISA_OK);
        ck_assert_double_eq(result, 0.1 + total);
        be->ops->release(be, device, LISA_MEM_WORKSPACE, bytes);
        be->ops->release(be, to, LISA_MEM_WORKSPACE, sizeof *to);
    }
}
END_TEST

TCase *conformance_loss(void) {
    TCase *tcase = tcase_create("loss");
    tcase_add_checked_fixture(tcase, conf_setup, conf_teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, cross_entropy, 0, 7);
    tcase_add_test(tcase, cross_entropy_of_no_weight);
    tcase_add_loop_test(tcase, cross_entropy_in_place, 0, CONF_DTYPES);
    tcase_add_loop_test(tcase, sum_squares, 0, CONF_DTYPES);
    tcase_add_test(tcase, sum_squares_of_ends);
    tcase_add_test(tcase, sum);
    return tcase;
}
