/* What is saved is what was held: every fixture, and a created model of every family, saved in
 * shards and in other types, opened again. */
#include "check_main.h"
#include "core/dtype.h"
#include "fixture.h"
#include "rig.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char directory[32];
static glob_t fixtures; /* tests/data/NAME/config.json */
static char logged[4096];

static void keep_line(void *user, int32_t level, const char *text) {
    (void)user;
    (void)level;
    snprintf(logged + strlen(logged), sizeof logged - strlen(logged), "%s\n", text);
}

static void setup(void) {
    strcpy(directory, "/var/tmp/lisa-reopen-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    ck_assert_int_eq(glob(fixture_path("*/config.json"), 0, NULL, &fixtures), 0);
    ck_assert_uint_ge(fixtures.gl_pathc, 19);
    logged[0] = '\0';
}

static void teardown(void) {
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    ck_assert_int_eq(system(command), 0);
    globfree(&fixtures);
}

static const char *fixture_at(size_t i) {
    char *path = fixtures.gl_pathv[i];
    char *end = strrchr(path, '/');
    if (strcmp(end, "/config.json") == 0)
        *end = '\0';
    return path;
}

static void open_at(rig *r, const char *path) {
    rig_spec spec;
    rig_spec_init(&spec, "reference");
    spec.directory = path;
    spec.no_optimizer = 1;
    spec.context.log = keep_line;
    spec.context.log_level = LISA_LOG_WARN;
    rig_make(r, &spec);
}

static void save_as(rig *r, uint64_t shard_bytes, uint32_t dtype) {
    lisa_save_options options;
    OK(lisa_save_options_init(&options, sizeof options));
    options.max_shard_bytes = shard_bytes;
    options.dtype = dtype;
    OK(lisa_model_save(r->model, directory, &options));
}

static int is_there(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "rb");
    if (file != NULL)
        fclose(file);
    return file != NULL;
}

static void assert_same_names(const rig *a, const rig *b, const char *what) {
    ck_assert_uint_eq(a->n_tensors, b->n_tensors);
    for (uint32_t i = 0; i < a->n_tensors; i++)
        ck_assert_msg(strcmp(rig_tensor(a, i).name, rig_tensor(b, i).name) == 0,
                      "%s: \"%s\" was saved as \"%s\"", what, rig_tensor(a, i).name,
                      rig_tensor(b, i).name);
}

START_TEST(test_in_shards) {
    for (size_t i = 0; i < fixtures.gl_pathc; i++) {
        const char *path = fixture_at(i);
        rig held, saved;
        open_at(&held, path);
        save_as(&held, 4000, 0);
        ck_assert(is_there("model.safetensors.index.json"));
        open_at(&saved, directory);
        assert_same_names(&held, &saved, path);
        rig_assert_same_weights(&held, &saved, path);
        ck_assert_mem_eq(&held.config, &saved.config, sizeof held.config);
        rig_destroy(&saved);
        rig_destroy(&held);
    }
}
END_TEST

static void assert_rounded(const rig *held, const rig *saved, uint32_t dtype, const char *what) {
    for (uint32_t i = 0; i < held->n_tensors; i++) {
        double *before = rig_read(held, i), *after = rig_read(saved, i), rounded;
        for (size_t j = 0; j < rig_tensor(held, i).n_elements; j++) {
            lisa__store(&rounded, dtype, 0, before[j]);
            rounded = lisa__load(&rounded, dtype, 0);
            ck_assert_msg(after[j] == rounded, "%s: \"%s\"[%zu] is %.9g, not %.9g", what,
                          rig_tensor(held, i).name, j, after[j], rounded);
        }
        free(before);
        free(after);
    }
}

START_TEST(test_in_another_type) {
    static const uint32_t dtypes[] = {LISA_DTYPE_F32, LISA_DTYPE_F16, LISA_DTYPE_BF16};
    for (size_t i = 0; i < fixtures.gl_pathc; i++) {
        rig held, saved;
        open_at(&held, fixture_at(i));
        save_as(&held, 0, dtypes[_i]);
        open_at(&saved, directory);
        ck_assert_uint_eq(saved.config.weights_dtype, dtypes[_i]);
        for (uint32_t t = 0; t < saved.n_tensors; t++)
            ck_assert_uint_eq(rig_tensor(&saved, t).dtype, dtypes[_i]);
        assert_rounded(&held, &saved, dtypes[_i], fixture_at(i));
        rig_destroy(&saved);
        rig_destroy(&held);
    }
}
END_TEST

static void create_like(rig *r, const rig *example) {
    rig_spec spec;
    rig_spec_init(&spec, "reference");
    spec.config = example->config;
    spec.config.weights_dtype = LISA_DTYPE_BF16;
    spec.no_optimizer = 1;
    rig_make(r, &spec);
}

/* A created model has transformers' own names, and config.json says all of its description. */
START_TEST(test_created) {
    for (size_t i = 0; i < fixtures.gl_pathc; i++) {
        const char *path = fixture_at(i);
        rig example, held, saved;
        open_at(&example, path);
        create_like(&held, &example);
        save_as(&held, 4000, 0);
        open_at(&saved, directory);
        assert_same_names(&held, &saved, path);
        rig_assert_same_weights(&held, &saved, path);
        ck_assert_mem_eq(&held.config, &saved.config, sizeof held.config);
        ck_assert_int_eq(
            strncmp(rig_tensor(&held, 0).name,
                    strcmp(held.config.family, "gpt2") == 0 ? "transformer." : "model.", 6),
            0);
        rig_destroy(&saved);
        rig_destroy(&held);
        rig_destroy(&example);
    }
}
END_TEST

START_TEST(test_both_spellings_are_found) {
    static const char *const directories[] = {"gpt2", "gpt2-plain"};
    rig r;
    uint32_t a = 0, b = 1;
    open_at(&r, fixture_path(directories[_i]));
    ck_assert_int_eq(strncmp(rig_tensor(&r, 0).name, "transformer.", 12) == 0, _i == 0);
    OK(lisa_model_tensor_find(r.model, "transformer.h.1.attn.c_attn.weight", &a));
    OK(lisa_model_tensor_find(r.model, "h.1.attn.c_attn.weight", &b));
    ck_assert_uint_eq(a, b);
    ck_assert_ptr_nonnull(strstr(rig_tensor(&r, a).name, "h.1.attn.c_attn.weight"));
    ck_assert_int_eq(lisa_model_tensor_find(r.model, "transformer.", &a), LISA_E_NOTFOUND);
    ck_assert_int_eq(lisa_model_tensor_find(r.model, "h.1.attn.bias", &a), LISA_E_NOTFOUND);
    ck_assert_str_eq(logged, ""); /* masks among the weights are no surprise */
    rig_destroy(&r);
}
END_TEST

static void assert_first_adapter(rig *r, uint32_t targets, const char *name) {
    lisa_adapter_options options;
    lisa_adapter *adapter;
    lisa_tensor_info info = {.struct_size = sizeof info};
    OK(lisa_adapter_options_init(&options, sizeof options));
    options.targets = targets;
    OK(lisa_adapter_create(&adapter, r->model, &options));
    OK(lisa_adapter_tensor_info(adapter, 0, &info));
    ck_assert_str_eq(info.name, name);
    lisa_adapter_destroy(adapter);
}

/* PEFT knows the modules of a whole model, in which GPT-2's head stands beside its transformer. */
START_TEST(test_adapters_have_whole_names) {
    rig plain, created;
    rig_spec spec;
    open_at(&plain, fixture_path("gpt2-plain"));
    assert_first_adapter(&plain, LISA_TARGET_Q | LISA_TARGET_K | LISA_TARGET_V,
                         "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight");
    rig_spec_init(&spec, "reference");
    spec.config = plain.config;
    spec.config.tied_head = 0;
    spec.no_optimizer = 1;
    rig_make(&created, &spec);
    assert_first_adapter(&created, LISA_TARGET_HEAD, "base_model.model.lm_head.lora_A.weight");
    rig_destroy(&created);
    rig_destroy(&plain);
}
END_TEST

/* ---- a head in the file, and config.json says tied ---- */

static void tie_saved_config(void) {
    static const char from[] = "\"tie_word_embeddings\": false";
    char path[64], text[4096];
    snprintf(path, sizeof path, "%s/config.json", directory);
    FILE *file = fopen(path, "r+b");
    ck_assert_ptr_nonnull(file);
    size_t n = fread(text, 1, sizeof text - 1, file);
    text[n] = '\0';
    char *place = strstr(text, from);
    ck_assert_ptr_nonnull(place);
    memcpy(place, "\"tie_word_embeddings\": true ", sizeof from - 1);
    rewind(file);
    ck_assert_uint_eq(fwrite(text, 1, n, file), n);
    ck_assert_int_eq(fclose(file), 0);
}

static double *logits_of(rig *r, size_t *n) {
    rig_random_batch(r, 2, 7, 3);
    *n = (size_t)2 * 7 * r->config.vocab_size;
    double *logits = malloc(*n * sizeof *logits);
    ck_assert_ptr_nonnull(logits);
    OK(lisa_model_logits(r->model, r->batch, logits, LISA_DTYPE_F64, *n));
    return logits;
}

START_TEST(test_tied_goes_before_a_head_in_the_file) {
    static const char *const directories[] = {"llama-untied", "phi", "mistral", "qwen3"};
    rig untied, tied, again;
    uint32_t head = 0, embedding = 0;
    size_t n, m;
    open_at(&untied, fixture_path(directories[_i]));
    save_as(&untied, 0, 0);
    tie_saved_config();
    logged[0] = '\0';
    open_at(&tied, directory);
    ck_assert_msg(strstr(logged, "tensor \"lm_head.weight\" is not used: tie_word_embeddings") !=
                      NULL,
                  "%s", logged);
    ck_assert_uint_eq(tied.config.tied_head, 1);
    ck_assert_int_eq(lisa_model_tensor_find(tied.model, "lm_head.weight", &head), LISA_E_NOTFOUND);
    OK(lisa_model_tensor_find(untied.model, "lm_head.weight", &head));
    OK(lisa_model_tensor_find(untied.model, "model.embed_tokens.weight", &embedding));
    double *values = rig_read(&untied, embedding);
    OK(lisa_model_tensor_write(untied.model, head, values, LISA_DTYPE_F64,
                               rig_tensor(&untied, head).n_elements));
    double *expected = logits_of(&untied, &n), *got = logits_of(&tied, &m);
    ck_assert_uint_eq(n, m);
    ck_assert_mem_eq(got, expected, n * sizeof *got);
    save_as(&tied, 0, 0);
    logged[0] = '\0';
    open_at(&again, directory);
    ck_assert_ptr_null(strstr(logged, "lm_head.weight"));
    rig_assert_same_weights(&tied, &again, directories[_i]);
    free(values);
    free(expected);
    free(got);
    rig_destroy(&again);
    rig_destroy(&tied);
    rig_destroy(&untied);
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("reopen");
    TCase *tcase = tcase_create("reopen");
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, test_in_shards);
    tcase_add_loop_test(tcase, test_in_another_type, 0, 3);
    tcase_add_test(tcase, test_created);
    tcase_add_loop_test(tcase, test_both_spellings_are_found, 0, 2);
    tcase_add_test(tcase, test_adapters_have_whole_names);
    tcase_add_loop_test(tcase, test_tied_goes_before_a_head_in_the_file, 0, 4);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
