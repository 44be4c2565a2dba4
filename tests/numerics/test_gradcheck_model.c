/* Gradients of whole tiny models in double against central differences, for every tensor of every
 * shape of block that a description can say. */
#include "check_main.h"
#include "rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BOUND 1e-6
#define SAMPLES 8 /* elements of a tensor that are checked one by one */

struct variant {
    const char *name;
    void (*change)(lisa_model_config *config);
    int documents, weights;
    uint32_t activations; /* 0: STORE */
    double step;          /* of the differences; 0: 1e-3 */
};

static void plain(lisa_model_config *c) {
    c->n_kv_heads = c->n_heads;
}

static void grouped(lisa_model_config *c) {
    c->n_kv_heads = 2;
}

static void tied(lisa_model_config *c) {
    c->tied_head = 1;
}

static void wide_heads(lisa_model_config *c) {
    c->head_dim = 6;
}

static void rope_linear(lisa_model_config *c) {
    c->rope = LISA_ROPE_LINEAR;
    c->rope_factor = 2.5;
}

static void rope_llama3(lisa_model_config *c) {
    c->head_dim = 6;
    c->rope = LISA_ROPE_LLAMA3;
    c->rope_theta = 500;
    c->rope_factor = 8;
    c->rope_low_freq_factor = 1;
    c->rope_high_freq_factor = 4;
    c->rope_original_positions = 64;
}

static void attention_biases(lisa_model_config *c) {
    c->attention_bias = 1;
    c->attention_output_bias = 1;
}

static void mlp_biases(lisa_model_config *c) {
    c->mlp_bias = 1;
}

static void query_bias_only(lisa_model_config *c) {
    c->attention_bias = 1;
}

static void qk_norm(lisa_model_config *c) {
    c->qk_norm = 1;
    c->head_dim = 6;
}

static void layer_norm(lisa_model_config *c) {
    c->norm = LISA_NORM_LAYER;
}

static void parallel(lisa_model_config *c) {
    c->parallel_residual = 1;
}

static void learned_positions(lisa_model_config *c) {
    c->rope = LISA_ROPE_NONE;
    c->learned_positions = 1;
}

static void window(lisa_model_config *c) {
    c->sliding_window = 3;
}

static void partial_rotary(lisa_model_config *c) {
    c->head_dim = 6;
    c->rotary_dim = 4;
}

static void gelu_tanh(lisa_model_config *c) {
    c->activation = LISA_ACT_GELU_TANH;
    c->gated_mlp = 0;
}

static void gelu_erf(lisa_model_config *c) {
    c->activation = LISA_ACT_GELU_ERF;
    c->gated_mlp = 0;
}

static void relu(lisa_model_config *c) {
    c->activation = LISA_ACT_RELU;
    c->gated_mlp = 0;
}

static void head_bias(lisa_model_config *c) {
    c->head_bias = 1;
}

static void like_gpt2(lisa_model_config *c) {
    strcpy(c->family, "gpt2"); /* fused q, k and v; weights stored [in, out] */
    c->n_kv_heads = c->n_heads;
    learned_positions(c);
    layer_norm(c);
    gelu_tanh(c);
    attention_biases(c);
    mlp_biases(c);
    tied(c);
}

static void like_mistral(lisa_model_config *c) {
    strcpy(c->family, "mistral");
    grouped(c);
    window(c);
}

static void like_qwen2(lisa_model_config *c) {
    strcpy(c->family, "qwen2");
    query_bias_only(c);
    tied(c);
}

static void like_qwen3(lisa_model_config *c) {
    strcpy(c->family, "qwen3");
    grouped(c);
    qk_norm(c);
    c->d_ff = 3; /* fewer than the statistics of a row's heads */
}

static void like_phi2(lisa_model_config *c) {
    strcpy(c->family, "phi");
    layer_norm(c);
    parallel(c);
    partial_rotary(c);
    gelu_tanh(c);
    attention_biases(c);
    mlp_biases(c);
    head_bias(c);
}

static void like_tied_phi2(lisa_model_config *c) {
    like_phi2(c);
    tied(c);
}

static const struct variant VARIANTS[] = {
    {"one KV head per head", plain, 0, 0, 0, 0},
    {"grouped KV heads", grouped, 0, 0, 0, 0},
    {"tied", tied, 0, 0, 0, 0},
    {"head_dim apart from d_model", wide_heads, 0, 0, 0, 0},
    {"linear rope", rope_linear, 0, 0, 0, 0},
    {"llama3 rope", rope_llama3, 0, 0, 0, 0},
    {"documents", grouped, 1, 0, 0, 0},
    {"weights", grouped, 0, 1, 0, 0},
    {"documents, weights, tied, recomputed", tied, 1, 1, LISA_ACTIVATIONS_RECOMPUTE, 0},
    {"attention biases", attention_biases, 0, 0, 0, 0},
    {"mlp biases", mlp_biases, 0, 0, LISA_ACTIVATIONS_RECOMPUTE, 0},
    {"q, k, v biases alone", query_bias_only, 0, 0, 0, 0},
    {"qk norm", qk_norm, 0, 0, 0, 0},
    {"LayerNorm", layer_norm, 0, 0, 0, 0},
    {"parallel residual", parallel, 0, 0, 0, 0},
    {"learned positions", learned_positions, 0, 0, 0, 0},
    {"learned positions, documents", learned_positions, 1, 0, 0, 0},
    {"sliding window", window, 0, 0, 0, 0},
    {"sliding window, documents", window, 1, 0, 0, 0},
    {"partial rotary", partial_rotary, 0, 0, 0, 0},
    {"gelu, tanh", gelu_tanh, 0, 0, 0, 0},
    {"gelu, erf", gelu_erf, 0, 0, 0, 0},
    {"relu", relu, 0, 0, 0, 1e-6}, /* a wider step would straddle the corner */
    {"head bias", head_bias, 0, 0, 0, 0},
    {"like GPT-2", like_gpt2, 1, 1, 0, 0},
    {"like GPT-2, recomputed", like_gpt2, 0, 0, LISA_ACTIVATIONS_RECOMPUTE, 0},
    {"like Mistral", like_mistral, 1, 1, 0, 0},
    {"like Qwen2, recomputed", like_qwen2, 1, 1, LISA_ACTIVATIONS_RECOMPUTE, 0},
    {"like Qwen3", like_qwen3, 1, 1, 0, 0},
    {"like Qwen3, recomputed", like_qwen3, 0, 0, LISA_ACTIVATIONS_RECOMPUTE, 0},
    {"like Phi-2, tied", like_tied_phi2, 0, 0, 0, 0},
    {"like Phi-2", like_phi2, 1, 1, 0, 0},
    {"like Phi-2, recomputed", like_phi2, 0, 0, LISA_ACTIVATIONS_RECOMPUTE, 0},
};
enum { N_VARIANTS = sizeof VARIANTS / sizeof *VARIANTS };

enum { B = 2, T = 7 };

static double noise(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) / 9007199254740992.0 - 0.5;
}

static void describe(rig_spec *spec, const struct variant *v) {
    rig_spec_init(spec, "reference64");
    spec->config.n_layers = 2;
    spec->config.d_model = 8;
    spec->config.n_heads = 4;
    spec->config.n_kv_heads = 1;
    spec->config.d_ff = 10;
    spec->config.vocab_size = 13;
    spec->config.max_positions = 9;
    spec->config.init_std = 0.4;
    v->change(&spec->config);
    spec->max_batch = B;
    spec->max_tokens = T;
    spec->batch.activations = v->activations != 0 ? v->activations : LISA_ACTIVATIONS_STORE;
    spec->batch.head_rows = 4; /* several chunks, the last one short */
}

/* Ones and zeros are a poor place for norms and biases to be differentiated at. */
static void shake_weights(rig *r) {
    uint64_t state = 7;
    for (uint32_t i = 0; i < r->n_tensors; i++) {
        uint64_t n = rig_tensor(r, i).n_elements;
        double *values = rig_read(r, i);
        for (uint64_t j = 0; j < n; j++)
            values[j] += 0.4 * noise(&state);
        OK(lisa_model_tensor_write(r->model, i, values, LISA_DTYPE_F64, n));
        free(values);
    }
}

static void set_batch(rig *r, const struct variant *v) {
    static const int32_t documents[B * T] = {3, 3, 3, 3, 1, 1, 1, 0, 0, 5, 5, 5, 5, 5};
    float weights[B * T];
    rig_random_batch(r, B, T, 3);
    for (int i = 0; i < B * T; i++)
        weights[i] = 0.25f * (float)(i % 5);
    if (v->documents)
        OK(lisa_batch_set_documents(r->batch, documents));
    if (v->weights)
        OK(lisa_batch_set_weights(r->batch, weights));
}

/* The un-normalised loss with tensor i at values + t * direction. */
static double loss_at(rig *r, uint32_t i, const double *values, const double *direction, double t,
                      double weight_sum) {
    uint64_t n = rig_tensor(r, i).n_elements;
    double *moved = malloc((size_t)n * sizeof *moved), loss;
    ck_assert_ptr_nonnull(moved);
    for (uint64_t j = 0; j < n; j++)
        moved[j] = values[j] + t * direction[j];
    OK(lisa_model_tensor_write(r->model, i, moved, LISA_DTYPE_F64, n));
    OK(lisa_forward(r->model, r->batch, &loss));
    free(moved);
    return loss * weight_sum;
}

/* Derivative along a direction, to fourth order. */
static double slope(rig *r, uint32_t i, const double *values, const double *direction, double h,
                    double weight_sum) {
    double near = loss_at(r, i, values, direction, h, weight_sum) -
                  loss_at(r, i, values, direction, -h, weight_sum);
    double far = loss_at(r, i, values, direction, 2 * h, weight_sum) -
                 loss_at(r, i, values, direction, -2 * h, weight_sum);
    return (8 * near - far) / (12 * h);
}

struct checked {
    const struct variant *v;
    double weight_sum, h;
    double floor; /* below this a tensor's gradient counts as zero */
};

static void compare(const struct checked *c, const char *tensor, const char *where, double got,
                    double expected, double scale) {
    double error = fabs(got - expected) / fmax(scale, c->floor);
    ck_assert_msg(error < BOUND, "%s: '%s' %s: gradient %.12g, differences %.12g (%.2g)",
                  c->v->name, tensor, where, got, expected, error);
}

/* Single elements, and one direction through all of them. */
static void check_tensor(rig *r, uint32_t i, const double *gradient, const struct checked *c) {
    lisa_tensor_info info = rig_tensor(r, i);
    size_t n = (size_t)info.n_elements, stride = n / SAMPLES + 1;
    double *values = rig_read(r, i), *direction = calloc(n, sizeof *direction);
    ck_assert_ptr_nonnull(direction);
    double scale = 0, along = 0;
    uint64_t state = i + 1;
    for (size_t j = 0; j < n; j++)
        scale = fmax(scale, fabs(gradient[j]));
    ck_assert_msg(scale > 0, "%s: '%s' has no gradient at all", c->v->name, info.name);
    for (size_t j = i % stride; j < n; j += stride) {
        char where[32];
        snprintf(where, sizeof where, "[%zu]", j);
        direction[j] = 1;
        compare(c, info.name, where, gradient[j],
                slope(r, i, values, direction, c->h, c->weight_sum), scale);
        direction[j] = 0;
    }
    for (size_t j = 0; j < n; j++) {
        direction[j] = noise(&state) / sqrt((double)n);
        along += direction[j] * gradient[j];
    }
    compare(c, info.name, "along a direction", along,
            slope(r, i, values, direction, c->h, c->weight_sum), scale);
    OK(lisa_model_tensor_write(r->model, i, values, LISA_DTYPE_F64, info.n_elements));
    free(direction);
    free(values);
}

static double window_weight_sum(rig *r) {
    void *data;
    uint64_t n;
    uint32_t dtype;
    OK(lisa_optimizer_gradients(r->optimizer, &data, &n, &dtype));
    ck_assert_uint_eq(dtype, LISA_DTYPE_F64);
    return *(const double *)data;
}

static void check_model(rig *r, const struct variant *v) {
    double **gradients = malloc(r->n_tensors * sizeof *gradients), loss, evaluated, largest = 0;
    ck_assert_ptr_nonnull(gradients);
    shake_weights(r);
    set_batch(r, v);
    OK(lisa_model_evaluate(r->model, r->batch, &evaluated, NULL, NULL));
    OK(lisa_forward(r->model, r->batch, &loss));
    ck_assert_msg(loss == evaluated, "%s: loss %.17g, evaluated %.17g", v->name, loss, evaluated);
    OK(lisa_backward(r->model, r->batch));
    struct checked c = {v, window_weight_sum(r), v->step > 0 ? v->step : 1e-3, 0};
    ck_assert_double_gt(c.weight_sum, 0);
    for (uint32_t i = 0; i < r->n_tensors; i++) {
        gradients[i] = rig_read_gradient(r, i);
        for (uint64_t j = 0; j < rig_tensor(r, i).n_elements; j++)
            largest = fmax(largest, fabs(gradients[i][j]));
    }
    ck_assert_double_gt(largest, 1e-3);
    c.floor = 1e-3 * largest;
    OK(lisa_optimizer_discard(r->optimizer));
    for (uint32_t i = 0; i < r->n_tensors; i++) {
        check_tensor(r, i, gradients[i], &c);
        free(gradients[i]);
    }
    free(gradients);
}

START_TEST(test_gradients) {
    const struct variant *v = &VARIANTS[_i];
    rig_spec spec;
    rig r;
    describe(&spec, v);
    rig_make(&r, &spec);
    check_model(&r, v);
    rig_destroy(&r);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("gradcheck_model");
    TCase *tcase = tcase_create("gradients");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_gradients, 0, N_VARIANTS);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
