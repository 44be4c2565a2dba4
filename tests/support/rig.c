/* rig.c - see rig.h. */
#include "rig.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void rig_spec_init(rig_spec *spec, const char *backend) {
    memset(spec, 0, sizeof *spec);
    OK(lisa_context_options_init(&spec->context, sizeof spec->context));
    spec->context.backend = backend;
    spec->context.n_threads = 1;
    OK(lisa_model_options_init(&spec->model, sizeof spec->model));
    spec->model.seed = 5;
    OK(lisa_batch_options_init(&spec->batch, sizeof spec->batch));
    OK(lisa_optimizer_options_init(&spec->optimizer, sizeof spec->optimizer));
    OK(lisa_adapter_options_init(&spec->adapter, sizeof spec->adapter));
    spec->optimizer.lr = 1e-2;
    spec->max_batch = 2;
    spec->max_tokens = 11;

    lisa_model_config *config = &spec->config;
    OK(lisa_model_config_init(config, sizeof *config));
    config->n_layers = 3;
    config->d_model = 20;
    config->n_heads = 5;
    config->n_kv_heads = 1;
    config->d_ff = 28;
    config->vocab_size = 61;
    config->max_positions = 32;
    config->init_std = 0.15;
    if (strcmp(backend, "reference64") == 0)
        config->weights_dtype = LISA_DTYPE_F64;
}

static void make_parts(rig *r, const rig_spec *spec) {
    memset(&r->config, 0, sizeof r->config);
    r->config.struct_size = sizeof r->config;
    OK(lisa_model_get_config(r->model, &r->config));
    r->n_groups = r->config.n_layers + 2;
    r->n_tensors = lisa_model_n_tensors(r->model);
    ck_assert_uint_le(r->n_groups, RIG_MAX_GROUPS);
    if (spec->adapted) {
        OK(lisa_adapter_create(&r->adapter, r->model, &spec->adapter));
        OK(lisa_model_set_adapter(r->model, r->adapter));
    }
    OK(lisa_batch_create(&r->batch, r->model, spec->max_batch, spec->max_tokens, &spec->batch));
    if (!spec->no_optimizer)
        OK(lisa_optimizer_create(&r->optimizer, r->model, &spec->optimizer));
}

void rig_make(rig *r, const rig_spec *spec) {
    memset(r, 0, sizeof *r);
    OK(lisa_context_create(&r->context, &spec->context));
    if (spec->directory != NULL)
        OK(lisa_model_open(&r->model, r->context, spec->directory, &spec->model));
    else
        OK(lisa_model_create(&r->model, r->context, &spec->config, &spec->model));
    make_parts(r, spec);
}

void rig_make_f64_copy(rig *r, const rig_spec *spec, const rig *source) {
    lisa_model_config config = source->config;
    config.weights_dtype = LISA_DTYPE_F64;
    memset(r, 0, sizeof *r);
    OK(lisa_context_create(&r->context, &spec->context));
    OK(lisa_model_create(&r->model, r->context, &config, &spec->model));
    make_parts(r, spec);
    ck_assert_uint_eq(r->n_tensors, source->n_tensors);
    for (uint32_t i = 0; i < r->n_tensors; i++) {
        lisa_tensor_info info = rig_tensor(source, i);
        uint32_t index;
        double *values = rig_read(source, i);
        OK(lisa_model_tensor_find(r->model, info.name, &index));
        OK(lisa_model_tensor_write(r->model, index, values, LISA_DTYPE_F64, info.n_elements));
        free(values);
    }
}

void rig_destroy(rig *r) {
    lisa_optimizer_destroy(r->optimizer);
    lisa_adapter_destroy(r->adapter);
    lisa_batch_destroy(r->batch);
    lisa_model_destroy(r->model);
    lisa_context_destroy(r->context);
    memset(r, 0, sizeof *r);
}

void rig_random_tokens(int32_t *tokens, size_t n, uint32_t vocab, uint64_t seed) {
    uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        tokens[i] = (int32_t)((state >> 33) % vocab);
    }
}

void rig_random_batch(rig *r, uint32_t n_batch, uint32_t n_tokens, uint64_t seed) {
    size_t n = (size_t)n_batch * n_tokens;
    int32_t *tokens = malloc(2 * n * sizeof *tokens);
    ck_assert_ptr_nonnull(tokens);
    int32_t *labels = tokens + n;
    rig_random_tokens(tokens, n, r->config.vocab_size, seed);
    memcpy(labels, tokens, n * sizeof *tokens);
    for (size_t i = seed % 5; i < n; i += 5)
        labels[i] = LISA_IGNORE_LABEL;
    OK(lisa_batch_set(r->batch, tokens, labels, n_batch, n_tokens));
    free(tokens);
}

lisa_tensor_info rig_tensor(const rig *r, uint32_t index) {
    lisa_tensor_info info = {.struct_size = sizeof info};
    OK(lisa_model_tensor_info(r->model, index, &info));
    return info;
}

double *rig_read(const rig *r, uint32_t index) {
    lisa_tensor_info info = rig_tensor(r, index);
    double *values = malloc((size_t)info.n_elements * sizeof *values);
    ck_assert_ptr_nonnull(values);
    OK(lisa_model_tensor_read(r->model, index, values, LISA_DTYPE_F64, info.n_elements));
    return values;
}

double *rig_read_gradient(const rig *r, uint32_t index) {
    lisa_tensor_info info = rig_tensor(r, index);
    double *values = malloc((size_t)info.n_elements * sizeof *values);
    ck_assert_ptr_nonnull(values);
    OK(lisa_optimizer_gradient_read(r->optimizer, index, values, LISA_DTYPE_F64, info.n_elements));
    return values;
}

double *rig_snapshot(const rig *r, size_t *n) {
    *n = 0;
    for (uint32_t i = 0; i < r->n_tensors; i++)
        *n += (size_t)rig_tensor(r, i).n_elements;
    double *all = malloc(*n * sizeof *all);
    ck_assert_ptr_nonnull(all);
    size_t at = 0;
    for (uint32_t i = 0; i < r->n_tensors; i++) {
        uint64_t count = rig_tensor(r, i).n_elements;
        OK(lisa_model_tensor_read(r->model, i, all + at, LISA_DTYPE_F64, count));
        at += (size_t)count;
    }
    return all;
}

void rig_assert_unchanged(const rig *r, const double *before, size_t n) {
    size_t now = 0;
    double *after = rig_snapshot(r, &now);
    ck_assert_uint_eq(now, n);
    ck_assert_mem_eq(before, after, n * sizeof *after);
    free(after);
}

void rig_assert_same_weights(const rig *a, const rig *b, const char *what) {
    ck_assert_uint_eq(a->n_tensors, b->n_tensors);
    for (uint32_t i = 0; i < a->n_tensors; i++) {
        lisa_tensor_info info = rig_tensor(a, i);
        double *x = rig_read(a, i), *y = rig_read(b, i);
        int same = memcmp(x, y, (size_t)info.n_elements * sizeof *x) == 0;
        free(x);
        free(y);
        ck_assert_msg(same, "%s: '%s' differs", what, info.name);
    }
}

double rig_step(rig *r) {
    lisa_step_stats stats = {.struct_size = sizeof stats};
    OK(lisa_forward(r->model, r->batch, NULL));
    OK(lisa_backward(r->model, r->batch));
    OK(lisa_optimizer_step(r->optimizer, &stats));
    ck_assert_uint_eq(stats.updated, 1);
    return stats.loss;
}

double rig_error(const double *a, const double *b, size_t n) {
    double difference = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(fabs(a[i] - b[i]) <= difference)) /* a NaN is the largest difference of all */
            difference = fabs(a[i] - b[i]);
        if (fabs(b[i]) > largest)
            largest = fabs(b[i]);
    }
    return largest > 0 ? difference / largest : difference;
}
