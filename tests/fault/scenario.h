/* scenario.h - one life of a model, an optimizer and an adapter, for tests in which something fails
 * in it: opened, planned, trained with a swap, evaluated, saved, loaded and merged. Each failure
 * must be told in one line; after one that came once the same call goes on, to the same bits. */
#ifndef LISA_TEST_SCENARIO_H
#define LISA_TEST_SCENARIO_H

#include "lisa/lisa.h"
#include "rig.h"
#include "unit/files.h"

/* ---- an allocator that counts, and fails on demand ---- */

typedef struct allocator {
    uint64_t n_calls, n_live;
    uint64_t fail_at; /* the allocation that fails, from 1; 0: none */
    int for_ever;
    uint64_t n_failed;
} allocator;

static void *scenario_alloc(void *user, size_t size, size_t align) {
    allocator *a = user;
    a->n_calls++;
    if (a->fail_at != 0 && (a->n_calls == a->fail_at || (a->for_ever && a->n_calls > a->fail_at))) {
        a->n_failed++;
        return NULL;
    }
    void *ptr = NULL;
    ck_assert_int_eq(posix_memalign(&ptr, align, size), 0);
    memset(ptr, 0xA5, size);
    a->n_live++;
    return ptr;
}

static void scenario_release(void *user, void *ptr, size_t size, size_t align) {
    allocator *a = user;
    (void)align;
    memset(ptr, 0x5A, size);
    a->n_live--;
    free(ptr);
}

/* ---- the scenario ---- */

typedef struct scenario {
    allocator memory;
    int (*expects)(lisa_status status);
    int once; /* a failure is over when it has been told */
    uint64_t n_told, n_allocations;
    lisa_context *context;
    lisa_model *model;
    lisa_batch *batch;
    lisa_optimizer *optimizer;
    lisa_adapter *adapter;
    double weights[20000];
    size_t n_weights;
} scenario;

/* From one point of a loop to the next: more than 1, and odd, where a checker makes each slow. */
static uint64_t stride(void) {
    const char *given = getenv("LISA_TEST_STRIDE");
    return given != NULL ? strtoull(given, NULL, 10) : 1;
}

static char scenario_dir[] = "/var/tmp/lisa-fault-XXXXXX";

static const char *in_scenario_dir(const char *name) {
    static char path[sizeof scenario_dir + 64];
    snprintf(path, sizeof path, "%s/%s", scenario_dir, name);
    return path;
}

static void scenario_told(scenario *s, lisa_status status, const char *call) {
    const char *text = lisa_error_last();
    ck_assert_msg(s->expects(status), "%s: %s, %s", call, lisa_status_name(status), text);
    ck_assert_msg(strlen(text) > 10 && strchr(text, '\n') == NULL, "%s said: %s", call, text);
    s->n_told++;
}

/* Ends the scenario where the call fails for good. */
#define TRY(s, call)                                                                               \
    do {                                                                                           \
        const lisa_status status_ = (call);                                                        \
        if (status_ != LISA_OK) {                                                                  \
            scenario_told(s, status_, #call);                                                      \
            if (!(s)->once)                                                                        \
                return 0;                                                                          \
            OK(call);                                                                              \
        }                                                                                          \
    } while (0)

static lisa_status set_and_step(scenario *s, uint64_t step) {
    uint8_t mask[5] = {1, 0, 0, 0, 1};
    mask[1 + step % 3] = 1;
    const lisa_status status = lisa_optimizer_apply_mask(s->optimizer, mask, 5);
    if (status != LISA_OK)
        return status;
    lisa_step_stats stats = {.struct_size = sizeof stats};
    const lisa_status stepped =
        lisa_train_step(s->model, NULL, s->optimizer, s->batch, step, &stats);
    /* The same batch once more in a window that was left behind would average to the same step. */
    if (stepped == LISA_OK)
        ck_assert_uint_eq(stats.n_backward, 1);
    return stepped;
}

static void read_weights(scenario *s) {
    s->n_weights = 0;
    for (uint32_t i = 0; i < lisa_model_n_tensors(s->model); i++) {
        lisa_tensor_info info = {.struct_size = sizeof info};
        OK(lisa_model_tensor_info(s->model, i, &info));
        ck_assert_uint_le(s->n_weights + info.n_elements, sizeof s->weights / sizeof *s->weights);
        OK(lisa_model_tensor_read(s->model, i, s->weights + s->n_weights, LISA_DTYPE_F64,
                                  info.n_elements));
        s->n_weights += info.n_elements;
    }
}

static lisa_status plan(const rig_spec *spec) {
    lisa_plan_request request;
    lisa_plan_report report = {.struct_size = sizeof report};
    lisa_model_config config = {.struct_size = sizeof config};
    OK(lisa_plan_request_init(&request, sizeof request));
    const lisa_status status = lisa_model_config_read(&config, scenario_dir);
    if (status != LISA_OK)
        return status;
    request.config = &config;
    request.context = &spec->context;
    request.optimizer = &spec->optimizer;
    request.max_batch = 2;
    request.max_tokens = 11;
    return lisa_plan(&request, &report);
}

static lisa_status save_checkpoint(scenario *s, uint64_t step) {
    lisa_checkpoint_options options;
    OK(lisa_checkpoint_options_init(&options, sizeof options));
    options.keep = 1;
    return lisa_checkpoint_save(s->optimizer, in_scenario_dir("checkpoints"), step, &options);
}

static lisa_status load_checkpoint(scenario *s, uint64_t step) {
    char path[128];
    snprintf(path, sizeof path, "%s/checkpoints/checkpoint-%012llu.safetensors", scenario_dir,
             (unsigned long long)step);
    const lisa_status status = lisa_checkpoint_load(s->optimizer, path, NULL);
    /* A lack of memory or a wish to stop come before anything changes. */
    double norm;
    if (status == LISA_E_NOMEM || status == LISA_E_CANCELLED) {
        char text[256];
        snprintf(text, sizeof text, "%s", lisa_error_last());
        OK(lisa_model_weight_norm(s->model, 0, &norm));
        ck_assert_str_eq(lisa_error_last(), text);
    }
    return status;
}

/* Trained, saved, trained further, and back. */
static int run_training(scenario *s) {
    for (uint64_t step = 0; step < 3; step++)
        TRY(s, set_and_step(s, step));
    TRY(s, save_checkpoint(s, 2));
    TRY(s, save_checkpoint(s, 3));
    TRY(s, set_and_step(s, 3));
    TRY(s, load_checkpoint(s, 3));
    TRY(s, set_and_step(s, 4));
    return 1;
}

/* An adapter's life: made, trained by masks, saved, merged. */
static int run_adapter(scenario *s, const rig_spec *spec) {
    lisa_adapter_options options;
    OK(lisa_adapter_options_init(&options, sizeof options));
    options.targets = LISA_TARGET_ALL_LAYERS;
    options.dropout = 0.1;
    lisa_optimizer_destroy(s->optimizer);
    s->optimizer = NULL;
    TRY(s, lisa_adapter_create(&s->adapter, s->model, &options));
    OK(lisa_model_set_adapter(s->model, s->adapter));
    TRY(s, lisa_optimizer_create(&s->optimizer, s->model, &spec->optimizer));
    for (uint64_t step = 0; step < 3; step++)
        TRY(s, set_and_step(s, step));
    TRY(s, save_checkpoint(s, 9));
    lisa_optimizer_destroy(s->optimizer);
    s->optimizer = NULL;
    TRY(s, lisa_adapter_save(s->adapter, in_scenario_dir("adapter")));
    TRY(s, lisa_adapter_merge(s->adapter));
    return 1;
}

/* Everything that a training takes, in the scenario's own memory; 1 when all is there. */
static int open_all(scenario *s, const rig_spec *spec, const int32_t *tokens) {
    lisa_context_options context = spec->context;
    context.alloc = scenario_alloc;
    context.release = scenario_release;
    context.alloc_user = &s->memory;
    TRY(s, lisa_context_create(&s->context, &context));
    TRY(s, lisa_model_open(&s->model, s->context, scenario_dir, &spec->model));
    TRY(s, lisa_optimizer_create(&s->optimizer, s->model, &spec->optimizer));
    TRY(s, lisa_batch_create(&s->batch, s->model, 2, 11, &spec->batch));
    TRY(s, lisa_batch_set(s->batch, tokens, NULL, 2, 11));
    return 1;
}

/* 1 when it came to its end. */
static int run(scenario *s, const rig_spec *spec) {
    int32_t tokens[22], generated[4];
    uint32_t n_generated = 0;
    double loss = 0;
    rig_random_tokens(tokens, 22, spec->config.vocab_size, 3);
    TRY(s, plan(spec));
    if (!open_all(s, spec, tokens) || !run_training(s))
        return 0;
    TRY(s, lisa_model_evaluate(s->model, s->batch, &loss, NULL, NULL));
    lisa_generate_options options;
    OK(lisa_generate_options_init(&options, sizeof options));
    options.max_new_tokens = 4;
    TRY(s, lisa_model_generate(s->model, tokens, 5, &options, generated, &n_generated));
    TRY(s, lisa_model_save(s->model, in_scenario_dir("out"), NULL));
    return run_adapter(s, spec);
}

static void clear(scenario *s) {
    lisa_batch_destroy(s->batch);
    lisa_optimizer_destroy(s->optimizer);
    lisa_adapter_destroy(s->adapter);
    lisa_model_destroy(s->model);
    lisa_context_destroy(s->context);
}

static void make_scenario_dir(rig_spec *spec) {
    rig r;
    rig_spec_init(spec, "cpu");
    spec->context.n_threads = 2;
    spec->config.weights_dtype = LISA_DTYPE_BF16;
    spec->optimizer.max_active_layers = 1;
    spec->no_optimizer = 1;
    rig_make(&r, spec);
    inject_nothing();
    ck_assert_ptr_nonnull(mkdtemp(scenario_dir));
    OK(lisa_model_save(r.model, scenario_dir, NULL));
    rig_destroy(&r);
}

static void remove_scenario_dir(void) {
    char command[sizeof scenario_dir + 16];
    snprintf(command, sizeof command, "rm -rf %s", scenario_dir);
    ck_assert_int_eq(system(command), 0);
}

/* Without a failure; leaves the weights that are expected of others. */
static void run_calm(scenario *s, const rig_spec *spec) {
    memset(s, 0, sizeof *s);
    ck_assert_int_eq(run(s, spec), 1);
    s->n_allocations = s->memory.n_calls;
    read_weights(s);
    clear(s);
    ck_assert_uint_eq(s->memory.n_live, 0);
}

/* What is left after a failure: the weights, if the scenario came to its end, and no memory. */
static void assert_left(scenario *s, const scenario *calm, int ended, const char *what,
                        uint64_t at) {
    if (ended) {
        s->memory.fail_at = 0;
        read_weights(s);
        ck_assert_uint_eq(s->n_weights, calm->n_weights);
        ck_assert_msg(memcmp(s->weights, calm->weights, calm->n_weights * sizeof *s->weights) == 0,
                      "%s %llu failed, and the weights differ", what, (unsigned long long)at);
    }
    clear(s);
    ck_assert_msg(s->memory.n_live == 0, "%llu allocations leaked when %s %llu failed",
                  (unsigned long long)s->memory.n_live, what, (unsigned long long)at);
}

#endif
