/* A frozen layer costs nothing but its weights, and they do not change. */
#include "check_main.h"
#include "fixture.h"
#include "model/model.h"
#include "rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Loop index -> backend, type of the weights, and whether the head is tied. */
static const struct setting {
    const char *backend;
    uint32_t dtype, tied;
} SETTINGS[] = {
    {"reference64", LISA_DTYPE_F64, 0}, {"reference", LISA_DTYPE_F32, 1},
    {"cpu", LISA_DTYPE_F32, 0},         {"cpu", LISA_DTYPE_BF16, 1},
    {"cpu", LISA_DTYPE_F16, 0},         {"reference", LISA_DTYPE_BF16, 0},
};
enum { N_SETTINGS = sizeof SETTINGS / sizeof *SETTINGS };

enum { L = 3, GROUPS = L + 2, EMBEDDING = 0, HEAD = L + 1 };

static const uint8_t ONLY_LAYER_1[GROUPS] = {0, 0, 1, 0, 0};
static const uint8_t LAYER_0[GROUPS] = {1, 1, 0, 0, 1};
static const uint8_t LAYER_1[GROUPS] = {1, 0, 1, 0, 1};
static const uint8_t LAYERS_0_1[GROUPS] = {1, 1, 1, 0, 1};
static const uint8_t ALL[GROUPS] = {1, 1, 1, 1, 1};

static void spec_of(rig_spec *spec, int setting) {
    rig_spec_init(spec, SETTINGS[setting].backend);
    spec->config.weights_dtype = SETTINGS[setting].dtype;
    spec->config.tied_head = SETTINGS[setting].tied;
    spec->optimizer.weight_decay = 0.1;
    spec->optimizer.max_active_layers = 1;
}

static void masked_step(rig *r, const uint8_t *mask, uint64_t seed) {
    OK(lisa_optimizer_apply_mask(r->optimizer, mask, r->n_groups));
    rig_random_batch(r, 2, 11, seed);
    rig_step(r);
}

/* Tensors whose weights differ from `before` are those of groups that `trained` names, all of them.
 */
static void assert_changed_exactly(const rig *r, const double *before, const uint8_t *trained) {
    size_t n, at = 0;
    double *after = rig_snapshot(r, &n);
    for (uint32_t i = 0; i < r->n_tensors; i++) {
        lisa_tensor_info info = rig_tensor(r, i);
        size_t count = (size_t)info.n_elements;
        int same = memcmp(after + at, before + at, count * sizeof *after) == 0;
        ck_assert_msg(same != trained[info.group], "'%s' %s", info.name,
                      same ? "trains, but did not change" : "is frozen, but changed");
        at += count;
    }
    free(after);
}

START_TEST(test_frozen_weights_stay) {
    static const uint8_t *const masks[] = {ONLY_LAYER_1, LAYER_0, LAYER_1};
    rig_spec spec;
    spec_of(&spec, _i);
    for (size_t m = 0; m < sizeof masks / sizeof *masks; m++) {
        rig r;
        size_t n;
        rig_make(&r, &spec);
        double *before = rig_snapshot(&r, &n);
        for (uint64_t step = 0; step < 5; step++)
            masked_step(&r, masks[m], step);
        assert_changed_exactly(&r, before, masks[m]);
        free(before);
        rig_destroy(&r);
    }
}
END_TEST

/* Frozen from the start, whatever a mask asks of them. */
START_TEST(test_embedding_and_head_switched_off) {
    for (int which = 0; which < 3; which++) {
        uint8_t trained[GROUPS] = {1, 1, 0, 0, 1};
        rig_spec spec;
        rig r;
        size_t n;
        spec_of(&spec, _i);
        spec.optimizer.train_embedding = which == 1;
        spec.optimizer.train_head = which == 2;
        trained[EMBEDDING] = which == 1;
        trained[HEAD] = which == 2;
        rig_make(&r, &spec);
        double *before = rig_snapshot(&r, &n);
        for (uint64_t step = 0; step < 3; step++)
            masked_step(&r, trained, step);
        assert_changed_exactly(&r, before, trained);
        free(before);
        rig_destroy(&r);
    }
}
END_TEST

/* The gradient of what trains does not depend on what else does. */
START_TEST(test_gradients_do_not_depend_on_the_mask) {
    rig_spec spec;
    rig all, some;
    spec_of(&spec, _i);
    rig_make(&some, &spec);
    spec.optimizer.max_active_layers = 0;
    rig_make(&all, &spec);
    OK(lisa_optimizer_apply_mask(some.optimizer, LAYER_1, GROUPS));
    rig *both[] = {&all, &some};
    for (int k = 0; k < 2; k++) {
        rig_random_batch(both[k], 2, 11, 1);
        OK(lisa_forward(both[k]->model, both[k]->batch, NULL));
        OK(lisa_backward(both[k]->model, both[k]->batch));
    }
    for (uint32_t i = 0; i < all.n_tensors; i++) {
        lisa_tensor_info info = rig_tensor(&all, i);
        if (!LAYER_1[info.group])
            continue;
        double *a = rig_read_gradient(&all, i), *b = rig_read_gradient(&some, i);
        ck_assert_msg(memcmp(a, b, (size_t)info.n_elements * sizeof *a) == 0, "'%s'", info.name);
        free(a);
        free(b);
    }
    rig_destroy(&all);
    rig_destroy(&some);
}
END_TEST

START_TEST(test_frozen_gradient_is_refused) {
    rig_spec spec;
    rig r;
    double value[61 * 20], norm = -1;
    uint32_t layer_0, layer_1;
    spec_of(&spec, _i);
    rig_make(&r, &spec);
    OK(lisa_optimizer_apply_mask(r.optimizer, LAYER_1, GROUPS));
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_backward(r.model, r.batch));
    OK(lisa_model_tensor_find(r.model, "model.layers.0.input_layernorm.weight", &layer_0));
    OK(lisa_model_tensor_find(r.model, "model.layers.1.input_layernorm.weight", &layer_1));
    ck_assert_int_eq(lisa_optimizer_gradient_read(r.optimizer, layer_0, value, LISA_DTYPE_F64, 20),
                     LISA_E_STATE);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "model.layers.0.input_layernorm.weight"));
    OK(lisa_optimizer_gradient_read(r.optimizer, layer_1, value, LISA_DTYPE_F64, 20));
    OK(lisa_optimizer_gradient_norm(r.optimizer, 1, &norm));
    ck_assert_double_eq(norm, 0);
    OK(lisa_optimizer_gradient_norm(r.optimizer, 2, &norm));
    ck_assert_double_gt(norm, 0);
    rig_destroy(&r);
}
END_TEST

static uint64_t steps_of(const rig *r, uint32_t group) {
    uint64_t steps;
    OK(lisa_optimizer_group_steps(r->optimizer, group, &steps));
    return steps;
}

/* Two steps of layer 0, three of layer 1, one of layer 0 again. */
static void visit(rig *r) {
    masked_step(r, LAYER_0, 0);
    masked_step(r, LAYER_0, 1);
    ck_assert_uint_eq(steps_of(r, 1), 2);
    for (uint64_t step = 2; step < 5; step++)
        masked_step(r, LAYER_1, step);
    ck_assert_uint_eq(steps_of(r, 2), 3);
    ck_assert_uint_eq(steps_of(r, 3), 0);
}

START_TEST(test_drop_restarts) {
    rig_spec spec;
    rig r;
    spec_of(&spec, _i);
    spec.optimizer.state_policy = LISA_STATE_DROP;
    rig_make(&r, &spec);
    visit(&r);
    ck_assert_uint_eq(steps_of(&r, 1), 0);
    masked_step(&r, LAYER_0, 5);
    ck_assert_uint_eq(steps_of(&r, 1), 1);
    ck_assert_uint_eq(steps_of(&r, 2), 0);
    ck_assert_uint_eq(steps_of(&r, EMBEDDING), 6);
    ck_assert_uint_eq(steps_of(&r, HEAD), 6);
    rig_destroy(&r);
}
END_TEST

/* Distance between neighbours of a 16-bit type at x. */
static double spacing(double x, uint32_t dtype) {
    int exponent;
    frexp(x, &exponent);
    return ldexp(1.0, exponent - (dtype == LISA_DTYPE_BF16 ? 8 : 11));
}

/* Layer 0's elements: `stored` as 16-bit weights, `master` after a step, `dropped` after it left.
 * Each must end on a neighbour of its master, and on average on the master itself: rounded to
 * nearest, a step this small would be lost whole. */
static void assert_unbiased(const rig *r, const double *stored, const double *master,
                            const double *dropped, uint32_t dtype) {
    double drift = 0, bias = 0, variance = 0;
    for (size_t i = 0, at = 0; i < r->n_tensors; i++) {
        lisa_tensor_info info = rig_tensor(r, (uint32_t)i);
        for (size_t j = at; info.group == 1 && j < at + info.n_elements; j++) {
            double ulp = spacing(master[j], dtype), step = master[j] - stored[j];
            double above = master[j] / ulp - floor(master[j] / ulp);
            ck_assert_double_lt(fabs(dropped[j] - master[j]), ulp);
            ck_assert_double_eq(dropped[j] / ulp, floor(dropped[j] / ulp));
            drift += fabs(step);
            bias += step > 0 ? dropped[j] - master[j] : master[j] - dropped[j];
            variance += above * (1 - above) * ulp * ulp;
        }
        at += (size_t)info.n_elements;
    }
    ck_assert_double_gt(drift, 8 * sqrt(variance));
    ck_assert_double_lt(fabs(bias), 4 * sqrt(variance));
}

/* Like rig_snapshot, of the fp32 masters where a tensor has one. */
static double *master_snapshot(const rig *r) {
    size_t n, at = 0;
    double *all = rig_snapshot(r, &n);
    for (uint32_t i = 0; i < r->n_tensors; i++) {
        const struct lisa__tensor *tensor = &r->model->base.tensors[i];
        size_t count = (size_t)rig_tensor(r, i).n_elements;
        float *values = malloc(count * sizeof *values);
        ck_assert_ptr_nonnull(values);
        lisa_master op = {.what = LISA_MASTER_READ,
                          .n = count,
                          .weight = tensor->value,
                          .low = tensor->low,
                          .values = values};
        if (tensor->low != NULL)
            OK(r->model->be->ops->master(r->model->be, &op));
        for (size_t j = 0; tensor->low != NULL && j < count; j++)
            all[at + j] = values[j];
        free(values);
        at += count;
    }
    return all;
}

/* AdamW's first step of an element is the learning rate itself, whatever the gradient: so is that
 * of a layer that comes late, because moments are corrected by their own group's steps. */
START_TEST(test_a_late_layer_starts_as_others_did) {
    rig_spec spec;
    rig r;
    double most = 0;
    spec_of(&spec, _i);
    spec.optimizer.weight_decay = 0;
    rig_make(&r, &spec);
    masked_step(&r, LAYER_0, 0);
    masked_step(&r, LAYER_0, 1);
    double *before = master_snapshot(&r);
    masked_step(&r, LAYER_1, 2);
    double *after = master_snapshot(&r);
    for (size_t i = 0, at = 0; i < r.n_tensors; i++) {
        const lisa_tensor_info info = rig_tensor(&r, (uint32_t)i);
        for (size_t j = at; info.group == 2 && j < at + info.n_elements; j++)
            most = fmax(most, fabs(after[j] - before[j]));
        at += (size_t)info.n_elements;
    }
    ck_assert_double_gt(most, 0.99 * spec.optimizer.lr);
    ck_assert_double_lt(most, 1.01 * spec.optimizer.lr);
    free(before);
    free(after);
    rig_destroy(&r);
}
END_TEST

/* Masters of a layer that leaves are rounded stochastically into its 16-bit weights. */
START_TEST(test_drop_loses_no_drift) {
    uint32_t dtype = SETTINGS[_i].dtype;
    rig_spec spec;
    rig r;
    size_t n;
    if (dtype != LISA_DTYPE_BF16 && dtype != LISA_DTYPE_F16)
        return;
    spec_of(&spec, _i);
    spec.optimizer.weight_decay = 0;
    spec.optimizer.lr = dtype == LISA_DTYPE_BF16 ? 1e-4 : 1.25e-5;
    rig_make(&r, &spec);
    double *stored = rig_snapshot(&r, &n);
    masked_step(&r, LAYER_0, 0);
    double *master = master_snapshot(&r);
    OK(lisa_optimizer_apply_mask(r.optimizer, LAYER_1, GROUPS));
    double *dropped = rig_snapshot(&r, &n);
    assert_unbiased(&r, stored, master, dropped, dtype);
    free(stored);
    free(master);
    free(dropped);
    rig_destroy(&r);
}
END_TEST

static void write_all(rig *r, const double *values) {
    for (uint32_t i = 0; i < r->n_tensors; i++) {
        uint64_t n = rig_tensor(r, i).n_elements;
        OK(lisa_model_tensor_write(r->model, i, values, LISA_DTYPE_F64, n));
        values += n;
    }
}

/* The same master dropped twice: other draws, or a weight would always be rounded the same way. */
START_TEST(test_every_drop_draws_anew) {
    static const uint8_t only_layer_0[GROUPS] = {0, 1, 0, 0, 0};
    uint32_t dtype = SETTINGS[_i].dtype;
    double *dropped[2];
    rig_spec spec;
    rig r;
    size_t n;
    if (dtype != LISA_DTYPE_BF16 && dtype != LISA_DTYPE_F16)
        return;
    spec_of(&spec, _i);
    spec.optimizer.lr = dtype == LISA_DTYPE_BF16 ? 1e-4 : 1.25e-5;
    rig_make(&r, &spec);
    double *stored = rig_snapshot(&r, &n);
    for (int k = 0; k < 2; k++) {
        write_all(&r, stored);
        masked_step(&r, only_layer_0, 0);
        OK(lisa_optimizer_apply_mask(r.optimizer, ONLY_LAYER_1, GROUPS));
        dropped[k] = rig_snapshot(&r, &n);
    }
    ck_assert_mem_ne(dropped[0], dropped[1], n * sizeof **dropped);
    free(stored);
    free(dropped[0]);
    free(dropped[1]);
    rig_destroy(&r);
}
END_TEST

/* A layer in both masks of a swap keeps its state under DROP. */
START_TEST(test_drop_keeps_what_stays) {
    rig_spec spec;
    rig r;
    spec_of(&spec, _i);
    spec.optimizer.max_active_layers = 2;
    rig_make(&r, &spec);
    masked_step(&r, LAYER_0, 0);
    masked_step(&r, LAYERS_0_1, 1);
    ck_assert_uint_eq(steps_of(&r, 1), 2);
    ck_assert_uint_eq(steps_of(&r, 2), 1);
    masked_step(&r, LAYER_1, 2);
    ck_assert_uint_eq(steps_of(&r, 1), 0);
    ck_assert_uint_eq(steps_of(&r, 2), 2);
    rig_destroy(&r);
}
END_TEST

static void check_kept(int setting, uint32_t policy) {
    rig_spec spec;
    rig r;
    spec_of(&spec, setting);
    spec.optimizer.state_policy = policy;
    spec.optimizer.scratch_dir = policy == LISA_STATE_OFFLOAD ? "/var/tmp" : NULL;
    rig_make(&r, &spec);
    visit(&r);
    ck_assert_uint_eq(steps_of(&r, 1), 2);
    masked_step(&r, LAYER_0, 5);
    ck_assert_uint_eq(steps_of(&r, 1), 3);
    ck_assert_uint_eq(steps_of(&r, 2), 3);
    rig_destroy(&r);
}

START_TEST(test_keep_and_offload_go_on) {
    check_kept(_i, LISA_STATE_KEEP);
    check_kept(_i, LISA_STATE_OFFLOAD);
}
END_TEST

START_TEST(test_masks_that_are_refused) {
    uint8_t mask[GROUPS];
    rig_spec spec;
    rig r;
    spec_of(&spec, _i);
    rig_make(&r, &spec);
    masked_step(&r, LAYER_0, 0);
    ck_assert_int_eq(lisa_optimizer_apply_mask(r.optimizer, LAYERS_0_1, GROUPS), LISA_E_BUDGET);
    ck_assert_int_eq(lisa_optimizer_apply_mask(r.optimizer, ALL, GROUPS), LISA_E_BUDGET);
    ck_assert_int_eq(lisa_optimizer_apply_mask(r.optimizer, LAYER_1, GROUPS - 1), LISA_E_INVAL);
    OK(lisa_optimizer_get_mask(r.optimizer, mask, GROUPS));
    ck_assert_mem_eq(mask, LAYER_0, GROUPS);
    ck_assert_uint_eq(steps_of(&r, 1), 1);
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_backward(r.model, r.batch));
    ck_assert_int_eq(lisa_optimizer_apply_mask(r.optimizer, LAYER_1, GROUPS), LISA_E_STATE);
    OK(lisa_optimizer_apply_mask(r.optimizer, LAYER_0, GROUPS));
    OK(lisa_optimizer_step(r.optimizer, NULL));
    OK(lisa_optimizer_apply_mask(r.optimizer, LAYER_1, GROUPS));
    ck_assert_int_eq(lisa_optimizer_step(r.optimizer, NULL), LISA_E_STATE);
    rig_destroy(&r);
}
END_TEST

/* A window without targets changes nothing and counts no step. */
START_TEST(test_no_targets) {
    int32_t tokens[22], labels[22];
    rig_spec spec;
    rig r;
    size_t n;
    spec_of(&spec, _i);
    rig_make(&r, &spec);
    masked_step(&r, LAYER_0, 0);
    double *before = rig_snapshot(&r, &n), *after;
    rig_random_tokens(tokens, 22, r.config.vocab_size, 1);
    for (int i = 0; i < 22; i++) /* the first label of a row is no target */
        labels[i] = i % 11 == 0 ? tokens[i] : LISA_IGNORE_LABEL;
    OK(lisa_batch_set(r.batch, tokens, labels, 2, 11));
    ck_assert_uint_eq(lisa_batch_n_targets(r.batch), 0);
    lisa_step_stats stats = {.struct_size = sizeof stats};
    OK(lisa_train_step(r.model, NULL, r.optimizer, r.batch, 1, &stats));
    ck_assert_uint_eq(stats.updated, 0);
    ck_assert_uint_eq(stats.n_targets, 0);
    after = rig_snapshot(&r, &n);
    ck_assert_mem_eq(before, after, n * sizeof *before);
    ck_assert_uint_eq(steps_of(&r, 1), 1);
    masked_step(&r, LAYER_0, 2);
    ck_assert_uint_eq(steps_of(&r, 1), 2);
    free(before);
    free(after);
    rig_destroy(&r);
}
END_TEST

struct bytes {
    uint64_t current[LISA_MEM_CLASSES], peak[LISA_MEM_CLASSES];
};

static struct bytes bytes_of(const rig *r) {
    struct bytes b;
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++)
        OK(lisa_context_memory(r->context, c, &b.current[c], &b.peak[c]));
    return b;
}

/* 10 * L / gamma periods of one step, after a first round of all layers: no class moves. */
static void check_flat(const rig_spec *spec) {
    rig r;
    struct bytes made, first_round;
    rig_make(&r, spec);
    made = bytes_of(&r);
    for (uint64_t period = 0; period < 11 * L; period++) {
        uint8_t mask[GROUPS] = {1, 0, 0, 0, 1};
        mask[1 + (period * 2) % L] = 1;
        masked_step(&r, mask, period);
        struct bytes now = bytes_of(&r);
        ck_assert_uint_eq(now.current[LISA_MEM_GRADIENTS], made.current[LISA_MEM_GRADIENTS]);
        ck_assert_uint_eq(now.current[LISA_MEM_MOMENTS], made.current[LISA_MEM_MOMENTS]);
        ck_assert_uint_eq(now.current[LISA_MEM_LOW_BITS], made.current[LISA_MEM_LOW_BITS]);
        if (period == L - 1)
            first_round = now;
        for (uint32_t c = 0; period >= L && c < LISA_MEM_CLASSES; c++) {
            ck_assert_msg(now.current[c] == first_round.current[c], "%s grew from %llu to %llu",
                          lisa_memory_class_name(c), (unsigned long long)first_round.current[c],
                          (unsigned long long)now.current[c]);
            ck_assert_uint_eq(now.peak[c], first_round.peak[c]);
        }
    }
    ck_assert_uint_gt(made.current[LISA_MEM_MOMENTS], 0);
    rig_destroy(&r);
}

START_TEST(test_state_bytes_stay_flat) {
    static const uint32_t policies[] = {LISA_STATE_DROP, LISA_STATE_KEEP, LISA_STATE_OFFLOAD};
    rig_spec spec;
    for (size_t p = 0; p < 3; p++) {
        spec_of(&spec, _i);
        spec.optimizer.state_policy = policies[p];
        spec.optimizer.scratch_dir = policies[p] == LISA_STATE_OFFLOAD ? "/var/tmp" : NULL;
        check_flat(&spec);
    }
    spec_of(&spec, _i);
    spec.directory = fixture_path("llama-untied");
    check_flat(&spec);
    spec.model.scratch_dir = "/var/tmp";
    check_flat(&spec);
}
END_TEST

/* Bytes of moments follow from the slots: two values per element of embedding, head and one layer,
 * each tensor rounded up to 64 bytes. */
START_TEST(test_state_is_for_slots_only) {
    rig_spec spec;
    rig r;
    uint64_t elements = 0, tensors = 0;
    spec_of(&spec, _i);
    rig_make(&r, &spec);
    for (uint32_t i = 0; i < r.n_tensors; i++) {
        lisa_tensor_info info = rig_tensor(&r, i);
        if (info.group <= 1 || info.group == HEAD) {
            elements += info.n_elements;
            tensors++;
        }
    }
    uint64_t real = strcmp(SETTINGS[_i].backend, "reference64") == 0 ? 8 : 4;
    struct bytes b = bytes_of(&r);
    ck_assert_uint_ge(b.current[LISA_MEM_MOMENTS], 2 * real * elements);
    ck_assert_uint_le(b.current[LISA_MEM_MOMENTS], 2 * (real * elements + 64 * tensors));
    ck_assert_uint_ge(b.current[LISA_MEM_GRADIENTS], real * elements);
    ck_assert_uint_le(b.current[LISA_MEM_GRADIENTS], real * elements + 64 * tensors + 64);
    rig_destroy(&r);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("freeze");
    TCase *tcase = tcase_create("freeze");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_frozen_weights_stay, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_embedding_and_head_switched_off, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_gradients_do_not_depend_on_the_mask, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_frozen_gradient_is_refused, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_drop_restarts, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_a_late_layer_starts_as_others_did, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_drop_loses_no_drift, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_every_drop_draws_anew, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_drop_keeps_what_stays, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_keep_and_offload_go_on, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_masks_that_are_refused, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_no_targets, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_state_bytes_stay_flat, 0, N_SETTINGS);
    tcase_add_loop_test(tcase, test_state_is_for_slots_only, 0, N_SETTINGS);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
