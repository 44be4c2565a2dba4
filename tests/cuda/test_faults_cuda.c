/* Calls of CUDA fail in turn while a whole model is opened, trained, swapped, written, saved,
 * loaded and merged: once, for ever after, and with the device lost. Each is told in one line and
 * nothing leaks. After a single failure the same call goes on to the same weights as if nothing had
 * happened, unless it came in the middle of a change: then nothing uses the weights any more, until
 * a checkpoint is loaded, from which training goes on to the same weights, too.
 *
 * LISA_TEST_STRIDE says which: every nth call. */
#include "host_device.h"
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OUT_OF_MEMORY = 2, INVALID_VALUE = 1, ILLEGAL_ADDRESS = 700 };

static const struct fault {
    const char *name;
    int error, how;
    lisa_status status;
} FAULTS[] = {
    {"a call fails once", INVALID_VALUE, HOSTDEVICE_ONCE, LISA_E_BACKEND},
    {"memory runs out once", OUT_OF_MEMORY, HOSTDEVICE_ONCE, LISA_E_NOMEM},
    {"calls fail for ever after", INVALID_VALUE, HOSTDEVICE_FOR_EVER, LISA_E_BACKEND},
    {"the device is lost", ILLEGAL_ADDRESS, HOSTDEVICE_LOST, LISA_E_BACKEND},
};
enum { N_FAULTS = sizeof FAULTS / sizeof *FAULTS };

static const struct way {
    uint32_t weights, policy, moments;
    int adapted;
} WAYS[] = {
    {LISA_WEIGHTS_RESIDENT, LISA_STATE_DROP, LISA_MOMENTS_BF16, 0},
    {LISA_WEIGHTS_STREAMED, LISA_STATE_OFFLOAD, LISA_MOMENTS_8BIT, 0},
    {LISA_WEIGHTS_RESIDENT, LISA_STATE_DROP, LISA_MOMENTS_F32, 1},
};
enum { N_WAYS = sizeof WAYS / sizeof *WAYS };

typedef struct scenario {
    rig r;
    const struct fault *fault;
    uint64_t nth, n_told, n_keeping; /* n_keeping: calls that the calm one makes for itself */
    int torn, keeps;
    double *weights, *trained; /* of the calm one: at its end, and when it has trained */
    size_t n_weights;
} scenario;

static char saved[] = "/var/tmp/lisa-faults-XXXXXX";

static int is_torn(lisa_status status) {
    return status == LISA_E_STATE && strstr(lisa_error_last(), "in the middle of") != NULL;
}

static void assert_said(const scenario *s, lisa_status status, const char *call) {
    const char *text = lisa_error_last();
    /* cuBLAS does not say why it does not start, or does not launch. */
    const int is_of_cublas =
        strstr(text, "cuBLAS does not start") != NULL || strstr(text, "cuda: gemm: ") != NULL;
    ck_assert_msg(status == s->fault->status || (is_of_cublas && status == LISA_E_BACKEND),
                  "%s: %s, %s", call, lisa_status_name(status), text);
    ck_assert_msg(strncmp(text, "cuda: ", 6) == 0 && strchr(text, '\n') == NULL, "%s said: %s",
                  call, text);
}

/* Ends the scenario where the call fails, and again where it may not be tried again. */
#define TRY(s, call)                                                                               \
    do {                                                                                           \
        lisa_status status_ = (call);                                                              \
        if (status_ != LISA_OK) {                                                                  \
            assert_said(s, status_, #call);                                                        \
            (s)->n_told++;                                                                         \
            if ((s)->fault->how != HOSTDEVICE_ONCE)                                                \
                return 0;                                                                          \
            status_ = (call);                                                                      \
            (s)->torn = is_torn(status_);                                                          \
            if ((s)->torn)                                                                         \
                return 0;                                                                          \
            ck_assert_msg(status_ == LISA_OK, "%s, again: %s", #call, lisa_error_last());          \
        }                                                                                          \
    } while (0)

static lisa_status set_and_step(const rig *r, uint64_t step, lisa_step_stats *stats) {
    uint8_t mask[RIG_MAX_GROUPS] = {1};
    mask[1 + step % 2] = 1;
    mask[r->n_groups - 1] = 1;
    const lisa_status status = lisa_optimizer_apply_mask(r->optimizer, mask, r->n_groups);
    return status != LISA_OK ? status
                             : lisa_train_step(r->model, NULL, r->optimizer, r->batch, step, stats);
}

static lisa_status write_norm(const rig *r) {
    double values[64];
    uint32_t index;
    OK(lisa_model_tensor_find(r->model, "model.norm.weight", &index));
    const uint64_t n = rig_tensor(r, index).n_elements;
    for (uint64_t i = 0; i < n; i++)
        values[i] = 1 + (double)i / 128;
    return lisa_model_tensor_write(r->model, index, values, LISA_DTYPE_F64, n);
}

static lisa_status save(const rig *r) {
    char out[sizeof saved + 8];
    snprintf(out, sizeof out, "%s/out", saved);
    return lisa_model_save(r->model, out, NULL);
}

static lisa_status save_checkpoint(const rig *r) {
    char out[sizeof saved + 16];
    snprintf(out, sizeof out, "%s/checkpoints", saved);
    return lisa_checkpoint_save(r->optimizer, out, 1, NULL);
}

static lisa_status load_checkpoint(const rig *r) {
    char path[sizeof saved + 64];
    snprintf(path, sizeof path, "%s/checkpoints/checkpoint-000000000001.safetensors", saved);
    return lisa_checkpoint_load(r->optimizer, path, NULL);
}

/* Steps 1 to 3, with what comes between them. */
static int train_on(scenario *s, const rig_spec *spec) {
    rig *r = &s->r;
    lisa_step_stats stats = {.struct_size = sizeof stats};
    for (uint64_t step = 1; step < 3; step++)
        TRY(s, set_and_step(r, step, step == 1 ? NULL : &stats));
    if (spec->adapted == 0)
        TRY(s, write_norm(r));
    TRY(s, set_and_step(r, 3, NULL));
    /* Also tells how that one ended. */
    TRY(s, lisa_optimizer_group_steps(r->optimizer, 0, &(uint64_t){0}));
    return 1;
}

static int train(scenario *s, const rig_spec *spec) {
    rig *r = &s->r;
    TRY(s, lisa_optimizer_create(&r->optimizer, r->model, &spec->optimizer));
    TRY(s, set_and_step(r, 0, NULL));
    TRY(s, save_checkpoint(r));
    TRY(s, set_and_step(r, 1, NULL));
    TRY(s, load_checkpoint(r));
    return train_on(s, spec);
}

static uint64_t calls_so_far(void) {
    hostdevice_counts now;
    ON_HOST_DEVICE(hostdevice_get_counts)(&now);
    return now.calls;
}

static void keep(scenario *s) {
    const uint64_t before = calls_so_far();
    s->trained = rig_snapshot(&s->r, &s->n_weights);
    s->n_keeping = calls_so_far() - before;
}

/* 1 when it came to its end. */
static int run(scenario *s, const rig_spec *spec) {
    rig *r = &s->r;
    int32_t tokens[10], generated[2];
    uint32_t n_generated = 0;
    double loss = 0;
    TRY(s, lisa_context_create(&r->context, &spec->context));
    TRY(s, lisa_model_open(&r->model, r->context, saved, &spec->model));
    r->n_groups = spec->config.n_layers + 2;
    r->n_tensors = lisa_model_n_tensors(r->model);
    rig_random_tokens(tokens, 10, spec->config.vocab_size, 3);
    TRY(s, lisa_batch_create(&r->batch, r->model, 2, 5, &spec->batch));
    TRY(s, lisa_batch_set(r->batch, tokens, NULL, 2, 5));
    if (spec->adapted) {
        TRY(s, lisa_adapter_create(&r->adapter, r->model, &spec->adapter));
        OK(lisa_model_set_adapter(r->model, r->adapter));
    }
    if (!train(s, spec))
        return 0;
    if (s->keeps)
        keep(s);
    TRY(s, lisa_model_evaluate(r->model, r->batch, &loss, NULL, NULL));
    lisa_generate_options options;
    OK(lisa_generate_options_init(&options, sizeof options));
    options.max_new_tokens = 2;
    TRY(s, lisa_model_generate(r->model, tokens, 4, &options, generated, &n_generated));
    lisa_optimizer_destroy(r->optimizer);
    r->optimizer = NULL;
    if (spec->adapted)
        TRY(s, lisa_adapter_merge(r->adapter));
    TRY(s, save(r));
    return 1;
}

static void assert_torn(const scenario *s, lisa_status status, const char *call) {
    ck_assert_msg(is_torn(status), "%s at call %llu: %s: %s, %s", s->fault->name,
                  (unsigned long long)s->nth, call, lisa_status_name(status), lisa_error_last());
}

/* Weights of no step are neither used nor kept, nor stand they in the way of opening them again. */
static void assert_refused(const scenario *s, const rig_spec *spec) {
    const rig *r = &s->r;
    double loss;
    lisa_model *again;
    if (r->adapter == NULL || r->optimizer == NULL)
        assert_torn(s, save(r), "save");
    else
        assert_torn(s, lisa_adapter_save(r->adapter, saved), "adapter_save");
    assert_torn(s, lisa_forward(r->model, r->batch, &loss), "forward");
    assert_torn(s, lisa_model_evaluate(r->model, r->batch, &loss, NULL, NULL), "evaluate");
    OK(lisa_model_open(&again, r->context, saved, &spec->model));
    lisa_model_destroy(again);
}

/* What was torn is whole again, whatever it was. */
static void assert_healed(scenario *s, const rig_spec *spec, const scenario *calm) {
    uint64_t steps;
    OK(load_checkpoint(&s->r));
    OK(lisa_optimizer_group_steps(s->r.optimizer, 0, &steps));
    ck_assert_uint_eq(steps, spec->adapted ? 0 : 1);
    ck_assert_int_eq(train_on(s, spec), 1);
    rig_assert_unchanged(&s->r, calm->trained, calm->n_weights);
}

static void clear(scenario *s) {
    rig_destroy(&s->r);
    ck_assert_msg(ON_HOST_DEVICE(hostdevice_live_objects)() == 0 &&
                      ON_HOST_DEVICE(hostdevice_live_bytes)() == 0,
                  "%s at call %llu: %zu objects and %zu bytes leaked", s->fault->name,
                  (unsigned long long)s->nth, ON_HOST_DEVICE(hostdevice_live_objects)(),
                  ON_HOST_DEVICE(hostdevice_live_bytes)());
}

static void make_spec(rig_spec *spec, const struct way *way) {
    rig_spec_init(spec, "cpu");
    spec->config.n_layers = 2;
    spec->config.weights_dtype = LISA_DTYPE_BF16;
    spec->no_optimizer = 1;
    rig r;
    rig_make(&r, spec);
    ck_assert_ptr_nonnull(mkdtemp(saved));
    OK(lisa_model_save(r.model, saved, NULL));
    rig_destroy(&r);
    spec->context.backend = "cuda";
    spec->model.weights = way->weights;
    spec->optimizer.max_active_layers = 1;
    spec->optimizer.state_policy = way->policy;
    spec->optimizer.moments_embedding = way->moments;
    spec->optimizer.moments_layers = way->moments;
    spec->optimizer.moments_head = way->moments;
    spec->adapted = way->adapted;
}

static uint64_t run_calm(scenario *s, const rig_spec *spec) {
    s->fault = &FAULTS[0];
    s->keeps = 1;
    OK(lisa_context_create(&s->r.context, &spec->context)); /* the device is there now */
    lisa_context_destroy(s->r.context);
    ON_HOST_DEVICE(hostdevice_reset)();
    ck_assert_int_eq(run(s, spec), 1);
    ck_assert_uint_eq(s->n_told, 0);
    const uint64_t n_calls = calls_so_far() - s->n_keeping;
    s->weights = rig_snapshot(&s->r, &s->n_weights);
    clear(s);
    return n_calls;
}

static void run_disturbed(scenario *s, const rig_spec *spec, const scenario *calm) {
    ON_HOST_DEVICE(hostdevice_reset)();
    ON_HOST_DEVICE(hostdevice_fail_call)(s->nth, s->fault->error, s->fault->how);
    const int ended = run(s, spec);
    ON_HOST_DEVICE(hostdevice_fail_call)(0, 0, HOSTDEVICE_ONCE);
    ck_assert_msg(s->fault->how == HOSTDEVICE_ONCE || s->n_told > 0, "%s at call %llu: not told",
                  s->fault->name, (unsigned long long)s->nth);
    if (s->torn)
        assert_refused(s, spec);
    if (s->torn && s->r.optimizer != NULL)
        assert_healed(s, spec, calm);
    if (ended)
        rig_assert_unchanged(&s->r, calm->weights, calm->n_weights);
    clear(s);
}

START_TEST(test_every_call) {
    rig_spec spec;
    scenario calm = {0};
    const struct fault *fault = &FAULTS[_i % N_FAULTS];
    const char *every = getenv("LISA_TEST_STRIDE");
    const uint64_t stride = every != NULL ? strtoull(every, NULL, 10) : 211;
    uint64_t n_faults = 0, n_torn = 0;
    make_spec(&spec, &WAYS[_i / N_FAULTS]);
    const uint64_t n_calls = run_calm(&calm, &spec);
    for (uint64_t nth = 1 + (uint64_t)_i % stride; nth <= n_calls; nth += stride) {
        scenario s = {.fault = fault, .nth = nth};
        run_disturbed(&s, &spec, &calm);
        n_torn += s.torn != 0;
        n_faults++;
    }
    free(calm.weights);
    free(calm.trained);
    printf("%s: %llu of %llu calls, %llu in the middle of a change\n", fault->name,
           (unsigned long long)n_faults, (unsigned long long)n_calls, (unsigned long long)n_torn);
    char command[sizeof saved + 16];
    snprintf(command, sizeof command, "rm -rf %s", saved);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("faults on cuda");
    TCase *tcase = tcase_create("fault loop");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, test_every_call, 0, N_WAYS * N_FAULTS);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_HOST_DEVICE_MAIN(make_suite)
