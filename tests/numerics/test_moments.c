/* What optimizers may do with moments and learning rates by class: fewer bits that train as well,
 * factors, warm-up; in every policy and with the bits that are promised. */
#include "check_main.h"
#include "core/context.h"
#include "optim/optimizer.h"
#include "rig.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Loop index -> backend, type of the weights and kind of moments. */
static const struct setting {
    const char *backend;
    uint32_t dtype, moments;
} SETTINGS[] = {
    {"reference64", LISA_DTYPE_F64, LISA_MOMENTS_BF16},
    {"reference64", LISA_DTYPE_F64, LISA_MOMENTS_8BIT},
    {"reference", LISA_DTYPE_F32, LISA_MOMENTS_8BIT},
    {"cpu", LISA_DTYPE_F32, LISA_MOMENTS_F32},
    {"cpu", LISA_DTYPE_F32, LISA_MOMENTS_BF16},
    {"cpu", LISA_DTYPE_F32, LISA_MOMENTS_8BIT},
    {"cpu", LISA_DTYPE_BF16, LISA_MOMENTS_BF16},
    {"cpu", LISA_DTYPE_BF16, LISA_MOMENTS_8BIT},
    {"cpu", LISA_DTYPE_F16, LISA_MOMENTS_8BIT},
};
enum { N_SETTINGS = sizeof SETTINGS / sizeof *SETTINGS };

enum { L = 3, GROUPS = L + 2, HEAD = L + 1 };

/* A disk: scratch files are refused on tmpfs. */
static const char *scratch_directory(void) {
    const char *directory = getenv("LISA_TEST_SCRATCH");
    return directory != NULL ? directory : "/var/tmp";
}

static void spec_of(rig_spec *spec, int setting) {
    const struct setting *s = &SETTINGS[setting];
    rig_spec_init(spec, s->backend);
    spec->config.weights_dtype = s->dtype;
    spec->optimizer.lr = 1e-3;
    spec->optimizer.moments_embedding = s->moments;
    spec->optimizer.moments_layers = s->moments;
    spec->optimizer.moments_head = s->moments;
    spec->optimizer.scratch_dir = scratch_directory();
}

static void masked_step(rig *r, const uint8_t *mask, uint64_t seed) {
    OK(lisa_optimizer_apply_mask(r->optimizer, mask, GROUPS));
    rig_random_batch(r, 2, 11, seed);
    rig_step(r);
}

/* ---- bits ---- */

START_TEST(test_gamma_l_is_full_adamw) {
    rig_spec spec;
    rig full, lisa;
    lisa_sampler *sampler;
    lisa_sampler_options options;
    spec_of(&spec, _i);
    OK(lisa_sampler_options_init(&options, sizeof options));
    options.n_layers = options.n_active = L;
    options.interval_steps = 2;
    OK(lisa_sampler_create(&sampler, &options));
    rig_make(&full, &spec);
    rig_make(&lisa, &spec);
    for (uint64_t step = 0; step < 6; step++) {
        rig_random_batch(&full, 2, 11, step);
        rig_random_batch(&lisa, 2, 11, step);
        OK(lisa_train_step(full.model, NULL, full.optimizer, full.batch, step, NULL));
        OK(lisa_train_step(lisa.model, sampler, lisa.optimizer, lisa.batch, step, NULL));
    }
    rig_assert_same_weights(&full, &lisa, "full AdamW and gamma = L");
    lisa_sampler_destroy(sampler);
    rig_destroy(&full);
    rig_destroy(&lisa);
}
END_TEST

static const uint8_t TURNS[][GROUPS] = {{1, 1, 0, 0, 1}, {1, 0, 0, 1, 1}, {1, 0, 1, 0, 1},
                                        {1, 0, 0, 1, 1}, {1, 1, 0, 0, 1}, {1, 0, 1, 0, 1}};
enum { N_TURNS = sizeof TURNS / sizeof *TURNS };

/* Layers by turns under this policy and this number of threads. */
static void run_turns(rig *r, int setting, uint32_t policy, uint32_t n_threads) {
    rig_spec spec;
    spec_of(&spec, setting);
    spec.context.n_threads = n_threads;
    spec.optimizer.state_policy = policy;
    spec.optimizer.max_active_layers = 1;
    rig_make(r, &spec);
    for (uint64_t step = 0; step < 2 * (uint64_t)N_TURNS; step++)
        masked_step(r, TURNS[step / 2], step);
}

START_TEST(test_offload_is_keep) {
    rig keep, offload, drop;
    run_turns(&keep, _i, LISA_STATE_KEEP, 2);
    run_turns(&offload, _i, LISA_STATE_OFFLOAD, 2);
    run_turns(&drop, _i, LISA_STATE_DROP, 2);
    rig_assert_same_weights(&keep, &offload, "KEEP and OFFLOAD");
    uint64_t kept = 0, dropped = 0;
    OK(lisa_optimizer_group_steps(keep.optimizer, 2, &kept));
    OK(lisa_optimizer_group_steps(drop.optimizer, 2, &dropped));
    ck_assert_uint_eq(kept, 4);
    ck_assert_uint_eq(dropped, 2);
    rig_destroy(&keep);
    rig_destroy(&offload);
    rig_destroy(&drop);
}
END_TEST

START_TEST(test_threads_do_not_matter) {
    rig one, three;
    run_turns(&one, _i, LISA_STATE_DROP, 1);
    run_turns(&three, _i, LISA_STATE_DROP, 3);
    rig_assert_same_weights(&one, &three, "1 and 3 threads");
    rig_destroy(&one);
    rig_destroy(&three);
}
END_TEST

/* The same gradients into a state that is as new draw apart: no stream of rounding comes twice. */
START_TEST(test_no_stream_comes_twice) {
    static const uint8_t first[GROUPS] = {0, 1, 0, 0, 0}, other[GROUPS] = {0, 0, 1, 0, 0};
    rig_spec spec;
    rig r;
    spec_of(&spec, _i);
    spec.optimizer.lr = 0;
    spec.optimizer.max_active_layers = 1;
    rig_make(&r, &spec);
    masked_step(&r, first, 7);
    const size_t bytes = (size_t)r.optimizer->memory.layer.moment;
    unsigned char *before = malloc(bytes);
    ck_assert_ptr_nonnull(before);
    memcpy(before, lisa__group_state(r.optimizer, 1).v, bytes);
    OK(lisa_optimizer_apply_mask(r.optimizer, other, GROUPS));
    masked_step(&r, first, 7);
    size_t differ = 0;
    for (size_t i = 0; i < bytes; i++)
        differ += before[i] != ((unsigned char *)lisa__group_state(r.optimizer, 1).v)[i];
    if (SETTINGS[_i].moments == LISA_MOMENTS_F32)
        ck_assert_uint_eq(differ, 0);
    else
        ck_assert_uint_gt(differ, bytes / 10);
    free(before);
    rig_destroy(&r);
}
END_TEST

/* ---- bytes ---- */

static uint64_t up(uint64_t n) {
    return (n + 63) / 64 * 64;
}

static uint64_t moment_of(const lisa_tensor_info *t, uint32_t moments) {
    return moments == LISA_MOMENTS_8BIT   ? up(t->n_elements) + up((t->n_elements + 255) / 256 * 4)
           : moments == LISA_MOMENTS_BF16 ? up(2 * t->n_elements)
                                          : up(4 * t->n_elements);
}

/* Classes apart: embedding 8 bits, layers bf16, head f32, and all their rotations. */
START_TEST(test_bytes_by_class) {
    const uint32_t kinds[3] = {1 + (uint32_t)(_i + 2) % 3, 1 + (uint32_t)(_i + 1) % 3,
                               1 + (uint32_t)_i % 3};
    rig_spec spec;
    rig r;
    uint64_t expected = 0, now = 0;
    rig_spec_init(&spec, "cpu");
    spec.optimizer.moments_embedding = kinds[0];
    spec.optimizer.moments_layers = kinds[1];
    spec.optimizer.moments_head = kinds[2];
    rig_make(&r, &spec);
    for (uint32_t i = 0; i < r.n_tensors; i++) {
        const lisa_tensor_info t = rig_tensor(&r, i);
        expected += 2 * moment_of(&t, kinds[t.group == 0 ? 0 : t.group == HEAD ? 2 : 1]);
    }
    OK(lisa_context_memory(r.context, LISA_MEM_MOMENTS, &now, NULL));
    ck_assert_uint_eq(now, expected);
    rig_destroy(&r);
}
END_TEST

/* ---- learning ---- */

/* The loss on one batch after so many steps at a rate that learns it. */
static double learned(const char *backend, uint32_t moments) {
    rig_spec spec;
    rig r;
    double loss = 0;
    rig_spec_init(&spec, backend);
    spec.optimizer.lr = 3e-3;
    spec.optimizer.moments_embedding = spec.optimizer.moments_layers = spec.optimizer.moments_head =
        moments;
    rig_make(&r, &spec);
    rig_random_batch(&r, 2, 11, 3);
    for (int step = 0; step < 120; step++)
        loss = rig_step(&r);
    rig_destroy(&r);
    return loss;
}

START_TEST(test_a_model_learns_as_well) {
    static const char *const backends[] = {"reference64", "cpu"};
    const double f32 = learned(backends[_i], LISA_MOMENTS_F32);
    const double bf16 = learned(backends[_i], LISA_MOMENTS_BF16);
    const double codes = learned(backends[_i], LISA_MOMENTS_8BIT);
    ck_assert_double_lt(f32, 0.2);
    ck_assert_double_le(bf16, 1.1 * f32);
    ck_assert_double_le(codes, 1.1 * f32);
}
END_TEST

/* A quadratic of curvatures over four decades, whose first gradient is a thousand times too large.
 * Only where v decays again do later steps become what they should be. */
enum { N_QUADRATIC = 1000, SPIKE = 1000, QUADRATIC_STEPS = 6000 };

static double quadratic_loss(const float *w) {
    double loss = 0;
    for (size_t i = 0; i < N_QUADRATIC; i++)
        loss += 0.5 * pow((double)w[i] - 1, 2);
    return loss / N_QUADRATIC;
}

static double spiked(const lisa_backend_ops *ops, lisa_backend *be, uint32_t moments) {
    static float w[N_QUADRATIC], g[N_QUADRATIC], scales[2][4];
    static float m[N_QUADRATIC], v[N_QUADRATIC];
    memset(w, 0, sizeof w), memset(m, 0, sizeof m), memset(v, 0, sizeof v);
    memset(scales, 0, sizeof scales);
    lisa_adamw op = {.n = N_QUADRATIC,
                     .weight = {w, LISA_DTYPE_F32},
                     .gradient = g,
                     .m = m,
                     .v = v,
                     .moments = moments,
                     .m_scale = scales[0],
                     .v_scale = scales[1],
                     .lr = 2e-3,
                     .beta1 = 0.9,
                     .beta2 = 0.999,
                     .eps = 1e-12};
    for (uint64_t step = 0; step < QUADRATIC_STEPS; step++) {
        for (size_t i = 0; i < N_QUADRATIC; i++)
            g[i] = powf(10.0f, -(float)(i % 5)) * (w[i] - 1.0f);
        const lisa_control control = {.scale = step == 0 ? SPIKE : 1};
        op.control = &control;
        op.stream = step;
        op.correction1 = 1 - pow(op.beta1, (double)step + 1);
        op.correction2 = 1 - pow(op.beta2, (double)step + 1);
        OK(ops->adamw(be, &op));
    }
    return quadratic_loss(w);
}

START_TEST(test_a_spike_is_forgotten) {
    static const char *const backends[] = {"reference", "cpu"};
    lisa_context *context;
    lisa_context_options options;
    OK(lisa_context_options_init(&options, sizeof options));
    options.backend = backends[_i];
    OK(lisa_context_create(&context, &options));
    const lisa_backend_ops *ops = context->be->ops;
    const double f32 = spiked(ops, context->be, LISA_MOMENTS_F32);
    const double bf16 = spiked(ops, context->be, LISA_MOMENTS_BF16);
    const double codes = spiked(ops, context->be, LISA_MOMENTS_8BIT);
    ck_assert_double_lt(f32, 0.1);
    ck_assert_double_le(bf16, 1.2 * f32);
    ck_assert_double_le(codes, 1.2 * f32);
    lisa_context_destroy(context);
}
END_TEST

/* ---- factors ---- */

static void set_factors(rig_spec *spec, double embedding, double layers, double head) {
    spec->optimizer.lr_factor_embedding = embedding;
    spec->optimizer.lr_factor_layers = layers;
    spec->optimizer.lr_factor_head = head;
}

/* All tensors of this class have the same bits in both. */
static void assert_same_class(const rig *a, const rig *b, int class) {
    for (uint32_t i = 0; i < a->n_tensors; i++) {
        const lisa_tensor_info t = rig_tensor(a, i);
        if ((t.group == 0 ? 0 : t.group == HEAD ? 2 : 1) != class)
            continue;
        double *x = rig_read(a, i), *y = rig_read(b, i);
        ck_assert_msg(memcmp(x, y, t.n_elements * sizeof *x) == 0, "'%s' differs", t.name);
        free(x);
        free(y);
    }
}

/* From the same weights a class moves as if its rate were everybody's. */
START_TEST(test_factors_are_rates_of_a_class) {
    static const double factors[3] = {0.3, 2.5, 0.7};
    rig_spec spec;
    rig by_factor;
    spec_of(&spec, _i);
    set_factors(&spec, factors[0], factors[1], factors[2]);
    rig_make(&by_factor, &spec);
    rig_random_batch(&by_factor, 2, 11, 1);
    rig_step(&by_factor);
    for (int class = 0; class < 3; class ++) {
        rig alone;
        spec_of(&spec, _i);
        spec.optimizer.lr *= factors[class];
        rig_make(&alone, &spec);
        rig_random_batch(&alone, 2, 11, 1);
        rig_step(&alone);
        assert_same_class(&by_factor, &alone, class);
        rig_destroy(&alone);
    }
    rig_destroy(&by_factor);
}
END_TEST

/* Over many steps, where one class alone trains. */
START_TEST(test_a_factor_alone) {
    for (int class = 0; class < 3; class ++) {
        rig_spec spec;
        rig factor, rate;
        spec_of(&spec, _i);
        spec.optimizer.train_embedding = class == 0;
        spec.optimizer.train_head = class == 2;
        spec.optimizer.max_active_layers = class == 1 ? L : LISA_NO_LAYERS;
        set_factors(&spec, class == 0 ? 0.3 : 9, class == 1 ? 0.3 : 9, class == 2 ? 0.3 : 9);
        rig_make(&factor, &spec);
        set_factors(&spec, 0, 0, 0);
        spec.optimizer.lr *= 0.3;
        rig_make(&rate, &spec);
        for (uint64_t step = 0; step < 4; step++) {
            rig_random_batch(&factor, 2, 11, step);
            rig_random_batch(&rate, 2, 11, step);
            rig_step(&factor);
            rig_step(&rate);
        }
        rig_assert_same_weights(&factor, &rate, "a factor and a rate");
        rig_destroy(&factor);
        rig_destroy(&rate);
    }
}
END_TEST

/* ---- warm-up ---- */

/* Layer 0 for some steps, layer 1 for some, layer 0 again. `t` of the layer that trains, under DROP
 * and under KEEP. */
static const struct turn {
    uint32_t layer, t_drop, t_keep;
} WARM[] = {{0, 1, 1}, {0, 2, 2}, {1, 1, 1}, {1, 2, 2}, {1, 3, 3}, {1, 4, 4},
            {1, 5, 5}, {0, 1, 3}, {0, 2, 4}, {0, 3, 5}, {1, 1, 6}, {0, 1, 6}};

START_TEST(test_warm_up) {
    const uint32_t policies[] = {LISA_STATE_DROP, LISA_STATE_KEEP, LISA_STATE_OFFLOAD};
    for (int p = 0; p < 3; p++) {
        rig_spec spec;
        rig warm, scheduled;
        spec_of(&spec, _i);
        spec.optimizer.max_active_layers = 1;
        spec.optimizer.state_policy = policies[p];
        spec.optimizer.train_embedding = spec.optimizer.train_head = 0;
        rig_make(&scheduled, &spec);
        spec.optimizer.warmup_steps = 4;
        rig_make(&warm, &spec);
        for (size_t i = 0; i < sizeof WARM / sizeof *WARM; i++) {
            uint8_t mask[GROUPS] = {0};
            const double t = p == 0 ? WARM[i].t_drop : WARM[i].t_keep;
            mask[1 + WARM[i].layer] = 1;
            OK(lisa_optimizer_set_lr(scheduled.optimizer,
                                     t < 4 ? spec.optimizer.lr * (t / 4) : spec.optimizer.lr));
            masked_step(&warm, mask, i);
            masked_step(&scheduled, mask, i);
            rig_assert_same_weights(&warm, &scheduled, "warm-up and the host's own");
        }
        rig_destroy(&warm);
        rig_destroy(&scheduled);
    }
}
END_TEST

/* Embedding and head warm up once, at their first steps; layers that return do again. */
START_TEST(test_warm_up_of_what_stays) {
    rig_spec spec;
    rig warm, scheduled;
    spec_of(&spec, _i);
    spec.optimizer.max_active_layers = LISA_NO_LAYERS;
    rig_make(&scheduled, &spec);
    spec.optimizer.warmup_steps = 3;
    rig_make(&warm, &spec);
    for (uint64_t step = 0; step < 6; step++) {
        static const uint8_t all[GROUPS] = {1, 0, 0, 0, 1}, none[GROUPS] = {0};
        const double t = (double)step + 1;
        OK(lisa_optimizer_set_lr(scheduled.optimizer,
                                 t < 3 ? spec.optimizer.lr * (t / 3) : spec.optimizer.lr));
        masked_step(&warm, all, step);
        masked_step(&scheduled, all, step);
        OK(lisa_optimizer_apply_mask(warm.optimizer, none, GROUPS));
    }
    rig_assert_same_weights(&warm, &scheduled, "warm-up and the host's own");
    rig_destroy(&warm);
    rig_destroy(&scheduled);
}
END_TEST

/* ---- refusals ---- */

static void check_refused(lisa_model *model, const lisa_optimizer_options *o, const char *name) {
    lisa_optimizer *optimizer = NULL;
    ck_assert_int_eq(lisa_optimizer_create(&optimizer, model, o), LISA_E_INVAL);
    ck_assert_ptr_null(optimizer);
    ck_assert_msg(strstr(lisa_error_last(), name) != NULL, "%s", lisa_error_last());
}

START_TEST(test_refusals) {
    static const double rates[] = {-1, INFINITY, NAN};
    rig_spec spec;
    rig r;
    rig_spec_init(&spec, "cpu");
    spec.no_optimizer = 1;
    rig_make(&r, &spec);
    lisa_optimizer_options o;
    uint32_t *const moments[] = {&o.moments_embedding, &o.moments_layers, &o.moments_head};
    double *const factors[] = {&o.lr_factor_embedding, &o.lr_factor_layers, &o.lr_factor_head};
    static const char *const names[] = {"moments_embedding", "moments_layers",
                                        "moments_head",      "lr_factor_embedding",
                                        "lr_factor_layers",  "lr_factor_head"};
    for (int i = 0; i < 3; i++) {
        OK(lisa_optimizer_options_init(&o, sizeof o));
        *moments[i] = LISA_MOMENTS_8BIT + 1;
        check_refused(r.model, &o, names[i]);
        for (int j = 0; j < 3; j++) {
            OK(lisa_optimizer_options_init(&o, sizeof o));
            *factors[i] = rates[j];
            check_refused(r.model, &o, names[3 + i]);
        }
    }
    rig_destroy(&r);
}
END_TEST

/* A host of version 0.1.0 has none of these fields. */
START_TEST(test_an_older_struct) {
    rig_spec spec;
    rig r;
    lisa_optimizer_options o;
    rig_spec_init(&spec, "cpu");
    spec.no_optimizer = 1;
    rig_make(&r, &spec);
    memset(&o, 0xFF, sizeof o);
    const size_t old = offsetof(lisa_optimizer_options, moments_embedding);
    OK(lisa_optimizer_options_init(&o, old));
    ck_assert_uint_eq(o.moments_embedding, UINT32_MAX);
    OK(lisa_optimizer_create(&r.optimizer, r.model, &o));
    ck_assert_uint_eq(r.optimizer->shape.moments[1], LISA_MOMENTS_F32);
    ck_assert_uint_eq(r.optimizer->options.warmup_steps, 0);
    rig_destroy(&r);
}
END_TEST

static Suite *moments_suite(void) {
    Suite *suite = suite_create("moments");
    TCase *tcase = tcase_create("moments");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, test_gamma_l_is_full_adamw, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_offload_is_keep, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_threads_do_not_matter, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_no_stream_comes_twice, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_bytes_by_class, 0, 3);
    tcase_add_loop_test(tcase, test_a_model_learns_as_well, 0, 2);
    tcase_add_loop_test(tcase, test_a_spike_is_forgotten, 0, 2);
    tcase_add_loop_test(tcase, test_factors_are_rates_of_a_class, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_a_factor_alone, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_warm_up, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_warm_up_of_what_stays, 0, N_SETTINGS);
    tcase_add_test(tcase, test_refusals);
    tcase_add_test(tcase, test_an_older_struct);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(moments_suite)
