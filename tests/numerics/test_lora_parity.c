/* PEFT's own adapters, with Conv1D and with rank-stabilised scale, against what PEFT and torch make
 * of them in float64 (tests/tools/make_lora_fixture.py). */
#include "check_main.h"
#include "fixture.h"
#include "rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Relative to the tensor's largest element, in float64. */
#define TIGHT 1e-9

static const struct {
    const char *directory, *expected, *base;
} ADAPTERS[] = {
    {"lora-gpt2", "lora-gpt2.expected.safetensors", "gpt2"},
    {"lora-llama", "lora-llama.expected.safetensors", "llama-untied"},
};
enum { N_ADAPTERS = sizeof ADAPTERS / sizeof *ADAPTERS };

static const char *const RUNS[] = {"full", "lisa"};
enum { N_RUNS = sizeof RUNS / sizeof *RUNS };

static const char *const FLOAT_BACKENDS[] = {"reference", "cpu"};
enum { N_FLOAT_BACKENDS = sizeof FLOAT_BACKENDS / sizeof *FLOAT_BACKENDS };

struct setting {
    rig_spec spec;
    rig rig;
    lisa_adapter *adapter;
    fixture *expected;
    const char *name;
    uint32_t n_batch, n_tokens, n_steps, n_tensors;
};

static void open_adapter(struct setting *s) {
    OK(lisa_adapter_open(&s->adapter, s->rig.model, fixture_path(s->name), NULL));
    s->n_tensors = lisa_adapter_n_tensors(s->adapter);
    OK(lisa_model_set_adapter(s->rig.model, s->adapter));
}

static void set_up(struct setting *s, int which, const char *backend, const char *run) {
    memset(s, 0, sizeof *s);
    s->name = ADAPTERS[which].directory;
    s->expected = fixture_open(ADAPTERS[which].expected);
    s->n_steps = (uint32_t)fixture_dim(s->expected, "tokens", 0);
    s->n_batch = (uint32_t)fixture_dim(s->expected, "tokens", 1);
    s->n_tokens = (uint32_t)fixture_dim(s->expected, "tokens", 2);
    rig_spec_init(&s->spec, backend);
    s->spec.directory = fixture_path(ADAPTERS[which].base);
    s->spec.max_batch = s->n_batch;
    s->spec.max_tokens = s->n_tokens;
    s->spec.no_optimizer = 1;
    rig_make(&s->rig, &s->spec);
    const double *adam = fixture_f64(s->expected, "adam", NULL);
    s->spec.optimizer.beta1 = adam[0];
    s->spec.optimizer.beta2 = adam[1];
    s->spec.optimizer.eps = adam[2];
    if (strcmp(run, "lisa") == 0)
        s->spec.optimizer.max_active_layers = 2; /* the masks never hold more */
    open_adapter(s);
}

static void make_optimizer(struct setting *s) {
    OK(lisa_optimizer_create(&s->rig.optimizer, s->rig.model, &s->spec.optimizer));
}

static void tear_down(struct setting *s) {
    lisa_adapter_destroy(s->adapter);
    rig_destroy(&s->rig);
    fixture_close(s->expected);
}

static void set_batch(const struct setting *s, uint32_t step) {
    size_t at = (size_t)step * s->n_batch * s->n_tokens;
    OK(lisa_batch_set(s->rig.batch, fixture_i32(s->expected, "tokens", NULL) + at,
                      fixture_i32(s->expected, "labels", NULL) + at, s->n_batch, s->n_tokens));
}

static lisa_tensor_info info_of(const lisa_adapter *adapter, uint32_t index) {
    lisa_tensor_info info = {.struct_size = sizeof info};
    OK(lisa_adapter_tensor_info(adapter, index, &info));
    return info;
}

static double *read_tensor(lisa_adapter *adapter, uint32_t index) {
    const lisa_tensor_info info = info_of(adapter, index);
    double *values = malloc((size_t)info.n_elements * sizeof *values);
    ck_assert_ptr_nonnull(values);
    OK(lisa_adapter_tensor_read(adapter, index, values, LISA_DTYPE_F64, info.n_elements));
    return values;
}

static double *read_gradient(const struct setting *s, uint32_t index) {
    const lisa_tensor_info info = info_of(s->adapter, index);
    double *values = malloc((size_t)info.n_elements * sizeof *values);
    ck_assert_ptr_nonnull(values);
    OK(lisa_optimizer_gradient_read(s->rig.optimizer, index, values, LISA_DTYPE_F64,
                                    info.n_elements));
    return values;
}

/* "PREFIX.NAME", of the shape that the tensor has here. */
static const double *expected_of(const struct setting *s, const char *prefix,
                                 const lisa_tensor_info *info) {
    char name[192];
    size_t n;
    snprintf(name, sizeof name, "%s.%s", prefix, info->name);
    const double *values = fixture_f64(s->expected, name, &n);
    ck_assert_uint_eq(n, info->n_elements);
    ck_assert_uint_eq(fixture_dim(s->expected, name, 0), info->shape[0]);
    ck_assert_uint_eq(fixture_dim(s->expected, name, 1), info->shape[1]);
    return values;
}

static void assert_close(const struct setting *s, const char *what, const double *got,
                         const double *expected, size_t n, double bound) {
    const double error = rig_error(got, expected, n);
    ck_assert_msg(error <= bound, "%s: %s is off by %.3g, allowed is %.3g", s->name, what, error,
                  bound);
}

static void check_logits(const struct setting *s, double bound) {
    size_t n;
    const double *expected = fixture_f64(s->expected, "logits", &n);
    double *logits = malloc(n * sizeof *logits);
    ck_assert_ptr_nonnull(logits);
    set_batch(s, 0);
    OK(lisa_model_logits(s->rig.model, s->rig.batch, logits, LISA_DTYPE_F64, n));
    assert_close(s, "logits", logits, expected, n, bound);
    free(logits);
}

static void check_gradients(const struct setting *s, double loss_bound, double bound) {
    double loss;
    set_batch(s, 0);
    OK(lisa_forward(s->rig.model, s->rig.batch, &loss));
    assert_close(s, "loss", &loss, fixture_f64(s->expected, "loss", NULL), 1, loss_bound);
    OK(lisa_backward(s->rig.model, s->rig.batch));
    const double targets = (double)lisa_batch_n_targets(s->rig.batch);
    ck_assert_uint_eq(fixture_count(s->expected, "grad."), s->n_tensors);
    for (uint32_t i = 0; i < s->n_tensors; i++) {
        const lisa_tensor_info info = info_of(s->adapter, i);
        double *gradient = read_gradient(s, i);
        for (size_t j = 0; j < info.n_elements; j++)
            gradient[j] /= targets;
        assert_close(s, info.name, gradient, expected_of(s, "grad", &info), (size_t)info.n_elements,
                     bound);
        free(gradient);
    }
}

START_TEST(test_forward_and_backward_f64) {
    struct setting s;
    set_up(&s, _i, "reference64", "full");
    make_optimizer(&s);
    check_logits(&s, TIGHT);
    check_gradients(&s, TIGHT, TIGHT);
    tear_down(&s);
}
END_TEST

START_TEST(test_forward_and_backward_f32) {
    struct setting s;
    set_up(&s, _i % N_ADAPTERS, FLOAT_BACKENDS[_i / N_ADAPTERS], "full");
    make_optimizer(&s);
    check_logits(&s, 1e-5);
    check_gradients(&s, 1e-6, 3e-5);
    tear_down(&s);
}
END_TEST

static void check_step(const struct setting *s, const char *run, const char *what, uint32_t step,
                       double got, double bound) {
    char name[64];
    snprintf(name, sizeof name, "%s.%s", run, what);
    const double *expected = fixture_f64(s->expected, name, NULL) + step;
    snprintf(name, sizeof name, "%s: %s of step %u", run, what, step);
    assert_close(s, name, &got, expected, 1, bound);
}

/* Trains as the fixture did, comparing every step's loss and gradient norm. */
static void train(const struct setting *s, const char *run, double bound) {
    const double *lr = fixture_f64(s->expected, "lr", NULL);
    const uint8_t *masks = fixture_u8(s->expected, "masks", NULL);
    for (uint32_t step = 0; step < s->n_steps; step++) {
        lisa_step_stats stats = {.struct_size = sizeof stats};
        if (strcmp(run, "lisa") == 0)
            OK(lisa_optimizer_apply_mask(s->rig.optimizer, masks + (size_t)step * s->rig.n_groups,
                                         s->rig.n_groups));
        OK(lisa_optimizer_set_lr(s->rig.optimizer, lr[step]));
        set_batch(s, step);
        OK(lisa_forward(s->rig.model, s->rig.batch, NULL));
        OK(lisa_backward(s->rig.model, s->rig.batch));
        OK(lisa_optimizer_step(s->rig.optimizer, &stats));
        check_step(s, run, "losses", step, stats.loss, bound);
        check_step(s, run, "norms", step, stats.grad_norm, 10 * bound);
    }
}

/* What training changed, against the largest change. */
static void check_moved(const struct setting *s, const char *run, double **before) {
    for (uint32_t i = 0; i < s->n_tensors; i++) {
        const lisa_tensor_info info = info_of(s->adapter, i);
        const double *expected = expected_of(s, run, &info);
        double *after = read_tensor(s->adapter, i), scale = 0, error = 0;
        for (size_t j = 0; j < info.n_elements; j++) {
            scale = fmax(scale, fabs(expected[j] - before[i][j]));
            error = fmax(error, fabs(expected[j] - after[j]));
        }
        ck_assert_msg(error <= TIGHT * scale, "%s: '%s' moved off by %.3g", s->name, info.name,
                      error / scale);
        free(after);
    }
}

static double **snapshot(const struct setting *s) {
    double **all = malloc(s->n_tensors * sizeof *all);
    ck_assert_ptr_nonnull(all);
    for (uint32_t i = 0; i < s->n_tensors; i++)
        all[i] = read_tensor(s->adapter, i);
    return all;
}

static void drop_snapshot(const struct setting *s, double **all) {
    for (uint32_t i = 0; i < s->n_tensors; i++)
        free(all[i]);
    free(all);
}

START_TEST(test_ten_steps_f64) {
    const char *run = RUNS[_i % N_RUNS];
    struct setting s;
    size_t n;
    set_up(&s, _i / N_RUNS, "reference64", run);
    double *base = rig_snapshot(&s.rig, &n), **before = snapshot(&s);
    make_optimizer(&s);
    train(&s, run, TIGHT);
    check_moved(&s, run, before);
    double *still = rig_snapshot(&s.rig, &n);
    ck_assert_msg(memcmp(base, still, n * sizeof *base) == 0, "the base was trained");
    free(still);
    free(base);
    drop_snapshot(&s, before);
    tear_down(&s);
}
END_TEST

START_TEST(test_ten_steps_f32) {
    const char *run = RUNS[_i % N_RUNS];
    const int rest = _i / N_RUNS;
    struct setting s;
    set_up(&s, rest % N_ADAPTERS, FLOAT_BACKENDS[rest / N_ADAPTERS], run);
    make_optimizer(&s);
    train(&s, run, 1e-5);
    tear_down(&s);
}
END_TEST

/* Tensors with an adapter are the fixture's, the others what they were. */
static void check_merged(const struct setting *s, const double *before, double bound) {
    size_t at = 0, n_merged = 0;
    for (uint32_t i = 0; i < s->rig.n_tensors; i++) {
        const lisa_tensor_info info = rig_tensor(&s->rig, i);
        char name[160];
        double *now = rig_read(&s->rig, i);
        const size_t n = (size_t)info.n_elements;
        snprintf(name, sizeof name, "merged.%s", info.name);
        if (fixture_count(s->expected, name) > 0) {
            assert_close(s, name, now, fixture_f64(s->expected, name, NULL), n, bound);
            n_merged++;
        } else {
            ck_assert_msg(memcmp(before + at, now, n * sizeof *now) == 0, "%s changed", info.name);
        }
        at += n;
        free(now);
    }
    ck_assert_uint_eq(n_merged, fixture_count(s->expected, "merged."));
    ck_assert_uint_eq(2 * n_merged, s->n_tensors);
}

static void merge(const struct setting *s, double weight_bound, double logit_bound) {
    size_t n;
    double *before = rig_snapshot(&s->rig, &n);
    OK(lisa_adapter_merge(s->adapter));
    check_merged(s, before, weight_bound);
    check_logits(s, logit_bound);
    free(before);
}

START_TEST(test_merge_f32) {
    struct setting s;
    set_up(&s, _i % N_ADAPTERS, FLOAT_BACKENDS[_i / N_ADAPTERS], "full");
    merge(&s, 1e-6, 1e-5);
    tear_down(&s);
}
END_TEST

/* Into float64 weights: a file's float32 would round the sum. */
START_TEST(test_merge_f64) {
    struct setting s;
    rig opened;
    set_up(&s, _i, "reference64", "full");
    lisa_adapter_destroy(s.adapter);
    opened = s.rig;
    rig_make_f64_copy(&s.rig, &s.spec, &opened);
    rig_destroy(&opened);
    open_adapter(&s);
    merge(&s, TIGHT, TIGHT);
    tear_down(&s);
}
END_TEST

static void assert_same_adapter(lisa_adapter *a, lisa_adapter *b) {
    lisa_adapter_options of_a = {.struct_size = sizeof of_a}, of_b = {.struct_size = sizeof of_b};
    OK(lisa_adapter_get_options(a, &of_a));
    OK(lisa_adapter_get_options(b, &of_b));
    ck_assert(memcmp(&of_a, &of_b, sizeof of_a) == 0);
    ck_assert_uint_eq(lisa_adapter_n_tensors(a), lisa_adapter_n_tensors(b));
    for (uint32_t i = 0; i < lisa_adapter_n_tensors(a); i++) {
        const lisa_tensor_info info = info_of(a, i), other = info_of(b, i);
        double *x = read_tensor(a, i), *y = read_tensor(b, i);
        ck_assert_str_eq(info.name, other.name);
        ck_assert_msg(memcmp(x, y, (size_t)info.n_elements * sizeof *x) == 0, "'%s' differs",
                      info.name);
        free(x);
        free(y);
    }
}

static void remove_directory(const char *directory) {
    static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors"};
    char path[256];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        ck_assert_int_eq(unlink(path), 0);
    }
    ck_assert_int_eq(rmdir(directory), 0); /* and nothing else was there */
}

/* A trained adapter comes back from its files bit for bit. */
START_TEST(test_save_and_open) {
    struct setting s;
    lisa_adapter *again;
    char directory[] = "/tmp/lisa-adapter-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(directory));
    set_up(&s, _i % N_ADAPTERS, FLOAT_BACKENDS[_i / N_ADAPTERS], "full");
    make_optimizer(&s);
    set_batch(&s, 0);
    rig_step(&s.rig);
    OK(lisa_adapter_save(s.adapter, directory));
    OK(lisa_adapter_open(&again, s.rig.model, directory, NULL));
    assert_same_adapter(s.adapter, again);
    lisa_adapter_destroy(again);
    remove_directory(directory);
    tear_down(&s);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("lora_parity");
    TCase *f64 = tcase_create("float64");
    tcase_add_loop_test(f64, test_forward_and_backward_f64, 0, N_ADAPTERS);
    tcase_add_loop_test(f64, test_ten_steps_f64, 0, N_ADAPTERS * N_RUNS);
    tcase_add_loop_test(f64, test_merge_f64, 0, N_ADAPTERS);
    suite_add_tcase(suite, f64);
    TCase *f32 = tcase_create("float32");
    tcase_add_loop_test(f32, test_forward_and_backward_f32, 0, N_ADAPTERS * N_FLOAT_BACKENDS);
    tcase_add_loop_test(f32, test_ten_steps_f32, 0, N_ADAPTERS * N_RUNS * N_FLOAT_BACKENDS);
    tcase_add_loop_test(f32, test_merge_f32, 0, N_ADAPTERS * N_FLOAT_BACKENDS);
    tcase_add_loop_test(f32, test_save_and_open, 0, N_ADAPTERS * N_FLOAT_BACKENDS);
    suite_add_tcase(suite, f32);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
