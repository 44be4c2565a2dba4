#include "model/family.h"

#include "core/json.h"

#include <float.h>
#include <string.h>

static const struct lisa__family *const families[] = {
    &lisa__family_llama, &lisa__family_gpt2,  &lisa__family_mistral,
    &lisa__family_phi,   &lisa__family_qwen2, &lisa__family_qwen3,
};

const struct lisa__family *lisa__family_at(uint32_t i) {
    return i < sizeof families / sizeof *families ? families[i] : NULL;
}

const struct lisa__family *lisa__family_find(const char *name) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (strcmp(families[i]->name, name) == 0)
            return families[i];
    return NULL;
}

/* ---- names ---- */

const char *lisa__family_unprefixed(const struct lisa__family *family, const char *name) {
    const size_t length = family->optional_prefix == NULL ? 0 : strlen(family->optional_prefix);
    if (length == 0 || strncmp(name, family->optional_prefix, length) != 0)
        return NULL;
    return name + length;
}

int lisa__family_ignores(const struct lisa__family *family, const char *name) {
    const size_t length = strlen(name);
    for (const char *const *end = family->ignored; end != NULL && *end != NULL; end++) {
        const size_t n = strlen(*end);
        if (length >= n && strcmp(name + length - n, *end) == 0)
            return 1;
    }
    return 0;
}

int lisa__family_has_key(const struct lisa__family *family, const char *key) {
    for (const struct lisa__key *k = family->keys; k->name != NULL; k++)
        if (strcmp(k->name, key) == 0)
            return 1;
    return 0;
}

/* The key that fills a field, for texts. */
static const char *key_of(const struct lisa__family *family, uint32_t field) {
    for (const struct lisa__key *k = family->keys; k->name != NULL; k++)
        if (k->field == field)
            return k->name;
    return "?";
}

/* The first name of a number is the one that is written. */
static const struct {
    const char *name;
    uint32_t activation;
} activations[] = {
    {"silu", LISA_ACT_SILU},          {"swish", LISA_ACT_SILU},
    {"gelu_new", LISA_ACT_GELU_TANH}, {"gelu_pytorch_tanh", LISA_ACT_GELU_TANH},
    {"gelu", LISA_ACT_GELU_ERF},      {"relu", LISA_ACT_RELU},
};

/* ---- reading ---- */

static lisa_status read_activation(struct lisa__json_source source, const char *key,
                                   uint32_t absent, uint32_t *out) {
    const char *name;
    *out = absent;
    LISA_TRY(lisa__json_string(source, key, NULL, &name));
    if (name == NULL)
        return LISA_OK;
    for (size_t i = 0; i < sizeof activations / sizeof *activations; i++)
        if (strcmp(activations[i].name, name) == 0) {
            *out = activations[i].activation;
            return LISA_OK;
        }
    return lisa__fail(LISA_E_UNSUPPORTED,
                      "%s: \"%s\" is \"%.40s\"; silu, gelu, gelu_new, gelu_pytorch_tanh and relu "
                      "are implemented",
                      source.file, key, name);
}

static lisa_status read_true(struct lisa__json_source source, const char *key) {
    uint32_t value;
    LISA_TRY(lisa__json_bool(source, key, 1, &value));
    if (!value)
        return lisa__fail(LISA_E_UNSUPPORTED, "%s: \"%s\" is false; true is implemented",
                          source.file, key);
    return LISA_OK;
}

static lisa_status read_number(void *field, struct lisa__json_source source,
                               const struct lisa__key *key, double missing) {
    uint32_t *integer = field;
    const uint32_t other = (uint32_t)missing;
    switch (key->kind) {
    case LISA__SIZE:
        LISA_TRY(lisa__json_require(source, key->name));
        return lisa__json_u32(source, key->name, other, 1, INT32_MAX, integer);
    case LISA__COUNT:
        return lisa__json_u32(source, key->name, other, 1, INT32_MAX, integer);
    case LISA__FLAG:
        return lisa__json_bool(source, key->name, other, integer);
    case LISA__EPSILON:
        return lisa__json_double(source, key->name, missing, DBL_MIN, 1, field);
    case LISA__DEVIATION:
        return lisa__json_double(source, key->name, missing, 0, 1000, field);
    case LISA__ACTIVATION:
        return read_activation(source, key->name, other, integer);
    case LISA__TRUE:
        return read_true(source, key->name);
    default:
        return LISA_OK;
    }
}

/* What follows from other sizes where nothing says it. */
static lisa_status derive(lisa_model_config *c, const struct lisa__family *family,
                          const char *file) {
    const char *heads = key_of(family, LISA__FIELD(n_heads));
    if (c->d_ff == 0 && c->d_model > INT32_MAX / 4)
        return lisa__fail(LISA_E_FORMAT, "%s: \"%s\" is %u, at most %d expected", file,
                          key_of(family, LISA__FIELD(d_model)), c->d_model, INT32_MAX / 4);
    if (c->d_ff == 0)
        c->d_ff = 4 * c->d_model;
    if (c->n_kv_heads == 0)
        c->n_kv_heads = c->n_heads;
    if (c->n_heads % c->n_kv_heads != 0)
        return lisa__fail(LISA_E_FORMAT, "%s: \"%s\" is %u, a divisor of %s' %u expected", file,
                          key_of(family, LISA__FIELD(n_kv_heads)), c->n_kv_heads, heads,
                          c->n_heads);
    if (c->head_dim == 0 && c->d_model % c->n_heads != 0)
        return lisa__fail(LISA_E_FORMAT,
                          "%s: \"%s\" is %u, a multiple of %s' %u expected where there is no "
                          "head_dim",
                          file, key_of(family, LISA__FIELD(d_model)), c->d_model, heads,
                          c->n_heads);
    if (c->head_dim == 0)
        c->head_dim = c->d_model / c->n_heads;
    return LISA_OK;
}

/* Only the layers from max_window_layers on have the window; there is one for all here. */
static lisa_status read_switched_window(lisa_model_config *c, struct lisa__json_source source) {
    static const char *const key = "sliding_window";
    uint32_t is_on, window, first;
    LISA_TRY(lisa__json_bool(source, "use_sliding_window", 0, &is_on));
    if (!is_on)
        return LISA_OK;
    const uint32_t missing = json_object_get(source.object, key) == NULL ? 4096 : 0;
    LISA_TRY(lisa__json_u32(source, key, missing, 1, INT32_MAX, &window));
    LISA_TRY(lisa__json_u32(source, "max_window_layers", 28, 0, INT32_MAX, &first));
    if (window == 0 || first >= c->n_layers)
        return LISA_OK;
    if (first != 0)
        return lisa__fail(LISA_E_UNSUPPORTED,
                          "%s: \"max_window_layers\" is %u; a window for all layers (0) or for "
                          "none (num_hidden_layers' %u) is implemented",
                          source.file, first, c->n_layers);
    c->sliding_window = window;
    return LISA_OK;
}

static lisa_status check_layer_types(const lisa_model_config *c, const json_t *json,
                                     const char *file) {
    static const char key[] = "layer_types";
    const char *wanted = c->sliding_window != 0 ? "sliding_attention" : "full_attention";
    const json_t *list = json_object_get(json, key);
    size_t i;
    json_t *item;
    if (list == NULL || json_is_null(list))
        return LISA_OK;
    if (!json_is_array(list) || json_array_size(list) != c->n_layers)
        return lisa__fail(LISA_E_FORMAT, "%s: \"%s\": a list of %u expected", file, key,
                          c->n_layers);
    json_array_foreach(list, i, item) {
        const char *text = json_string_value(item);
        if (text == NULL || strcmp(text, wanted) != 0)
            return lisa__fail(LISA_E_UNSUPPORTED,
                              "%s: \"%s\" has \"%.40s\"; \"%s\" throughout is implemented where "
                              "sliding_window is %u",
                              file, key, text != NULL ? text : "no string", wanted,
                              c->sliding_window);
    }
    return LISA_OK;
}

lisa_status lisa__family_read(lisa_model_config *config, const struct lisa__family *family,
                              const json_t *json, const char *file) {
    const struct lisa__json_source source = {json, file, ""};
    *config = family->base;
    config->struct_size = sizeof *config;
    strcpy(config->family, family->name);
    for (const struct lisa__key *key = family->keys; key->name != NULL; key++) {
        const double missing = json_object_get(json, key->name) == NULL ? key->absent : key->null;
        LISA_TRY(read_number((unsigned char *)config + key->field, source, key, missing));
    }
    LISA_TRY(derive(config, family, file));
    if (family->switched_window)
        LISA_TRY(read_switched_window(config, source));
    if (lisa__family_has_key(family, "layer_types"))
        LISA_TRY(check_layer_types(config, json, file));
    return config->rope == LISA_ROPE_NONE ? LISA_OK : lisa__rope_read(config, family, json, file);
}

/* ---- writing ---- */

static const char *activation_name(uint32_t activation) {
    for (size_t i = 0; i < sizeof activations / sizeof *activations; i++)
        if (activations[i].activation == activation)
            return activations[i].name;
    return "?";
}

static json_t *count(uint32_t value) {
    return value == 0 ? json_null() : json_integer((json_int_t)value);
}

static json_t *value_of(const void *field, uint32_t kind) {
    uint32_t integer;
    double number;
    if (kind == LISA__EPSILON || kind == LISA__DEVIATION) {
        memcpy(&number, field, sizeof number);
        return json_real(number);
    }
    memcpy(&integer, field, sizeof integer);
    if (kind == LISA__FLAG)
        return json_boolean(integer);
    return kind == LISA__ACTIVATION ? json_string(activation_name(integer)) : count(integer);
}

static int write_keys(const lisa_model_config *c, const struct lisa__family *family, json_t *json) {
    int failed = 0;
    for (const struct lisa__key *key = family->keys; key->name != NULL; key++)
        if (key->kind != LISA__TRUE && key->kind != LISA__ELSEWHERE)
            failed |= json_object_set_new(
                json, key->name, value_of((const unsigned char *)c + key->field, key->kind));
    for (const char *const *key = family->dropouts; key != NULL && *key != NULL; key++)
        failed |= json_object_set_new(json, *key, json_real(0));
    if (family->switched_window) {
        const uint32_t window = c->sliding_window;
        failed |= json_object_set_new(json, "use_sliding_window", json_boolean(window != 0));
        failed |= json_object_set_new(json, "sliding_window", count(window));
        failed |= json_object_set_new(json, "max_window_layers",
                                      json_integer(window != 0 ? 0 : (json_int_t)c->n_layers));
    }
    return failed;
}

/* Fields that have no say beside others become the same in all descriptions. */
static lisa_model_config plain(const lisa_model_config *given) {
    lisa_model_config c = *given;
    if (c.rope == LISA_ROPE_NONE) {
        c.rotary_dim = 0;
        c.rope_theta = 0;
    }
    if (c.rope != LISA_ROPE_LINEAR && c.rope != LISA_ROPE_LLAMA3)
        c.rope_factor = 0;
    if (c.rope != LISA_ROPE_LLAMA3) {
        c.rope_original_positions = 0;
        c.rope_low_freq_factor = c.rope_high_freq_factor = 0;
    }
    return c;
}

#define SAID(name)                                                                                 \
    { #name, LISA__FIELD(name), sizeof(((lisa_model_config *)NULL)->name) }

/* A description may say what no config.json of the family can: then what is read again differs. */
static lisa_status check_said(const lisa_model_config *given, const struct lisa__family *family,
                              const json_t *json) {
    static const struct {
        const char *name;
        uint32_t field;
        size_t size;
    } fields[] = {
        SAID(norm),
        SAID(activation),
        SAID(gated_mlp),
        SAID(attention_bias),
        SAID(attention_output_bias),
        SAID(mlp_bias),
        SAID(head_bias),
        SAID(parallel_residual),
        SAID(qk_norm),
        SAID(learned_positions),
        SAID(sliding_window),
        SAID(rope),
        SAID(n_kv_heads),
        SAID(head_dim),
        SAID(rotary_dim),
        SAID(rope_theta),
        SAID(norm_eps),
        SAID(init_std),
    };
    lisa_model_config again;
    LISA_TRY(lisa__family_read(&again, family, json, "config.json"));
    const lisa_model_config a = plain(given), b = plain(&again);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (memcmp((const unsigned char *)&a + fields[i].field,
                   (const unsigned char *)&b + fields[i].field, fields[i].size) != 0)
            return lisa__fail(LISA_E_UNSUPPORTED,
                              "model config: the %s of this model cannot be said in a %s "
                              "config.json",
                              fields[i].name, family->name);
    return LISA_OK;
}

lisa_status lisa__family_write(const lisa_model_config *config, const struct lisa__family *family,
                               json_t *json) {
    if (write_keys(config, family, json) != 0)
        return lisa__fail(LISA_E_NOMEM, "config.json: out of memory for its JSON");
    if (family->base.rope != LISA_ROPE_NONE)
        LISA_TRY(lisa__rope_write(config, family, json));
    return check_said(config, family, json);
}
