/* The shapes of published models: read from their config.json, counted and planned. */
#include "check_main.h"
#include "fixture.h"
#include "lisa/lisa.h"

#include <stdio.h>
#include <string.h>

#define OK(call) ck_assert_msg((call) == LISA_OK, "%s: %s", #call, lisa_error_last())

static const struct published {
    const char *name, *family;
    uint64_t n_parameters; /* as their authors count them, a tied head once */
    uint32_t dtype, window, rotary_dim;
} MODELS[] = {
    {"gpt2", "gpt2", 124439808, LISA_DTYPE_F32, 0, 64},
    {"tinyllama-1.1b", "llama", 1100048384, LISA_DTYPE_BF16, 0, 64},
    {"phi-2", "phi", 2779683840, LISA_DTYPE_F16, 0, 32},
    {"mistral-7b", "mistral", 7241732096, LISA_DTYPE_BF16, 4096, 128},
    {"llama-2-7b", "llama", 6738415616, LISA_DTYPE_F16, 0, 128},
    {"llama-2-70b", "llama", 68976648192, LISA_DTYPE_F16, 0, 128},
    {"llama-3.1-8b", "llama", 8030261248, LISA_DTYPE_BF16, 0, 128},
    {"qwen2.5-0.5b", "qwen2", 494032768, LISA_DTYPE_BF16, 0, 64},
    {"qwen3-0.6b", "qwen3", 596049920, LISA_DTYPE_BF16, 0, 128},
};
enum { N_MODELS = sizeof MODELS / sizeof *MODELS };

static void read_published(lisa_model_config *config, const struct published *model) {
    char name[64];
    snprintf(name, sizeof name, "configs/%s", model->name);
    OK(lisa_model_config_init(config, sizeof *config));
    OK(lisa_model_config_read(config, fixture_path(name)));
}

START_TEST(test_read) {
    const struct published *model = &MODELS[_i];
    lisa_model_config config;
    read_published(&config, model);
    ck_assert_str_eq(config.family, model->family);
    ck_assert_uint_eq(config.weights_dtype, model->dtype);
    ck_assert_uint_eq(config.sliding_window, model->window);
    if (config.rope != LISA_ROPE_NONE)
        ck_assert_uint_eq(config.rotary_dim, model->rotary_dim);
}
END_TEST

/* Full training needs a gradient for every parameter; two layers of LISA need less of everything
 * that trains. */
START_TEST(test_plan) {
    const struct published *model = &MODELS[_i];
    lisa_model_config config;
    lisa_optimizer_options full, lisa;
    lisa_plan_request request;
    lisa_plan_report report = {.struct_size = sizeof report}, lean = report;
    read_published(&config, model);
    OK(lisa_optimizer_options_init(&full, sizeof full));
    OK(lisa_optimizer_options_init(&lisa, sizeof lisa));
    OK(lisa_plan_request_init(&request, sizeof request));
    lisa.max_active_layers = 2;
    request.config = &config;
    request.max_batch = 1;
    request.max_tokens = 1024;
    request.optimizer = &full;
    OK(lisa_plan(&request, &report));
    request.optimizer = &lisa;
    OK(lisa_plan(&request, &lean));
    ck_assert_uint_eq(report.n_parameters, model->n_parameters);
    ck_assert_uint_eq(report.n_trained, model->n_parameters);
    ck_assert_uint_lt(lean.n_trained, model->n_parameters);
    ck_assert_uint_ge(report.bytes[LISA_MEM_GRADIENTS], 4 * model->n_parameters);
    ck_assert_uint_ge(lean.bytes[LISA_MEM_GRADIENTS], 4 * lean.n_trained);
    ck_assert_uint_lt(lean.bytes[LISA_MEM_GRADIENTS], report.bytes[LISA_MEM_GRADIENTS]);
    ck_assert_uint_eq(report.bytes[LISA_MEM_WEIGHTS_MAPPED],
                      model->n_parameters * (model->dtype == LISA_DTYPE_F32 ? 4 : 2));
}
END_TEST

static Suite *make_suite(void) {
    Suite *suite = suite_create("published");
    TCase *tcase = tcase_create("published");
    tcase_add_loop_test(tcase, test_read, 0, N_MODELS);
    tcase_add_loop_test(tcase, test_plan, 0, N_MODELS);
    suite_add_tcase(suite, tcase);
    return suite;
}

LISA_CHECK_MAIN(make_suite)
