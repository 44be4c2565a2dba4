/* The backends' AdamW against ten steps of torch.optim.AdamW (tests/tools/make_adamw_fixture.py).
 */
#include "check_main.h"
#include "core/context.h"
#include "core/dtype.h"
#include "fixture.h"
#include "rig.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const BACKENDS[] = {"reference64", "reference", "cpu"};
enum { N_BACKENDS = sizeof BACKENDS / sizeof *BACKENDS };

/* One run: the fixture's inputs in the backend's type, and what AdamW made of them. */
struct run {
    lisa_context *context;
    fixture *expected;
    uint32_t real;
    size_t n, n_steps;
    void *w, *low, *m, *v, *gradient;
};

static void *real_zeros(const struct run *r) {
    void *data = calloc(r->n, sizeof(double));
    ck_assert_ptr_nonnull(data);
    return data;
}

static struct run run_open(const char *backend) {
    struct run r = {0};
    lisa_context_options options;
    OK(lisa_context_options_init(&options, sizeof options));
    options.backend = backend;
    options.n_threads = 2;
    OK(lisa_context_create(&r.context, &options));
    r.real = r.context->be->ops->real_dtype;
    r.expected = fixture_open("adamw.safetensors");
    const float *w0 = fixture_f32(r.expected, "w0", &r.n);
    r.n_steps = fixture_dim(r.expected, "gradients", 0);
    r.w = real_zeros(&r);
    r.low = real_zeros(&r);
    r.m = real_zeros(&r);
    r.v = real_zeros(&r);
    r.gradient = real_zeros(&r);
    for (size_t i = 0; i < r.n; i++)
        lisa__store(r.w, r.real, i, w0[i]);
    return r;
}

static void run_close(struct run *r) {
    free(r->w);
    free(r->low);
    free(r->m);
    free(r->v);
    free(r->gradient);
    fixture_close(r->expected);
    lisa_context_destroy(r->context);
}

/* The fixture's steps on `weight`; gradients come multiplied by `factor`, to be divided again. */
static void run_steps(struct run *r, lisa_typed weight, void *low, double decay, double factor) {
    const double *adam = fixture_f64(r->expected, "adam", NULL);
    const float *gradients = fixture_f32(r->expected, "gradients", NULL);
    for (size_t step = 0; step < r->n_steps; step++) {
        for (size_t i = 0; i < r->n; i++)
            lisa__store(r->gradient, r->real, i, factor * gradients[step * r->n + i]);
        const lisa_control control = {.scale = 1.0 / factor};
        lisa_adamw op = {.n = r->n,
                         .weight = weight,
                         .low = low,
                         .gradient = r->gradient,
                         .m = r->m,
                         .v = r->v,
                         .moments = LISA_MOMENTS_F32,
                         .lr = adam[0],
                         .beta1 = adam[1],
                         .beta2 = adam[2],
                         .eps = adam[3],
                         .weight_decay = decay,
                         .control = &control,
                         .correction1 = 1.0 - pow(adam[1], (double)step + 1.0),
                         .correction2 = 1.0 - pow(adam[2], (double)step + 1.0)};
        OK(r->context->be->ops->adamw(r->context->be, &op));
    }
}

static double expected_at(const struct run *r, const char *kind, const char *what, size_t i) {
    char name[32];
    int f64 = r->real == LISA_DTYPE_F64;
    snprintf(name, sizeof name, "%s.%s.%s", f64 ? "f64" : "f32", kind, what);
    return f64 ? fixture_f64(r->expected, name, NULL)[i] : fixture_f32(r->expected, name, NULL)[i];
}

/* |got - expected| in units of the last place of `magnitude`. */
static double ulps(const struct run *r, double got, double expected, double magnitude) {
    double epsilon = r->real == LISA_DTYPE_F64 ? DBL_EPSILON : FLT_EPSILON;
    int exponent;
    if (got == expected)
        return 0;
    frexp(magnitude, &exponent);
    return fabs(got - expected) / ldexp(epsilon, exponent - 1);
}

/* The largest |gradient| an element ever had: its moments are sums of such terms. */
static double largest_gradient(const struct run *r, size_t i) {
    const float *gradients = fixture_f32(r->expected, "gradients", NULL);
    double largest = 0;
    for (size_t step = 0; step < r->n_steps; step++) {
        const double size = fabs(gradients[step * r->n + i]);
        largest = size > largest ? size : largest;
    }
    return largest;
}

/* A weight is rounded ten times at its own magnitude, so the last place of the larger of its first
 * and last value is the unit; torch's scalars are double and its tensor operations round in another
 * order, which shows as one rounding here and there going the other way. */
static void assert_as_torch(const struct run *r, const char *kind) {
    const float *w0 = fixture_f32(r->expected, "w0", NULL);
    for (size_t i = 0; i < r->n; i++) {
        double w = expected_at(r, kind, "w", i), g = largest_gradient(r, i);
        double dw = ulps(r, lisa__load(r->w, r->real, i), w, fmax(fabs(w0[i]), fabs(w)));
        double dm = ulps(r, lisa__load(r->m, r->real, i), expected_at(r, kind, "m", i), g);
        double dv = ulps(r, lisa__load(r->v, r->real, i), expected_at(r, kind, "v", i), g * g);
        ck_assert_msg(dw <= 2, "%s: w[%zu] is off by %g ulp", kind, i, dw);
        ck_assert_msg(dm <= 2, "%s: m[%zu] is off by %g ulp", kind, i, dm);
        ck_assert_msg(dv <= 2, "%s: v[%zu] is off by %g ulp", kind, i, dv);
    }
}

static lisa_typed real_weight(const struct run *r) {
    return (lisa_typed){r->w, r->real};
}

START_TEST(test_plain) {
    struct run r = run_open(BACKENDS[_i]);
    run_steps(&r, real_weight(&r), NULL, 0.0, 1.0);
    assert_as_torch(&r, "plain");
    run_close(&r);
}
END_TEST

START_TEST(test_decay) {
    struct run r = run_open(BACKENDS[_i]);
    run_steps(&r, real_weight(&r), NULL, fixture_f64(r.expected, "decay", NULL)[0], 1.0);
    assert_as_torch(&r, "decay");
    run_close(&r);
}
END_TEST

/* A window of four batches: sums four times as large, divided again. Powers of two are exact. */
START_TEST(test_gradient_scale_is_exact) {
    struct run once = run_open(BACKENDS[_i]), four = run_open(BACKENDS[_i]);
    run_steps(&once, real_weight(&once), NULL, 0.0, 1.0);
    run_steps(&four, real_weight(&four), NULL, 0.0, 4.0);
    ck_assert_mem_eq(once.w, four.w, once.n * lisa__dtype_size(once.real));
    run_close(&once);
    run_close(&four);
}
END_TEST

/* A 16-bit weight with its low bits is the fp32 weight: ten steps end on the same bits. */
static void check_split_master(const char *backend, uint32_t dtype) {
    struct run whole = run_open(backend), split = run_open(backend);
    lisa_typed weight = {split.w, dtype};
    float *master = malloc(split.n * sizeof *master);
    ck_assert_ptr_nonnull(master);
    const float *w0 = fixture_f32(split.expected, "w0", NULL);
    memcpy(master, w0, split.n * sizeof *master);
    lisa_master op = {.what = LISA_MASTER_WRITE,
                      .n = split.n,
                      .weight = weight,
                      .low = split.low,
                      .values = master};
    OK(split.context->be->ops->master(split.context->be, &op));
    run_steps(&whole, real_weight(&whole), NULL, 0.1, 1.0);
    run_steps(&split, weight, split.low, 0.1, 1.0);
    op.what = LISA_MASTER_READ;
    OK(split.context->be->ops->master(split.context->be, &op));
    ck_assert_mem_eq(master, whole.w, whole.n * sizeof *master);
    free(master);
    run_close(&whole);
    run_close(&split);
}

START_TEST(test_split_master) {
    check_split_master(BACKENDS[1 + _i], LISA_DTYPE_BF16);
    check_split_master(BACKENDS[1 + _i], LISA_DTYPE_F16);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("adamw_torch");
    TCase *tcase = tcase_create("adamw");
    tcase_add_loop_test(tcase, test_plain, 0, N_BACKENDS);
    tcase_add_loop_test(tcase, test_decay, 0, N_BACKENDS);
    tcase_add_loop_test(tcase, test_gradient_scale_is_exact, 0, N_BACKENDS);
    tcase_add_loop_test(tcase, test_split_master, 0, N_BACKENDS - 1);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
