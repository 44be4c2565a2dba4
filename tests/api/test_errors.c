/* What goes wrong is said, and leaves everything as it was. Public headers only. */
#include "check_main.h"
#include "lisa/lisa.h"
#include "rig.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static rig r;
static rig_spec spec;

static void setup(void) {
    rig_spec_init(&spec, "cpu");
    spec.optimizer.max_active_layers = 1;
    rig_make(&r, &spec);
}

static void teardown(void) {
    rig_destroy(&r);
}

/* The call fails as expected, in one line that has the word in it. */
#define FAILS(expected, word, call)                                                                \
    do {                                                                                           \
        const lisa_status status_ = (call);                                                        \
        ck_assert_msg(status_ == (expected), "%s: %s, expected %s (%s)", #call,                    \
                      lisa_status_name(status_), lisa_status_name(expected), lisa_error_last());   \
        ck_assert_msg(strstr(lisa_error_last(), (word)) != NULL, "%s said: %s", #call,             \
                      lisa_error_last());                                                          \
        ck_assert_ptr_null(strchr(lisa_error_last(), '\n'));                                       \
    } while (0)

START_TEST(test_batch_arguments) {
    int32_t tokens[22] = {0};
    float weights[22] = {0};
    FAILS(LISA_E_STATE, "no tokens", lisa_forward(r.model, r.batch, NULL));
    FAILS(LISA_E_STATE, "after lisa_batch_set", lisa_batch_set_weights(r.batch, weights));
    OK(lisa_batch_set(r.batch, tokens, NULL, 2, 11));
    const uint64_t scored = lisa_batch_n_targets(r.batch);
    ck_assert_uint_eq(scored, 20);
    FAILS(LISA_E_INVAL, "12", lisa_batch_set(r.batch, tokens, NULL, 2, 12));
    FAILS(LISA_E_INVAL, "0", lisa_batch_set(r.batch, tokens, NULL, 0, 1));
    tokens[7] = (int32_t)r.config.vocab_size;
    FAILS(LISA_E_INVAL, "tokens[7]", lisa_batch_set(r.batch, tokens, NULL, 2, 11));
    tokens[7] = -1;
    FAILS(LISA_E_INVAL, "tokens[7]", lisa_batch_set(r.batch, tokens, NULL, 2, 11));
    tokens[7] = 0;
    int32_t labels[22] = {0};
    labels[3] = -99;
    FAILS(LISA_E_INVAL, "targets[3]", lisa_batch_set(r.batch, tokens, labels, 2, 11));
    weights[5] = -1;
    FAILS(LISA_E_INVAL, "weights[5]", lisa_batch_set_weights(r.batch, weights));
    weights[5] = NAN;
    FAILS(LISA_E_INVAL, "weights[5]", lisa_batch_set_weights(r.batch, weights));
    int32_t documents[22] = {0, 1, 0};
    FAILS(LISA_E_INVAL, "document 0", lisa_batch_set_documents(r.batch, documents));
    ck_assert_uint_eq(lisa_batch_n_targets(r.batch), scored);
    lisa_batch *none = NULL;
    FAILS(LISA_E_INVAL, "positions", lisa_batch_create(&none, r.model, 1, 33, NULL));
    ck_assert_ptr_null(none);
}
END_TEST

START_TEST(test_order_of_calls) {
    double loss = 0;
    rig_random_batch(&r, 2, 11, 1);
    FAILS(LISA_E_STATE, "no lisa_forward", lisa_backward(r.model, r.batch));
    FAILS(LISA_E_STATE, "no lisa_backward", lisa_optimizer_step(r.optimizer, NULL));
    lisa_optimizer *second = NULL;
    FAILS(LISA_E_STATE, "already", lisa_optimizer_create(&second, r.model, NULL));
    ck_assert_ptr_null(second);
    OK(lisa_forward(r.model, r.batch, &loss));
    OK(lisa_backward(r.model, r.batch));
    FAILS(LISA_E_STATE, "no lisa_forward", lisa_backward(r.model, r.batch));
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_backward(r.model, r.batch));
    OK(lisa_optimizer_step(r.optimizer, NULL));
    /* A forward of weights that have changed since is stale. */
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_backward(r.model, r.batch));
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_optimizer_step(r.optimizer, NULL));
    FAILS(LISA_E_STATE, "no lisa_forward", lisa_backward(r.model, r.batch));
}
END_TEST

START_TEST(test_masks) {
    const uint8_t two[5] = {1, 1, 0, 1, 1}, one[5] = {1, 0, 1, 0, 1}, odd[5] = {1, 0, 2, 0, 1};
    uint8_t before[5], after[5];
    OK(lisa_optimizer_apply_mask(r.optimizer, one, 5));
    OK(lisa_optimizer_get_mask(r.optimizer, before, 5));
    FAILS(LISA_E_BUDGET, "max_active_layers", lisa_optimizer_apply_mask(r.optimizer, two, 5));
    FAILS(LISA_E_INVAL, "mask[2]", lisa_optimizer_apply_mask(r.optimizer, odd, 5));
    FAILS(LISA_E_INVAL, "groups", lisa_optimizer_apply_mask(r.optimizer, one, 4));
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_backward(r.model, r.batch));
    const uint8_t other[5] = {1, 1, 0, 0, 1};
    FAILS(LISA_E_STATE, "window", lisa_optimizer_apply_mask(r.optimizer, other, 5));
    OK(lisa_optimizer_apply_mask(r.optimizer, one, 5));
    OK(lisa_optimizer_get_mask(r.optimizer, after, 5));
    ck_assert_mem_eq(before, after, 5);
    OK(lisa_optimizer_step(r.optimizer, NULL));
}
END_TEST

/* What a train step can refuse it refuses before its mask comes into force. */
START_TEST(test_train_step_refuses_first) {
    lisa_sampler *sampler = NULL;
    lisa_sampler_options o;
    uint8_t before[5], after[5];
    OK(lisa_sampler_options_init(&o, sizeof o));
    o.n_layers = 3;
    o.n_active = 1;
    OK(lisa_sampler_create(&sampler, &o));
    OK(lisa_optimizer_get_mask(r.optimizer, before, 5));
    FAILS(LISA_E_STATE, "no tokens",
          lisa_train_step(r.model, sampler, r.optimizer, r.batch, 0, NULL));
    OK(lisa_optimizer_get_mask(r.optimizer, after, 5));
    ck_assert_mem_eq(before, after, 5);
    lisa_sampler_destroy(sampler);
    o.n_layers = 4;
    OK(lisa_sampler_create(&sampler, &o));
    rig_random_batch(&r, 2, 11, 1);
    FAILS(LISA_E_INVAL, "6 groups",
          lisa_train_step(r.model, sampler, r.optimizer, r.batch, 0, NULL));
    lisa_sampler_destroy(sampler);
}
END_TEST

START_TEST(test_no_label_is_scored) {
    int32_t tokens[22], labels[22];
    size_t n = 0;
    lisa_step_stats stats = {.struct_size = sizeof stats};
    rig_random_tokens(tokens, 22, r.config.vocab_size, 4);
    for (int i = 0; i < 22; i++)
        labels[i] = LISA_IGNORE_LABEL;
    OK(lisa_batch_set(r.batch, tokens, labels, 2, 11));
    FAILS(LISA_E_INVAL, "-100", lisa_model_evaluate(r.model, r.batch, NULL, NULL, NULL));
    double *before = rig_snapshot(&r, &n);
    OK(lisa_train_step(r.model, NULL, r.optimizer, r.batch, 0, &stats));
    ck_assert_uint_eq(stats.updated, 0);
    ck_assert_uint_eq(stats.n_targets, 0);
    uint64_t steps = 1;
    OK(lisa_optimizer_group_steps(r.optimizer, 0, &steps));
    ck_assert_uint_eq(steps, 0);
    double *after = rig_snapshot(&r, &n);
    ck_assert_mem_eq(before, after, n * sizeof *before);
    free(before);
    free(after);
}
END_TEST

/* Target weights whose sum is positive and yet nothing to divide by. */
START_TEST(test_vanishing_weights) {
    size_t n = 0;
    float weights[22];
    for (int i = 0; i < 22; i++)
        weights[i] = 1e-42f;
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_batch_set_weights(r.batch, weights));
    double *before = rig_snapshot(&r, &n);
    FAILS(LISA_E_NONFINITE, "sum of target weights",
          lisa_train_step(r.model, NULL, r.optimizer, r.batch, 0, NULL));
    double *after = rig_snapshot(&r, &n);
    ck_assert_mem_eq(before, after, n * sizeof *before);
    OK(lisa_batch_set_weights(r.batch, NULL));
    OK(lisa_train_step(r.model, NULL, r.optimizer, r.batch, 0, NULL));
    free(before);
    free(after);
}
END_TEST

/* Gradients that are finite, while AdamW's squares of them are not. */
START_TEST(test_huge_gradients) {
    size_t n = 0;
    void *region = NULL;
    uint64_t n_elements = 0;
    uint32_t dtype = 0;
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_backward(r.model, r.batch));
    OK(lisa_optimizer_gradients(r.optimizer, &region, &n_elements, &dtype));
    ck_assert_uint_eq(dtype, LISA_DTYPE_F32);
    ((float *)region)[17] = 1e30f;
    double *before = rig_snapshot(&r, &n);
    FAILS(LISA_E_NONFINITE, "gradient's norm", lisa_optimizer_step(r.optimizer, NULL));
    double *after = rig_snapshot(&r, &n);
    ck_assert_mem_eq(before, after, n * sizeof *before);
    OK(lisa_train_step(r.model, NULL, r.optimizer, r.batch, 0, NULL));
    free(before);
    free(after);
}
END_TEST

/* Where the gradient of a tensor that trains begins in the region; tensors fill it in their order,
 * each to a multiple of 16. */
static uint64_t gradient_of(uint32_t wanted) {
    uint64_t at = 16;
    uint8_t mask[RIG_MAX_GROUPS];
    OK(lisa_optimizer_get_mask(r.optimizer, mask, r.n_groups));
    for (uint32_t i = 0; i < wanted; i++)
        if (mask[rig_tensor(&r, i).group])
            at += (rig_tensor(&r, i).n_elements + 15) / 16 * 16;
    return at;
}

/* Two tensors have one, and the first is named; weights, moments and steps stay. */
START_TEST(test_nonfinite_gradient) {
    size_t n = 0;
    void *region = NULL;
    uint64_t n_elements = 0, steps;
    uint32_t dtype = 0;
    const uint32_t last = r.n_tensors - 1;
    rig twin;
    rig_make(&twin, &spec);
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_backward(r.model, r.batch));
    OK(lisa_optimizer_gradients(r.optimizer, &region, &n_elements, &dtype));
    float *gradients = region;
    gradients[gradient_of(last) + 2] = _i == 0 ? NAN : -INFINITY;
    if (_i == 2)
        gradients[gradient_of(0) + 5] = NAN;
    double *before = rig_snapshot(&r, &n);
    FAILS(LISA_E_NONFINITE, rig_tensor(&r, _i == 2 ? 0 : last).name,
          lisa_optimizer_step(r.optimizer, NULL));
    rig_assert_unchanged(&r, before, n);
    OK(lisa_optimizer_group_steps(r.optimizer, 0, &steps));
    ck_assert_uint_eq(steps, 0);
    rig_random_batch(&twin, 2, 11, 1);
    OK(lisa_train_step(r.model, NULL, r.optimizer, r.batch, 0, NULL));
    OK(lisa_train_step(twin.model, NULL, twin.optimizer, twin.batch, 0, NULL));
    rig_assert_same_weights(&r, &twin, "after a gradient that was not finite");
    rig_destroy(&twin);
    free(before);
}
END_TEST

/* A finite weight so large that the forward overflows: the loss is said to be non-finite, and
 * weights, moments and steps stay. */
START_TEST(test_nonfinite_loss) {
    size_t n = 0;
    uint32_t index = 0;
    OK(lisa_model_tensor_find(r.model, "model.layers.1.mlp.down_proj.weight", &index));
    const lisa_tensor_info info = rig_tensor(&r, index);
    double *values = rig_read(&r, index);
    const double kept = values[3];
    values[3] = INFINITY;
    FAILS(LISA_E_NONFINITE, "down_proj",
          lisa_model_tensor_write(r.model, index, values, LISA_DTYPE_F64, info.n_elements));
    for (uint64_t i = 0; i < info.n_elements; i++)
        values[i] = 3e38;
    OK(lisa_model_tensor_write(r.model, index, values, LISA_DTYPE_F64, info.n_elements));
    rig_random_batch(&r, 2, 11, 1);
    double *before = rig_snapshot(&r, &n);
    FAILS(LISA_E_NONFINITE, "loss", lisa_train_step(r.model, NULL, r.optimizer, r.batch, 0, NULL));
    double *after = rig_snapshot(&r, &n);
    ck_assert_mem_eq(before, after, n * sizeof *before);
    for (uint64_t i = 0; i < info.n_elements; i++)
        values[i] = kept;
    OK(lisa_model_tensor_write(r.model, index, values, LISA_DTYPE_F64, info.n_elements));
    OK(lisa_train_step(r.model, NULL, r.optimizer, r.batch, 0, NULL));
    free(before);
    free(after);
    free(values);
}
END_TEST

/* NaN bytes in a file: opening does not read the weights, the first use names the tensor. */
START_TEST(test_nan_in_a_file) {
    char directory[] = "/var/tmp/lisa-nan-XXXXXX", path[64], command[64];
    ck_assert_ptr_nonnull(mkdtemp(directory));
    OK(lisa_model_save(r.model, directory, NULL));
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    FILE *file = fopen(path, "r+b");
    ck_assert_ptr_nonnull(file);
    const float nan_value = NAN;
    ck_assert_int_eq(fseek(file, -4, SEEK_END), 0);
    ck_assert_uint_eq(fwrite(&nan_value, sizeof nan_value, 1, file), 1);
    ck_assert_int_eq(fclose(file), 0);
    lisa_model *model = NULL;
    lisa_batch *batch = NULL;
    int32_t tokens[4] = {1, 2, 3, 4};
    OK(lisa_model_open(&model, r.context, directory, NULL));
    OK(lisa_batch_create(&batch, model, 1, 4, NULL));
    OK(lisa_batch_set(batch, tokens, NULL, 1, 4));
    FAILS(LISA_E_NONFINITE, "tensor \"model.norm.weight\"",
          lisa_model_evaluate(model, batch, NULL, NULL, NULL));
    lisa_batch_destroy(batch);
    lisa_model_destroy(model);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

/* A mapped file that shrinks: every call that would touch it says so, before anything changes. */
START_TEST(test_truncated_while_mapped) {
    char directory[] = "/var/tmp/lisa-cut-XXXXXX", path[64], out[64], command[64];
    rig mapped;
    uint8_t before[5], after[5];
    const uint8_t other[5] = {1, 0, 0, 1, 1};
    const lisa_tensor_info info = rig_tensor(&r, 0);
    double *values = rig_read(&r, 0), norm;
    int32_t token = 1;
    uint32_t n_tokens = 0;
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    snprintf(out, sizeof out, "%s/out", directory);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    OK(lisa_model_save(r.model, directory, NULL));
    spec.directory = directory;
    rig_make(&mapped, &spec);
    rig_random_batch(&mapped, 2, 11, 1);
    OK(lisa_optimizer_get_mask(mapped.optimizer, before, 5));
    ck_assert_int_eq(truncate(path, 100), 0);
    lisa_model *model = mapped.model;
    FAILS(LISA_E_IO, path, lisa_train_step(model, NULL, mapped.optimizer, mapped.batch, 0, NULL));
    FAILS(LISA_E_IO, path, lisa_optimizer_apply_mask(mapped.optimizer, other, 5));
    FAILS(LISA_E_IO, path, lisa_model_evaluate(model, mapped.batch, NULL, NULL, NULL));
    lisa_generate_options one;
    OK(lisa_generate_options_init(&one, sizeof one));
    one.max_new_tokens = 1;
    FAILS(LISA_E_IO, path, lisa_model_generate(model, &token, 1, &one, &token, &n_tokens));
    FAILS(LISA_E_IO, path,
          lisa_model_tensor_read(model, 0, values, LISA_DTYPE_F64, info.n_elements));
    FAILS(LISA_E_IO, path,
          lisa_model_tensor_write(model, 0, values, LISA_DTYPE_F64, info.n_elements));
    FAILS(LISA_E_IO, path, lisa_model_weight_norm(model, 1, &norm));
    FAILS(LISA_E_IO, path, lisa_model_save(model, out, NULL));
    OK(lisa_optimizer_get_mask(mapped.optimizer, after, 5));
    ck_assert_mem_eq(before, after, 5);
    rig_destroy(&mapped);
    free(values);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

/* A copied one that shrinks is none of the model's business. What it was is known still, so that a
 * checkpoint tells another base; but what has changed meanwhile cannot be brought back. */
START_TEST(test_truncated_after_copy) {
    char directory[] = "/var/tmp/lisa-cut-XXXXXX", path[128], out[64], command[64];
    rig copied;
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    snprintf(out, sizeof out, "%s/out", directory);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    OK(lisa_model_save(r.model, directory, NULL));
    spec.directory = directory;
    spec.model.load = LISA_LOAD_COPY;
    rig_make(&copied, &spec);
    ck_assert_int_eq(truncate(path, 100), 0);
    rig_random_batch(&copied, 2, 11, 1);
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_train_step(copied.model, NULL, copied.optimizer, copied.batch, 0, NULL));
    OK(lisa_train_step(r.model, NULL, r.optimizer, r.batch, 0, NULL));
    rig_assert_same_weights(&r, &copied, "a copy whose file was cut off");
    OK(lisa_model_save(copied.model, out, NULL));
    OK(lisa_checkpoint_save(copied.optimizer, out, 1, NULL));
    snprintf(path, sizeof path, "%s/checkpoint-000000000001.safetensors", out);
    const uint8_t mask[5] = {1, 0, 1, 0, 1};
    OK(lisa_optimizer_apply_mask(copied.optimizer, mask, 5));
    OK(lisa_checkpoint_load(copied.optimizer, path, NULL));
    OK(lisa_optimizer_apply_mask(copied.optimizer, mask, 5));
    OK(lisa_train_step(copied.model, NULL, copied.optimizer, copied.batch, 0, NULL));
    FAILS(LISA_E_STATE, "model.layers.1.", lisa_checkpoint_load(copied.optimizer, path, NULL));
    OK(lisa_train_step(copied.model, NULL, copied.optimizer, copied.batch, 0, NULL));
    rig_destroy(&copied);
    spec.directory = NULL; /* the same shapes, from elsewhere */
    spec.model.seed++;
    rig_make(&copied, &spec);
    FAILS(LISA_E_INVAL, "began otherwise", lisa_checkpoint_load(copied.optimizer, path, NULL));
    rig_destroy(&copied);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

static struct { uint64_t n_polls, stop_at; } host;

static int32_t interrupt(void *user) {
    (void)user;
    host.n_polls++;
    return host.n_polls == host.stop_at;
}

/* Stopped at every poll in turn: weights are what they were, and the next step is the one that an
 * undisturbed run would have made. */
START_TEST(test_interrupted_everywhere) {
    size_t n = 0;
    rig calm, stopped;
    memset(&host, 0, sizeof host);
    spec.context.interrupt = interrupt;
    rig_make(&calm, &spec);
    rig_random_batch(&calm, 2, 11, 1);
    host.n_polls = 0;
    OK(lisa_train_step(calm.model, NULL, calm.optimizer, calm.batch, 0, NULL));
    const uint64_t n_polls = host.n_polls;
    ck_assert_uint_ge(n_polls, 6);
    double *expected = rig_snapshot(&calm, &n);
    for (uint64_t at = 1; at <= n_polls; at++) {
        rig_make(&stopped, &spec);
        rig_random_batch(&stopped, 2, 11, 1);
        double *before = rig_snapshot(&stopped, &n);
        host.n_polls = 0;
        host.stop_at = at;
        FAILS(LISA_E_CANCELLED, "interrupt",
              lisa_train_step(stopped.model, NULL, stopped.optimizer, stopped.batch, 0, NULL));
        host.stop_at = 0;
        double *after = rig_snapshot(&stopped, &n);
        ck_assert_mem_eq(before, after, n * sizeof *before);
        OK(lisa_train_step(stopped.model, NULL, stopped.optimizer, stopped.batch, 0, NULL));
        free(after);
        after = rig_snapshot(&stopped, &n);
        ck_assert_mem_eq(expected, after, n * sizeof *expected);
        free(before);
        free(after);
        rig_destroy(&stopped);
    }
    free(expected);
    rig_destroy(&calm);
}
END_TEST

START_TEST(test_options) {
    lisa_optimizer *optimizer = NULL;
    lisa_optimizer_options o;
    lisa_optimizer_destroy(r.optimizer);
    r.optimizer = NULL;
    OK(lisa_optimizer_options_init(&o, sizeof o));
    o.beta2 = 1;
    FAILS(LISA_E_INVAL, "beta2", lisa_optimizer_create(&optimizer, r.model, &o));
    OK(lisa_optimizer_options_init(&o, sizeof o));
    o.lr = NAN;
    FAILS(LISA_E_INVAL, "lr", lisa_optimizer_create(&optimizer, r.model, &o));
    OK(lisa_optimizer_options_init(&o, sizeof o));
    o.eps = 0;
    FAILS(LISA_E_INVAL, "eps", lisa_optimizer_create(&optimizer, r.model, &o));
    OK(lisa_optimizer_options_init(&o, sizeof o));
    o.max_active_layers = 4;
    FAILS(LISA_E_INVAL, "max_active_layers", lisa_optimizer_create(&optimizer, r.model, &o));
    OK(lisa_optimizer_options_init(&o, sizeof o));
    o.state_policy = LISA_STATE_OFFLOAD;
    FAILS(LISA_E_INVAL, "scratch_dir", lisa_optimizer_create(&optimizer, r.model, &o));
    o.scratch_dir = "/dev/shm";
    FAILS(LISA_E_INVAL, "memory", lisa_optimizer_create(&optimizer, r.model, &o));
    o.struct_size = 8;
    FAILS(LISA_E_ABI, "struct_size", lisa_optimizer_create(&optimizer, r.model, &o));
    ck_assert_ptr_null(optimizer);
    OK(lisa_optimizer_create(&optimizer, r.model, NULL));
    FAILS(LISA_E_INVAL, "lr", lisa_optimizer_set_lr(optimizer, INFINITY));
    lisa_optimizer_destroy(optimizer);
}
END_TEST

START_TEST(test_indices_and_sizes) {
    double values[4] = {0};
    uint8_t mask[5];
    uint64_t n = 0;
    lisa_adapter *adapter = NULL;
    lisa_tensor_info info = {.struct_size = sizeof info};
    lisa_optimizer *o = r.optimizer;
    OK(lisa_adapter_create(&adapter, r.model, NULL));
    FAILS(LISA_E_INVAL, "tensor index 99", lisa_model_tensor_info(r.model, 99, &info));
    FAILS(LISA_E_INVAL, "tensor index 99",
          lisa_model_tensor_read(r.model, 99, values, LISA_DTYPE_F64, 4));
    FAILS(LISA_E_INVAL, "dtype 2", lisa_model_tensor_read(r.model, 0, values, LISA_DTYPE_BF16, 4));
    FAILS(LISA_E_INVAL, "4 values given",
          lisa_model_tensor_write(r.model, 0, values, LISA_DTYPE_F64, 4));
    FAILS(LISA_E_INVAL, "4 values given",
          lisa_adapter_tensor_read(adapter, 0, values, LISA_DTYPE_F64, 4));
    FAILS(LISA_E_INVAL, "dtype 9", lisa_adapter_tensor_write(adapter, 0, values, 9, 4));
    FAILS(LISA_E_INVAL, "dtype 9", lisa_optimizer_gradient_read(o, 0, values, 9, 4));
    FAILS(LISA_E_INVAL, "group 5, the model's last is 4",
          lisa_model_weight_norm(r.model, 5, values));
    FAILS(LISA_E_INVAL, "group 5", lisa_adapter_weight_norm(adapter, 5, values));
    FAILS(LISA_E_INVAL, "group 5", lisa_optimizer_gradient_norm(o, 5, values));
    FAILS(LISA_E_INVAL, "group 5", lisa_optimizer_group_steps(o, 5, &n));
    FAILS(LISA_E_INVAL, "4 groups", lisa_optimizer_get_mask(o, mask, 4));
    FAILS(LISA_E_INVAL, "class 99", lisa_context_memory(r.context, 99, &n, NULL));
    rig_random_batch(&r, 1, 1, 1);
    FAILS(LISA_E_INVAL, "dtype 9", lisa_model_logits(r.model, r.batch, values, 9, 4));
    FAILS(LISA_E_INVAL, "room for 4 values, expected 61",
          lisa_model_logits(r.model, r.batch, values, LISA_DTYPE_F64, 4));
    lisa_adapter_destroy(adapter);
}
END_TEST

static void *refuse_memory(void *user, size_t size, size_t align) {
    (void)user, (void)size, (void)align;
    return NULL;
}

/* A struct of defaults but for one member. */
#define WITH(type, member, value, word, call)                                                      \
    do {                                                                                           \
        type o;                                                                                    \
        OK(type##_init(&o, sizeof o));                                                             \
        o.member = (value);                                                                        \
        FAILS(LISA_E_INVAL, word, call);                                                           \
    } while (0)

START_TEST(test_values_of_options) {
    lisa_adapter *a = NULL;
    lisa_batch *b = NULL;
    lisa_context *c = NULL;
    lisa_model *m = NULL;
    WITH(lisa_adapter_options, reserved, 1, "reserved", lisa_adapter_create(&a, r.model, &o));
    WITH(lisa_batch_options, activations, 9, "activations",
         lisa_batch_create(&b, r.model, 1, 1, &o));
    WITH(lisa_checkpoint_options, reserved, 1, "reserved",
         lisa_checkpoint_save(r.optimizer, "x", 1, &o));
    WITH(lisa_checkpoint_options, blob_bytes, 4, "blob: NULL, 4 bytes",
         lisa_checkpoint_save(r.optimizer, "x", 1, &o));
    WITH(lisa_context_options, alloc, refuse_memory, "alloc and release",
         lisa_context_create(&c, &o));
    WITH(lisa_model_options, load, 9, "load: 9", lisa_model_create(&m, r.context, &r.config, &o));
    WITH(lisa_model_options, weights, 9, "weights: 9",
         lisa_model_create(&m, r.context, &r.config, &o));
    WITH(lisa_save_options, dtype, LISA_DTYPE_F64, "dtype: 4", lisa_model_save(r.model, "x", &o));
    ck_assert(!a && !b && !c && !m);
}
END_TEST

/* A plan asks of each struct in it what the create functions ask. */
START_TEST(test_plans_that_are_refused) {
    lisa_plan_request request;
    lisa_plan_report report = {.struct_size = sizeof report};
    OK(lisa_plan_request_init(&request, sizeof request));
    lisa_model_config config = spec.config;
    request.config = &config;
    OK(lisa_plan(&request, &report));
    config.vocab_size = 0;
    FAILS(LISA_E_INVAL, "vocab_size", lisa_plan(&request, &report));
    config = spec.config;
    WITH(lisa_context_options, n_threads, 9999, "n_threads",
         (request.context = &o, lisa_plan(&request, &report)));
    request.context = NULL;
    WITH(lisa_model_options, load, 9, "load", (request.model = &o, lisa_plan(&request, &report)));
    request.model = NULL;
    WITH(lisa_batch_options, activations, 9, "activations",
         (request.batch = &o, lisa_plan(&request, &report)));
    request.batch = NULL;
    WITH(lisa_optimizer_options, beta2, 1, "beta2",
         (request.optimizer = &o, lisa_plan(&request, &report)));
    lisa_optimizer_options optimizer = {0};
    request.optimizer = &optimizer;
    FAILS(LISA_E_ABI, "lisa_optimizer_options: struct_size is 0", lisa_plan(&request, &report));
    request.optimizer = NULL;
    WITH(lisa_adapter_options, rank, 0, "rank",
         (request.adapter = &o, lisa_plan(&request, &report)));
    WITH(lisa_adapter_options, reserved, 1, "reserved",
         (request.adapter = &o, lisa_plan(&request, &report)));
    request.adapter = NULL;
    request.max_batch = 1, request.max_tokens = 33;
    FAILS(LISA_E_INVAL, "positions", lisa_plan(&request, &report));
}
END_TEST

START_TEST(test_files_that_are_not_there) {
    char path[64];
    lisa_model_config config = {.struct_size = sizeof config};
    lisa_sampler *s = NULL;
    lisa_adapter *a = NULL;
    FAILS(LISA_E_NOTFOUND, "/nowhere", lisa_model_config_read(&config, "/nowhere"));
    FAILS(LISA_E_NOTFOUND, "/nowhere", lisa_adapter_open(&a, r.model, "/nowhere", NULL));
    FAILS(LISA_E_NOTFOUND, "/nowhere", lisa_checkpoint_verify("/nowhere", NULL));
    FAILS(LISA_E_NOTFOUND, "/nowhere", lisa_checkpoint_find("/nowhere", path, sizeof path));
    FAILS(LISA_E_NOTFOUND, "/nowhere", lisa_checkpoint_load(r.optimizer, "/nowhere", NULL));
    FAILS(LISA_E_NOTFOUND, "/nowhere", lisa_checkpoint_blob("/nowhere", NULL, 0));
    FAILS(LISA_E_NOTFOUND, "/nowhere", lisa_checkpoint_sampler(&s, "/nowhere"));
    ck_assert(!s && !a);
}
END_TEST

/* Objects that do not belong together. */
START_TEST(test_strangers) {
    rig other;
    lisa_sampler *sampler = NULL;
    lisa_sampler_options o;
    double loss = 0;
    rig_make(&other, &spec);
    rig_random_batch(&r, 2, 11, 1);
    FAILS(LISA_E_INVAL, "another model",
          lisa_train_step(r.model, NULL, other.optimizer, r.batch, 0, NULL));
    lisa_optimizer_destroy(other.optimizer);
    other.optimizer = NULL;
    rig_random_batch(&other, 2, 11, 1);
    OK(lisa_forward(other.model, other.batch, &loss));
    FAILS(LISA_E_STATE, "has no optimizer", lisa_backward(other.model, other.batch));
    rig_destroy(&other);
    OK(lisa_sampler_options_init(&o, sizeof o));
    o.n_layers = 3;
    o.n_active = 1;
    o.first_step = 7;
    OK(lisa_sampler_create(&sampler, &o));
    FAILS(LISA_E_INVAL, "first_step = 7",
          lisa_train_step(r.model, sampler, r.optimizer, r.batch, 6, NULL));
    OK(lisa_train_step(r.model, sampler, r.optimizer, r.batch, 7, NULL));
    lisa_sampler_destroy(sampler);
}
END_TEST

/* An adapter's step that failed draws the same dropout when it is tried again. */
START_TEST(test_an_adapters_step_again) {
    rig calm, disturbed;
    float weights[22];
    for (int i = 0; i < 22; i++)
        weights[i] = 1e-42f;
    spec.adapted = 1;
    spec.adapter.dropout = 0.5;
    spec.optimizer.max_active_layers = 0;
    rig_make(&calm, &spec);
    rig_make(&disturbed, &spec);
    rig_random_batch(&calm, 2, 11, 1);
    rig_random_batch(&disturbed, 2, 11, 1);
    OK(lisa_batch_set_weights(disturbed.batch, weights));
    FAILS(LISA_E_NONFINITE, "sum of target weights",
          lisa_train_step(disturbed.model, NULL, disturbed.optimizer, disturbed.batch, 0, NULL));
    OK(lisa_batch_set_weights(disturbed.batch, NULL));
    lisa_step_stats a = {.struct_size = sizeof a}, b = a;
    OK(lisa_train_step(calm.model, NULL, calm.optimizer, calm.batch, 0, &a));
    rig_random_batch(&disturbed, 2, 11, 1);
    OK(lisa_train_step(disturbed.model, NULL, disturbed.optimizer, disturbed.batch, 0, &b));
    ck_assert(a.grad_norm > 0);
    ck_assert_mem_eq(&a, &b, sizeof a);
    rig_destroy(&calm);
    rig_destroy(&disturbed);
}
END_TEST

START_TEST(test_values_that_are_refused) {
    double values[500] = {0};
    float logits[61];
    lisa_adapter *adapter = NULL;
    lisa_tensor_info info = {.struct_size = sizeof info};
    FAILS(LISA_E_INVAL, "-1", lisa_optimizer_set_lr(r.optimizer, -1));
    OK(lisa_adapter_create(&adapter, r.model, NULL));
    OK(lisa_adapter_tensor_info(adapter, 0, &info));
    ck_assert_uint_le(info.n_elements, 500);
    values[2] = NAN;
    FAILS(LISA_E_NONFINITE, info.name,
          lisa_adapter_tensor_write(adapter, 0, values, LISA_DTYPE_F64, info.n_elements));
    lisa_adapter_destroy(adapter);
    rig_random_batch(&r, 1, 1, 1);
    OK(lisa_model_logits(r.model, r.batch, logits, LISA_DTYPE_F32, 61));
    OK(lisa_model_logits(r.model, r.batch, values, LISA_DTYPE_F64, 61));
    for (int i = 0; i < 61; i++)
        ck_assert(logits[i] == (float)values[i]);
}
END_TEST

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
}

/* Puts a byte in place of the first of `what` in a file. */
static void spoil(const char *path, const char *what) {
    static char bytes[1 << 20];
    FILE *file = fopen(path, "r+b");
    ck_assert_ptr_nonnull(file);
    const size_t n = fread(bytes, 1, sizeof bytes, file);
    const char *at = memmem(bytes, n, what, strlen(what));
    ck_assert_ptr_nonnull(at);
    ck_assert_int_eq(fseek(file, at - bytes, SEEK_SET), 0);
    ck_assert_int_eq(fputc('#', file), '#');
    ck_assert_int_eq(fclose(file), 0);
}

START_TEST(test_what_is_no_checkpoint) {
    char directory[] = "/var/tmp/lisa-no-XXXXXX", path[64], found[256], command[64], blob[16];
    static char endless[5000];
    lisa_checkpoint_options o;
    lisa_model_config config = {.struct_size = sizeof config};
    ck_assert_ptr_nonnull(mkdtemp(directory));
    memset(endless, 'x', sizeof endless - 1);
    endless[4500] = '/';
    FAILS(LISA_E_INVAL, "too long", lisa_checkpoint_verify(endless, NULL));
    FAILS(LISA_E_INVAL, "too long", lisa_checkpoint_save(r.optimizer, endless, 1, NULL));
    FAILS(LISA_E_NOTFOUND, "no-such-file", lisa_checkpoint_verify("no-such-file", NULL));
    OK(lisa_model_save(r.model, directory, NULL));
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    FAILS(LISA_E_FORMAT, "is no checkpoint", lisa_checkpoint_verify(path, NULL));
    OK(lisa_checkpoint_save(r.optimizer, directory, 1, NULL));
    OK(lisa_checkpoint_find(directory, found, sizeof found));
    OK(lisa_checkpoint_blob(found, NULL, 0));
    OK(lisa_checkpoint_options_init(&o, sizeof o));
    o.blob = "the host's bytes";
    o.blob_bytes = sizeof blob;
    OK(lisa_checkpoint_save(r.optimizer, directory, 2, &o));
    OK(lisa_checkpoint_find(directory, found, sizeof found));
    OK(lisa_checkpoint_blob(found, blob, sizeof blob));
    spoil(found, "the host's bytes");
    FAILS(LISA_E_FORMAT, "lisa.blob", lisa_checkpoint_blob(found, blob, sizeof blob));
    spoil(found, "lisa.meta");
    FAILS(LISA_E_FORMAT, "is no checkpoint", lisa_checkpoint_verify(found, NULL));
    OK(lisa_checkpoint_find(directory, found, sizeof found));
    ck_assert_ptr_nonnull(strstr(found, "000001"));
    snprintf(path, sizeof path, "%s/config.json", directory);
    write_text(path, "[]");
    FAILS(LISA_E_FORMAT, "an object expected", lisa_model_config_read(&config, directory));
    snprintf(command, sizeof command, "rm -rf %s", directory);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

/* A checkpoint is refused by whatever was not made alike, before anything changes. */
START_TEST(test_another_trainings_checkpoint) {
    char directory[] = "/var/tmp/lisa-other-XXXXXX", path[256], command[64];
    rig other;
    size_t n = 0;
    lisa_adapter *adapter = NULL;
    ck_assert_ptr_nonnull(mkdtemp(directory));
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_train_step(r.model, NULL, r.optimizer, r.batch, 0, NULL));
    OK(lisa_checkpoint_save(r.optimizer, directory, 1, NULL));
    OK(lisa_checkpoint_find(directory, path, sizeof path));
    spec.config.n_layers = 2;
    rig_make(&other, &spec);
    FAILS(LISA_E_INVAL, "groups of 5, here it is 4",
          lisa_checkpoint_load(other.optimizer, path, NULL));
    rig_destroy(&other);
    spec.config.n_layers = 3;
    spec.config.tied_head = 1;
    rig_make(&other, &spec);
    FAILS(LISA_E_INVAL, "tensors, this one has", lisa_checkpoint_load(other.optimizer, path, NULL));
    rig_destroy(&other);
    spec.config.tied_head = 0;
    spec.optimizer.train_embedding = 0;
    rig_make(&other, &spec);
    FAILS(LISA_E_INVAL, "train_embedding", lisa_checkpoint_load(other.optimizer, path, NULL));
    rig_destroy(&other);
    OK(lisa_adapter_create(&adapter, r.model, NULL));
    OK(lisa_model_set_adapter(r.model, adapter));
    double *before = rig_snapshot(&r, &n);
    FAILS(LISA_E_STATE, "adapter", lisa_checkpoint_save(r.optimizer, directory, 2, NULL));
    FAILS(LISA_E_STATE, "adapter", lisa_checkpoint_load(r.optimizer, path, NULL));
    rig_assert_unchanged(&r, before, n);
    OK(lisa_model_set_adapter(r.model, NULL));
    OK(lisa_checkpoint_load(r.optimizer, path, NULL));
    lisa_adapter_destroy(adapter);
    free(before);
    spec.optimizer.train_embedding = 1;
    spec.adapted = 1;
    rig_make(&other, &spec);
    OK(lisa_checkpoint_save(other.optimizer, directory, 2, NULL));
    rig_destroy(&other);
    spec.adapter.use_rslora = 1;
    rig_make(&other, &spec);
    OK(lisa_checkpoint_find(directory, path, sizeof path));
    FAILS(LISA_E_INVAL, "use_rslora", lisa_checkpoint_load(other.optimizer, path, NULL));
    rig_destroy(&other);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

START_TEST(test_context_options) {
    lisa_context *context = NULL;
    lisa_context_options o;
    OK(lisa_context_options_init(&o, sizeof o));
    o.backend = "tpu";
    FAILS(LISA_E_BACKEND, "tpu", lisa_context_create(&context, &o));
    OK(lisa_context_options_init(&o, sizeof o));
    o.n_threads = 100000;
    FAILS(LISA_E_INVAL, "n_threads", lisa_context_create(&context, &o));
    OK(lisa_context_options_init(&o, sizeof o));
    o.memory_limit = 1;
    FAILS(LISA_E_BUDGET, "more, 0 are left", lisa_context_create(&context, &o));
    ck_assert_ptr_null(context);
}
END_TEST

/* Children keep their parents alive: parents first, in every order. */
START_TEST(test_destroyed_in_any_order) {
    rig own;
    rig_make(&own, &spec);
    rig_random_batch(&own, 2, 11, 1);
    lisa_context_destroy(own.context);
    if (_i == 0) {
        lisa_model_destroy(own.model);
        OK(lisa_train_step(own.model, NULL, own.optimizer, own.batch, 0, NULL));
        lisa_batch_destroy(own.batch);
        lisa_optimizer_destroy(own.optimizer);
    } else {
        lisa_optimizer_destroy(own.optimizer);
        lisa_model_destroy(own.model);
        OK(lisa_model_evaluate(own.model, own.batch, NULL, NULL, NULL));
        lisa_batch_destroy(own.batch);
    }
}
END_TEST

START_TEST(test_configs_that_are_refused) {
    lisa_model *model = NULL;
    lisa_model_config c = spec.config;
    strcpy(c.family, "gpt5");
    FAILS(LISA_E_UNSUPPORTED, "gpt5", lisa_model_create(&model, r.context, &c, NULL));
    c = spec.config;
    c.n_kv_heads = 2;
    FAILS(LISA_E_INVAL, "n_kv_heads", lisa_model_create(&model, r.context, &c, NULL));
    c = spec.config;
    c.vocab_size = 0;
    FAILS(LISA_E_INVAL, "vocab_size", lisa_model_create(&model, r.context, &c, NULL));
    c = spec.config;
    c.d_ff = (1u << 22) + 1;
    FAILS(LISA_E_INVAL, "d_ff", lisa_model_create(&model, r.context, &c, NULL));
    c = spec.config;
    c.norm_eps = NAN;
    FAILS(LISA_E_INVAL, "norm_eps", lisa_model_create(&model, r.context, &c, NULL));
    c = spec.config;
    c.rope_theta = 0;
    FAILS(LISA_E_INVAL, "rope_theta", lisa_model_create(&model, r.context, &c, NULL));
    ck_assert_ptr_null(model);
    FAILS(LISA_E_NOTFOUND, "/nowhere", lisa_model_open(&model, r.context, "/nowhere", NULL));
}
END_TEST

/* The largest description that is allowed: sums of bytes that do not wrap around. */
START_TEST(test_the_largest_plan) {
    lisa_plan_request request;
    lisa_plan_report report = {.struct_size = sizeof report};
    lisa_optimizer_options o;
    lisa_model_config c = spec.config;
    c.n_layers = LISA_SAMPLER_MAX_LAYERS;
    c.d_model = c.d_ff = 1u << 22;
    c.n_heads = c.n_kv_heads = 1u << 11;
    c.head_dim = 1u << 11;
    c.vocab_size = c.max_positions = 1u << 30;
    c.weights_dtype = LISA_DTYPE_F16;
    OK(lisa_plan_request_init(&request, sizeof request));
    request.config = &c;
    OK(lisa_plan(&request, &report));
    const uint64_t layer = 7 * (UINT64_C(1) << 44) + 2 * (UINT64_C(1) << 22);
    const uint64_t all = 4096 * layer + 2 * (UINT64_C(1) << 52) + (UINT64_C(1) << 22);
    ck_assert_uint_eq(report.n_parameters, all);
    ck_assert_uint_eq(report.bytes[LISA_MEM_WEIGHTS_MAPPED], 2 * all);
    OK(lisa_optimizer_options_init(&o, sizeof o));
    request.optimizer = &o;
    OK(lisa_plan(&request, &report));
    ck_assert_uint_eq(report.n_trained, all);
    ck_assert_uint_eq(report.bytes[LISA_MEM_WEIGHTS_PRIVATE], 2 * all);
    ck_assert_uint_eq(report.bytes[LISA_MEM_GRADIENTS], 4 * (16 + all));
    ck_assert_uint_eq(report.bytes[LISA_MEM_MOMENTS], 8 * all);
    ck_assert_uint_eq(report.bytes[LISA_MEM_LOW_BITS], 4 * all);
    ck_assert_uint_gt(report.total, 18 * all);
}
END_TEST

/* A host of version 0.1 ends its request before the adapter; what lies there is not its. */
START_TEST(test_an_older_plan_request) {
    lisa_plan_request request;
    lisa_plan_report report = {.struct_size = sizeof report}, older = report;
    OK(lisa_plan_request_init(&request, sizeof request));
    request.config = &spec.config;
    OK(lisa_plan(&request, &report));
    memset(&request, 0xFF, sizeof request);
    OK(lisa_plan_request_init(&request, offsetof(lisa_plan_request, adapter)));
    ck_assert_ptr_nonnull(request.adapter);
    request.config = &spec.config;
    OK(lisa_plan(&request, &older));
    ck_assert_mem_eq(&older, &report, sizeof report);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("errors");
    TCase *tcase = tcase_create("said and harmless");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_batch_arguments);
    tcase_add_test(tcase, test_order_of_calls);
    tcase_add_test(tcase, test_masks);
    tcase_add_test(tcase, test_train_step_refuses_first);
    tcase_add_test(tcase, test_no_label_is_scored);
    tcase_add_test(tcase, test_vanishing_weights);
    tcase_add_loop_test(tcase, test_nonfinite_gradient, 0, 3);
    tcase_add_test(tcase, test_huge_gradients);
    tcase_add_test(tcase, test_nonfinite_loss);
    tcase_add_test(tcase, test_nan_in_a_file);
    tcase_add_test(tcase, test_truncated_while_mapped);
    tcase_add_test(tcase, test_truncated_after_copy);
    tcase_add_test(tcase, test_interrupted_everywhere);
    tcase_add_test(tcase, test_options);
    tcase_add_test(tcase, test_context_options);
    tcase_add_test(tcase, test_indices_and_sizes);
    tcase_add_test(tcase, test_values_of_options);
    tcase_add_test(tcase, test_plans_that_are_refused);
    tcase_add_test(tcase, test_files_that_are_not_there);
    tcase_add_test(tcase, test_strangers);
    tcase_add_test(tcase, test_an_adapters_step_again);
    tcase_add_test(tcase, test_values_that_are_refused);
    tcase_add_test(tcase, test_what_is_no_checkpoint);
    tcase_add_test(tcase, test_another_trainings_checkpoint);
    tcase_add_loop_test(tcase, test_destroyed_in_any_order, 0, 2);
    tcase_add_test(tcase, test_configs_that_are_refused);
    tcase_add_test(tcase, test_the_largest_plan);
    tcase_add_test(tcase, test_an_older_plan_request);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
