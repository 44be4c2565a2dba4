/* The update inside backward: another place for the same update, with fewer gradients held. */
#include "check_main.h"
#include "rig.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const BACKENDS[] = {"reference64", "reference", "cpu"};

static void like_llama(lisa_model_config *c) {
    (void)c;
}

static void like_tied_llama(lisa_model_config *c) {
    c->tied_head = 1;
}

static void like_qwen3(lisa_model_config *c) {
    strcpy(c->family, "qwen3");
    c->qk_norm = 1;
}

static void like_gpt2(lisa_model_config *c) {
    strcpy(c->family, "gpt2");
    c->n_kv_heads = c->n_heads;
    c->norm = LISA_NORM_LAYER;
    c->rope = LISA_ROPE_NONE;
    c->learned_positions = c->attention_bias = c->attention_output_bias = c->mlp_bias = 1;
    c->tied_head = 1;
    c->gated_mlp = 0;
    c->activation = LISA_ACT_GELU_TANH;
}

static void like_phi(lisa_model_config *c) {
    strcpy(c->family, "phi");
    c->norm = LISA_NORM_LAYER;
    c->parallel_residual = c->head_bias = 1;
    c->attention_bias = c->attention_output_bias = c->mlp_bias = 1;
    c->gated_mlp = 0;
    c->activation = LISA_ACT_GELU_ERF;
}

static void (*const FAMILIES[])(lisa_model_config *) = {like_llama, like_tied_llama, like_qwen3,
                                                        like_gpt2, like_phi};
enum { N_FAMILIES = sizeof FAMILIES / sizeof *FAMILIES, N_KINDS = 3 };

static void spec_of(rig_spec *spec, int family, const char *backend) {
    rig_spec_init(spec, backend);
    FAMILIES[family](&spec->config);
    spec->optimizer.max_active_layers = 2;
    spec->optimizer.weight_decay = 0.1;
    spec->optimizer.lr = 1e-3;
    spec->optimizer.update_in_backward = 1;
}

static void mask_of(const rig *r, uint64_t step, uint8_t *mask) {
    memset(mask, 0, r->n_groups);
    mask[0] = step % 4 != 3;
    mask[r->n_groups - 1] = step % 5 != 4;
    for (uint64_t i = 0; i < 2; i++)
        mask[1 + (step / 2 + i) % r->config.n_layers] = 1;
}

/* Weights whose sum is no float, in every other step. */
static void weigh(rig *r, uint64_t step) {
    float weights[22];
    for (int i = 0; i < 22; i++)
        weights[i] = 0.1f + 0.037f * (float)i;
    OK(lisa_batch_set_weights(r->batch, step % 2 == 0 ? weights : NULL));
}

static lisa_step_stats masked_step(rig *r, uint64_t step) {
    lisa_step_stats stats = {.struct_size = sizeof stats};
    uint8_t mask[RIG_MAX_GROUPS];
    mask_of(r, step, mask);
    OK(lisa_optimizer_apply_mask(r->optimizer, mask, r->n_groups));
    rig_random_batch(r, 2, 11, step);
    weigh(r, step);
    OK(lisa_forward(r->model, r->batch, NULL));
    OK(lisa_backward(r->model, r->batch));
    OK(lisa_optimizer_step(r->optimizer, &stats));
    return stats;
}

/* Weights to the bit; the norm's sum is taken in another order. */
static void check_same(const rig_spec *given) {
    rig_spec spec = *given;
    rig early, late;
    rig_make(&early, &spec);
    spec.optimizer.update_in_backward = 0;
    rig_make(&late, &spec);
    for (uint64_t step = 0; step < 9; step++) {
        const lisa_step_stats a = masked_step(&early, step), b = masked_step(&late, step);
        ck_assert_mem_eq(&a.loss, &b.loss, sizeof a.loss);
        ck_assert_uint_eq(a.updated, 1);
        ck_assert_uint_eq(a.n_targets, b.n_targets);
        ck_assert_double_eq_tol(a.grad_norm, b.grad_norm, 1e-6 * b.grad_norm);
        rig_assert_same_weights(&early, &late, "update_in_backward");
    }
    for (uint32_t g = 0; g < early.n_groups; g++) {
        uint64_t a, b;
        OK(lisa_optimizer_group_steps(early.optimizer, g, &a));
        OK(lisa_optimizer_group_steps(late.optimizer, g, &b));
        ck_assert_uint_eq(a, b);
    }
    rig_destroy(&early);
    rig_destroy(&late);
}

START_TEST(test_same_bits) {
    rig_spec spec;
    spec_of(&spec, _i / N_KINDS, BACKENDS[_i % N_KINDS]);
    check_same(&spec);
}
END_TEST

START_TEST(test_same_bits_in_few_bits) {
    rig_spec spec;
    spec_of(&spec, _i, "cpu");
    spec.config.weights_dtype = LISA_DTYPE_BF16;
    spec.batch.activations = LISA_ACTIVATIONS_RECOMPUTE;
    spec.optimizer.moments_embedding = spec.optimizer.moments_layers = LISA_MOMENTS_8BIT;
    spec.optimizer.moments_head = LISA_MOMENTS_BF16;
    check_same(&spec);
}
END_TEST

static uint64_t in_16(uint64_t n) {
    return (n + 15) / 16 * 16;
}

/* A LLaMA's largest matrix is in the head; with a tied one, that of the embedding lasts. */
START_TEST(test_no_more_gradients_than_a_map) {
    rig_spec spec;
    rig r;
    uint64_t held = 0;
    spec_of(&spec, _i, "cpu");
    rig_make(&r, &spec);
    const lisa_model_config *c = &r.config;
    const uint64_t table = in_16((uint64_t)c->vocab_size * c->d_model), norm = in_16(c->d_model);
    const uint64_t widest = in_16((uint64_t)c->d_ff * c->d_model);
    const uint64_t untied = table + norm > widest ? table + norm : widest;
    const uint64_t expected = 16 + (_i == 1 ? table + widest : untied);
    OK(lisa_context_memory(r.context, LISA_MEM_GRADIENTS, NULL, &held));
    ck_assert_uint_eq(held, (expected * 4 + 63) / 64 * 64);
    rig_destroy(&r);
}
END_TEST

START_TEST(test_one_backward_a_step) {
    rig_spec spec;
    rig r;
    void *data;
    uint64_t n;
    uint32_t dtype;
    double value = 0;
    spec_of(&spec, 0, "cpu");
    rig_make(&r, &spec);
    masked_step(&r, 0);
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_backward(r.model, r.batch));
    OK(lisa_forward(r.model, r.batch, NULL));
    ck_assert_int_eq(lisa_backward(r.model, r.batch), LISA_E_STATE);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "update_in_backward"));
    OK(lisa_optimizer_step(r.optimizer, NULL));
    ck_assert_int_eq(lisa_optimizer_gradients(r.optimizer, &data, &n, &dtype), LISA_E_STATE);
    ck_assert_int_eq(lisa_optimizer_gradient_norm(r.optimizer, 0, &value), LISA_E_STATE);
    const lisa_tensor_info info = rig_tensor(&r, 0);
    double *gradient = malloc(info.n_elements * sizeof *gradient);
    ck_assert_ptr_nonnull(gradient);
    ck_assert_int_eq(
        lisa_optimizer_gradient_read(r.optimizer, 0, gradient, LISA_DTYPE_F64, info.n_elements),
        LISA_E_STATE);
    free(gradient);
    rig_destroy(&r);
}
END_TEST

/* With another optimizer of the same model gradients exist again. */
START_TEST(test_what_comes_after) {
    rig_spec spec;
    rig r;
    spec_of(&spec, 0, "cpu");
    rig_make(&r, &spec);
    masked_step(&r, 0);
    lisa_optimizer_destroy(r.optimizer);
    spec.optimizer.update_in_backward = 0;
    OK(lisa_optimizer_create(&r.optimizer, r.model, &spec.optimizer));
    masked_step(&r, 0);
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_backward(r.model, r.batch));
    double norm = 0;
    OK(lisa_optimizer_gradient_norm(r.optimizer, r.n_groups - 1, &norm));
    ck_assert_double_gt(norm, 0);
    rig_destroy(&r);
}
END_TEST

static void assert_refused(rig_spec *spec, const char *word) {
    rig r;
    rig_spec bare = *spec;
    lisa_optimizer *optimizer;
    bare.no_optimizer = 1;
    rig_make(&r, &bare);
    ck_assert_int_eq(lisa_optimizer_create(&optimizer, r.model, &spec->optimizer), LISA_E_INVAL);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "update_in_backward"));
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), word));
    rig_destroy(&r);
}

START_TEST(test_refusals) {
    rig_spec spec;
    spec_of(&spec, 0, "cpu");
    spec.optimizer.max_grad_norm = 1;
    assert_refused(&spec, "max_grad_norm");
    spec.optimizer.max_grad_norm = 0;
    spec.optimizer.update_in_backward = 2;
    assert_refused(&spec, "above 1");
    spec.optimizer.update_in_backward = 1;
    spec.adapted = 1;
    OK(lisa_adapter_options_init(&spec.adapter, sizeof spec.adapter));
    spec.adapter.rank = 2;
    assert_refused(&spec, "adapter");
}
END_TEST

static uint32_t final_norm_of(const rig *r) {
    uint32_t i = 0;
    while (rig_tensor(r, i).group != r->n_groups - 1)
        i++;
    return i;
}

/* A loss that is not finite is found before the first update. */
START_TEST(test_not_finite) {
    rig_spec spec;
    rig r;
    size_t n;
    spec_of(&spec, _i, "cpu");
    rig_make(&r, &spec);
    masked_step(&r, 0);
    const uint32_t norm = final_norm_of(&r);
    const uint64_t elements = rig_tensor(&r, norm).n_elements;
    double *before = rig_snapshot(&r, &n), *good = rig_read(&r, norm);
    double *huge = malloc(elements * sizeof *huge);
    ck_assert_ptr_nonnull(huge);
    for (uint64_t i = 0; i < elements; i++)
        huge[i] = 3e38;
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_model_tensor_write(r.model, norm, huge, LISA_DTYPE_F64, elements));
    OK(lisa_forward(r.model, r.batch, NULL));
    ck_assert_int_eq(lisa_backward(r.model, r.batch), LISA_E_NONFINITE);
    OK(lisa_model_tensor_write(r.model, norm, good, LISA_DTYPE_F64, elements));
    rig_assert_unchanged(&r, before, n);
    masked_step(&r, 1);
    free(before);
    free(good);
    free(huge);
    rig_destroy(&r);
}
END_TEST

static uint32_t find(const rig *r, const char *name) {
    uint32_t index;
    OK(lisa_model_tensor_find(r->model, name, &index));
    return index;
}

static void scale_tensor(rig *r, const char *name, double factor) {
    const uint32_t index = find(r, name);
    const uint64_t n = rig_tensor(r, index).n_elements;
    double *values = rig_read(r, index);
    for (uint64_t i = 0; i < n; i++)
        values[i] *= factor;
    OK(lisa_model_tensor_write(r->model, index, values, LISA_DTYPE_F64, n));
    free(values);
}

/* A gradient that is not usable though the loss is: what lies nearer to the loss has been updated,
 * which the text says; no step is counted, and the next one goes on. */
START_TEST(test_not_finite_on_the_way) {
    static const char *const words[] = {"square", "NaN or Inf"};
    float weights[22] = {0};
    rig_spec spec;
    rig r;
    uint64_t steps;
    spec_of(&spec, 0, "cpu");
    spec.optimizer.max_active_layers = 3;
    rig_make(&r, &spec);
    scale_tensor(&r, "model.layers.2.mlp.up_proj.weight", 1e25);
    scale_tensor(&r, "model.layers.2.mlp.down_proj.weight", 1e-25);
    rig_random_batch(&r, 2, 11, 1);
    /* A sum of target weights that gradients can be divided by, but not multiplied by 1e25. */
    for (int i = 0; i < 22; i++)
        weights[i] = 1e20f;
    if (_i == 1)
        OK(lisa_batch_set_weights(r.batch, weights));
    ck_assert_int_eq(lisa_train_step(r.model, NULL, r.optimizer, r.batch, 0, NULL),
                     LISA_E_NONFINITE);
    ck_assert_msg(strstr(lisa_error_last(), words[_i]) != NULL, "%s", lisa_error_last());
    ck_assert_msg(strstr(lisa_error_last(), "have been updated") != NULL, "%s", lisa_error_last());
    OK(lisa_optimizer_group_steps(r.optimizer, 0, &steps));
    ck_assert_uint_eq(steps, 0);
    scale_tensor(&r, "model.layers.2.mlp.up_proj.weight", 1e-25);
    scale_tensor(&r, "model.layers.2.mlp.down_proj.weight", 1e25);
    masked_step(&r, 1);
    rig_destroy(&r);
}
END_TEST

/* What has been updated cannot be forgotten. */
START_TEST(test_discard) {
    rig_spec spec;
    rig r;
    spec_of(&spec, 0, "cpu");
    rig_make(&r, &spec);
    OK(lisa_optimizer_discard(r.optimizer));
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_backward(r.model, r.batch));
    ck_assert_int_eq(lisa_optimizer_discard(r.optimizer), LISA_E_STATE);
    OK(lisa_optimizer_step(r.optimizer, NULL));
    rig_destroy(&r);
}
END_TEST

START_TEST(test_nothing_scored) {
    rig_spec spec;
    rig r;
    size_t n;
    int32_t tokens[6] = {1, 2, 3, 4, 5, 6}, labels[6];
    lisa_step_stats stats = {.struct_size = sizeof stats};
    spec_of(&spec, _i, "cpu");
    rig_make(&r, &spec);
    masked_step(&r, 0);
    double *before = rig_snapshot(&r, &n);
    for (int i = 0; i < 6; i++)
        labels[i] = LISA_IGNORE_LABEL;
    OK(lisa_batch_set(r.batch, tokens, labels, 1, 6));
    OK(lisa_train_step(r.model, NULL, r.optimizer, r.batch, 1, &stats));
    ck_assert_uint_eq(stats.updated, 0);
    rig_assert_unchanged(&r, before, n);
    free(before);
    rig_destroy(&r);
}
END_TEST

/* Yes at the call that the counter reaches. */
static int32_t at_count(void *user) {
    uint32_t *left = user;
    return (*left)-- == 0;
}

/* Wherever it is cancelled, nothing has been updated. */
START_TEST(test_cancelled) {
    rig_spec spec;
    rig r;
    size_t n;
    uint32_t left = UINT32_MAX, polls = 0;
    spec_of(&spec, _i, "cpu");
    spec.context.interrupt = at_count;
    spec.context.interrupt_user = &left;
    rig_make(&r, &spec);
    masked_step(&r, 0);
    double *before = rig_snapshot(&r, &n);
    lisa_status status;
    for (;; polls++) {
        left = polls;
        status = lisa_train_step(r.model, NULL, r.optimizer, r.batch, 1, NULL);
        if (status == LISA_OK)
            break;
        ck_assert_int_eq(status, LISA_E_CANCELLED);
        rig_assert_unchanged(&r, before, n);
    }
    ck_assert_uint_ge(polls, r.config.n_layers);
    free(before);
    rig_destroy(&r);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("update_in_backward");
    TCase *tcase = tcase_create("update_in_backward");
    tcase_add_loop_test(tcase, test_same_bits, 0, N_FAMILIES * N_KINDS);
    tcase_add_loop_test(tcase, test_same_bits_in_few_bits, 0, N_FAMILIES);
    tcase_add_loop_test(tcase, test_no_more_gradients_than_a_map, 0, 2);
    tcase_add_test(tcase, test_one_backward_a_step);
    tcase_add_test(tcase, test_what_comes_after);
    tcase_add_test(tcase, test_refusals);
    tcase_add_loop_test(tcase, test_not_finite, 0, 2);
    tcase_add_loop_test(tcase, test_not_finite_on_the_way, 0, 2);
    tcase_add_test(tcase, test_discard);
    tcase_add_loop_test(tcase, test_nothing_scored, 0, 2);
    tcase_add_loop_test(tcase, test_cancelled, 0, N_FAMILIES);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
