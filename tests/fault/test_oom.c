/* Every allocation of a whole scenario fails in turn, once and for ever after: the call says
 * LISA_E_NOMEM in one line, nothing leaks, and where memory comes back the same call goes on to the
 * same weights as if nothing had happened. */
#include "check_main.h"
#include "lisa/lisa.h"
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct allocator {
    uint64_t n_calls, n_live;
    uint64_t fail_at; /* the allocation that fails, from 1; 0: none */
    int for_ever;
    uint64_t n_failed;
} allocator;

static void *alloc(void *user, size_t size, size_t align) {
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

static void release(void *user, void *ptr, size_t size, size_t align) {
    allocator *a = user;
    (void)align;
    memset(ptr, 0x5A, size);
    a->n_live--;
    free(ptr);
}

typedef struct scenario {
    allocator memory;
    lisa_context *context;
    lisa_model *model;
    lisa_batch *batch;
    lisa_optimizer *optimizer;
    lisa_adapter *adapter;
    double weights[20000];
    size_t n_weights;
} scenario;

/* Calls until it succeeds; a failure must be said, and memory that came back must do. */
#define TRY(s, call)                                                                               \
    do {                                                                                           \
        lisa_status status_ = (call);                                                              \
        if (status_ != LISA_OK) {                                                                  \
            assert_said(status_, #call);                                                           \
            if ((s)->memory.for_ever)                                                              \
                return 0;                                                                          \
            OK(call);                                                                              \
        }                                                                                          \
    } while (0)

static void assert_said(lisa_status status, const char *call) {
    const char *text = lisa_error_last();
    ck_assert_msg(status == LISA_E_NOMEM, "%s: %s, %s", call, lisa_status_name(status), text);
    ck_assert_msg(strlen(text) > 10 && strchr(text, '\n') == NULL, "%s said: %s", call, text);
}

static char saved[] = "/var/tmp/lisa-oom-XXXXXX";

static lisa_status set_and_step(scenario *s, uint64_t step) {
    uint8_t mask[5] = {1, 0, 0, 0, 1};
    mask[1 + step % 3] = 1;
    const lisa_status status = lisa_optimizer_apply_mask(s->optimizer, mask, 5);
    if (status != LISA_OK)
        return status;
    return lisa_train_step(s->model, NULL, s->optimizer, s->batch, step, NULL);
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

/* An adapter's life: made, trained by masks, merged. */
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
    lisa_optimizer_destroy(s->optimizer);
    s->optimizer = NULL;
    TRY(s, lisa_adapter_merge(s->adapter));
    return 1;
}

/* 1 when it came to its end. */
static int run(scenario *s, const rig_spec *given) {
    rig_spec spec = *given;
    int32_t tokens[22], generated[4];
    uint32_t n_generated = 0;
    double loss = 0;
    spec.context.alloc = alloc;
    spec.context.release = release;
    spec.context.alloc_user = &s->memory;
    rig_random_tokens(tokens, 22, spec.config.vocab_size, 3);
    TRY(s, lisa_context_create(&s->context, &spec.context));
    TRY(s, lisa_model_open(&s->model, s->context, saved, &spec.model));
    TRY(s, lisa_optimizer_create(&s->optimizer, s->model, &spec.optimizer));
    TRY(s, lisa_batch_create(&s->batch, s->model, 2, 11, &spec.batch));
    TRY(s, lisa_batch_set(s->batch, tokens, NULL, 2, 11));
    for (uint64_t step = 0; step < 3; step++)
        TRY(s, set_and_step(s, step));
    TRY(s, lisa_model_evaluate(s->model, s->batch, &loss, NULL, NULL));
    lisa_generate_options options;
    OK(lisa_generate_options_init(&options, sizeof options));
    options.max_new_tokens = 4;
    TRY(s, lisa_model_generate(s->model, tokens, 5, &options, generated, &n_generated));
    char out[sizeof saved + 8];
    snprintf(out, sizeof out, "%s/out", saved);
    TRY(s, lisa_model_save(s->model, out, NULL));
    return run_adapter(s, &spec);
}

static void clear(scenario *s) {
    lisa_batch_destroy(s->batch);
    lisa_optimizer_destroy(s->optimizer);
    lisa_adapter_destroy(s->adapter);
    lisa_model_destroy(s->model);
    lisa_context_destroy(s->context);
    ck_assert_msg(s->memory.n_live == 0, "%llu allocations leaked when allocation %llu failed",
                  (unsigned long long)s->memory.n_live, (unsigned long long)s->memory.fail_at);
}

static void make_saved(rig_spec *spec) {
    rig r;
    rig_spec_init(spec, "cpu");
    spec->context.n_threads = 2;
    spec->config.weights_dtype = LISA_DTYPE_BF16;
    spec->optimizer.max_active_layers = 1;
    spec->no_optimizer = 1;
    rig_make(&r, spec);
    ck_assert_ptr_nonnull(mkdtemp(saved));
    OK(lisa_model_save(r.model, saved, NULL));
    rig_destroy(&r);
}

static void remove_saved(void) {
    char command[sizeof saved + 16];
    snprintf(command, sizeof command, "rm -rf %s", saved);
    ck_assert_int_eq(system(command), 0);
}

static scenario calm, disturbed;

START_TEST(test_every_allocation) {
    rig_spec spec;
    uint64_t n_faults = 0;
    make_saved(&spec);
    memset(&calm, 0, sizeof calm);
    ck_assert_int_eq(run(&calm, &spec), 1);
    const uint64_t n_calls = calm.memory.n_calls;
    read_weights(&calm);
    clear(&calm);
    for (uint64_t at = 1; at <= n_calls; at++) {
        memset(&disturbed, 0, sizeof disturbed);
        disturbed.memory.fail_at = at;
        disturbed.memory.for_ever = _i;
        const int ended = run(&disturbed, &spec);
        ck_assert_uint_ge(disturbed.memory.n_failed, 1);
        n_faults += disturbed.memory.n_failed;
        if (ended) {
            ck_assert_int_eq(_i, 0);
            disturbed.memory.fail_at = 0;
            read_weights(&disturbed);
            ck_assert_uint_eq(disturbed.n_weights, calm.n_weights);
            ck_assert_msg(
                memcmp(disturbed.weights, calm.weights, calm.n_weights * sizeof *calm.weights) == 0,
                "allocation %llu failed once, and the weights differ", (unsigned long long)at);
        }
        clear(&disturbed);
    }
    printf("%llu allocations, %llu failures injected (%s)\n", (unsigned long long)n_calls,
           (unsigned long long)n_faults, _i ? "for ever after" : "once");
    remove_saved();
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("out of memory");
    TCase *tcase = tcase_create("fault loop");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, test_every_allocation, 0, 2);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
