#include "formats/hf_config.h"

#include "core/json.h"
#include "formats/safetensors.h"
#include "formats/writer.h"
#include "model/family.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CONFIG (1u << 20) /* bytes; real ones have a few thousand */

/* Keys that change the mathematics in some family. Where the family at hand does not read them, a
 * value other than null, false, nothing or `neutral` is refused. */
static const struct {
    const char *key;
    double neutral; /* NAN: no number is */
    const char *neutral_text;
} guards[] = {
    {"quantization_config", NAN, NULL},
    {"compression_config", NAN, NULL},
    {"final_logit_softcapping", NAN, NULL},
    {"attn_logit_softcapping", NAN, NULL},
    {"query_pre_attn_scalar", NAN, NULL},
    {"attention_multiplier", NAN, NULL},
    {"residual_multiplier", 1, NULL},
    {"embedding_multiplier", 1, NULL},
    {"logits_scaling", 1, NULL},
    {"logit_scale", 1, NULL},
    {"scale_emb", 1, NULL},
    {"scale_depth", NAN, NULL},
    {"dim_model_base", NAN, NULL},
    {"scale_attn_by_inverse_layer_idx", NAN, NULL},
    {"attn_temperature_tuning", 0, NULL},
    {"clip_qkv", NAN, NULL},
    {"use_qk_norm", 0, NULL},
    {"qk_norm", 0, NULL},
    {"qk_layernorm", 0, NULL},
    {"num_local_experts", 0, NULL},
    {"num_experts", 0, NULL},
    {"n_routed_experts", 0, NULL},
    {"num_experts_per_tok", 0, NULL},
    {"kv_lora_rank", 0, NULL},
    {"q_lora_rank", 0, NULL},
    {"layer_types", NAN, "full_attention"},
    {"sliding_window", 0, NULL},
    {"use_sliding_window", 0, NULL},
    {"use_mrope", 0, NULL},
    {"attention_chunk_size", 0, NULL},
    {"no_rope_layers", NAN, NULL},
    {"no_rope_layer_interval", NAN, NULL},
    {"partial_rotary_factor", 1, NULL},
    {"rotary_pct", 1, NULL},
    {"rope_interleaved", 0, NULL},
    {"rope_local_base_freq", NAN, NULL},
    {"alibi", 0, NULL},
    {"use_alibi", 0, NULL},
    {"position_embedding_type", NAN, "rope"},
    {"attention_bias", 0, NULL},
    {"mlp_bias", 0, NULL},
    {"pretraining_tp", 1, NULL},
    {"parallel_attn", 0, NULL},
    {"use_parallel_residual", 0, NULL},
    {"hidden_activation", NAN, NULL},
    {"qkv_bias", 0, NULL},
    {"lm_head_bias", 0, NULL},
    {"add_cross_attention", 0, NULL},
    {"is_encoder_decoder", 0, NULL},
};

static const char *const dropouts[] = {
    "attention_dropout", "attn_dropout",   "attn_pdrop",       "embd_pdrop",
    "resid_pdrop",       "hidden_dropout", "residual_dropout", "hidden_dropout_prob",
    "embedding_dropout", "dropout",
};

/* Keys that are read here or say nothing of the arithmetic. */
static const char *const bookkeeping[] = {
    "_name_or_path", "architectures", "bos_token_id",         "dtype",           "eos_token_id",
    "model_type",    "pad_token_id",  "task_specific_params", "tokenizer_class", "torch_dtype",
    "unk_token_id",  "use_cache",     "transformers_version",
};

static const struct {
    const char *name;
    uint32_t dtype;
} dtypes[] = {
    {"float32", LISA_DTYPE_F32},
    {"bfloat16", LISA_DTYPE_BF16},
    {"float16", LISA_DTYPE_F16},
    {"float64", LISA_DTYPE_F64},
};

static int is_in(const char *const *list, size_t n, const char *key) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i], key) == 0)
            return 1;
    return 0;
}

/* ---- keys that the family does not read ---- */

static int is_neutral_list(const json_t *list, const char *text) {
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) {
        const char *value = json_string_value(item);
        if (text == NULL || value == NULL || strcmp(value, text) != 0)
            return 0;
    }
    return 1;
}

static int is_neutral(const json_t *value, double neutral, const char *text) {
    switch (json_typeof(value)) {
    case JSON_NULL:
    case JSON_FALSE:
        return 1;
    case JSON_INTEGER:
    case JSON_REAL:
        return json_number_value(value) == neutral;
    case JSON_STRING:
        return text != NULL && strcmp(json_string_value(value), text) == 0;
    case JSON_ARRAY:
        return is_neutral_list(value, text);
    case JSON_OBJECT:
        return json_object_size(value) == 0;
    default:
        return 0;
    }
}

static lisa_status refuse(const char *file, const char *key, const json_t *value, size_t guard,
                          const char *family) {
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    char expected[64] = "absent or null";
    if (guards[guard].neutral_text != NULL)
        snprintf(expected, sizeof expected, "\"%s\"", guards[guard].neutral_text);
    else if (!isnan(guards[guard].neutral))
        snprintf(expected, sizeof expected, "%.0f", guards[guard].neutral);
    const lisa_status status =
        lisa__fail(LISA_E_UNSUPPORTED, "%s: \"%s\" is %.80s; for %s only %s is implemented", file,
                   key, text != NULL ? text : "?", family, expected);
    free(text);
    return status;
}

/* *found: the key is on the list. */
static lisa_status check_guard(const char *file, const char *key, const json_t *value,
                               const char *family, int *found) {
    for (size_t i = 0; i < sizeof guards / sizeof *guards; i++) {
        if (strcmp(guards[i].key, key) != 0)
            continue;
        *found = 1;
        if (!is_neutral(value, guards[i].neutral, guards[i].neutral_text))
            return refuse(file, key, value, i, family);
    }
    return LISA_OK;
}

static lisa_status check_dropout(lisa_context *context, const json_t *json, const char *file,
                                 const char *key) {
    const struct lisa__json_source source = {json, file, ""};
    double rate;
    LISA_TRY(lisa__json_double(source, key, 0, 0, 1, &rate));
    if (rate != 0)
        lisa__log(context, LISA_LOG_INFO, "%s: \"%s\" is %g; read, not applied", file, key, rate);
    return LISA_OK;
}

static lisa_status check_key(lisa_context *context, const json_t *json, const char *file,
                             const struct lisa__family *family, const char *key) {
    int found = lisa__family_has_key(family, key) ||
                is_in(bookkeeping, sizeof bookkeeping / sizeof *bookkeeping, key);
    if (found)
        return LISA_OK;
    if (is_in(dropouts, sizeof dropouts / sizeof *dropouts, key))
        return check_dropout(context, json, file, key);
    LISA_TRY(check_guard(file, key, json_object_get(json, key), family->name, &found));
    if (!found)
        lisa__log(context, LISA_LOG_INFO, "%s: \"%s\" is not known; ignored", file, key);
    return LISA_OK;
}

static lisa_status check_keys(lisa_context *context, json_t *json, const char *file,
                              const struct lisa__family *family) {
    for (void *i = json_object_iter(json); i != NULL; i = json_object_iter_next(json, i))
        LISA_TRY(check_key(context, json, file, family, json_object_iter_key(i)));
    return LISA_OK;
}

/* ---- reading ---- */

/* Near enough to what is implemented for a word on the difference. */
static const struct {
    const char *name, *text;
} relatives[] = {
    {"phi-msft", "Phi's first layout, with fused Wqkv; the same model as \"phi\" is implemented "
                 "(convert it with transformers' convert_phi_weights_to_hf.py)"},
};

static lisa_status find_family(const struct lisa__family **out, const json_t *json,
                               const char *file) {
    const struct lisa__json_source source = {json, file, ""};
    const char *name;
    char known[256] = "";
    LISA_TRY(lisa__json_require(source, "model_type"));
    LISA_TRY(lisa__json_string(source, "model_type", NULL, &name));
    *out = lisa__family_find(name);
    if (*out != NULL)
        return LISA_OK;
    for (size_t i = 0; i < sizeof relatives / sizeof *relatives; i++)
        if (strcmp(relatives[i].name, name) == 0)
            return lisa__fail(LISA_E_UNSUPPORTED, "%s: \"model_type\" is \"%s\": %s", file, name,
                              relatives[i].text);
    const struct lisa__family *family;
    for (uint32_t i = 0, n = 0; (family = lisa__family_at(i)) != NULL && n < sizeof known; i++)
        n += (uint32_t)snprintf(known + n, sizeof known - n, "%s%s", i == 0 ? "" : ", ",
                                family->name);
    return lisa__fail(LISA_E_UNSUPPORTED, "%s: \"model_type\" is \"%.40s\"; implemented: %s", file,
                      name, known);
}

/* ASCII alone, whatever the locale: "LLaMAForCausalLM" is one of the spellings in use. */
static int same_letters(const char *a, const char *b) {
    for (;; a++, b++) {
        const int x = *a >= 'A' && *a <= 'Z' ? *a + 32 : *a;
        const int y = *b >= 'A' && *b <= 'Z' ? *b + 32 : *b;
        if (x != y)
            return 0;
        if (x == 0)
            return 1;
    }
}

/* The same blocks under another head are another model. */
static lisa_status check_architecture(const json_t *json, const char *file,
                                      const struct lisa__family *family) {
    size_t i;
    json_t *item;
    const json_t *list = json_object_get(json, "architectures");
    if (list == NULL || json_is_null(list))
        return LISA_OK;
    if (!json_is_array(list))
        return lisa__fail(LISA_E_FORMAT, "%s: \"architectures\": a list expected", file);
    json_array_foreach(list, i, item) {
        if (!json_is_string(item))
            return lisa__fail(LISA_E_FORMAT, "%s: \"architectures\": a list of strings expected",
                              file);
        if (!same_letters(json_string_value(item), family->architecture))
            return lisa__fail(LISA_E_UNSUPPORTED,
                              "%s: \"architectures\" has \"%.60s\"; %s is implemented", file,
                              json_string_value(item), family->architecture);
    }
    return LISA_OK;
}

static lisa_status read_dtype(lisa_model_config *config, const json_t *json, const char *file) {
    const struct lisa__json_source source = {json, file, ""};
    static const char prefix[] = "torch.";
    const char *older, *name;
    LISA_TRY(lisa__json_string(source, "torch_dtype", NULL, &older));
    LISA_TRY(lisa__json_string(source, "dtype", older, &name));
    config->weights_dtype = LISA_DTYPE_F32;
    if (name == NULL)
        return LISA_OK;
    if (strncmp(name, prefix, sizeof prefix - 1) == 0)
        name += sizeof prefix - 1;
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, name) == 0) {
            config->weights_dtype = dtypes[i].dtype;
            return LISA_OK;
        }
    return lisa__fail(LISA_E_UNSUPPORTED,
                      "%s: \"dtype\" is \"%.40s\"; float32, bfloat16, float16 and float64 are "
                      "implemented",
                      file, name);
}

static lisa_status read_json(lisa_model_config *config, lisa_context *context, json_t *json,
                             const char *file) {
    const struct lisa__family *family;
    if (!json_is_object(json))
        return lisa__fail(LISA_E_FORMAT, "%s: an object expected", file);
    LISA_TRY(find_family(&family, json, file));
    LISA_TRY(check_architecture(json, file, family));
    LISA_TRY(check_keys(context, json, file, family));
    LISA_TRY(lisa__family_read(config, family, json, file));
    return read_dtype(config, json, file);
}

/* DIRECTORY/config.json, from malloc. */
static lisa_status make_path(char **out, const char *directory) {
    static const char name[] = "/config.json";
    const size_t length = strlen(directory);
    *out = malloc(length + sizeof name);
    if (*out == NULL)
        return lisa__fail(LISA_E_NOMEM, "%s: out of memory", directory);
    memcpy(*out, directory, length);
    memcpy(*out + length, name, sizeof name);
    return LISA_OK;
}

lisa_status lisa__hf_config_read(lisa_model_config *config, lisa_context *context,
                                 const char *directory) {
    lisa_model_config result;
    char *path;
    json_t *json;
    LISA_TRY(make_path(&path, directory));
    lisa_status status = lisa__json_load(&json, path, MAX_CONFIG);
    if (status == LISA_OK) {
        status = read_json(&result, context, json, path);
        json_decref(json);
    }
    free(path);
    if (status == LISA_OK)
        *config = result;
    return status;
}

static const struct lisa__st_tensor *find_embedding(const struct lisa__weights *weights,
                                                    const struct lisa__family *family) {
    const char *name = family->names[LISA__EMBED_W];
    const char *other = lisa__family_unprefixed(family, name);
    const struct lisa__st_tensor *tensor = lisa__weights_find(weights, name);
    return tensor != NULL || other == NULL ? tensor : lisa__weights_find(weights, other);
}

lisa_status lisa__hf_weights_dtype(lisa_model_config *config, lisa_context *context,
                                   const char *directory) {
    const struct lisa__family *family = lisa__family_find(config->family);
    struct lisa__weights *weights;
    struct lisa__error_kept kept;
    lisa__error_keep(&kept);
    const lisa_status status = lisa__weights_open(&weights, context, directory, 0);
    if (status == LISA_E_NOTFOUND) {
        lisa__error_restore(&kept);
        return LISA_OK;
    }
    LISA_TRY(status);
    const struct lisa__st_tensor *tensor = family == NULL ? NULL : find_embedding(weights, family);
    if (tensor != NULL && tensor->dtype != 0)
        config->weights_dtype = tensor->dtype;
    lisa__weights_close(weights);
    return LISA_OK;
}

/* ---- writing ---- */

static lisa_status no_memory(void) {
    return lisa__fail(LISA_E_NOMEM, "config.json: out of memory for its JSON");
}

static const char *dtype_name(uint32_t dtype) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (dtypes[i].dtype == dtype)
            return dtypes[i].name;
    return "float32";
}

/* transformers 5 writes "dtype", 4 "torch_dtype"; whichever is there is kept. */
static lisa_status set_current(json_t *json, const lisa_model_config *config) {
    const char *name = dtype_name(config->weights_dtype);
    const int newer = json_object_get(json, "dtype") != NULL;
    int failed = 0;
    if (newer)
        failed |= json_object_set_new(json, "dtype", json_string(name));
    if (!newer || json_object_get(json, "torch_dtype") != NULL)
        failed |= json_object_set_new(json, "torch_dtype", json_string(name));
    failed |= json_object_set_new(json, "tie_word_embeddings", json_boolean(config->tied_head));
    return failed ? no_memory() : LISA_OK;
}

/* A model without a tokenizer has no first and last token; null keeps transformers from its own. */
static lisa_status fill_new(json_t *json, const lisa_model_config *given) {
    lisa_model_config config = *given;
    LISA_TRY(lisa__config_check(&config));
    const struct lisa__family *family = lisa__family_find(config.family);
    int failed = 0;
    failed |= json_object_set_new(json, "architectures", json_pack("[s]", family->architecture));
    failed |= json_object_set_new(json, "model_type", json_string(family->name));
    failed |= json_object_set_new(json, "bos_token_id", json_null());
    failed |= json_object_set_new(json, "eos_token_id", json_null());
    failed |= json_object_set_new(json, "use_cache", json_true());
    if (failed)
        return no_memory();
    return lisa__family_write(&config, family, json);
}

lisa_status lisa__hf_config_check(const lisa_model_config *config) {
    json_t *json = json_object();
    const lisa_status status = json == NULL ? no_memory() : fill_new(json, config);
    json_decref(json);
    return status;
}

static lisa_status write_json(lisa_context *context, json_t *json, const lisa_model_config *config,
                              const char *directory) {
    char *text;
    uint64_t n;
    LISA_TRY(set_current(json, config));
    LISA_TRY(lisa__json_dump(&text, &n, json, "config.json"));
    const lisa_status status = lisa__write_file(context, directory, "config.json", text, n);
    free(text);
    return status;
}

static lisa_status load_source(json_t **out, lisa_context *context, const char *source) {
    char *path;
    struct lisa__error_kept kept;
    *out = NULL;
    if (source == NULL)
        return LISA_OK;
    LISA_TRY(make_path(&path, source));
    lisa__error_keep(&kept);
    lisa_status status = lisa__json_load(out, path, MAX_CONFIG);
    if (status == LISA_E_NOTFOUND) {
        lisa__log(context, LISA_LOG_WARN, "%s is gone; a config.json is made from the description",
                  path);
        lisa__error_restore(&kept);
        status = LISA_OK;
    } else if (status == LISA_OK && !json_is_object(*out)) {
        json_decref(*out);
        status = lisa__fail(LISA_E_FORMAT, "%s: an object expected", path);
    }
    free(path);
    return status;
}

lisa_status lisa__hf_config_write(lisa_context *context, const lisa_model_config *config,
                                  const char *directory, const char *source) {
    json_t *json;
    lisa_status status;
    LISA_TRY(load_source(&json, context, source));
    if (json == NULL) {
        json = json_object();
        status = json == NULL ? no_memory() : fill_new(json, config);
    } else {
        status = LISA_OK;
    }
    if (status == LISA_OK)
        status = write_json(context, json, config, directory);
    json_decref(json);
    return status;
}
