/* Every number of AdamW's options, away from its default, is in the step: against the formulas of
 * optimizer.h written down again. */
#include "check_main.h"
#include "rig.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 4, MAX_TENSORS = 64 };

/* Loop index -> options; the other ones have their defaults. */
static const struct numbers {
    double beta1, beta2, eps, weight_decay, max_grad_norm;
} NUMBERS[] = {
    {0.7, 0.999, 1e-8, 0, 0}, {0.9, 0.93, 1e-8, 0, 0},       {0.9, 0.999, 1e-2, 0, 0},
    {0.9, 0.999, 1e-8, 2, 0}, {0.9, 0.999, 1e-8, 0, 0.0625}, {0.8, 0.95, 1e-3, 0.5, 0.125},
};
enum { N_NUMBERS = sizeof NUMBERS / sizeof *NUMBERS };

/* m, v and weights as they should be. */
static struct expected { double *m, *v, *w; } expected[MAX_TENSORS];

static int decays(const lisa_tensor_info *t) {
    return t->n_dims == 2 && t->group != 0; /* no norm, no bias, no embedding */
}

static double norm_of(const rig *r, double weight) {
    double sum = 0;
    for (uint32_t i = 0; i < r->n_tensors; i++) {
        double *g = rig_read_gradient(r, i);
        for (uint64_t k = 0; k < rig_tensor(r, i).n_elements; k++)
            sum += pow(g[k] / weight, 2);
        free(g);
    }
    return sqrt(sum);
}

static void expect(const rig *r, const struct numbers *o, double lr, int t) {
    const double weight = (double)lisa_batch_n_targets(r->batch), norm = norm_of(r, weight);
    const double clip = o->max_grad_norm > 0 ? fmin(1, o->max_grad_norm / (norm + 1e-6)) : 1;
    ck_assert(o->max_grad_norm == 0 || clip < 1);
    for (uint32_t i = 0; i < r->n_tensors; i++) {
        const lisa_tensor_info info = rig_tensor(r, i);
        struct expected *e = &expected[i];
        double *gradient = rig_read_gradient(r, i);
        for (uint64_t k = 0; k < info.n_elements; k++) {
            const double g = gradient[k] / weight * clip;
            e->m[k] = o->beta1 * e->m[k] + (1 - o->beta1) * g;
            e->v[k] = o->beta2 * e->v[k] + (1 - o->beta2) * g * g;
            if (decays(&info))
                e->w[k] -= lr * o->weight_decay * e->w[k];
            e->w[k] -= lr * (e->m[k] / (1 - pow(o->beta1, t))) /
                       (sqrt(e->v[k] / (1 - pow(o->beta2, t))) + o->eps);
        }
        free(gradient);
    }
}

START_TEST(test_numbers) {
    const struct numbers *o = &NUMBERS[_i];
    rig_spec spec;
    rig r;
    rig_spec_init(&spec, "reference64");
    spec.config.attention_bias = 1;
    spec.optimizer.lr = 1e-2;
    spec.optimizer.beta1 = o->beta1;
    spec.optimizer.beta2 = o->beta2;
    spec.optimizer.eps = o->eps;
    spec.optimizer.weight_decay = o->weight_decay;
    spec.optimizer.max_grad_norm = o->max_grad_norm;
    rig_make(&r, &spec);
    ck_assert_uint_le(r.n_tensors, MAX_TENSORS);
    for (uint32_t i = 0; i < r.n_tensors; i++) {
        const size_t n = (size_t)rig_tensor(&r, i).n_elements;
        expected[i] = (struct expected){calloc(n, sizeof(double)), calloc(n, sizeof(double)),
                                        rig_read(&r, i)};
    }
    for (int t = 1; t <= STEPS; t++) {
        rig_random_batch(&r, 2, 11, (uint64_t)t);
        OK(lisa_forward(r.model, r.batch, NULL));
        OK(lisa_backward(r.model, r.batch));
        expect(&r, o, spec.optimizer.lr, t);
        OK(lisa_optimizer_step(r.optimizer, NULL));
    }
    for (uint32_t i = 0; i < r.n_tensors; i++) {
        double *now = rig_read(&r, i);
        const double off = rig_error(now, expected[i].w, (size_t)rig_tensor(&r, i).n_elements);
        ck_assert_msg(off < 1e-9, "'%s' is off by %g", rig_tensor(&r, i).name, off);
        free(now);
        free(expected[i].m), free(expected[i].v), free(expected[i].w);
    }
    rig_destroy(&r);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("adamw options");
    TCase *tcase = tcase_create("adamw options");
    tcase_add_loop_test(tcase, test_numbers, 0, N_NUMBERS);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
