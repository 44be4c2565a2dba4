/* Every public function refuses a NULL that it cannot use, and every struct whose size is not set,
 * by name; tests/abi/test_symbols.sh holds that none is missing here. Public headers only. */
#include "check_main.h"
#include "lisa/lisa.h"
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static rig r;
static lisa_adapter *adapter;
static lisa_sampler *sampler;
static double *before;
static size_t n_weights;

static void setup(void) {
    rig_spec spec;
    lisa_sampler_options o;
    rig_spec_init(&spec, "cpu");
    rig_make(&r, &spec);
    OK(lisa_adapter_create(&adapter, r.model, NULL));
    OK(lisa_sampler_options_init(&o, sizeof o));
    o.n_layers = 3;
    OK(lisa_sampler_create(&sampler, &o));
    before = rig_snapshot(&r, &n_weights);
}

/* Whatever was refused has changed nothing, and the next call works. */
static void teardown(void) {
    rig_assert_unchanged(&r, before, n_weights);
    free(before);
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_train_step(r.model, sampler, r.optimizer, r.batch, 0, NULL));
    lisa_sampler_destroy(sampler);
    lisa_adapter_destroy(adapter);
    rig_destroy(&r);
}

static void assert_refused(lisa_status status, lisa_status expected, const char *call,
                           const char *text) {
    ck_assert_msg(status == expected, "%s: %s, expected %s", call, lisa_status_name(status),
                  lisa_status_name(expected));
    ck_assert_msg(strcmp(lisa_error_last(), text) == 0, "%s said: %s, expected: %s", call,
                  lisa_error_last(), text);
}

/* The argument of that name is the one that is NULL. */
#define NAMED(function, argument, arguments)                                                       \
    assert_refused(function arguments, LISA_E_INVAL, #function #arguments,                         \
                   #function ": " #argument " is NULL")

/* The struct of that type is the one that is NULL. */
#define STRUCT(type, call)                                                                         \
    assert_refused(call, LISA_E_INVAL, #call, #type ": expected a struct, got NULL")

START_TEST(test_nothing_to_destroy) {
    lisa_adapter_destroy(NULL);
    lisa_batch_destroy(NULL);
    lisa_context_destroy(NULL);
    lisa_model_destroy(NULL);
    lisa_optimizer_destroy(NULL);
    lisa_sampler_destroy(NULL);
}
END_TEST

START_TEST(test_nothing_to_count) {
    ck_assert_uint_eq(lisa_adapter_n_tensors(NULL), 0);
    ck_assert_uint_eq(lisa_batch_n_targets(NULL), 0);
    ck_assert_uint_eq(lisa_context_n_threads(NULL), 0);
    ck_assert_uint_eq(lisa_model_n_tensors(NULL), 0);
    ck_assert_uint_eq(lisa_sampler_max_active(NULL), 0);
    ck_assert_uint_eq(lisa_sampler_n_groups(NULL), 0);
    ck_assert_str_eq(lisa_context_backend(NULL), "");
}
END_TEST

START_TEST(test_create) {
    lisa_adapter *a = adapter;
    lisa_batch *b = r.batch;
    lisa_model *m = r.model;
    lisa_optimizer *o = r.optimizer;
    lisa_sampler *s = sampler;
    lisa_context *c = r.context;
    NAMED(lisa_adapter_create, out, (NULL, m, NULL));
    NAMED(lisa_adapter_create, model, (&a, NULL, NULL));
    NAMED(lisa_adapter_open, out, (NULL, m, "x", NULL));
    ck_assert_ptr_null(a);
    a = adapter;
    NAMED(lisa_adapter_open, model, (&a, NULL, "x", NULL));
    ck_assert_ptr_null(a);
    NAMED(lisa_adapter_open, directory, (&a, m, NULL, NULL));
    NAMED(lisa_batch_create, out, (NULL, m, 1, 1, NULL));
    NAMED(lisa_batch_create, model, (&b, NULL, 1, 1, NULL));
    ck_assert_ptr_null(b);
    NAMED(lisa_checkpoint_sampler, out, (NULL, "x"));
    NAMED(lisa_checkpoint_sampler, path, (&s, NULL));
    ck_assert_ptr_null(s);
    NAMED(lisa_context_create, out, (NULL, NULL));
    NAMED(lisa_model_open, out, (NULL, c, "x", NULL));
    NAMED(lisa_model_open, context, (&m, NULL, "x", NULL));
    ck_assert_ptr_null(m);
    m = r.model;
    NAMED(lisa_model_open, directory, (&m, c, NULL, NULL));
    ck_assert_ptr_null(m);
    m = r.model;
    NAMED(lisa_model_create, out, (NULL, c, &r.config, NULL));
    NAMED(lisa_model_create, context, (&m, NULL, &r.config, NULL));
    ck_assert_ptr_null(m);
    STRUCT(lisa_model_config, lisa_model_create(&m, c, NULL, NULL));
    NAMED(lisa_optimizer_create, out, (NULL, r.model, NULL));
    NAMED(lisa_optimizer_create, model, (&o, NULL, NULL));
    ck_assert_ptr_null(o);
    s = sampler;
    NAMED(lisa_sampler_create, out, (NULL, NULL));
    STRUCT(lisa_sampler_options, lisa_sampler_create(&s, NULL));
    ck_assert_ptr_null(s);
}
END_TEST

START_TEST(test_adapter) {
    double values[1] = {0};
    lisa_tensor_info info = {.struct_size = sizeof info};
    NAMED(lisa_adapter_get_options, adapter, (NULL, NULL));
    STRUCT(lisa_adapter_options, lisa_adapter_get_options(adapter, NULL));
    NAMED(lisa_adapter_save, adapter, (NULL, "x"));
    NAMED(lisa_adapter_save, directory, (adapter, NULL));
    NAMED(lisa_adapter_merge, adapter, (NULL));
    NAMED(lisa_adapter_tensor_info, adapter, (NULL, 0, &info));
    STRUCT(lisa_tensor_info, lisa_adapter_tensor_info(adapter, 0, NULL));
    NAMED(lisa_adapter_tensor_read, adapter, (NULL, 0, values, LISA_DTYPE_F64, 1));
    NAMED(lisa_adapter_tensor_read, data, (adapter, 0, NULL, LISA_DTYPE_F64, 1));
    NAMED(lisa_adapter_tensor_write, adapter, (NULL, 0, values, LISA_DTYPE_F64, 1));
    NAMED(lisa_adapter_tensor_write, data, (adapter, 0, NULL, LISA_DTYPE_F64, 1));
    NAMED(lisa_adapter_weight_norm, adapter, (NULL, 0, values));
    NAMED(lisa_adapter_weight_norm, norm, (adapter, 0, NULL));
    NAMED(lisa_model_set_adapter, model, (NULL, adapter));
}
END_TEST

START_TEST(test_batch) {
    const int32_t numbers[1] = {0};
    const float weights[1] = {0};
    NAMED(lisa_batch_set, batch, (NULL, numbers, NULL, 1, 1));
    assert_refused(lisa_batch_set(r.batch, NULL, NULL, 1, 1), LISA_E_INVAL, "lisa_batch_set",
                   "batch: tokens is NULL, expected [B,T] token ids");
    NAMED(lisa_batch_set_documents, batch, (NULL, numbers));
    NAMED(lisa_batch_set_weights, batch, (NULL, weights));
}
END_TEST

START_TEST(test_checkpoint) {
    char path[8];
    lisa_checkpoint_info info = {.struct_size = sizeof info};
    NAMED(lisa_checkpoint_save, optimizer, (NULL, "x", 1, NULL));
    NAMED(lisa_checkpoint_save, directory, (r.optimizer, NULL, 1, NULL));
    NAMED(lisa_checkpoint_verify, path, (NULL, &info));
    NAMED(lisa_checkpoint_find, directory, (NULL, path, sizeof path));
    NAMED(lisa_checkpoint_find, path, ("x", NULL, 8));
    NAMED(lisa_checkpoint_load, optimizer, (NULL, "x", &info));
    NAMED(lisa_checkpoint_load, path, (r.optimizer, NULL, &info));
    NAMED(lisa_checkpoint_blob, path, (NULL, path, 8));
    NAMED(lisa_checkpoint_blob, blob, ("x", NULL, 8));
}
END_TEST

START_TEST(test_context_and_plan) {
    uint64_t bytes;
    lisa_plan_request request;
    lisa_plan_report report = {.struct_size = sizeof report};
    NAMED(lisa_context_memory, context, (NULL, 0, &bytes, NULL));
    OK(lisa_plan_request_init(&request, sizeof request));
    NAMED(lisa_plan, request, (NULL, &report));
    STRUCT(lisa_plan_report, lisa_plan(&request, NULL));
    STRUCT(lisa_model_config, lisa_plan(&request, &report));
}
END_TEST

START_TEST(test_model) {
    double values[1] = {0};
    int32_t token = 0;
    uint32_t n = 0;
    lisa_model_config config = {.struct_size = sizeof config};
    lisa_tensor_info info = {.struct_size = sizeof info};
    NAMED(lisa_model_config_read, config, (NULL, "x"));
    NAMED(lisa_model_config_read, directory, (&config, NULL));
    NAMED(lisa_model_get_config, model, (NULL, &config));
    STRUCT(lisa_model_config, lisa_model_get_config(r.model, NULL));
    NAMED(lisa_model_save, model, (NULL, "x", NULL));
    NAMED(lisa_model_save, directory, (r.model, NULL, NULL));
    NAMED(lisa_model_tensor_info, model, (NULL, 0, &info));
    STRUCT(lisa_tensor_info, lisa_model_tensor_info(r.model, 0, NULL));
    NAMED(lisa_model_tensor_find, model, (NULL, "x", &n));
    NAMED(lisa_model_tensor_find, name, (r.model, NULL, &n));
    NAMED(lisa_model_tensor_find, index, (r.model, "x", NULL));
    NAMED(lisa_model_tensor_read, model, (NULL, 0, values, LISA_DTYPE_F64, 1));
    NAMED(lisa_model_tensor_read, data, (r.model, 0, NULL, LISA_DTYPE_F64, 1));
    NAMED(lisa_model_tensor_write, model, (NULL, 0, values, LISA_DTYPE_F64, 1));
    NAMED(lisa_model_tensor_write, data, (r.model, 0, NULL, LISA_DTYPE_F64, 1));
    NAMED(lisa_model_weight_norm, model, (NULL, 0, values));
    NAMED(lisa_model_weight_norm, norm, (r.model, 0, NULL));
    NAMED(lisa_model_evaluate, model, (NULL, r.batch, NULL, NULL, NULL));
    NAMED(lisa_model_evaluate, batch, (r.model, NULL, NULL, NULL, NULL));
    NAMED(lisa_model_logits, model, (NULL, r.batch, values, LISA_DTYPE_F64, 1));
    NAMED(lisa_model_logits, batch, (r.model, NULL, values, LISA_DTYPE_F64, 1));
    NAMED(lisa_model_logits, logits, (r.model, r.batch, NULL, LISA_DTYPE_F64, 1));
    NAMED(lisa_model_generate, model, (NULL, &token, 1, NULL, &token, &n));
    NAMED(lisa_model_generate, tokens, (r.model, &token, 1, NULL, NULL, &n));
    NAMED(lisa_model_generate, n_tokens, (r.model, &token, 1, NULL, &token, NULL));
    assert_refused(lisa_model_generate(r.model, NULL, 1, NULL, &token, &n), LISA_E_INVAL,
                   "lisa_model_generate", "lisa_model_generate: the prompt is empty");
}
END_TEST

START_TEST(test_optimizer) {
    double values[1] = {0};
    uint8_t mask[5] = {0};
    void *data;
    uint64_t n;
    uint32_t dtype;
    lisa_optimizer *o = r.optimizer;
    NAMED(lisa_optimizer_set_lr, optimizer, (NULL, 1));
    NAMED(lisa_optimizer_apply_mask, optimizer, (NULL, mask, 5));
    NAMED(lisa_optimizer_apply_mask, mask, (o, NULL, 5));
    NAMED(lisa_optimizer_get_mask, optimizer, (NULL, mask, 5));
    NAMED(lisa_optimizer_get_mask, mask, (o, NULL, 5));
    NAMED(lisa_optimizer_step, optimizer, (NULL, NULL));
    NAMED(lisa_optimizer_discard, optimizer, (NULL));
    NAMED(lisa_optimizer_gradients, optimizer, (NULL, &data, &n, &dtype));
    NAMED(lisa_optimizer_gradients, data, (o, NULL, &n, &dtype));
    NAMED(lisa_optimizer_gradients, n_elements, (o, &data, NULL, &dtype));
    NAMED(lisa_optimizer_gradients, dtype, (o, &data, &n, NULL));
    NAMED(lisa_optimizer_gradient_read, optimizer, (NULL, 0, values, LISA_DTYPE_F64, 1));
    NAMED(lisa_optimizer_gradient_read, data, (o, 0, NULL, LISA_DTYPE_F64, 1));
    NAMED(lisa_optimizer_gradient_norm, optimizer, (NULL, 0, values));
    NAMED(lisa_optimizer_gradient_norm, norm, (o, 0, NULL));
    NAMED(lisa_optimizer_group_steps, optimizer, (NULL, 0, &n));
    NAMED(lisa_optimizer_group_steps, steps, (o, 0, NULL));
}
END_TEST

START_TEST(test_sampler) {
    uint8_t mask[5];
    double probabilities[3];
    NAMED(lisa_sampler_mask, sampler, (NULL, 0, mask, 5));
    NAMED(lisa_sampler_mask, mask, (sampler, 0, NULL, 5));
    NAMED(lisa_sampler_probabilities, sampler, (NULL, probabilities, 3));
    NAMED(lisa_sampler_probabilities, probabilities, (sampler, NULL, 3));
}
END_TEST

START_TEST(test_train) {
    NAMED(lisa_forward, model, (NULL, r.batch, NULL));
    NAMED(lisa_forward, batch, (r.model, NULL, NULL));
    NAMED(lisa_backward, model, (NULL, r.batch));
    NAMED(lisa_backward, batch, (r.model, NULL));
    NAMED(lisa_train_step, model, (NULL, NULL, r.optimizer, r.batch, 0, NULL));
    NAMED(lisa_train_step, optimizer, (r.model, NULL, NULL, r.batch, 0, NULL));
    NAMED(lisa_train_step, batch, (r.model, NULL, r.optimizer, NULL, 0, NULL));
}
END_TEST

/* An init function asks for a struct, of a size that some version has. */
#define INIT(type)                                                                                 \
    do {                                                                                           \
        union {                                                                                    \
            type own;                                                                              \
            unsigned char bytes[5000];                                                             \
        } room;                                                                                    \
        memset(&room, 0xA5, sizeof room);                                                          \
        STRUCT(type, type##_init(NULL, sizeof room.own));                                          \
        assert_size(type##_init(&room.own, sizeof(size_t)), #type ": size is 8,");                 \
        assert_size(type##_init(&room.own, sizeof room), #type ": size is 5000,");                 \
        ck_assert_uint_eq(room.bytes[0], 0xA5);                                                    \
        OK(type##_init(&room.own, sizeof room.own));                                               \
        ck_assert_uint_eq(room.own.struct_size, sizeof room.own);                                  \
    } while (0)

static void assert_size(lisa_status status, const char *begins) {
    ck_assert_msg(status == LISA_E_ABI, "%s, expected ABI: %s", lisa_status_name(status), begins);
    ck_assert_msg(strncmp(lisa_error_last(), begins, strlen(begins)) == 0, "%s, expected %s",
                  lisa_error_last(), begins);
}

START_TEST(test_init) {
    INIT(lisa_adapter_options);
    INIT(lisa_batch_options);
    INIT(lisa_checkpoint_options);
    INIT(lisa_context_options);
    INIT(lisa_generate_options);
    INIT(lisa_model_config);
    INIT(lisa_model_options);
    INIT(lisa_optimizer_options);
    INIT(lisa_plan_request);
    INIT(lisa_sampler_options);
    INIT(lisa_save_options);
}
END_TEST

/* The struct is all zeros: its size was never set. */
#define UNSET(type, call)                                                                          \
    do {                                                                                           \
        type unset;                                                                                \
        memset(&unset, 0, sizeof unset);                                                           \
        assert_size(call, #type ": struct_size is 0,");                                            \
    } while (0)

START_TEST(test_unset_structs) {
    lisa_adapter *a = NULL;
    lisa_batch *b = NULL;
    lisa_context *c = NULL;
    lisa_model *m = NULL;
    lisa_optimizer *o = NULL;
    lisa_sampler *s = NULL;
    int32_t token = 0;
    uint32_t n = 0;
    lisa_plan_report report = {.struct_size = sizeof report};
    UNSET(lisa_adapter_options, lisa_adapter_create(&a, r.model, &unset));
    UNSET(lisa_adapter_options, lisa_adapter_open(&a, r.model, "x", &unset));
    UNSET(lisa_adapter_options, lisa_adapter_get_options(adapter, &unset));
    UNSET(lisa_batch_options, lisa_batch_create(&b, r.model, 1, 1, &unset));
    UNSET(lisa_checkpoint_options, lisa_checkpoint_save(r.optimizer, "x", 1, &unset));
    UNSET(lisa_checkpoint_info, lisa_checkpoint_load(r.optimizer, "x", &unset));
    UNSET(lisa_context_options, lisa_context_create(&c, &unset));
    UNSET(lisa_model_options, lisa_model_open(&m, r.context, "x", &unset));
    UNSET(lisa_model_config, lisa_model_create(&m, r.context, &unset, NULL));
    UNSET(lisa_model_options, lisa_model_create(&m, r.context, &r.config, &unset));
    UNSET(lisa_model_config, lisa_model_get_config(r.model, &unset));
    UNSET(lisa_save_options, lisa_model_save(r.model, "x", &unset));
    UNSET(lisa_tensor_info, lisa_model_tensor_info(r.model, 0, &unset));
    UNSET(lisa_generate_options, lisa_model_generate(r.model, &token, 1, &unset, &token, &n));
    UNSET(lisa_optimizer_options, lisa_optimizer_create(&o, r.model, &unset));
    UNSET(lisa_plan_request, lisa_plan(&unset, &report));
    UNSET(lisa_plan_report, lisa_plan(&(lisa_plan_request){0}, &unset));
    UNSET(lisa_sampler_options, lisa_sampler_create(&s, &unset));
    /* Refused before anything is updated. */
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_backward(r.model, r.batch));
    UNSET(lisa_step_stats, lisa_optimizer_step(r.optimizer, &unset));
    UNSET(lisa_step_stats, lisa_train_step(r.model, sampler, r.optimizer, r.batch, 0, &unset));
    OK(lisa_optimizer_discard(r.optimizer));
    ck_assert(!a && !b && !c && !m && !o && !s);
}
END_TEST

/* Numbers that no table has a text for. */
START_TEST(test_names) {
    ck_assert_str_eq(lisa_status_name(LISA_OK), "LISA_OK");
    ck_assert_str_eq(lisa_dtype_name(0), "?");
    ck_assert_str_eq(lisa_dtype_name(99), "?");
    ck_assert_str_eq(lisa_memory_class_name(99), "?");
    ck_assert_uint_ge(lisa_version_number(), lisa_abi_version());
    ck_assert_ptr_nonnull(lisa_version_string());
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("null");
    TCase *tcase = tcase_create("refused by name");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_nothing_to_destroy);
    tcase_add_test(tcase, test_nothing_to_count);
    tcase_add_test(tcase, test_create);
    tcase_add_test(tcase, test_adapter);
    tcase_add_test(tcase, test_batch);
    tcase_add_test(tcase, test_checkpoint);
    tcase_add_test(tcase, test_context_and_plan);
    tcase_add_test(tcase, test_model);
    tcase_add_test(tcase, test_optimizer);
    tcase_add_test(tcase, test_sampler);
    tcase_add_test(tcase, test_train);
    tcase_add_test(tcase, test_init);
    tcase_add_test(tcase, test_unset_structs);
    tcase_add_test(tcase, test_names);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
