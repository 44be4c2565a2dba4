#include "core/json.h"
#include "model/family.h"

#include <float.h>
#include <stddef.h>
#include <string.h>

static const char *const keys[] = {
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    NULL,
};

/* Sizes whose absence is an error: a silent default of transformers would only move the error to
 * the tensors' shapes. */
static const struct {
    const char *key;
    size_t field;
} sizes[] = {
    {"vocab_size", offsetof(lisa_model_config, vocab_size)},
    {"hidden_size", offsetof(lisa_model_config, d_model)},
    {"intermediate_size", offsetof(lisa_model_config, d_ff)},
    {"num_hidden_layers", offsetof(lisa_model_config, n_layers)},
    {"num_attention_heads", offsetof(lisa_model_config, n_heads)},
};

static lisa_status read_sizes(lisa_model_config *config, struct lisa__json_source source) {
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint32_t value;
        LISA_TRY(lisa__json_require(source, sizes[i].key));
        LISA_TRY(lisa__json_u32(source, sizes[i].key, 0, 1, INT32_MAX, &value));
        memcpy((unsigned char *)config + sizes[i].field, &value, sizeof value);
    }
    return lisa__json_u32(source, "max_position_embeddings", 2048, 1, INT32_MAX,
                          &config->max_positions);
}

static lisa_status read_heads(lisa_model_config *config, struct lisa__json_source source) {
    LISA_TRY(lisa__json_u32(source, "num_key_value_heads", config->n_heads, 1, INT32_MAX,
                            &config->n_kv_heads));
    if (config->n_heads % config->n_kv_heads != 0)
        return lisa__fail(LISA_E_FORMAT,
                          "%s: \"num_key_value_heads\" is %u, a divisor of num_attention_heads' %u "
                          "expected",
                          source.file, config->n_kv_heads, config->n_heads);
    if (!lisa__json_has(source.object, "head_dim") && config->d_model % config->n_heads != 0)
        return lisa__fail(LISA_E_FORMAT,
                          "%s: \"hidden_size\" is %u, a multiple of num_attention_heads' %u "
                          "expected where there is no head_dim",
                          source.file, config->d_model, config->n_heads);
    return lisa__json_u32(source, "head_dim", config->d_model / config->n_heads, 1, INT32_MAX,
                          &config->head_dim);
}

static lisa_status read_config(lisa_model_config *config, const json_t *json, const char *file) {
    const struct lisa__json_source source = {json, file, ""};
    config->norm = LISA_NORM_RMS;
    config->gated_mlp = 1;
    LISA_TRY(read_sizes(config, source));
    LISA_TRY(read_heads(config, source));
    LISA_TRY(lisa__json_double(source, "rms_norm_eps", 1e-6, DBL_MIN, 1, &config->norm_eps));
    LISA_TRY(lisa__json_double(source, "initializer_range", 0.02, 0, 1000, &config->init_std));
    LISA_TRY(lisa__json_bool(source, "tie_word_embeddings", 0, &config->tied_head));
    LISA_TRY(lisa__json_bool(source, "attention_bias", 0, &config->attention_bias));
    LISA_TRY(lisa__json_bool(source, "mlp_bias", 0, &config->mlp_bias));
    config->attention_output_bias = config->attention_bias;
    LISA_TRY(lisa__family_read_activation(config, json, file, "hidden_act", "silu"));
    LISA_TRY(lisa__family_read_rope(config, json, file));
    config->rotary_dim = config->head_dim;
    return LISA_OK;
}

/* A description may say what no config.json of this family can. */
static lisa_status check_expressible(const lisa_model_config *c) {
    const struct {
        const char *what;
        int is_other;
    } rules[] = {
        {"norm", c->norm != LISA_NORM_RMS},
        {"gated_mlp", !c->gated_mlp},
        {"head_bias", c->head_bias != 0},
        {"parallel_residual", c->parallel_residual != 0},
        {"qk_norm", c->qk_norm != 0},
        {"learned_positions", c->learned_positions != 0},
        {"sliding_window", c->sliding_window != 0},
        {"rope", c->rope == LISA_ROPE_NONE},
        {"rotary_dim", c->rotary_dim != 0 && c->head_dim != 0 && c->rotary_dim != c->head_dim},
        {"attention_output_bias", c->attention_output_bias != c->attention_bias},
        {"activation", lisa__family_activation_name(c->activation) == NULL},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].is_other)
            return lisa__fail(LISA_E_UNSUPPORTED,
                              "model config: the %s of this model cannot be said in a llama "
                              "config.json",
                              rules[i].what);
    return LISA_OK;
}

static json_t *integer(uint32_t value) {
    return json_integer((json_int_t)value);
}

static lisa_status write_config(const lisa_model_config *c, json_t *json) {
    LISA_TRY(check_expressible(c));
    const uint32_t kv_heads = c->n_kv_heads != 0 ? c->n_kv_heads : c->n_heads;
    const double std = c->init_std != 0 ? c->init_std : 0.02;
    int failed = 0;
    failed |= json_object_set_new(json, "vocab_size", integer(c->vocab_size));
    failed |= json_object_set_new(json, "hidden_size", integer(c->d_model));
    failed |= json_object_set_new(json, "intermediate_size", integer(c->d_ff));
    failed |= json_object_set_new(json, "num_hidden_layers", integer(c->n_layers));
    failed |= json_object_set_new(json, "num_attention_heads", integer(c->n_heads));
    failed |= json_object_set_new(json, "num_key_value_heads", integer(kv_heads));
    if (c->head_dim != 0)
        failed |= json_object_set_new(json, "head_dim", integer(c->head_dim));
    failed |= json_object_set_new(json, "max_position_embeddings", integer(c->max_positions));
    failed |= json_object_set_new(json, "hidden_act",
                                  json_string(lisa__family_activation_name(c->activation)));
    failed |= json_object_set_new(json, "initializer_range", json_real(std));
    failed |= json_object_set_new(json, "rms_norm_eps", json_real(c->norm_eps));
    failed |= json_object_set_new(json, "attention_bias", json_boolean(c->attention_bias));
    failed |= json_object_set_new(json, "attention_dropout", json_real(0));
    failed |= json_object_set_new(json, "mlp_bias", json_boolean(c->mlp_bias));
    failed |= json_object_set_new(json, "pretraining_tp", integer(1));
    if (failed)
        return lisa__fail(LISA_E_NOMEM, "config.json: out of memory for its JSON");
    return lisa__family_write_rope(c, json);
}

/* Old files carry the rotary table of each layer. */
static int ignores(const char *name) {
    static const char suffix[] = ".rotary_emb.inv_freq";
    const size_t length = strlen(name), n = sizeof suffix - 1;
    return length >= n && strcmp(name + length - n, suffix) == 0;
}

const struct lisa__family lisa__family_llama = {
    .name = "llama",
    .architecture = "LlamaForCausalLM",
    .names =
        {
            [LISA__ATTN_NORM_W] = "model.layers.%u.input_layernorm.weight",
            [LISA__Q_W] = "model.layers.%u.self_attn.q_proj.weight",
            [LISA__Q_B] = "model.layers.%u.self_attn.q_proj.bias",
            [LISA__K_W] = "model.layers.%u.self_attn.k_proj.weight",
            [LISA__K_B] = "model.layers.%u.self_attn.k_proj.bias",
            [LISA__V_W] = "model.layers.%u.self_attn.v_proj.weight",
            [LISA__V_B] = "model.layers.%u.self_attn.v_proj.bias",
            [LISA__O_W] = "model.layers.%u.self_attn.o_proj.weight",
            [LISA__O_B] = "model.layers.%u.self_attn.o_proj.bias",
            [LISA__MLP_NORM_W] = "model.layers.%u.post_attention_layernorm.weight",
            [LISA__GATE_W] = "model.layers.%u.mlp.gate_proj.weight",
            [LISA__GATE_B] = "model.layers.%u.mlp.gate_proj.bias",
            [LISA__UP_W] = "model.layers.%u.mlp.up_proj.weight",
            [LISA__UP_B] = "model.layers.%u.mlp.up_proj.bias",
            [LISA__DOWN_W] = "model.layers.%u.mlp.down_proj.weight",
            [LISA__DOWN_B] = "model.layers.%u.mlp.down_proj.bias",
            [LISA__EMBED_W] = "model.embed_tokens.weight",
            [LISA__FINAL_NORM_W] = "model.norm.weight",
            [LISA__HEAD_W] = "lm_head.weight",
        },
    .read = read_config,
    .write = write_config,
    .ignores = ignores,
    .keys = keys,
};
