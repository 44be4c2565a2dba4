#include "model/model.h"

#include "api/check.h"
#include "api/options.h"
#include "api/tensors.h"
#include "core/dtype.h"
#include "core/options.h"
#include "formats/hf_config.h"
#include "model/pass.h"
#include "optim/optimizer.h"

#include <math.h>
#include <string.h>

lisa_status lisa_model_config_init(lisa_model_config *config, size_t struct_size) {
    LISA_TRY(lisa__options_init(config, struct_size, sizeof *config, "lisa_model_config"));
    strcpy(config->family, "llama");
    config->weights_dtype = LISA_DTYPE_F32;
    config->norm = LISA_NORM_RMS;
    config->norm_eps = 1e-5;
    config->activation = LISA_ACT_SILU;
    config->gated_mlp = 1;
    config->rope = LISA_ROPE_DEFAULT;
    config->rope_theta = 10000;
    return LISA_OK;
}

lisa_status lisa_model_config_read(lisa_model_config *config, const char *directory) {
    LISA_REQUIRE(config);
    LISA_REQUIRE(directory);
    lisa_model_config own;
    LISA_TRY(lisa__hf_config_read(&own, NULL, directory));
    LISA_TRY(lisa__hf_weights_dtype(&own, NULL, directory));
    LISA_TRY(lisa__config_check(&own));
    return lisa__options_write(config, sizeof own, &own, sizeof own, "lisa_model_config");
}

lisa_status lisa_model_options_init(lisa_model_options *options, size_t struct_size) {
    LISA_TRY(lisa__options_init(options, struct_size, sizeof *options, "lisa_model_options"));
    options->load = LISA_LOAD_MAP;
    return LISA_OK;
}

lisa_status lisa__model_options_read(lisa_model_options *own, const lisa_model_options *given) {
    LISA_TRY(lisa_model_options_init(own, sizeof *own));
    if (given != NULL)
        LISA_TRY(lisa__options_read(own, sizeof *own, sizeof *own, given, "lisa_model_options"));
    if (own->load != LISA_LOAD_MAP && own->load != LISA_LOAD_COPY)
        return lisa__fail(LISA_E_INVAL,
                          "lisa_model_options.load: %u, expected LISA_LOAD_MAP or LISA_LOAD_COPY",
                          own->load);
    if (own->weights > LISA_WEIGHTS_STREAMED)
        return lisa__fail(LISA_E_INVAL, "lisa_model_options.weights: %u, expected a LISA_WEIGHTS_*",
                          own->weights);
    return LISA_OK;
}

lisa_status lisa_model_open(lisa_model **out, lisa_context *context, const char *directory,
                            const lisa_model_options *options) {
    LISA_REQUIRE(out);
    *out = NULL;
    LISA_REQUIRE(context);
    LISA_REQUIRE(directory);
    lisa_model_options own;
    LISA_TRY(lisa__model_options_read(&own, options));
    return lisa__model_open(out, context, directory, &own);
}

lisa_status lisa_model_create(lisa_model **out, lisa_context *context,
                              const lisa_model_config *config, const lisa_model_options *options) {
    LISA_REQUIRE(out);
    *out = NULL;
    LISA_REQUIRE(context);
    lisa_model_options own;
    lisa_model_config own_config;
    LISA_TRY(lisa__model_options_read(&own, options));
    LISA_TRY(lisa__options_read(&own_config, sizeof own_config, sizeof own_config, config,
                                "lisa_model_config"));
    return lisa__model_create(out, context, &own_config, &own);
}

void lisa_model_destroy(lisa_model *model) {
    lisa__model_release(model);
}

lisa_status lisa_model_get_config(const lisa_model *model, lisa_model_config *config) {
    LISA_REQUIRE(model);
    return lisa__options_write(config, sizeof *config, &model->config, sizeof model->config,
                               "lisa_model_config");
}

lisa_status lisa_save_options_init(lisa_save_options *options, size_t struct_size) {
    return lisa__options_init(options, struct_size, sizeof *options, "lisa_save_options");
}

lisa_status lisa_model_save(lisa_model *model, const char *directory,
                            const lisa_save_options *options) {
    LISA_REQUIRE(model);
    LISA_REQUIRE(directory);
    lisa_save_options own;
    LISA_TRY(lisa_save_options_init(&own, sizeof own));
    if (options != NULL)
        LISA_TRY(lisa__options_read(&own, sizeof own, sizeof own, options, "lisa_save_options"));
    if (own.dtype > LISA_DTYPE_F16)
        return lisa__fail(LISA_E_INVAL, "lisa_save_options.dtype: %u, expected 0, f32, bf16 or f16",
                          own.dtype);
    /* What is saved are weights whose updates are known to have been made. */
    if (model->optimizer != NULL)
        LISA_TRY(lisa__optimizer_settle(model->optimizer, 1));
    return lisa__model_save(model, directory, &own);
}

uint32_t lisa_model_n_tensors(const lisa_model *model) {
    return model == NULL ? 0 : model->base.n;
}

lisa_status lisa_model_tensor_info(const lisa_model *model, uint32_t index,
                                   lisa_tensor_info *info) {
    LISA_REQUIRE(model);
    return lisa__tensor_info_write(&model->base, index, info);
}

/* Prefixed or not, whichever way the model spells it itself. */
static int is_called(const lisa_model *model, const char *own, const char *name) {
    const char *a = lisa__family_unprefixed(model->family, own);
    const char *b = lisa__family_unprefixed(model->family, name);
    return strcmp(a != NULL ? a : own, b != NULL ? b : name) == 0;
}

lisa_status lisa_model_tensor_find(const lisa_model *model, const char *name, uint32_t *index) {
    LISA_REQUIRE(model);
    LISA_REQUIRE(name);
    LISA_REQUIRE(index);
    for (uint32_t i = 0; i < model->base.n; i++)
        if (is_called(model, model->base.descs[i].name, name)) {
            *index = i;
            return LISA_OK;
        }
    return lisa__fail(LISA_E_NOTFOUND, "the model has no tensor \"%s\"", name);
}

lisa_status lisa_model_tensor_read(lisa_model *model, uint32_t index, void *data, uint32_t dtype,
                                   uint64_t n_elements) {
    LISA_REQUIRE(model);
    LISA_REQUIRE(data);
    LISA_TRY(lisa__transfer_check(&model->base, index, dtype, n_elements));
    LISA_TRY(lisa__model_check(model));
    return lisa__tensor_get(model, index, 0, n_elements, data, dtype);
}

lisa_status lisa_model_tensor_write(lisa_model *model, uint32_t index, const void *data,
                                    uint32_t dtype, uint64_t n_elements) {
    LISA_REQUIRE(model);
    LISA_REQUIRE(data);
    LISA_TRY(lisa__transfer_check(&model->base, index, dtype, n_elements));
    return lisa__tensor_put(model, index, data, dtype);
}

lisa_status lisa_model_weight_norm(lisa_model *model, uint32_t group, double *norm) {
    LISA_REQUIRE(model);
    LISA_REQUIRE(norm);
    LISA_TRY(lisa__group_check(model->config.n_layers, group));
    double sum = 0;
    LISA_TRY(lisa__model_check(model));
    LISA_TRY(lisa__group_sum_squares(model, &model->base, group, &sum));
    *norm = sqrt(sum);
    return LISA_OK;
}

lisa_status lisa_model_evaluate(lisa_model *model, lisa_batch *batch, double *loss,
                                float *log_probs, uint8_t *greedy) {
    LISA_REQUIRE(model);
    LISA_REQUIRE(batch);
    return lisa__evaluate(model, batch, loss, log_probs, greedy);
}

lisa_status lisa_model_logits(lisa_model *model, lisa_batch *batch, void *logits, uint32_t dtype,
                              uint64_t n_elements) {
    LISA_REQUIRE(model);
    LISA_REQUIRE(batch);
    LISA_REQUIRE(logits);
    const uint64_t expected =
        (uint64_t)batch->rows.batch * batch->rows.tokens * model->config.vocab_size;
    if (dtype != LISA_DTYPE_F32 && dtype != LISA_DTYPE_F64)
        return lisa__fail(LISA_E_INVAL, "lisa_model_logits: dtype %u, expected f32 or f64", dtype);
    if (n_elements != expected)
        return lisa__fail(LISA_E_INVAL, "lisa_model_logits: room for %llu values, expected %llu",
                          (unsigned long long)n_elements, (unsigned long long)expected);
    return lisa__logits(model, batch, logits, dtype);
}

/* lisa_generate_options of version 0.1. */
static const size_t GENERATE_OPTIONS_LEAST = offsetof(lisa_generate_options, temperature);

lisa_status lisa_generate_options_init(lisa_generate_options *options, size_t struct_size) {
    LISA_TRY(
        lisa__options_init(options, struct_size, GENERATE_OPTIONS_LEAST, "lisa_generate_options"));
    options->max_new_tokens = 128;
    return LISA_OK;
}

lisa_status lisa_model_generate(lisa_model *model, const int32_t *prompt, uint32_t n_prompt,
                                const lisa_generate_options *options, int32_t *tokens,
                                uint32_t *n_tokens) {
    LISA_REQUIRE(model);
    LISA_REQUIRE(tokens);
    LISA_REQUIRE(n_tokens);
    *n_tokens = 0;
    lisa_generate_options own;
    LISA_TRY(lisa_generate_options_init(&own, sizeof own));
    if (options != NULL)
        LISA_TRY(lisa__options_read(&own, sizeof own, GENERATE_OPTIONS_LEAST, options,
                                    "lisa_generate_options"));
    return lisa__generate(model, prompt, n_prompt, &own, tokens, n_tokens);
}
