/* Adapters in the hands of a host that does the unexpected: arguments, orders of calls, failures in
 * the middle. Afterwards everything is as it was. Public headers only. */
#include "check_main.h"
#include "lisa/lisa.h"
#include "rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static char directory[64];
static rig_spec spec;

static void setup(void) {
    rig_spec_init(&spec, "cpu");
    spec.adapted = 1;
    spec.adapter.rank = 3;
    spec.adapter.targets = LISA_TARGET_ALL_LAYERS | LISA_TARGET_HEAD;
    strcpy(directory, "/var/tmp/lisa-adapter-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
}

static void teardown(void) {
    char command[sizeof directory + 16];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    ck_assert_int_eq(system(command), 0);
}

/* Saves the model of the spec, to be opened from now on. */
static void save_model(void) {
    rig r;
    rig_spec plain = spec;
    plain.adapted = 0;
    plain.no_optimizer = 1;
    rig_make(&r, &plain);
    OK(lisa_model_save(r.model, directory, NULL));
    rig_destroy(&r);
    spec.directory = directory;
}

static void fill(rig *r, uint32_t index, double value) {
    lisa_tensor_info info = {.struct_size = sizeof info};
    OK(lisa_adapter_tensor_info(r->adapter, index, &info));
    double *values = malloc(info.n_elements * sizeof *values);
    for (uint64_t k = 0; k < info.n_elements; k++)
        values[k] = value * (double)(1 + k % 3);
    OK(lisa_adapter_tensor_write(r->adapter, index, values, LISA_DTYPE_F64, info.n_elements));
    free(values);
}

/* B is zero at first, and the adapter without effect. */
static void fill_all_b(rig *r, double value) {
    for (uint32_t i = 1; i < lisa_adapter_n_tensors(r->adapter); i += 2)
        fill(r, i, value);
}

static double evaluate(const rig *r) {
    double loss = 0;
    OK(lisa_model_evaluate(r->model, r->batch, &loss, NULL, NULL));
    return loss;
}

static uint64_t held(const rig *r) {
    uint64_t total = 0;
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++) {
        uint64_t now = 0;
        OK(lisa_context_memory(r->context, c, &now, NULL));
        total += c == LISA_MEM_WEIGHTS_MAPPED ? 0 : now;
    }
    return total;
}

START_TEST(test_arguments) {
    rig r;
    lisa_adapter *out = NULL;
    lisa_adapter_options o;
    double x[4] = {0};
    lisa_tensor_info info = {.struct_size = sizeof info};
    rig_make(&r, &spec);
    FAILS(LISA_E_INVAL, "NULL", lisa_adapter_options_init(NULL, sizeof o));
    FAILS(LISA_E_ABI, "lisa_adapter_options", lisa_adapter_options_init(&o, sizeof o - 8));
    OK(lisa_adapter_options_init(&o, sizeof o));
    FAILS(LISA_E_INVAL, "out", lisa_adapter_create(NULL, r.model, &o));
    FAILS(LISA_E_INVAL, "model", lisa_adapter_create(&out, NULL, &o));
    o.struct_size = 0;
    FAILS(LISA_E_ABI, "struct_size", lisa_adapter_create(&out, r.model, &o));
    o.struct_size = sizeof o;
    o.reserved = 1;
    FAILS(LISA_E_INVAL, "reserved", lisa_adapter_create(&out, r.model, &o));
    struct {
        lisa_adapter_options known;
        uint64_t newer;
    } tail = {.newer = 0};
    OK(lisa_adapter_options_init(&tail.known, sizeof tail));
    OK(lisa_adapter_create(&out, r.model, &tail.known));
    lisa_adapter_destroy(out);
    tail.newer = 1;
    FAILS(LISA_E_ABI, "older", lisa_adapter_create(&out, r.model, &tail.known));
    ck_assert_ptr_null(out);
    FAILS(LISA_E_INVAL, "directory", lisa_adapter_open(&out, r.model, NULL, NULL));
    FAILS(LISA_E_INVAL, "adapter", lisa_adapter_get_options(NULL, &o));
    FAILS(LISA_E_INVAL, "NULL", lisa_adapter_get_options(r.adapter, NULL));
    FAILS(LISA_E_INVAL, "model", lisa_model_set_adapter(NULL, r.adapter));
    FAILS(LISA_E_INVAL, "adapter", lisa_adapter_merge(NULL));
    FAILS(LISA_E_INVAL, "adapter", lisa_adapter_save(NULL, directory));
    FAILS(LISA_E_INVAL, "directory", lisa_adapter_save(r.adapter, NULL));
    ck_assert_uint_eq(lisa_adapter_n_tensors(NULL), 0);
    const uint32_t n = lisa_adapter_n_tensors(r.adapter);
    FAILS(LISA_E_INVAL, "index", lisa_adapter_tensor_info(r.adapter, n, &info));
    FAILS(LISA_E_INVAL, "index", lisa_adapter_tensor_read(r.adapter, n, x, LISA_DTYPE_F64, 4));
    FAILS(LISA_E_INVAL, "values", lisa_adapter_tensor_read(r.adapter, 0, x, LISA_DTYPE_F64, 4));
    FAILS(LISA_E_INVAL, "dtype", lisa_adapter_tensor_write(r.adapter, 0, x, LISA_DTYPE_BF16, 4));
    FAILS(LISA_E_INVAL, "data", lisa_adapter_tensor_write(r.adapter, 0, NULL, LISA_DTYPE_F64, 4));
    FAILS(LISA_E_INVAL, "group", lisa_adapter_weight_norm(r.adapter, r.n_groups, x));
    FAILS(LISA_E_INVAL, "norm", lisa_adapter_weight_norm(r.adapter, 0, NULL));
    rig_destroy(&r);
}
END_TEST

static struct { uint64_t n_polls, stop_at; } host;

static int32_t interrupt(void *user) {
    (void)user;
    host.n_polls++;
    return host.n_polls == host.stop_at;
}

/* A merge that is stopped wherever it may be: the base keeps its bits, the adapter its place, and
 * the next merge is the one that an undisturbed host would have made. */
START_TEST(test_merge_interrupted_everywhere) {
    rig calm, r;
    size_t n;
    spec.no_optimizer = 1;
    spec.config.weights_dtype = LISA_DTYPE_BF16;
    save_model();
    spec.context.interrupt = interrupt;
    memset(&host, 0, sizeof host);
    rig_make(&calm, &spec);
    fill_all_b(&calm, 0.02);
    host.n_polls = 0;
    OK(lisa_adapter_merge(calm.adapter));
    const uint64_t n_polls = host.n_polls;
    ck_assert_uint_ge(n_polls, 3 * 7 + 1);
    double *expected = rig_snapshot(&calm, &n);
    for (uint64_t at = 1; at <= n_polls; at++) {
        host.stop_at = 0;
        rig_make(&r, &spec);
        fill_all_b(&r, 0.02);
        rig_random_batch(&r, 2, 11, 1);
        const double attached = evaluate(&r);
        const uint64_t before = held(&r);
        double *old = rig_snapshot(&r, &n);
        host.n_polls = 0;
        host.stop_at = at;
        FAILS(LISA_E_CANCELLED, "interrupt", lisa_adapter_merge(r.adapter));
        host.stop_at = 0;
        double *now = rig_snapshot(&r, &n);
        ck_assert_mem_eq(now, old, n * sizeof *now);
        ck_assert(evaluate(&r) == attached);
        ck_assert_uint_eq(held(&r), before);
        OK(lisa_adapter_merge(r.adapter));
        free(now);
        now = rig_snapshot(&r, &n);
        ck_assert_mem_eq(now, expected, n * sizeof *now);
        ck_assert(memcmp(now, old, n * sizeof *now) != 0);
        free(now);
        free(old);
        rig_destroy(&r);
    }
    free(expected);
    rig_destroy(&calm);
}
END_TEST

/* Memory for the layers, none for the head: nothing moves, nothing more is held. */
START_TEST(test_merge_without_memory) {
    enum { N_LIMITS = 40 };
    rig r;
    size_t n;
    uint64_t n_refused = 0;
    spec.no_optimizer = 1;
    spec.batch.inference_only = 1;
    save_model();
    rig_make(&r, &spec);
    const uint64_t low = held(&r);
    OK(lisa_adapter_merge(r.adapter));
    const uint64_t homes = held(&r) - low;
    rig_destroy(&r);
    for (uint64_t i = 0; i < N_LIMITS; i++) {
        /* A merge wants staging beside what it leaves held. */
        spec.context.memory_limit = low + (4u << 20) + homes * i / N_LIMITS;
        rig_make(&r, &spec);
        fill_all_b(&r, 0.02);
        rig_random_batch(&r, 2, 11, 1);
        const uint64_t before = held(&r);
        const double attached = evaluate(&r);
        double *old = rig_snapshot(&r, &n);
        const lisa_status status = lisa_adapter_merge(r.adapter);
        if (status != LISA_OK) {
            n_refused++;
            ck_assert_int_eq(status, LISA_E_BUDGET);
            double *now = rig_snapshot(&r, &n);
            ck_assert_mem_eq(now, old, n * sizeof *now);
            ck_assert_msg(held(&r) == before, "limit %llu: %lld more bytes held",
                          (unsigned long long)i, (long long)(held(&r) - before));
            ck_assert(evaluate(&r) == attached);
            free(now);
        }
        free(old);
        rig_destroy(&r);
    }
    ck_assert_uint_ge(n_refused, N_LIMITS / 2);
}
END_TEST

START_TEST(test_merge_of_a_changed_file) {
    char path[sizeof directory + 24];
    rig r;
    spec.no_optimizer = 1;
    save_model();
    rig_make(&r, &spec);
    fill_all_b(&r, 0.02);
    const uint64_t before = held(&r);
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    FILE *f = fopen(path, "ab");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fputc(0, f), 0);
    ck_assert_int_eq(fclose(f), 0);
    FAILS(LISA_E_IO, path, lisa_adapter_merge(r.adapter));
    ck_assert_uint_eq(held(&r), before);
    rig_destroy(&r);
}
END_TEST

/* The layers' weights go to the scratch file, the same bits as in memory; a second merge adds the
 * adapter a second time. */
START_TEST(test_merge_into_a_scratch_file) {
    rig r, plain;
    size_t n;
    spec.no_optimizer = 1;
    spec.adapter.targets = LISA_TARGET_ALL_LAYERS;
    save_model();
    rig_make(&plain, &spec);
    spec.model.scratch_dir = directory;
    rig_make(&r, &spec);
    for (int time = 0; time < 2; time++) {
        fill_all_b(&r, 0.02);
        fill_all_b(&plain, 0.02);
        double *before = rig_snapshot(&plain, &n);
        OK(lisa_adapter_merge(r.adapter));
        OK(lisa_adapter_merge(plain.adapter));
        double *after = rig_snapshot(&plain, &n);
        ck_assert(memcmp(before, after, n * sizeof *before) != 0);
        free(before);
        free(after);
        rig_assert_same_weights(&r, &plain, "scratch");
    }
    uint64_t disk = 0, private = 0;
    OK(lisa_context_memory(r.context, LISA_MEM_DISK, &disk, NULL));
    OK(lisa_context_memory(plain.context, LISA_MEM_DISK, &private, NULL));
    ck_assert(disk > 0 && private == 0);
    rig_destroy(&r);
    rig_destroy(&plain);
}
END_TEST

/* An adapter of the head alone trains it, and layers have nothing to train. */
START_TEST(test_head_alone) {
    rig r;
    double norm = 0, loss = 0;
    lisa_step_stats stats = {.struct_size = sizeof stats};
    spec.adapter.targets = LISA_TARGET_HEAD;
    rig_make(&r, &spec);
    rig_random_batch(&r, 2, 11, 1);
    const double first = evaluate(&r);
    for (uint64_t step = 0; step < 5; step++)
        OK(lisa_train_step(r.model, NULL, r.optimizer, r.batch, step, &stats));
    ck_assert(stats.updated && stats.grad_norm > 0);
    loss = evaluate(&r);
    ck_assert_msg(loss < first, "%g, then %g", first, loss);
    OK(lisa_adapter_weight_norm(r.adapter, 1, &norm));
    ck_assert(norm == 0);
    rig_destroy(&r);
    /* Switched off, there is nothing at all. */
    spec.optimizer.train_head = 0;
    rig_make(&r, &spec);
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_train_step(r.model, NULL, r.optimizer, r.batch, 0, &stats));
    ck_assert(stats.grad_norm == 0);
    ck_assert(evaluate(&r) == first);
    rig_destroy(&r);
}
END_TEST

/* The base is written while an adapter trains: the window stays, a forward of before does not. */
START_TEST(test_base_written_in_a_window) {
    rig r;
    uint32_t index;
    rig_make(&r, &spec);
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_model_tensor_find(r.model, "model.layers.0.mlp.up_proj.weight", &index));
    double *values = rig_read(&r, index);
    const uint64_t n = rig_tensor(&r, index).n_elements;
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_backward(r.model, r.batch));
    OK(lisa_forward(r.model, r.batch, NULL));
    values[0] += 1;
    OK(lisa_model_tensor_write(r.model, index, values, LISA_DTYPE_F64, n));
    FAILS(LISA_E_STATE, "no lisa_forward", lisa_backward(r.model, r.batch));
    free(values);
    rig_destroy(&r);
}
END_TEST

/* The adapter's optimizer, then one of the base, then the adapter's again. */
START_TEST(test_optimizers_in_turn) {
    rig r;
    size_t n;
    rig_make(&r, &spec);
    fill_all_b(&r, 0.02);
    rig_random_batch(&r, 2, 11, 1);
    rig_step(&r);
    for (int i = 0; i < 2; i++) {
        double *before = rig_snapshot(&r, &n);
        lisa_optimizer_destroy(r.optimizer);
        OK(lisa_model_set_adapter(r.model, NULL));
        OK(lisa_optimizer_create(&r.optimizer, r.model, &spec.optimizer));
        const double loss = evaluate(&r);
        rig_step(&r);
        ck_assert(evaluate(&r) < loss);
        double *after = rig_snapshot(&r, &n);
        ck_assert(memcmp(before, after, n * sizeof *before) != 0);
        lisa_optimizer_destroy(r.optimizer);
        OK(lisa_model_set_adapter(r.model, r.adapter));
        OK(lisa_optimizer_create(&r.optimizer, r.model, &spec.optimizer));
        rig_step(&r);
        free(before);
        before = rig_snapshot(&r, &n);
        ck_assert_mem_eq(before, after, n * sizeof *before);
        free(before);
        free(after);
    }
    rig_destroy(&r);
}
END_TEST

/* A host that destroys what trains: the optimizer keeps it to its own end. */
START_TEST(test_destroyed_in_a_window) {
    rig r;
    rig_make(&r, &spec);
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_backward(r.model, r.batch));
    lisa_adapter_destroy(r.adapter);
    r.adapter = NULL;
    OK(lisa_optimizer_step(r.optimizer, NULL));
    OK(lisa_forward(r.model, r.batch, NULL));
    FAILS(LISA_E_STATE, "none is", lisa_backward(r.model, r.batch));
    lisa_optimizer_destroy(r.optimizer);
    OK(lisa_optimizer_create(&r.optimizer, r.model, &spec.optimizer));
    rig_step(&r);
    rig_destroy(&r);
}
END_TEST

/* A loss that an adapter spoils is not laid at the base's door. */
START_TEST(test_nonfinite_adapter) {
    rig r;
    spec.optimizer.lr = 3e38;
    spec.adapter.targets = LISA_TARGET_DOWN;
    rig_make(&r, &spec);
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_train_step(r.model, NULL, r.optimizer, r.batch, 0, NULL));
    OK(lisa_model_set_adapter(r.model, NULL));
    ck_assert(isfinite(evaluate(&r)));
    OK(lisa_model_set_adapter(r.model, r.adapter));
    FAILS(LISA_E_NONFINITE, "mlp.down_proj.lora_",
          lisa_train_step(r.model, NULL, r.optimizer, r.batch, 1, NULL));
    rig_destroy(&r);
}
END_TEST

/* What no config.json can say is refused before the directory's weights are replaced. */
START_TEST(test_save_of_what_cannot_be_said) {
    rig r, again;
    size_t n;
    spec.adapted = 0;
    spec.no_optimizer = 1;
    save_model();
    rig_make(&again, &spec);
    double *before = rig_snapshot(&again, &n);
    rig_destroy(&again);
    spec.directory = NULL;
    spec.config.head_bias = 1;
    spec.model.seed = 77;
    rig_make(&r, &spec);
    FAILS(LISA_E_UNSUPPORTED, "head_bias", lisa_model_save(r.model, directory, NULL));
    rig_destroy(&r);
    spec.directory = directory;
    rig_make(&again, &spec);
    double *after = rig_snapshot(&again, &n);
    ck_assert_mem_eq(before, after, n * sizeof *before);
    free(before);
    free(after);
    rig_destroy(&again);
}
END_TEST

/* A gate in a family that has none, and so no name for it. */
START_TEST(test_map_without_a_name) {
    rig r;
    lisa_adapter *adapter;
    strcpy(spec.config.family, "gpt2");
    spec.config.n_kv_heads = 0;
    spec.config.gated_mlp = 1;
    spec.adapted = 0;
    spec.no_optimizer = 1;
    rig_make(&r, &spec);
    FAILS(LISA_E_UNSUPPORTED, "no name", lisa_adapter_create(&adapter, r.model, &spec.adapter));
    ck_assert_ptr_null(adapter);
    rig_destroy(&r);
}
END_TEST

/* The smallest of everything, and a window wider than any sequence. */
START_TEST(test_smallest) {
    static const char *const families[] = {"llama", "gpt2", "mistral", "phi", "qwen2", "qwen3"};
    rig r;
    lisa_generate_options o;
    int32_t token = 0, out[2];
    uint32_t n = 0;
    lisa_model_config *c = &spec.config;
    strcpy(c->family, families[_i]);
    const int gpt2 = _i == 1, phi = _i == 3;
    c->n_layers = c->vocab_size = c->n_heads = c->n_kv_heads = c->d_ff = 1;
    c->d_model = gpt2 ? 1 : 2;
    c->head_dim = gpt2 ? 1 : 2;
    c->max_positions = 3;
    c->norm = gpt2 || phi ? LISA_NORM_LAYER : LISA_NORM_RMS;
    c->gated_mlp = !gpt2 && !phi;
    c->rope = gpt2 ? LISA_ROPE_NONE : LISA_ROPE_DEFAULT;
    c->learned_positions = gpt2;
    c->attention_bias = c->attention_output_bias = c->mlp_bias = gpt2 || phi;
    c->head_bias = c->parallel_residual = phi;
    c->qk_norm = _i == 5;
    c->sliding_window = _i == 2 ? 1000 : 0;
    spec.max_tokens = 3;
    rig_make(&r, &spec);
    rig_random_batch(&r, 2, 3, 1);
    rig_step(&r);
    OK(lisa_generate_options_init(&o, sizeof o));
    o.max_new_tokens = 2;
    OK(lisa_model_generate(r.model, &token, 1, &o, out, &n));
    ck_assert_uint_eq(n, 2);
    o.max_new_tokens = 3;
    FAILS(LISA_E_INVAL, "3 positions", lisa_model_generate(r.model, &token, 1, &o, out, &n));
    o.max_new_tokens = UINT32_MAX;
    FAILS(LISA_E_INVAL, "3 positions", lisa_model_generate(r.model, &token, 1, &o, out, &n));
    lisa_batch *batch = NULL;
    FAILS(LISA_E_INVAL, "3 positions", lisa_batch_create(&batch, r.model, 1, 4, NULL));
    lisa_optimizer_destroy(r.optimizer);
    r.optimizer = NULL;
    OK(lisa_adapter_merge(r.adapter));
    rig_destroy(&r);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("adapters in any hands");
    TCase *tcase = tcase_create("adapters");
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, test_arguments);
    tcase_add_test(tcase, test_merge_interrupted_everywhere);
    tcase_add_test(tcase, test_merge_without_memory);
    tcase_add_test(tcase, test_merge_of_a_changed_file);
    tcase_add_test(tcase, test_merge_into_a_scratch_file);
    tcase_add_test(tcase, test_head_alone);
    tcase_add_test(tcase, test_base_written_in_a_window);
    tcase_add_test(tcase, test_optimizers_in_turn);
    tcase_add_test(tcase, test_destroyed_in_a_window);
    tcase_add_test(tcase, test_nonfinite_adapter);
    tcase_add_test(tcase, test_save_of_what_cannot_be_said);
    tcase_add_test(tcase, test_map_without_a_name);
    tcase_add_loop_test(tcase, test_smallest, 0, 6);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
