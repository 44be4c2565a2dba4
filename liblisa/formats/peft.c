#include "formats/peft.h"

#include "core/json.h"
#include "model/family.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Keys with which PEFT computes something else. Absent, null, false, nothing and `neutral` pass. */
static const struct {
    const char *key, *neutral;
} guards[] = {
    {"alora_invocation_tokens", NULL},
    {"alpha_pattern", NULL},
    {"arrow_config", NULL},
    {"bias", "none"},
    {"enable_lora", NULL},
    {"kasa_config", NULL},
    {"layer_replication", NULL},
    {"layers_to_transform", NULL},
    {"lora_bias", NULL},
    {"megatron_config", NULL},
    {"modules_to_save", NULL},
    {"monteclora_config", NULL},
    {"rank_pattern", NULL},
    {"target_parameters", NULL},
    {"trainable_token_indices", NULL},
    {"use_bdlora", NULL},
    {"use_dora", NULL},
    {"use_qalora", NULL},
};

/* Keys that are read here, or say nothing of the arithmetic once the tensors are there. */
static const char *const bookkeeping[] = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "ensure_weight_tying",
    "lora_ga_config",
    "velora_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "merge_weights",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "target_modules",
    "task_type",
    "use_rslora",
};

/* ---- reading ---- */

static int is_bookkeeping(const char *key) {
    for (size_t i = 0; i < sizeof bookkeeping / sizeof *bookkeeping; i++)
        if (strcmp(bookkeeping[i], key) == 0)
            return 1;
    return 0;
}

static int is_neutral(const json_t *value, const char *neutral) {
    switch (json_typeof(value)) {
    case JSON_NULL:
    case JSON_FALSE:
        return 1;
    case JSON_STRING:
        return json_string_length(value) == 0 ||
               (neutral != NULL && strcmp(json_string_value(value), neutral) == 0);
    case JSON_ARRAY:
        return json_array_size(value) == 0;
    case JSON_OBJECT:
        return json_object_size(value) == 0;
    default:
        return 0;
    }
}

static lisa_status refuse(const char *path, const char *key, const json_t *value,
                          const char *implemented) {
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    const lisa_status status =
        lisa__fail(LISA_E_UNSUPPORTED, "%s: \"%s\" is %.80s; only %s is implemented", path, key,
                   text != NULL ? text : "?", implemented);
    free(text);
    return status;
}

static lisa_status check_key(lisa_context *context, const char *path, const char *key,
                             const json_t *value) {
    for (size_t i = 0; i < sizeof guards / sizeof *guards; i++) {
        if (strcmp(guards[i].key, key) != 0)
            continue;
        if (is_neutral(value, guards[i].neutral))
            return LISA_OK;
        return refuse(path, key, value, guards[i].neutral != NULL ? "\"none\"" : "null");
    }
    if (!is_bookkeeping(key))
        lisa__log(context, LISA_LOG_INFO, "%s: \"%s\" is not known; ignored", path, key);
    return LISA_OK;
}

static lisa_status check_keys(lisa_context *context, json_t *json, const char *path) {
    for (void *i = json_object_iter(json); i != NULL; i = json_object_iter_next(json, i))
        LISA_TRY(check_key(context, path, json_object_iter_key(i), json_object_iter_value(i)));
    return LISA_OK;
}

static lisa_status check_kind(struct lisa__json_source source) {
    const char *name;
    LISA_TRY(lisa__json_require(source, "peft_type"));
    LISA_TRY(lisa__json_string(source, "peft_type", NULL, &name));
    if (strcmp(name, "LORA") != 0)
        return refuse(source.file, "peft_type", json_object_get(source.object, "peft_type"),
                      "\"LORA\"");
    return LISA_OK;
}

/* Some ways to begin change the base's weights too: what is in the file then is beside another
 * base. */
static lisa_status check_beginning(struct lisa__json_source source) {
    const json_t *value = json_object_get(source.object, "init_lora_weights");
    const char *name = json_string_value(value);
    if (value == NULL || json_is_null(value) || json_is_boolean(value) ||
        (name != NULL && strcmp(name, "gaussian") == 0))
        return LISA_OK;
    return refuse(source.file, "init_lora_weights", value, "true, false or \"gaussian\"");
}

/* What differs from this base, where it may: said, no more. */
static lisa_status report(struct lisa__json_source source, lisa_context *context,
                          const struct lisa__peft_base *base) {
    const uint32_t conv1d = lisa__family_find(base->config->family)->conv1d;
    const char *revision, *name, *task;
    uint32_t swapped;
    LISA_TRY(lisa__json_bool(source, "fan_in_fan_out", conv1d, &swapped));
    LISA_TRY(lisa__json_string(source, "revision", NULL, &revision));
    LISA_TRY(lisa__json_string(source, "base_model_name_or_path", NULL, &name));
    LISA_TRY(lisa__json_string(source, "task_type", NULL, &task));
    if (swapped != conv1d)
        lisa__log(context, LISA_LOG_WARN, "%s: \"fan_in_fan_out\" is %s; for %s it is %s",
                  source.file, swapped ? "true" : "false", base->config->family,
                  conv1d ? "true" : "false");
    if (name != NULL && (base->directory == NULL || strcmp(name, base->directory) != 0))
        lisa__log(context, LISA_LOG_INFO, "%s: made for \"%s\"%s%s, used with %s", source.file,
                  name, revision != NULL ? ", revision " : "", revision != NULL ? revision : "",
                  base->directory != NULL ? base->directory : "a model of no directory");
    if (task != NULL && strcmp(task, "CAUSAL_LM") != 0)
        lisa__log(context, LISA_LOG_INFO, "%s: \"task_type\" is \"%s\"; ignored", source.file,
                  task);
    return LISA_OK;
}

static lisa_status read_numbers(lisa_adapter_options *options, struct lisa__json_source source) {
    LISA_TRY(lisa__json_u32(source, "r", 8, 1, LISA__MAX_RANK, &options->rank));
    LISA_TRY(lisa__json_double(source, "lora_alpha", 8, 0, HUGE_VAL, &options->alpha));
    LISA_TRY(lisa__json_double(source, "lora_dropout", 0, 0, 1, &options->dropout));
    LISA_TRY(lisa__json_bool(source, "use_rslora", 0, &options->use_rslora));
    if (!(options->alpha > 0))
        return lisa__fail(LISA_E_FORMAT, "%s: \"lora_alpha\" is %g, above 0 expected", source.file,
                          options->alpha);
    if (!(options->dropout < 1))
        return lisa__fail(LISA_E_FORMAT, "%s: \"lora_dropout\" is %g, below 1 expected",
                          source.file, options->dropout);
    return LISA_OK;
}

static lisa_status read_json(lisa_adapter_options *options, lisa_context *context,
                             const struct lisa__peft_base *base, json_t *json, const char *path) {
    const struct lisa__json_source source = {json, path, ""};
    if (!json_is_object(json))
        return lisa__fail(LISA_E_FORMAT, "%s: an object expected", path);
    LISA_TRY(check_kind(source));
    LISA_TRY(check_keys(context, json, path));
    LISA_TRY(check_beginning(source));
    LISA_TRY(report(source, context, base));
    return read_numbers(options, source);
}

lisa_status lisa__peft_config_read(lisa_adapter_options *options, lisa_context *context,
                                   const struct lisa__peft_base *base, const char *text, uint64_t n,
                                   const char *path) {
    json_t *json;
    lisa_adapter_options result = *options;
    LISA_TRY(lisa__json_parse(&json, text, n, path));
    const lisa_status status = read_json(&result, context, base, json, path);
    json_decref(json);
    if (status == LISA_OK)
        *options = result;
    return status;
}

/* ---- writing ---- */

/* A weight's module within its layer ("attn.c_proj"), or its last name alone ("c_proj"). */
struct module {
    const char *begin;
    size_t length;
};

static struct module module_of(const struct lisa__family *family, uint32_t role, int leaf) {
    const char *name = family->names[role], *layer = strstr(name, "%u.");
    struct module m = {layer == NULL ? name : layer + 3, 0};
    m.length = strlen(m.begin) - strlen(".weight");
    for (size_t i = m.length; leaf && i > 0; i--)
        if (m.begin[i - 1] == '.') {
            m.begin += i;
            m.length -= i;
            break;
        }
    return m;
}

static int is_linear(const struct lisa__family *family, uint32_t role) {
    return family->names[role] != NULL && lisa__lora_target(role) != 0;
}

/* PEFT takes every module whose name ends so: where two do, as GPT-2's c_proj, more is said. */
static struct module target_name(const struct lisa__family *family, uint32_t role) {
    const struct module own = module_of(family, role, 1);
    for (uint32_t i = 0; i < LISA__ROLES; i++) {
        if (i == role || !is_linear(family, i))
            continue;
        const struct module other = module_of(family, i, 1);
        if (other.length == own.length && memcmp(other.begin, own.begin, own.length) == 0)
            return module_of(family, role, 0);
    }
    return own;
}

static json_t *target_names(const struct lisa__family *family, uint32_t targets) {
    json_t *list = json_array();
    int failed = 0;
    for (uint32_t role = 0; role < LISA__ROLES && list != NULL; role++) {
        if (!is_linear(family, role) || (lisa__lora_target(role) & targets) == 0)
            continue;
        const struct module m = target_name(family, role);
        failed |= json_array_append_new(list, json_stringn(m.begin, m.length));
    }
    if (!failed)
        return list;
    json_decref(list);
    return NULL;
}

/* alpha as PEFT has it: an integer where it is one. */
static json_t *number(double x) {
    return x == floor(x) && x < 1e15 ? json_integer((json_int_t)x) : json_real(x);
}

static int set_current(json_t *json, const lisa_adapter_options *options,
                       const struct lisa__peft_base *base) {
    const struct lisa__family *family = lisa__family_find(base->config->family);
    int failed = 0;
    failed |= json_object_set_new(json, "peft_type", json_string("LORA"));
    failed |= json_object_set_new(json, "r", json_integer(options->rank));
    failed |= json_object_set_new(json, "lora_alpha", number(options->alpha));
    failed |= json_object_set_new(json, "lora_dropout", json_real(options->dropout));
    failed |= json_object_set_new(json, "use_rslora", json_boolean(options->use_rslora));
    failed |= json_object_set_new(json, "fan_in_fan_out", json_boolean(family->conv1d));
    failed |= json_object_set_new(json, "inference_mode", json_true());
    failed |= json_object_set_new(json, "target_modules", target_names(family, options->targets));
    return failed;
}

/* The base's directory; null where there is none, or its bytes are not the UTF-8 of JSON. */
static json_t *base_name(const char *directory) {
    json_t *name = directory != NULL ? json_string(directory) : NULL;
    return name != NULL ? name : json_null();
}

/* What goes beside it where there was no configuration before. */
static int set_new(json_t *json, const char *directory) {
    int failed = 0;
    failed |= json_object_set_new(json, "task_type", json_string("CAUSAL_LM"));
    failed |= json_object_set_new(json, "base_model_name_or_path", base_name(directory));
    failed |= json_object_set_new(json, "bias", json_string("none"));
    failed |= json_object_set_new(json, "init_lora_weights", json_true());
    failed |= json_object_set_new(json, "modules_to_save", json_null());
    failed |= json_object_set_new(json, "use_dora", json_false());
    return failed;
}

lisa_status lisa__peft_config_text(char **out, uint64_t *n, const lisa_adapter_options *options,
                                   const struct lisa__peft_base *base, const char *kept,
                                   uint64_t kept_bytes) {
    json_t *json = NULL;
    if (kept != NULL)
        LISA_TRY(lisa__json_parse(&json, kept, kept_bytes, LISA__PEFT_CONFIG));
    else
        json = json_object();
    const int failed = json == NULL || (kept == NULL && set_new(json, base->directory)) ||
                       set_current(json, options, base);
    const lisa_status status =
        failed ? lisa__fail(LISA_E_NOMEM, LISA__PEFT_CONFIG ": out of memory for its JSON")
               : lisa__json_dump(out, n, json, LISA__PEFT_CONFIG);
    json_decref(json);
    return status;
}
