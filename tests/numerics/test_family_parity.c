/* Logits, loss, gradients, ten training steps and a greedy continuation of a tiny model of every
 * family against transformers and torch in float64 (tests/tools/make_family_fixtures.py). */
#include "check_main.h"
#include "fixture.h"
#include "rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Relative to the tensor's largest element, in float64. */
#define TIGHT 1e-9

/* A directory, the expected values that it shares with others, and which of them are its own:
 * "bf16." is before the logits, loss and gradients of weights that were rounded. */
struct variant {
    const char *directory, *expected, *prefix;
};

#define FIXTURE(name) name, name ".expected.safetensors"
static const struct variant VARIANTS[] = {
    {FIXTURE("llama-untied"), ""},
    {FIXTURE("llama-tied"), ""},
    {FIXTURE("gpt2"), ""},
    {FIXTURE("mistral"), ""},
    {FIXTURE("mistral-null"), ""},
    {FIXTURE("phi"), ""},
    {FIXTURE("qwen2"), ""},
    {FIXTURE("qwen3"), ""},
    {"llama-tied-sharded", "llama-tied.expected.safetensors", ""},
    {"llama-untied-bf16", "llama-untied.expected.safetensors", "bf16."},
    {"llama-tied-bf16", "llama-tied.expected.safetensors", "bf16."},
    {"gpt2-plain", "gpt2.expected.safetensors", ""},
    {"gpt2-bf16", "gpt2.expected.safetensors", "bf16."},
    {"gpt2-f16", "gpt2.expected.safetensors", "f16."},
    {"mistral-bf16", "mistral.expected.safetensors", "bf16."},
    {"mistral-null-bf16", "mistral-null.expected.safetensors", "bf16."},
    {"phi-bf16", "phi.expected.safetensors", "bf16."},
    {"qwen2-bf16", "qwen2.expected.safetensors", "bf16."},
    {"qwen3-bf16", "qwen3.expected.safetensors", "bf16."},
};
/* The first ones train: a spelling or a type of the same weights would train alike. */
enum { N_VARIANTS = sizeof VARIANTS / sizeof *VARIANTS, N_TRAINED = 8 };

static const uint32_t LOADS[] = {LISA_LOAD_MAP, LISA_LOAD_COPY};
enum { N_LOADS = sizeof LOADS / sizeof *LOADS };

/* Runs of the fixture: what the masks say, and decay and clipping. */
static const char *const RUNS[] = {"full", "lisa", "clip"};
enum { N_RUNS = sizeof RUNS / sizeof *RUNS };

static const char *const FLOAT_BACKENDS[] = {"reference", "cpu"};
enum { N_FLOAT_BACKENDS = sizeof FLOAT_BACKENDS / sizeof *FLOAT_BACKENDS };

struct setting {
    rig_spec spec;
    fixture *expected;
    const struct variant *variant;
    uint32_t n_batch, n_tokens, n_steps;
};

static struct setting setting_of(int variant, uint32_t load, const char *backend, const char *run) {
    struct setting s;
    s.variant = &VARIANTS[variant];
    s.expected = fixture_open(s.variant->expected);
    s.n_steps = (uint32_t)fixture_dim(s.expected, "tokens", 0);
    s.n_batch = (uint32_t)fixture_dim(s.expected, "tokens", 1);
    s.n_tokens = (uint32_t)fixture_dim(s.expected, "tokens", 2);
    rig_spec_init(&s.spec, backend);
    s.spec.directory = fixture_path(s.variant->directory);
    s.spec.model.load = load;
    s.spec.batch.head_rows = load == LISA_LOAD_MAP ? 0 : 4; /* logits in one piece, in five */
    s.spec.max_batch = s.n_batch;
    s.spec.max_tokens = s.n_tokens;
    const double *adam = fixture_f64(s.expected, "adam", NULL);
    s.spec.optimizer.beta1 = adam[0];
    s.spec.optimizer.beta2 = adam[1];
    s.spec.optimizer.eps = adam[2];
    if (strcmp(run, "clip") == 0) {
        s.spec.optimizer.weight_decay = adam[3];
        s.spec.optimizer.max_grad_norm = adam[4];
    }
    if (strcmp(run, "full") != 0)
        s.spec.optimizer.max_active_layers = 2; /* the masks never hold more */
    return s;
}

static void set_batch(const struct setting *s, rig *r, uint32_t step) {
    size_t at = (size_t)step * s->n_batch * s->n_tokens;
    OK(lisa_batch_set(r->batch, fixture_i32(s->expected, "tokens", NULL) + at,
                      fixture_i32(s->expected, "labels", NULL) + at, s->n_batch, s->n_tokens));
}

/* Values of the fixture that are the directory's own. */
static const double *own_values(const struct setting *s, const char *what, size_t *n) {
    char name[160];
    snprintf(name, sizeof name, "%s%s", s->variant->prefix, what);
    return fixture_f64(s->expected, name, n);
}

/* A tensor of the fixture named PREFIX.NAME, of the model's own size. The fixture spells names as
 * transformers does, where only "lm_head" goes without GPT-2's prefix. */
static const double *expected_of(const struct setting *s, const char *prefix,
                                 const lisa_tensor_info *info) {
    char name[160];
    size_t n;
    const int is_short = strncmp(info->name, "h.", 2) == 0 || strncmp(info->name, "w", 1) == 0 ||
                         strncmp(info->name, "ln_f.", 5) == 0;
    snprintf(name, sizeof name, "%s.%s%s", prefix, is_short ? "transformer." : "", info->name);
    const double *values = fixture_f64(s->expected, name, &n);
    ck_assert_uint_eq(n, info->n_elements);
    ck_assert_uint_eq(fixture_dim(s->expected, name, 0), info->shape[0]);
    if (info->n_dims == 2)
        ck_assert_uint_eq(fixture_dim(s->expected, name, 1), info->shape[1]);
    return values;
}

static void assert_close(const struct setting *s, const char *what, const double *got,
                         const double *expected, size_t n, double bound) {
    double error = rig_error(got, expected, n);
    ck_assert_msg(error <= bound, "%s: %s is off by %.3g, allowed is %.3g", s->variant->directory,
                  what, error, bound);
}

static void check_logits(const struct setting *s, rig *r, double bound) {
    size_t n;
    const double *expected = own_values(s, "logits", &n);
    double *logits = malloc(n * sizeof *logits);
    ck_assert_ptr_nonnull(logits);
    set_batch(s, r, 0);
    OK(lisa_model_logits(r->model, r->batch, logits, LISA_DTYPE_F64, n));
    assert_close(s, "logits", logits, expected, n, bound);
    free(logits);
}

static void check_losses(const struct setting *s, rig *r, double bound) {
    const double *expected = own_values(s, "loss", NULL);
    double evaluated, forward;
    set_batch(s, r, 0);
    OK(lisa_model_evaluate(r->model, r->batch, &evaluated, NULL, NULL));
    OK(lisa_forward(r->model, r->batch, &forward));
    assert_close(s, "evaluate's loss", &evaluated, expected, 1, bound);
    assert_close(s, "forward's loss", &forward, expected, 1, bound);
}

static void check_gradients(const struct setting *s, rig *r, double bound) {
    set_batch(s, r, 0);
    OK(lisa_forward(r->model, r->batch, NULL));
    OK(lisa_backward(r->model, r->batch));
    double targets = (double)lisa_batch_n_targets(r->batch);
    char prefix[32];
    snprintf(prefix, sizeof prefix, "%sgrad", s->variant->prefix);
    ck_assert_uint_eq(fixture_count(s->expected, "grad."), r->n_tensors);
    for (uint32_t i = 0; i < r->n_tensors; i++) {
        lisa_tensor_info info = rig_tensor(r, i);
        double *gradient = rig_read_gradient(r, i);
        for (size_t j = 0; j < info.n_elements; j++)
            gradient[j] /= targets;
        assert_close(s, info.name, gradient, expected_of(s, prefix, &info), (size_t)info.n_elements,
                     bound);
        free(gradient);
    }
}

START_TEST(test_forward_and_backward_f64) {
    struct setting s = setting_of(_i / N_LOADS, LOADS[_i % N_LOADS], "reference64", "full");
    rig r;
    rig_make(&r, &s.spec);
    check_logits(&s, &r, TIGHT);
    check_losses(&s, &r, TIGHT);
    check_gradients(&s, &r, TIGHT);
    rig_destroy(&r);
    fixture_close(s.expected);
}
END_TEST

/* Float rounding through three layers, forward and back: measured errors are ten times less. */
START_TEST(test_forward_and_backward_f32) {
    const int rest = _i / N_LOADS;
    struct setting s = setting_of(rest % N_VARIANTS, LOADS[_i % N_LOADS],
                                  FLOAT_BACKENDS[rest / N_VARIANTS], "full");
    rig r;
    rig_make(&r, &s.spec);
    check_logits(&s, &r, 1e-5);
    check_losses(&s, &r, 1e-6);
    check_gradients(&s, &r, 3e-5);
    rig_destroy(&r);
    fixture_close(s.expected);
}
END_TEST

static double fixture_value(const struct setting *s, const char *run, const char *what,
                            uint32_t step) {
    char name[64];
    snprintf(name, sizeof name, "%s.%s", run, what);
    return fixture_f64(s->expected, name, NULL)[step];
}

/* Trains as the fixture did, comparing every step's loss and gradient norm. */
static void train(const struct setting *s, rig *r, const char *run, double bound) {
    const double *lr = fixture_f64(s->expected, "lr", NULL);
    const uint8_t *masks = fixture_u8(s->expected, "masks", NULL);
    for (uint32_t step = 0; step < s->n_steps; step++) {
        lisa_step_stats stats = {.struct_size = sizeof stats};
        if (strcmp(run, "full") != 0)
            OK(lisa_optimizer_apply_mask(r->optimizer, masks + (size_t)step * r->n_groups,
                                         r->n_groups));
        OK(lisa_optimizer_set_lr(r->optimizer, lr[step]));
        set_batch(s, r, step);
        OK(lisa_forward(r->model, r->batch, NULL));
        OK(lisa_backward(r->model, r->batch));
        OK(lisa_optimizer_step(r->optimizer, &stats));
        ck_assert_uint_eq(stats.n_targets, lisa_batch_n_targets(r->batch));
        double loss = fixture_value(s, run, "losses", step);
        double norm = fixture_value(s, run, "norms", step);
        char what[64];
        snprintf(what, sizeof what, "%s: loss of step %u", run, step);
        assert_close(s, what, &stats.loss, &loss, 1, bound);
        snprintf(what, sizeof what, "%s: gradient norm of step %u", run, step);
        assert_close(s, what, &stats.grad_norm, &norm, 1, 10 * bound);
    }
}

static double largest_of(const double *values, uint64_t n) {
    double largest = 0;
    for (uint64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(values[i]));
    return largest;
}

/* Weights and, more strictly, what training changed in them. Adam divides what rounding leaves of a
 * gradient that is zero (of a key's bias where nothing rotates it) by no more than its eps: 1e-16 /
 * 1e-8 of a learning rate is noise. */
static void check_trained(const struct setting *s, const rig *before, const rig *after,
                          const char *run, double bound) {
    ck_assert_uint_eq(fixture_count(s->expected, "grad."), after->n_tensors);
    for (uint32_t i = 0; i < after->n_tensors; i++) {
        lisa_tensor_info info = rig_tensor(after, i);
        size_t n = (size_t)info.n_elements;
        double *first = rig_read(before, i), *last = rig_read(after, i), scale = 0;
        const double *expected = expected_of(s, run, &info);
        const double *gradient = expected_of(s, "grad", &info);
        const double quiet = 1e-6 * largest_of(gradient, n);
        for (size_t j = 0; j < n; j++)
            scale = fmax(scale, fabs(expected[j] - first[j]));
        for (size_t j = 0; j < n; j++) {
            const double error = fabs(last[j] - expected[j]) / scale;
            const double allowed = fabs(gradient[j]) > quiet ? bound : 10 * bound;
            ck_assert_msg(error <= allowed, "%s: '%s'[%zu] moved off by %.3g, allowed is %.3g",
                          s->variant->directory, info.name, j, error, allowed);
        }
        free(first);
        free(last);
    }
}

/* The model is created in float64 and given the fixture's weights: weights kept in the file's
 * float32 would round after every step. */
START_TEST(test_ten_steps_f64) {
    const char *run = RUNS[_i % N_RUNS];
    struct setting s = setting_of(_i / N_RUNS, LISA_LOAD_MAP, "reference64", run);
    rig opened, trained;
    struct rig_spec read_only = s.spec;
    read_only.no_optimizer = 1;
    rig_make(&opened, &read_only);
    rig_make_f64_copy(&trained, &s.spec, &opened);
    train(&s, &trained, run, TIGHT);
    check_trained(&s, &opened, &trained, run, TIGHT);
    rig_destroy(&trained);
    rig_destroy(&opened);
    fixture_close(s.expected);
}
END_TEST

START_TEST(test_ten_steps_f32) {
    const char *run = RUNS[_i % N_RUNS];
    int rest = _i / N_RUNS;
    struct setting s =
        setting_of(rest % N_TRAINED, LISA_LOAD_MAP, FLOAT_BACKENDS[rest / N_TRAINED], run);
    rig r;
    rig_make(&r, &s.spec);
    train(&s, &r, run, 1e-5);
    rig_destroy(&r);
    fixture_close(s.expected);
}
END_TEST

/* The first AdamW step moves a weight by lr g / (|g| + eps). In float only elements whose gradient
 * stands out of the rounding noise can be held to that. */
START_TEST(test_first_update_f32) {
    struct setting s =
        setting_of(_i % N_TRAINED, LISA_LOAD_MAP, FLOAT_BACKENDS[_i / N_TRAINED], "full");
    rig before, after;
    rig_make(&before, &s.spec);
    rig_make(&after, &s.spec);
    const double lr = s.spec.optimizer.lr, eps = s.spec.optimizer.eps;
    set_batch(&s, &after, 0);
    rig_step(&after);
    for (uint32_t i = 0; i < after.n_tensors; i++) {
        lisa_tensor_info info = rig_tensor(&after, i);
        const double *gradient = expected_of(&s, "grad", &info);
        double *first = rig_read(&before, i), *last = rig_read(&after, i);
        const double largest = largest_of(gradient, info.n_elements);
        for (size_t j = 0; j < info.n_elements; j++) {
            double update = (first[j] - last[j]) / lr;
            double expected = gradient[j] / (fabs(gradient[j]) + eps);
            int loud = fabs(gradient[j]) > 1e-6 * largest;
            ck_assert_msg(!loud || fabs(update - expected) < 1e-2,
                          "%s: '%s'[%zu] moved by %.6f lr, not %.6f", s.variant->directory,
                          info.name, j, update, expected);
        }
        free(first);
        free(last);
    }
    rig_destroy(&after);
    rig_destroy(&before);
    fixture_close(s.expected);
}
END_TEST

static const char *const GREEDY_BACKENDS[] = {"reference64", "reference", "cpu"};
enum { N_GREEDY_BACKENDS = sizeof GREEDY_BACKENDS / sizeof *GREEDY_BACKENDS };

/* The fixture's choices are beyond float32's doubt. */
START_TEST(test_greedy) {
    struct setting s =
        setting_of(_i % N_TRAINED, LISA_LOAD_MAP, GREEDY_BACKENDS[_i / N_TRAINED], "full");
    lisa_generate_options options;
    size_t n_prompt, n_expected;
    uint32_t n;
    rig r;
    const int32_t *prompt = fixture_i32(s.expected, "greedy.prompt", &n_prompt);
    const int32_t *expected = fixture_i32(s.expected, "greedy.tokens", &n_expected);
    int32_t *tokens = malloc(n_expected * sizeof *tokens);
    ck_assert_ptr_nonnull(tokens);
    s.spec.no_optimizer = 1;
    rig_make(&r, &s.spec);
    OK(lisa_generate_options_init(&options, sizeof options));
    options.max_new_tokens = (uint32_t)n_expected;
    OK(lisa_model_generate(r.model, prompt, (uint32_t)n_prompt, &options, tokens, &n));
    ck_assert_uint_eq(n, n_expected);
    for (uint32_t i = 0; i < n; i++)
        ck_assert_msg(tokens[i] == expected[i], "%s: token %u is %d, not %d", s.variant->directory,
                      i, tokens[i], expected[i]);
    free(tokens);
    rig_destroy(&r);
    fixture_close(s.expected);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("family_parity");
    TCase *f64 = tcase_create("float64");
    tcase_set_timeout(f64, 60);
    tcase_add_loop_test(f64, test_forward_and_backward_f64, 0, N_VARIANTS * N_LOADS);
    tcase_add_loop_test(f64, test_ten_steps_f64, 0, N_TRAINED * N_RUNS);
    suite_add_tcase(suite, f64);
    TCase *f32 = tcase_create("float32");
    tcase_set_timeout(f32, 60);
    tcase_add_loop_test(f32, test_forward_and_backward_f32, 0,
                        N_VARIANTS * N_LOADS * N_FLOAT_BACKENDS);
    tcase_add_loop_test(f32, test_ten_steps_f32, 0, N_TRAINED * N_FLOAT_BACKENDS * N_RUNS);
    tcase_add_loop_test(f32, test_first_update_f32, 0, N_TRAINED * N_FLOAT_BACKENDS);
    suite_add_tcase(suite, f32);
    TCase *generation = tcase_create("greedy");
    tcase_add_loop_test(generation, test_greedy, 0, N_TRAINED * N_GREEDY_BACKENDS);
    suite_add_tcase(suite, generation);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
