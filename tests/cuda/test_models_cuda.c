/* Whole models on the cuda backend: every family's fixture beside the reference that rounds where a
 * device rounds, and what must not change a bit on the device. */
#include "cuda_main.h"
#include "fixture.h"
#include "rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A directory, its reference, and by how much of a tensor's largest value they may differ. */
static const struct variant {
    const char *directory, *reference;
    double bound;
} VARIANTS[] = {
    {"llama-untied", "reference", 1e-5},
    {"llama-tied", "reference", 1e-5},
    {"llama-tied-sharded", "reference", 1e-5},
    {"gpt2", "reference", 1e-5},
    {"mistral", "reference", 1e-5},
    {"mistral-null", "reference", 1e-5},
    {"phi", "reference", 1e-5},
    {"qwen2", "reference", 1e-5},
    {"qwen3", "reference", 1e-5},
    {"llama-untied-bf16", "reference-typed", 5e-2},
    {"llama-tied-bf16", "reference-typed", 5e-2},
    {"gpt2-bf16", "reference-typed", 5e-2},
    {"gpt2-f16", "reference-typed", 4e-3},
    {"mistral-bf16", "reference-typed", 5e-2},
    {"mistral-null-bf16", "reference-typed", 5e-2},
    {"phi-bf16", "reference-typed", 5e-2},
    {"qwen2-bf16", "reference-typed", 5e-2},
    {"qwen3-bf16", "reference-typed", 5e-2},
};
enum { N_VARIANTS = sizeof VARIANTS / sizeof *VARIANTS, STEPS = 10 };

static const double LR = 1e-3;

static void spec_of(rig_spec *spec, const struct variant *v, const char *backend) {
    rig_spec_init(spec, backend);
    spec->directory = fixture_path(v->directory);
    spec->max_batch = 2;
    spec->max_tokens = 11;
    spec->optimizer.lr = LR;
    spec->optimizer.max_active_layers = 1;
    spec->optimizer.max_grad_norm = 1;
}

/* Another layer every third step. */
static void apply_mask(rig *r, uint64_t step) {
    uint8_t mask[RIG_MAX_GROUPS] = {0};
    mask[0] = mask[r->n_groups - 1] = 1;
    mask[1 + step / 3 % r->config.n_layers] = 1;
    OK(lisa_optimizer_apply_mask(r->optimizer, mask, r->n_groups));
}

static void forward_backward(rig *r, uint64_t step) {
    rig_random_batch(r, 2, 11, step);
    OK(lisa_forward(r->model, r->batch, NULL));
    OK(lisa_backward(r->model, r->batch));
}

static lisa_step_stats masked_step(rig *r, uint64_t step) {
    lisa_step_stats stats = {.struct_size = sizeof stats};
    apply_mask(r, step);
    forward_backward(r, step);
    OK(lisa_optimizer_step(r->optimizer, &stats));
    return stats;
}

/* Roundings that lean to one side add up along the gradient; others cancel. */
static void assert_unbiased(const char *name, const double *a, const double *b, uint64_t n,
                            double bound) {
    double along = 0, length = 0;
    for (uint64_t i = 0; i < n; i++) {
        along += a[i] * b[i];
        length += b[i] * b[i];
    }
    ck_assert_msg(fabs(along / length - 1) < 0.2 * bound + bound / sqrt((double)n),
                  "gradient of %s: %g along the reference's", name, along / length);
}

static void assert_gradients(const rig *got, const rig *want, double bound) {
    for (uint32_t i = 0; i < got->n_tensors; i++) {
        const lisa_tensor_info info = rig_tensor(got, i);
        double *a, *b, largest = 0;
        uint8_t mask[RIG_MAX_GROUPS];
        OK(lisa_optimizer_get_mask(got->optimizer, mask, got->n_groups));
        if (!mask[info.group])
            continue;
        a = rig_read_gradient(got, i);
        b = rig_read_gradient(want, i);
        for (uint64_t k = 0; k < info.n_elements; k++)
            largest = fmax(largest, fabs(b[k]));
        /* Where the true gradient is 0 (a key's bias) there is nothing but rounding. */
        if (largest > 1e-4) {
            ck_assert_msg(rig_error(a, b, info.n_elements) < bound, "gradient of %s: %g of %g",
                          info.name, rig_error(a, b, info.n_elements), largest);
            assert_unbiased(info.name, a, b, info.n_elements, bound);
        }
        free(a);
        free(b);
    }
}

START_TEST(test_gradients) {
    const struct variant *v = &VARIANTS[_i];
    rig_spec spec;
    rig device, reference;
    double loss[2];
    spec_of(&spec, v, "cuda");
    spec.optimizer.max_active_layers = 0;
    rig_make(&device, &spec);
    spec.context.backend = v->reference;
    rig_make(&reference, &spec);
    rig_random_batch(&device, 2, 11, 1);
    rig_random_batch(&reference, 2, 11, 1);
    OK(lisa_model_evaluate(device.model, device.batch, &loss[0], NULL, NULL));
    OK(lisa_model_evaluate(reference.model, reference.batch, &loss[1], NULL, NULL));
    ck_assert_double_eq_tol(loss[0], loss[1], 0.1 * v->bound * loss[1]);
    forward_backward(&device, 1);
    forward_backward(&reference, 1);
    assert_gradients(&device, &reference, v->bound);
    rig_destroy(&device);
    rig_destroy(&reference);
}
END_TEST

/* Losses and norms of ten steps in which every layer trains and rests. */
START_TEST(test_steps) {
    const struct variant *v = &VARIANTS[_i];
    rig_spec spec;
    rig device, reference;
    spec_of(&spec, v, "cuda");
    rig_make(&device, &spec);
    spec.context.backend = v->reference;
    rig_make(&reference, &spec);
    for (uint64_t step = 0; step < STEPS; step++) {
        const lisa_step_stats a = masked_step(&device, step), b = masked_step(&reference, step);
        ck_assert_msg(fabs(a.loss - b.loss) < 3 * v->bound * b.loss, "step %d: loss %.9g, not %.9g",
                      (int)step, a.loss, b.loss);
        ck_assert_msg(fabs(a.grad_norm - b.grad_norm) < 10 * v->bound * b.grad_norm,
                      "step %d: norm %.9g, not %.9g", (int)step, a.grad_norm, b.grad_norm);
        ck_assert_uint_eq(a.n_targets, b.n_targets);
        ck_assert_uint_eq(a.updated, 1);
    }
    rig_destroy(&device);
    rig_destroy(&reference);
}
END_TEST

/* ---- the same bits on the device ---- */

static const char *const BITS[] = {"llama-untied", "llama-tied-bf16", "phi-bf16", "gpt2-f16"};
enum { N_BITS = sizeof BITS / sizeof *BITS };

static void same_spec(rig_spec *spec, int i) {
    const struct variant v = {BITS[i], NULL, 0};
    spec_of(spec, &v, "cuda");
    spec->optimizer.max_grad_norm = 0;
}

static void assert_same_runs(const rig_spec *one, const rig_spec *other) {
    rig a, b;
    rig_make(&a, one);
    rig_make(&b, other);
    for (uint64_t step = 0; step < STEPS; step++) {
        const lisa_step_stats x = masked_step(&a, step), y = masked_step(&b, step);
        ck_assert_double_eq(x.loss, y.loss);
    }
    rig_assert_same_weights(&a, &b, one->directory);
    rig_destroy(&a);
    rig_destroy(&b);
}

START_TEST(test_streamed) {
    rig_spec streamed, resident;
    same_spec(&streamed, _i);
    same_spec(&resident, _i);
    streamed.model.weights = LISA_WEIGHTS_STREAMED;
    resident.model.weights = LISA_WEIGHTS_RESIDENT;
    assert_same_runs(&streamed, &resident);
}
END_TEST

/* Values between those that the type has. */
static void write_tensor(rig *r, uint32_t index) {
    double *values = rig_read(r, index);
    const uint64_t n = rig_tensor(r, index).n_elements;
    for (uint64_t i = 0; i < n; i++)
        values[i] *= 1.001;
    OK(lisa_model_tensor_write(r->model, index, values, LISA_DTYPE_F64, n));
    free(values);
}

/* One layer, which comes to the device as soon as it has been written in host memory. */
static double loss_of_one_layer(uint32_t weights, int written_again) {
    rig_spec spec;
    rig r;
    double loss;
    rig_spec_init(&spec, "cuda");
    spec.config.n_layers = 1;
    spec.no_optimizer = 1;
    spec.model.weights = weights;
    rig_make(&r, &spec);
    rig_random_batch(&r, 2, 11, 0);
    if (written_again) {
        OK(lisa_forward(r.model, r.batch, &loss));
        write_tensor(&r, 1);
    }
    OK(lisa_forward(r.model, r.batch, &loss));
    rig_destroy(&r);
    return loss;
}

START_TEST(test_written) {
    ck_assert_double_eq(loss_of_one_layer(LISA_WEIGHTS_STREAMED, _i),
                        loss_of_one_layer(LISA_WEIGHTS_RESIDENT, _i));
}
END_TEST

/* From a checkpoint, in a context of its own, weights and states resident or streamed. */
START_TEST(test_resumed) {
    char directory[] = "/var/tmp/lisa-resumed-XXXXXX", path[128], command[128];
    rig_spec spec;
    rig through, resumed;
    same_spec(&spec, _i % N_BITS);
    spec.model.weights = _i < N_BITS ? LISA_WEIGHTS_RESIDENT : LISA_WEIGHTS_STREAMED;
    spec.optimizer.state_policy = _i < N_BITS ? LISA_STATE_DROP : LISA_STATE_OFFLOAD;
    spec.optimizer.moments_layers = _i % 2 ? LISA_MOMENTS_8BIT : LISA_MOMENTS_F32;
    ck_assert_ptr_nonnull(mkdtemp(directory));
    rig_make(&through, &spec);
    rig_make(&resumed, &spec);
    for (uint64_t step = 0; step < 3; step++)
        masked_step(&through, step);
    masked_step(&resumed, 7);
    OK(lisa_checkpoint_save(through.optimizer, directory, 3, NULL));
    OK(lisa_checkpoint_find(directory, path, sizeof path));
    OK(lisa_checkpoint_load(resumed.optimizer, path, NULL));
    for (uint64_t step = 3; step < 6; step++) {
        const lisa_step_stats a = masked_step(&through, step), b = masked_step(&resumed, step);
        ck_assert_double_eq(a.loss, b.loss);
    }
    rig_assert_same_weights(&through, &resumed, "resumed, and not");
    rig_destroy(&resumed);
    rig_destroy(&through);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

START_TEST(test_recomputed) {
    rig_spec stored, recomputed;
    same_spec(&stored, _i);
    same_spec(&recomputed, _i);
    stored.batch.activations = LISA_ACTIVATIONS_STORE;
    recomputed.batch.activations = LISA_ACTIVATIONS_RECOMPUTE;
    assert_same_runs(&stored, &recomputed);
}
END_TEST

START_TEST(test_update_in_backward) {
    rig_spec late, early;
    same_spec(&late, _i);
    same_spec(&early, _i);
    early.optimizer.update_in_backward = 1;
    assert_same_runs(&late, &early);
}
END_TEST

START_TEST(test_policies) {
    rig_spec keep, offload;
    same_spec(&keep, _i);
    same_spec(&offload, _i);
    keep.optimizer.state_policy = LISA_STATE_KEEP;
    offload.optimizer.state_policy = LISA_STATE_OFFLOAD;
    assert_same_runs(&keep, &offload);
}
END_TEST

/* An embedding that takes more than one window of a streamed state. */
static void large_spec(rig_spec *spec, uint32_t dtype, uint32_t moments, uint32_t policy) {
    rig_spec_init(spec, "cuda");
    spec->config.vocab_size = 8200;
    spec->config.tied_head = 1;
    spec->config.d_model = 256;
    spec->config.n_heads = spec->config.n_kv_heads = 4;
    spec->config.head_dim = 64;
    spec->config.weights_dtype = dtype;
    spec->optimizer.max_active_layers = 1;
    spec->optimizer.state_policy = policy;
    spec->optimizer.weight_decay = 0.1;
    spec->optimizer.moments_embedding = spec->optimizer.moments_head = moments;
    spec->optimizer.moments_layers = moments;
}

static const struct {
    uint32_t dtype, moments;
} PIECES[] = {{LISA_DTYPE_F32, LISA_MOMENTS_F32},
              {LISA_DTYPE_BF16, LISA_MOMENTS_8BIT},
              {LISA_DTYPE_F16, LISA_MOMENTS_BF16}};

/* A state that comes in pieces is the whole one, to the bit. */
START_TEST(test_state_in_pieces) {
    rig_spec spec[2];
    rig r[2];
    for (int i = 0; i < 2; i++) {
        large_spec(&spec[i], PIECES[_i].dtype, PIECES[_i].moments,
                   i == 0 ? LISA_STATE_KEEP : LISA_STATE_OFFLOAD);
        rig_make(&r[i], &spec[i]);
        for (uint64_t step = 2; step < 5; step++) { /* layers 0 and 1 */
            masked_step(&r[i], step);
            if (step == 3)
                write_tensor(&r[i], 0);
        }
    }
    rig_assert_same_weights(&r[0], &r[1], "whole states, and in pieces");
    rig_destroy(&r[0]);
    rig_destroy(&r[1]);
}
END_TEST

/* Without stats nothing waits, and the weights are the same. */
START_TEST(test_without_stats) {
    rig_spec spec;
    rig waits, goes_on;
    same_spec(&spec, _i);
    rig_make(&waits, &spec);
    rig_make(&goes_on, &spec);
    for (uint64_t step = 0; step < STEPS; step++) {
        masked_step(&waits, step);
        apply_mask(&goes_on, step);
        forward_backward(&goes_on, step);
        OK(lisa_optimizer_step(goes_on.optimizer, NULL));
    }
    rig_assert_same_weights(&waits, &goes_on, "without stats");
    rig_destroy(&waits);
    rig_destroy(&goes_on);
}
END_TEST

/* ---- failures ---- */

static void spoil(rig *r, double value) {
    uint32_t index;
    OK(lisa_model_tensor_find(r->model, "model.norm.weight", &index));
    const uint64_t n = rig_tensor(r, index).n_elements;
    double *values = rig_read(r, index);
    for (uint64_t i = 0; i < n; i++)
        values[i] = value == 0 ? values[i] / 1e30 : values[i] * value;
    OK(lisa_model_tensor_write(r->model, index, values, LISA_DTYPE_F64, n));
    free(values);
}

/* A step that fails without stats is told by a later call, nothing after it is made, and no step
 * counted. */
START_TEST(test_a_failure_is_told_later) {
    rig_spec spec;
    rig r;
    size_t n;
    uint64_t steps, before_steps;
    lisa_status status = LISA_OK;
    same_spec(&spec, 0);
    rig_make(&r, &spec);
    masked_step(&r, 0);
    OK(lisa_optimizer_group_steps(r.optimizer, 0, &before_steps));
    spoil(&r, 1e30);
    double *before = rig_snapshot(&r, &n);
    for (uint64_t step = 1; step < 50 && status == LISA_OK; step++) {
        rig_random_batch(&r, 2, 11, step);
        status = lisa_train_step(r.model, NULL, r.optimizer, r.batch, step, NULL);
    }
    if (status == LISA_OK)
        status = lisa_optimizer_group_steps(r.optimizer, 0, &steps);
    ck_assert_int_eq(status, LISA_E_NONFINITE);
    rig_assert_unchanged(&r, before, n);
    OK(lisa_optimizer_group_steps(r.optimizer, 0, &steps));
    ck_assert_uint_eq(steps, before_steps);
    spoil(&r, 0);
    masked_step(&r, 1);
    free(before);
    rig_destroy(&r);
}
END_TEST

static lisa_plan_report plan_of(const rig_spec *spec, const lisa_model_config *config) {
    lisa_plan_request request;
    lisa_plan_report report = {.struct_size = sizeof report};
    OK(lisa_plan_request_init(&request, sizeof request));
    request.config = config;
    request.context = &spec->context;
    request.model = &spec->model;
    request.batch = &spec->batch;
    request.optimizer = &spec->optimizer;
    request.max_batch = spec->max_batch;
    request.max_tokens = spec->max_tokens;
    OK(lisa_plan(&request, &report));
    return report;
}

START_TEST(test_as_planned) {
    rig_spec spec;
    rig r;
    same_spec(&spec, _i % N_BITS);
    spec.model.weights = _i / N_BITS == 0 ? LISA_WEIGHTS_RESIDENT : LISA_WEIGHTS_STREAMED;
    if (_i / N_BITS == 2)
        spec.optimizer.state_policy = LISA_STATE_OFFLOAD;
    rig_make(&r, &spec);
    masked_step(&r, 0);
    const lisa_plan_report report = plan_of(&spec, &r.config);
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++) {
        uint64_t held;
        OK(lisa_context_memory(r.context, c, NULL, &held));
        if (c != LISA_MEM_EVALUATION && c != LISA_MEM_STAGING && c != LISA_MEM_HANDLES &&
            c != LISA_MEM_DRIVER)
            ck_assert_msg(held == report.bytes[c], "%s: %llu held, %llu planned",
                          lisa_memory_class_name(c), (unsigned long long)held,
                          (unsigned long long)report.bytes[c]);
    }
    rig_destroy(&r);
}
END_TEST

/* A LLaMA-2 in bf16 on 1 x 1024 tokens, gamma 2, under a limit that leaves a GB of the card to
 * CUDA's context. */
static lisa_plan_report plan_of_llama2(const lisa_model_config *config, uint64_t limit,
                                       uint32_t policy) {
    rig_spec spec;
    rig_spec_init(&spec, "cuda");
    spec.context.memory_limit = limit;
    spec.optimizer.state_policy = policy;
    spec.optimizer.max_active_layers = 2;
    spec.max_batch = 1;
    spec.max_tokens = 1024;
    return plan_of(&spec, config);
}

static void llama2(lisa_model_config *config, uint32_t n_layers, uint32_t d_model, uint32_t n_kv,
                   uint32_t d_ff) {
    OK(lisa_model_config_init(config, sizeof *config));
    config->weights_dtype = LISA_DTYPE_BF16;
    config->vocab_size = 32000;
    config->max_positions = 4096;
    config->head_dim = 128;
    config->n_layers = n_layers;
    config->d_model = d_model;
    config->n_heads = d_model / 128;
    config->n_kv_heads = n_kv;
    config->d_ff = d_ff;
}

static const uint64_t GB = 1000000000;

START_TEST(test_7b_on_16_gb) {
    lisa_model_config config;
    llama2(&config, 32, 4096, 32, 11008);
    const lisa_plan_report dropped = plan_of_llama2(&config, 15 * GB, LISA_STATE_DROP);
    const lisa_plan_report offloaded = plan_of_llama2(&config, 15 * GB, LISA_STATE_OFFLOAD);
    ck_assert_uint_eq(dropped.fits, 1);
    ck_assert_uint_eq(offloaded.fits, 1);
    ck_assert_uint_gt(dropped.stored_layers, 16);
    ck_assert_uint_gt(dropped.total, offloaded.total + 6 * GB);
}
END_TEST

START_TEST(test_70b_on_24_gb) {
    lisa_model_config config;
    llama2(&config, 80, 8192, 8, 28672);
    const lisa_plan_report dropped = plan_of_llama2(&config, 23 * GB, LISA_STATE_DROP);
    const lisa_plan_report offloaded = plan_of_llama2(&config, 23 * GB, LISA_STATE_OFFLOAD);
    ck_assert_uint_eq(dropped.fits, 0);
    ck_assert_uint_eq(offloaded.fits, 1);
    ck_assert_uint_gt(offloaded.bytes[LISA_MEM_HOST], 800 * GB); /* 137 of weights, the states */
}
END_TEST

/* ---- beside the loop ---- */

START_TEST(test_generation) {
    const struct variant *v = &VARIANTS[_i];
    const int32_t prompt[] = {3, 1, 4, 1, 5, 9, 2};
    rig_spec spec;
    rig device, reference;
    int32_t x[4], y[4];
    uint32_t n_x, n_y;
    lisa_generate_options o;
    OK(lisa_generate_options_init(&o, sizeof o));
    o.max_new_tokens = 4;
    spec_of(&spec, v, "cuda");
    spec.no_optimizer = 1;
    rig_make(&device, &spec);
    spec.context.backend = v->reference;
    rig_make(&reference, &spec);
    OK(lisa_model_generate(device.model, prompt, 7, &o, x, &n_x));
    OK(lisa_model_generate(reference.model, prompt, 7, &o, y, &n_y));
    ck_assert_uint_eq(n_x, n_y);
    if (strcmp(v->reference, "reference") == 0) /* near ties are other tokens in 16 bits */
        ck_assert_mem_eq(x, y, n_x * sizeof *x);
    rig_destroy(&device);
    rig_destroy(&reference);
}
END_TEST

START_TEST(test_lora) {
    const struct variant *v = &VARIANTS[_i];
    rig_spec spec;
    rig device, reference;
    spec_of(&spec, v, "cuda");
    spec.adapted = 1;
    OK(lisa_adapter_options_init(&spec.adapter, sizeof spec.adapter));
    spec.adapter.rank = 4;
    spec.adapter.dropout = _i % 2 == 0 ? 0.1 : 0;
    rig_make(&device, &spec);
    spec.context.backend = v->reference;
    rig_make(&reference, &spec);
    for (uint64_t step = 0; step < 5; step++) {
        const lisa_step_stats a = masked_step(&device, step), b = masked_step(&reference, step);
        ck_assert_msg(fabs(a.loss - b.loss) < 3 * v->bound * b.loss, "step %d: loss %.9g, not %.9g",
                      (int)step, a.loss, b.loss);
    }
    OK(lisa_adapter_merge(device.adapter) == LISA_E_STATE ? LISA_OK : LISA_E_INTERNAL);
    rig_destroy(&device);
    rig_destroy(&reference);
}
END_TEST

static TCase *new_case(Suite *suite, const char *name) {
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, 300);
    suite_add_tcase(suite, tcase);
    return tcase;
}

static Suite *make_suite(void) {
    Suite *suite = suite_create("models on cuda");
    TCase *tcase = new_case(suite, "reference");
    tcase_add_loop_test(tcase, test_gradients, 0, N_VARIANTS);
    tcase_add_loop_test(tcase, test_steps, 0, N_VARIANTS);
    tcase_add_loop_test(tcase, test_generation, 0, N_VARIANTS);
    tcase_add_loop_test(tcase, test_lora, 0, N_VARIANTS);
    tcase = new_case(suite, "bits");
    tcase_add_loop_test(tcase, test_streamed, 0, N_BITS);
    tcase_add_loop_test(tcase, test_written, 0, 2);
    tcase_add_loop_test(tcase, test_resumed, 0, 2 * N_BITS);
    tcase_add_loop_test(tcase, test_recomputed, 0, N_BITS);
    tcase_add_loop_test(tcase, test_update_in_backward, 0, N_BITS);
    tcase_add_loop_test(tcase, test_policies, 0, N_BITS);
    tcase_add_loop_test(tcase, test_state_in_pieces, 0, sizeof PIECES / sizeof *PIECES);
    tcase_add_loop_test(tcase, test_without_stats, 0, N_BITS);
    tcase = new_case(suite, "memory");
    tcase_add_test(tcase, test_a_failure_is_told_later);
    tcase_add_loop_test(tcase, test_as_planned, 0, 3 * N_BITS);
    tcase_add_test(tcase, test_7b_on_16_gb);
    tcase_add_test(tcase, test_70b_on_24_gb);
    return suite;
}

LISA_CUDA_MAIN(make_suite)
