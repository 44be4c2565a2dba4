/* Steps 0 to 12 give the same bits as steps 0 to 5, a checkpoint, and 5 to 12 from it: in another
 * context, where other steps have been trained meanwhile, after a failure. What does not fit is
 * refused and changes nothing. */
#include "check_main.h"
#include "lisa/lisa.h"
#include "model/adapter.h"
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A period has 3 steps: the cut is in the middle of one, with swaps on both sides. */
enum { STEPS = 12, CUT = 5, INTERVAL = 3 };

static const struct way {
    const char *backend;
    uint32_t dtype, policy, moments, n_active;
    uint32_t rows, in_backward, adapted;
    uint32_t tied;
} WAYS[] = {
    {"cpu", LISA_DTYPE_F32, LISA_STATE_DROP, LISA_MOMENTS_F32, 1, 0, 0, 0, 0},
    {"cpu", LISA_DTYPE_BF16, LISA_STATE_DROP, LISA_MOMENTS_F32, 1, 0, 0, 0, 0},
    {"cpu", LISA_DTYPE_F16, LISA_STATE_DROP, LISA_MOMENTS_BF16, 2, 0, 0, 0, 0},
    {"cpu", LISA_DTYPE_BF16, LISA_STATE_DROP, LISA_MOMENTS_8BIT, 1, 0, 0, 0, 0},
    {"cpu", LISA_DTYPE_BF16, LISA_STATE_KEEP, LISA_MOMENTS_8BIT, 2, 0, 0, 0, 0},
    {"cpu", LISA_DTYPE_F32, LISA_STATE_KEEP, LISA_MOMENTS_F32, 1, 0, 0, 0, 0},
    {"cpu", LISA_DTYPE_BF16, LISA_STATE_OFFLOAD, LISA_MOMENTS_F32, 1, 0, 0, 0, 0},
    {"cpu", LISA_DTYPE_F16, LISA_STATE_OFFLOAD, LISA_MOMENTS_8BIT, 2, 0, 0, 0, 0},
    {"cpu", LISA_DTYPE_BF16, LISA_STATE_DROP, LISA_MOMENTS_F32, 3, 0, 0, 0, 0}, /* full AdamW */
    {"cpu", LISA_DTYPE_F32, LISA_STATE_DROP, LISA_MOMENTS_BF16, 3, 0, 0, 0, 0},
    {"cpu", LISA_DTYPE_BF16, LISA_STATE_DROP, LISA_MOMENTS_8BIT, 1, 61, 0, 0, 0},
    {"cpu", LISA_DTYPE_F16, LISA_STATE_KEEP, LISA_MOMENTS_F32, 1, 61, 0, 0, 0},
    {"cpu", LISA_DTYPE_BF16, LISA_STATE_DROP, LISA_MOMENTS_8BIT, 1, 0, 1, 0, 0},
    {"cpu", LISA_DTYPE_BF16, LISA_STATE_DROP, LISA_MOMENTS_F32, 3, 0, 0, 1, 0}, /* LoRA */
    {"cpu", LISA_DTYPE_BF16, LISA_STATE_KEEP, LISA_MOMENTS_8BIT, 1, 0, 0, 1, 0},
    {"cpu", LISA_DTYPE_F32, LISA_STATE_OFFLOAD, LISA_MOMENTS_BF16, 1, 0, 0, 1, 0},
    {"cpu", LISA_DTYPE_BF16, LISA_STATE_DROP, LISA_MOMENTS_F32, 2, 0, 0, 0, 1},
    {"reference", LISA_DTYPE_BF16, LISA_STATE_DROP, LISA_MOMENTS_8BIT, 1, 0, 0, 0, 0},
    {"reference64", LISA_DTYPE_F64, LISA_STATE_DROP, LISA_MOMENTS_F32, 1, 0, 0, 0, 0},
};
enum { N_WAYS = sizeof WAYS / sizeof *WAYS };

static char directory[] = "/var/tmp/lisa-checkpoint-XXXXXX";

static void make_directory(void) {
    ck_assert_ptr_nonnull(mkdtemp(directory));
}

static void remove_directory(void) {
    char command[sizeof directory + 16];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    ck_assert_int_eq(system(command), 0);
}

static void make_spec(rig_spec *spec, const struct way *way) {
    rig_spec_init(spec, way->backend);
    spec->config.weights_dtype = way->dtype;
    spec->config.tied_head = way->tied;
    spec->optimizer.max_active_layers = way->n_active;
    spec->optimizer.state_policy = way->policy;
    spec->optimizer.scratch_dir = "/var/tmp";
    spec->optimizer.moments_embedding = way->moments;
    spec->optimizer.moments_layers = way->moments;
    spec->optimizer.moments_head = way->moments;
    spec->optimizer.embedding_rows = way->rows;
    spec->optimizer.update_in_backward = way->in_backward;
    spec->optimizer.warmup_steps = 4;
    spec->optimizer.seed = 9;
    spec->adapted = way->adapted != 0;
    spec->adapter.dropout = 0.1;
    spec->adapter.targets = LISA_TARGET_ALL_LAYERS;
}

static lisa_sampler *make_sampler(uint32_t n_active) {
    lisa_sampler *sampler;
    lisa_sampler_options options;
    static const double weights[] = {3, 1, 2};
    OK(lisa_sampler_options_init(&options, sizeof options));
    options.kind = LISA_SAMPLER_WEIGHTED;
    options.weights = weights;
    options.n_layers = 3;
    options.n_active = n_active;
    options.interval_steps = INTERVAL;
    options.seed = 0xFEDCBA9876543210u;
    OK(lisa_sampler_create(&sampler, &options));
    return sampler;
}

static lisa_status train(rig *r, const lisa_sampler *sampler, uint64_t from, uint64_t to) {
    for (uint64_t step = from; step < to; step++) {
        rig_random_batch(r, 2, 11, step);
        const lisa_status status =
            lisa_train_step(r->model, sampler, r->optimizer, r->batch, step, NULL);
        if (status != LISA_OK)
            return status;
    }
    return LISA_OK;
}

static void path_of(char path[128], uint64_t step) {
    snprintf(path, 128, "%s/checkpoint-%012llu.safetensors", directory, (unsigned long long)step);
}

static void save(rig *r, const lisa_sampler *sampler, uint64_t step) {
    lisa_checkpoint_options options;
    OK(lisa_checkpoint_options_init(&options, sizeof options));
    options.sampler = sampler;
    options.blob = "position 4711";
    options.blob_bytes = 13;
    OK(lisa_checkpoint_save(r->optimizer, directory, step, &options));
}

static void assert_same(const rig *a, const rig *b) {
    rig_assert_same_weights(a, b, "resumed, and not");
    for (uint32_t g = 0; g < a->n_groups; g++) {
        uint64_t steps[2];
        OK(lisa_optimizer_group_steps(a->optimizer, g, &steps[0]));
        OK(lisa_optimizer_group_steps(b->optimizer, g, &steps[1]));
        ck_assert_uint_eq(steps[0], steps[1]);
    }
    for (uint32_t i = 0; a->adapter != NULL && i < lisa_adapter_n_tensors(a->adapter); i++) {
        lisa_tensor_info info = {.struct_size = sizeof info};
        double values[2][4096];
        OK(lisa_adapter_tensor_info(a->adapter, i, &info));
        ck_assert_uint_le(info.n_elements, 4096);
        OK(lisa_adapter_tensor_read(a->adapter, i, values[0], LISA_DTYPE_F64, info.n_elements));
        OK(lisa_adapter_tensor_read(b->adapter, i, values[1], LISA_DTYPE_F64, info.n_elements));
        ck_assert_mem_eq(values[0], values[1], info.n_elements * sizeof(double));
    }
}

/* Trains to the cut and saves, then through. */
static void run_through(rig *r, const rig_spec *spec, uint32_t n_active) {
    lisa_sampler *sampler = make_sampler(n_active);
    rig_make(r, spec);
    OK(train(r, sampler, 0, CUT));
    save(r, sampler, CUT);
    OK(train(r, sampler, CUT, STEPS));
    lisa_sampler_destroy(sampler);
}

/* Goes on from the cut with the sampler that was stored. */
static void go_on(rig *r) {
    char path[128], found[128], blob[13];
    lisa_checkpoint_info info = {.struct_size = sizeof info};
    lisa_sampler *sampler;
    path_of(path, CUT);
    OK(lisa_checkpoint_find(directory, found, sizeof found));
    ck_assert_str_eq(found, path);
    OK(lisa_checkpoint_verify(path, &info));
    ck_assert_uint_eq(info.step, CUT);
    ck_assert_uint_eq(info.blob_bytes, 13);
    OK(lisa_checkpoint_blob(path, blob, 13));
    ck_assert_mem_eq(blob, "position 4711", 13);
    OK(lisa_checkpoint_sampler(&sampler, path));
    OK(lisa_checkpoint_load(r->optimizer, path, &info));
    OK(train(r, sampler, info.step, STEPS));
    lisa_sampler_destroy(sampler);
}

START_TEST(test_resume) {
    rig_spec spec;
    rig through, resumed;
    make_directory();
    make_spec(&spec, &WAYS[_i]);
    run_through(&through, &spec, WAYS[_i].n_active);
    rig_make(&resumed, &spec);
    go_on(&resumed);
    assert_same(&through, &resumed);
    rig_destroy(&resumed);
    rig_destroy(&through);
    remove_directory();
}
END_TEST

/* What trained meanwhile is undone: other layers, other rows, a tensor that was written. */
START_TEST(test_go_back) {
    rig_spec spec;
    rig through, back;
    make_directory();
    make_spec(&spec, &WAYS[_i]);
    run_through(&through, &spec, WAYS[_i].n_active);
    rig_make(&back, &spec);
    OK(train(&back, NULL, 0, WAYS[_i].n_active == 3));
    const uint8_t mask[] = {1, 1, 0, 0, 1};
    OK(lisa_optimizer_apply_mask(back.optimizer, mask, 5));
    rig_random_batch(&back, 2, 11, 77);
    OK(lisa_train_step(back.model, NULL, back.optimizer, back.batch, 77, NULL));
    double *values = rig_read(&back, 1);
    values[0] += 1;
    OK(lisa_model_tensor_write(back.model, 1, values, LISA_DTYPE_F64,
                               rig_tensor(&back, 1).n_elements));
    free(values);
    go_on(&back);
    assert_same(&through, &back);
    rig_destroy(&back);
    rig_destroy(&through);
    remove_directory();
}
END_TEST

/* From a directory, whose frozen weights are mapped: nothing of them is in the file. */
START_TEST(test_from_files) {
    rig_spec spec;
    rig through, resumed;
    lisa_checkpoint_info info = {.struct_size = sizeof info};
    char path[128], model[64];
    make_directory();
    make_spec(&spec, &WAYS[_i == 0 ? 1 : 6]);
    rig_make(&through, &spec);
    snprintf(model, sizeof model, "%s/model", directory);
    OK(lisa_model_save(through.model, model, NULL));
    rig_destroy(&through);
    spec.directory = model;
    spec.model.load = _i == 0 ? LISA_LOAD_MAP : LISA_LOAD_COPY;
    run_through(&through, &spec, 1);
    rig_make(&resumed, &spec);
    go_on(&resumed);
    assert_same(&through, &resumed);
    path_of(path, CUT);
    OK(lisa_checkpoint_verify(path, &info));
    ck_assert_uint_eq(info.has_sampler, 1);
    ck_assert_uint_eq(info.n_layers, 3);
    rig_destroy(&resumed);
    rig_destroy(&through);
    remove_directory();
}
END_TEST

/* ---- refusals ---- */

static void assert_refused(rig *r, const char *path, lisa_status wanted, const char *text) {
    size_t n;
    double *before = rig_snapshot(r, &n);
    const lisa_status status = lisa_checkpoint_load(r->optimizer, path, NULL);
    ck_assert_msg(status == wanted, "%s: %s, %s", text, lisa_status_name(status),
                  lisa_error_last());
    ck_assert_msg(strstr(lisa_error_last(), text) != NULL, "%s expected in: %s", text,
                  lisa_error_last());
    rig_assert_unchanged(r, before, n);
    OK(train(r, NULL, 100, 101));
    free(before);
}

static void refuse_spec(const rig_spec *spec, lisa_status wanted, const char *text) {
    rig r;
    char path[128];
    path_of(path, CUT);
    rig_make(&r, spec);
    assert_refused(&r, path, wanted, text);
    rig_destroy(&r);
}

START_TEST(test_refusals) {
    rig_spec spec, other;
    rig r;
    make_directory();
    make_spec(&spec, &WAYS[1]);
    run_through(&r, &spec, 1);
    rig_destroy(&r);
    other = spec;
    other.model.seed++;
    refuse_spec(&other, LISA_E_INVAL, "tensor \"model.embed_tokens.weight\" began otherwise");
    other = spec;
    other.config.n_layers = 4;
    refuse_spec(&other, LISA_E_INVAL, "groups");
    other = spec;
    other.config.d_ff = 32;
    refuse_spec(&other, LISA_E_INVAL, "began otherwise");
    other = spec;
    other.optimizer.state_policy = LISA_STATE_KEEP;
    refuse_spec(&other, LISA_E_INVAL, "state_policy");
    other = spec;
    other.optimizer.moments_layers = LISA_MOMENTS_8BIT;
    refuse_spec(&other, LISA_E_INVAL, "moments_layers");
    other = spec;
    other.optimizer.embedding_rows = 40;
    refuse_spec(&other, LISA_E_INVAL, "embedding_rows");
    other = spec;
    other.optimizer.max_active_layers = LISA_NO_LAYERS;
    refuse_spec(&other, LISA_E_INVAL, "max_active_layers");
    other = spec;
    other.optimizer.train_head = 0;
    refuse_spec(&other, LISA_E_INVAL, "train_head");
    other = spec;
    other.adapted = 1;
    refuse_spec(&other, LISA_E_INVAL, "trained the model's own weights");
    remove_directory();
}
END_TEST

START_TEST(test_other_adapters) {
    rig_spec spec, other;
    rig r;
    make_directory();
    make_spec(&spec, &WAYS[13]);
    run_through(&r, &spec, 3);
    rig_destroy(&r);
    other = spec;
    other.adapted = 0;
    refuse_spec(&other, LISA_E_INVAL, "trained an adapter");
    other = spec;
    other.adapter.rank = 4;
    refuse_spec(&other, LISA_E_INVAL, "rank");
    other = spec;
    other.adapter.alpha = 3;
    refuse_spec(&other, LISA_E_INVAL, "alpha");
    other = spec;
    other.adapter.dropout = 0;
    refuse_spec(&other, LISA_E_INVAL, "dropout");
    other = spec;
    other.adapter.targets = LISA_TARGET_Q;
    refuse_spec(&other, LISA_E_INVAL, "targets");
    remove_directory();
}
END_TEST

/* States of layers that rest, for an optimizer that has no place for any. */
START_TEST(test_no_layers) {
    const uint8_t none[] = {1, 0, 0, 0, 1};
    rig_spec spec;
    rig r;
    make_directory();
    make_spec(&spec, &WAYS[_i == 0 ? 5 : 6]);
    rig_make(&r, &spec);
    lisa_sampler *sampler = make_sampler(1);
    OK(train(&r, sampler, 0, CUT));
    OK(lisa_optimizer_apply_mask(r.optimizer, none, 5));
    save(&r, sampler, CUT);
    rig_destroy(&r);
    lisa_sampler_destroy(sampler);
    spec.optimizer.max_active_layers = LISA_NO_LAYERS;
    refuse_spec(&spec, LISA_E_INVAL, "max_active_layers");
    remove_directory();
}
END_TEST

/* BERNOULLI ignores n_active, which may then be anything. */
START_TEST(test_any_sampler) {
    static const double chances[] = {0.5, 1, 0.25};
    static const uint32_t layers[] = {2, 0};
    lisa_sampler_options options;
    lisa_sampler *sampler, *again;
    rig_spec spec;
    rig r;
    char path[128];
    uint8_t mask[2][5];
    make_directory();
    make_spec(&spec, &WAYS[1]);
    rig_make(&r, &spec);
    OK(lisa_sampler_options_init(&options, sizeof options));
    options.kind = (uint32_t)_i;
    options.n_layers = 3;
    options.n_active = _i == LISA_SAMPLER_BERNOULLI ? 4000000000u : 2;
    options.weights = chances;
    options.layers = layers;
    options.interval_steps = 0xFFFFFFFFu;
    options.seed = UINT64_MAX;
    OK(lisa_sampler_create(&sampler, &options));
    save(&r, sampler, CUT);
    path_of(path, CUT);
    OK(lisa_checkpoint_sampler(&again, path));
    for (uint64_t step = 0; step < 20; step++) {
        OK(lisa_sampler_mask(sampler, step << 32, mask[0], 5));
        OK(lisa_sampler_mask(again, step << 32, mask[1], 5));
        ck_assert_mem_eq(mask[0], mask[1], 5);
    }
    lisa_sampler_destroy(again);
    lisa_sampler_destroy(sampler);
    rig_destroy(&r);
    remove_directory();
}
END_TEST

/* Under a limit of what is held, a load takes no more than opening took, but for its tables. */
START_TEST(test_go_back_under_a_limit) {
    rig_spec spec;
    rig r;
    char path[128];
    uint64_t held = 0;
    make_directory();
    make_spec(&spec, &WAYS[1]);
    rig_make(&r, &spec);
    OK(lisa_checkpoint_save(r.optimizer, directory, CUT, NULL));
    for (uint32_t c = 0; c < LISA_MEM_CLASSES; c++) {
        uint64_t peak;
        OK(lisa_context_memory(r.context, c, NULL, &peak));
        held += peak;
    }
    rig_destroy(&r);
    spec.context.memory_limit = held + 65536;
    rig_make(&r, &spec);
    OK(train(&r, NULL, 0, 2));
    path_of(path, CUT);
    OK(lisa_checkpoint_load(r.optimizer, path, NULL));
    OK(train(&r, NULL, 0, 2));
    rig_destroy(&r);
    remove_directory();
}
END_TEST

/* No change begins over another that was torn, until a load has replaced everything. */
START_TEST(test_over_a_tear) {
    const uint8_t other[] = {1, 1, 0, 0, 1};
    rig_spec spec;
    rig r;
    char path[128];
    make_directory();
    make_spec(&spec, &WAYS[_i == 0 ? 1 : 14]);
    rig_make(&r, &spec);
    OK(lisa_checkpoint_save(r.optimizer, directory, CUT, NULL));
    path_of(path, CUT);
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_forward(r.model, r.batch, NULL));
    OK(lisa_backward(r.model, r.batch));
    struct lisa__parameters *trained = _i == 0 ? &r.model->base : &r.adapter->own;
    OK(lisa__change_begin(trained, "a test"));
    ck_assert_int_eq(lisa_optimizer_step(r.optimizer, NULL), LISA_E_STATE);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "a test"));
    ck_assert_int_eq(lisa_checkpoint_save(r.optimizer, directory, CUT, NULL), LISA_E_STATE);
    OK(lisa_model_set_adapter(r.model, NULL));
    ck_assert_int_eq(lisa_optimizer_apply_mask(r.optimizer, other, 5), LISA_E_STATE);
    ck_assert_ptr_nonnull(strstr(lisa_error_last(), "a test"));
    OK(lisa_model_set_adapter(r.model, r.adapter));
    OK(lisa_checkpoint_load(r.optimizer, path, NULL));
    OK(train(&r, NULL, 0, 1));
    rig_destroy(&r);
    remove_directory();
}
END_TEST

START_TEST(test_not_in_a_window) {
    rig_spec spec;
    rig r;
    double loss;
    make_directory();
    make_spec(&spec, &WAYS[1]);
    rig_make(&r, &spec);
    rig_random_batch(&r, 2, 11, 1);
    OK(lisa_forward(r.model, r.batch, &loss));
    OK(lisa_backward(r.model, r.batch));
    ck_assert_int_eq(lisa_checkpoint_save(r.optimizer, directory, 1, NULL), LISA_E_STATE);
    OK(lisa_optimizer_step(r.optimizer, NULL));
    OK(lisa_checkpoint_save(r.optimizer, directory, 1, NULL));
    char path[128];
    lisa_sampler *sampler;
    path_of(path, 1);
    ck_assert_int_eq(lisa_checkpoint_sampler(&sampler, path), LISA_E_NOTFOUND);
    ck_assert_ptr_null(sampler);
    OK(lisa_checkpoint_blob(path, NULL, 0));
    ck_assert_int_eq(lisa_checkpoint_blob(path, &loss, 8), LISA_E_INVAL);
    rig_destroy(&r);
    remove_directory();
}
END_TEST

/* ---- the directory ---- */

static int is_there(uint64_t step) {
    char path[128];
    path_of(path, step);
    return access(path, F_OK) == 0;
}

START_TEST(test_keep) {
    rig_spec spec;
    rig r;
    char found[128], path[128];
    make_directory();
    make_spec(&spec, &WAYS[1]);
    rig_make(&r, &spec);
    ck_assert_int_eq(lisa_checkpoint_find(directory, found, sizeof found), LISA_E_NOTFOUND);
    ck_assert_int_eq(lisa_checkpoint_find("/no/such", found, sizeof found), LISA_E_NOTFOUND);
    lisa_checkpoint_options options;
    OK(lisa_checkpoint_options_init(&options, sizeof options));
    options.keep = 2;
    for (uint64_t step = 1; step <= 4; step++) {
        if (step == 4)
            options.keep = 0;
        OK(lisa_checkpoint_save(r.optimizer, directory, step, &options));
    }
    ck_assert(!is_there(1) && is_there(2) && is_there(3) && is_there(4));
    options.keep = 1; /* never the one that was just written */
    OK(lisa_checkpoint_save(r.optimizer, directory, 1, &options));
    ck_assert(is_there(1) && !is_there(2) && !is_there(3) && !is_there(4));
    options.keep = 0;
    OK(lisa_checkpoint_save(r.optimizer, directory, 9, &options));
    path_of(path, 9);
    FILE *file = fopen(path, "r+");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fseek(file, -1, SEEK_END), 0);
    const int last = fgetc(file);
    ck_assert_int_eq(fseek(file, -1, SEEK_END), 0);
    ck_assert_int_ne(fputc(last ^ 1, file), EOF);
    ck_assert_int_eq(fclose(file), 0);
    OK(lisa_checkpoint_find(directory, found, sizeof found));
    path_of(path, 1);
    ck_assert_str_eq(found, path);
    ck_assert_int_eq(lisa_checkpoint_find(directory, found, 5), LISA_E_INVAL);
    rig_destroy(&r);
    remove_directory();
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("checkpoint");
    TCase *tcase = tcase_create("resume");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, test_resume, 0, N_WAYS);
    tcase_add_loop_test(tcase, test_go_back, 0, N_WAYS);
    tcase_add_loop_test(tcase, test_from_files, 0, 2);
    tcase_add_test(tcase, test_refusals);
    tcase_add_test(tcase, test_other_adapters);
    tcase_add_loop_test(tcase, test_no_layers, 0, 2);
    tcase_add_loop_test(tcase, test_any_sampler, LISA_SAMPLER_UNIFORM, LISA_SAMPLER_FIXED + 1);
    tcase_add_test(tcase, test_go_back_under_a_limit);
    tcase_add_loop_test(tcase, test_over_a_tear, 0, 2);
    tcase_add_test(tcase, test_not_in_a_window);
    tcase_add_test(tcase, test_keep);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
