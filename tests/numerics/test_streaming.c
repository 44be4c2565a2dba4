/* Streamed weights: layers in host memory that come to the device when they are used give the bits
 * of layers that lie there, and take what is planned. */
#include "check_main.h"
#include "fixture.h"
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct kind {
    const char *backend;
    uint32_t dtype, policy, in_backward, recompute;
} KINDS[] = {
    {"reference64", LISA_DTYPE_F64, LISA_STATE_DROP, 0, 0},
    {"reference", LISA_DTYPE_F32, LISA_STATE_KEEP, 0, 1},
    {"cpu", LISA_DTYPE_BF16, LISA_STATE_DROP, 0, 1},
    {"cpu", LISA_DTYPE_F16, LISA_STATE_KEEP, 1, 0},
    {"cpu", LISA_DTYPE_BF16, LISA_STATE_OFFLOAD, 0, 0},
};
enum { N_KINDS = sizeof KINDS / sizeof *KINDS };

/* Four layers, so that buffers are used again. */
static void spec_of(rig_spec *spec, const struct kind *kind, uint32_t weights) {
    rig_spec_init(spec, kind->backend);
    spec->config.n_layers = 4;
    spec->config.weights_dtype = kind->dtype;
    spec->model.weights = weights;
    spec->batch.activations = kind->recompute ? LISA_ACTIVATIONS_RECOMPUTE : LISA_ACTIVATIONS_STORE;
    spec->optimizer.lr = 1e-3;
    spec->optimizer.max_active_layers = 2;
    spec->optimizer.state_policy = kind->policy;
    spec->optimizer.update_in_backward = kind->in_backward;
    spec->optimizer.scratch_dir = kind->policy == LISA_STATE_OFFLOAD ? "/var/tmp" : NULL;
}

/* No layer, one, two, neighbours and not, and the same again. */
static void apply_mask(rig *r, uint64_t step) {
    static const uint8_t layers[][4] = {{0, 1, 0, 1}, {0, 1, 1, 0}, {0, 1, 1, 0},
                                        {1, 0, 0, 0}, {0, 0, 0, 0}, {1, 0, 0, 1}};
    uint8_t mask[RIG_MAX_GROUPS] = {0};
    mask[0] = mask[5] = 1;
    memcpy(mask + 1, layers[step % 6], 4);
    OK(lisa_optimizer_apply_mask(r->optimizer, mask, r->n_groups));
}

static double masked_step(rig *r, uint64_t step) {
    apply_mask(r, step);
    rig_random_batch(r, 2, 11, step);
    return rig_step(r);
}

static void assert_same_beside_the_loop(rig *a, rig *b) {
    const int32_t prompt[] = {3, 1, 4, 1, 5};
    int32_t x[4], y[4];
    uint32_t n_x, n_y;
    double p, q;
    lisa_generate_options o;
    OK(lisa_generate_options_init(&o, sizeof o));
    o.max_new_tokens = 4;
    OK(lisa_model_generate(a->model, prompt, 5, &o, x, &n_x));
    OK(lisa_model_generate(b->model, prompt, 5, &o, y, &n_y));
    ck_assert_uint_eq(n_x, n_y);
    ck_assert_mem_eq(x, y, n_x * sizeof *x);
    OK(lisa_model_evaluate(a->model, a->batch, &p, NULL, NULL));
    OK(lisa_model_evaluate(b->model, b->batch, &q, NULL, NULL));
    ck_assert_double_eq(p, q);
}

START_TEST(test_same_bits) {
    rig_spec spec;
    rig streamed, resident;
    spec_of(&spec, &KINDS[_i], LISA_WEIGHTS_STREAMED);
    rig_make(&streamed, &spec);
    spec_of(&spec, &KINDS[_i], LISA_WEIGHTS_RESIDENT);
    rig_make(&resident, &spec);
    for (uint64_t step = 0; step < 13; step++) {
        ck_assert_double_eq(masked_step(&streamed, step), masked_step(&resident, step));
        if (step % 3 == 0)
            rig_assert_same_weights(&streamed, &resident, "streamed");
        if (step % 4 == 1)
            assert_same_beside_the_loop(&streamed, &resident);
    }
    rig_destroy(&streamed);
    rig_destroy(&resident);
}
END_TEST

/* What a host writes reaches the layer wherever it is: in host memory, ahead in a buffer, or in a
 * slot. */
START_TEST(test_write) {
    rig_spec spec;
    rig streamed, resident;
    spec_of(&spec, &KINDS[_i], LISA_WEIGHTS_STREAMED);
    rig_make(&streamed, &spec);
    spec_of(&spec, &KINDS[_i], LISA_WEIGHTS_RESIDENT);
    rig_make(&resident, &spec);
    for (uint64_t step = 0; step < 8; step++) {
        const uint32_t tensor = (uint32_t)(step * 5) % streamed.n_tensors;
        const uint64_t n = rig_tensor(&streamed, tensor).n_elements;
        double *values = rig_read(&resident, tensor);
        for (uint64_t i = 0; i < n; i++)
            values[i] *= 0.75;
        OK(lisa_model_tensor_write(streamed.model, tensor, values, LISA_DTYPE_F64, n));
        OK(lisa_model_tensor_write(resident.model, tensor, values, LISA_DTYPE_F64, n));
        free(values);
        ck_assert_double_eq(masked_step(&streamed, step), masked_step(&resident, step));
        rig_assert_same_weights(&streamed, &resident, "written");
    }
    rig_destroy(&streamed);
    rig_destroy(&resident);
}
END_TEST

/* An optimizer goes and another comes: what trained is in the host's memory again. */
START_TEST(test_another_optimizer) {
    rig_spec spec;
    rig streamed, resident;
    spec_of(&spec, &KINDS[_i], LISA_WEIGHTS_STREAMED);
    rig_make(&streamed, &spec);
    spec_of(&spec, &KINDS[_i], LISA_WEIGHTS_RESIDENT);
    rig_make(&resident, &spec);
    rig *const both[] = {&streamed, &resident};
    for (int i = 0; i < 2; i++) {
        masked_step(both[i], 0);
        lisa_optimizer_destroy(both[i]->optimizer);
        OK(lisa_optimizer_create(&both[i]->optimizer, both[i]->model, &spec.optimizer));
        masked_step(both[i], 3);
    }
    rig_assert_same_weights(&streamed, &resident, "another optimizer");
    rig_destroy(&streamed);
    rig_destroy(&resident);
}
END_TEST

/* A model from files, to files: mapped layers are read into host memory. */
START_TEST(test_opened_and_saved) {
    char directory[] = "/tmp/lisa-streaming-XXXXXX";
    rig_spec spec;
    rig made, opened;
    size_t n;
    spec_of(&spec, &KINDS[_i], LISA_WEIGHTS_STREAMED);
    rig_make(&made, &spec);
    masked_step(&made, 0);
    ck_assert_ptr_nonnull(mkdtemp(directory));
    OK(lisa_model_save(made.model, directory, NULL));
    double *before = rig_snapshot(&made, &n);
    spec.directory = directory;
    rig_make(&opened, &spec);
    if (KINDS[_i].dtype == LISA_DTYPE_F64 || KINDS[_i].dtype == LISA_DTYPE_F32)
        rig_assert_unchanged(&opened, before, n);
    masked_step(&opened, 1);
    free(before);
    rig_destroy(&made);
    rig_destroy(&opened);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", directory);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

static void assert_as_planned(const rig *r, const rig_spec *spec) {
    lisa_plan_request request;
    lisa_plan_report report = {.struct_size = sizeof report};
    OK(lisa_plan_request_init(&request, sizeof request));
    request.config = &r->config;
    request.context = &spec->context;
    request.model = &spec->model;
    request.batch = &spec->batch;
    request.optimizer = &spec->optimizer;
    request.max_batch = spec->max_batch;
    request.max_tokens = spec->max_tokens;
    OK(lisa_plan(&request, &report));
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++) {
        uint64_t held;
        OK(lisa_context_memory(r->context, c, NULL, &held));
        if (c != LISA_MEM_EVALUATION && c != LISA_MEM_STAGING && c != LISA_MEM_HANDLES)
            ck_assert_msg(held == report.bytes[c], "%s: %llu held, %llu planned",
                          lisa_memory_class_name(c), (unsigned long long)held,
                          (unsigned long long)report.bytes[c]);
    }
}

START_TEST(test_as_planned) {
    rig_spec spec;
    rig r;
    spec_of(&spec, &KINDS[_i], LISA_WEIGHTS_STREAMED);
    spec.model.load = LISA_LOAD_COPY; /* as a model that was made and not opened */
    rig_make(&r, &spec);
    for (uint64_t step = 0; step < 6; step++)
        masked_step(&r, step);
    assert_as_planned(&r, &spec);
    rig_destroy(&r);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("streaming");
    TCase *tcase = tcase_create("streaming");
    tcase_add_loop_test(tcase, test_same_bits, 0, N_KINDS);
    tcase_add_loop_test(tcase, test_write, 0, N_KINDS);
    tcase_add_loop_test(tcase, test_another_optimizer, 0, N_KINDS);
    tcase_add_loop_test(tcase, test_opened_and_saved, 0, N_KINDS);
    tcase_add_loop_test(tcase, test_as_planned, 0, N_KINDS);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
