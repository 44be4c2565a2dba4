/* family.h - a model family as data: what its config.json says, and what its tensors are called. */
#ifndef LISA_MODEL_FAMILY_H
#define LISA_MODEL_FAMILY_H

#include "model/tensors.h"

#include <jansson.h>
#include <stddef.h>

/* What a key of config.json holds. Each is read and written by the same row. */
enum lisa__key_kind {
    LISA__SIZE,       /* a uint32_t from 1 on that must be there: a silent default of transformers
                         would only move the error to the tensors' shapes */
    LISA__COUNT,      /* a uint32_t from 1 on; written as null where it is 0 */
    LISA__FLAG,       /* a uint32_t, true or false */
    LISA__EPSILON,    /* a double above 0, up to 1 */
    LISA__DEVIATION,  /* a double from 0 to 1000 */
    LISA__ACTIVATION, /* a uint32_t, LISA_ACT_*, by name */
    LISA__TRUE,       /* true alone is implemented; not written */
    LISA__ELSEWHERE, /* read by code that families share, or without a bearing on the mathematics */
};

struct lisa__key {
    const char *name;
    uint32_t kind;  /* enum lisa__key_kind */
    uint32_t field; /* its offset in lisa_model_config */
    double absent;  /* what it is where the key is absent, */
    double null;    /* and where it is null. 0 heads or widths: as lisa__family_read derives them */
};

struct lisa__family {
    const char *name;         /* lisa_model_config.family, and "model_type" in config.json */
    const char *architecture; /* "LlamaForCausalLM" */
    /* What no key says. Rotary positions are read where base.rope is not LISA_ROPE_NONE. */
    lisa_model_config base;
    const struct lisa__key *keys; /* up to one without a name */
    double partial_rotary;        /* default of "partial_rotary_factor"; 0: 1 alone is read */
    uint32_t switched_window;     /* 1: use_sliding_window and max_window_layers are read */
    uint32_t conv1d;              /* 1: linear weights of blocks are stored [in, out] */
    /* Hugging Face names, with %u for the layer in block roles; NULL where the family has none. */
    const char *names[LISA__ROLES];
    /* What a file may lack at the front of the names ("transformer."), or NULL. */
    const char *optional_prefix;
    /* Dropout rates that transformers takes as above 0 where the key is absent, up to a NULL: they
     * are written as 0. NULL: none. */
    const char *const *dropouts;
    /* Ends of names of tensors that are no weights (mask buffers, rotary tables), up to a NULL. */
    const char *const *ignored;
};

extern const struct lisa__family lisa__family_llama, lisa__family_gpt2, lisa__family_mistral,
    lisa__family_phi, lisa__family_qwen2, lisa__family_qwen3;

/* By name; NULL if there is none. */
const struct lisa__family *lisa__family_find(const char *name);

/* The i-th family, NULL past the last. */
const struct lisa__family *lisa__family_at(uint32_t i);

/* 1 when config.json's key is one of the family's. */
int lisa__family_has_key(const struct lisa__family *family, const char *key);

/* Fills a whole description but its weights_dtype from config.json; `file` is for texts. */
lisa_status lisa__family_read(lisa_model_config *config, const struct lisa__family *family,
                              const json_t *json, const char *file);

/* Writes a checked description's keys into an object, as transformers 4 has them; refused where no
 * config.json of the family can say what the description says. */
lisa_status lisa__family_write(const lisa_model_config *config, const struct lisa__family *family,
                               json_t *json);

/* The other spelling of a name of the family's, without its optional prefix; NULL if it has none.
 */
const char *lisa__family_unprefixed(const struct lisa__family *family, const char *name);

/* 1 for tensors in files that are not weights. */
int lisa__family_ignores(const struct lisa__family *family, const char *name);

/* Rotary positions: rope_theta with rope_scaling of transformers 4, rope_parameters of 5. */
lisa_status lisa__rope_read(lisa_model_config *config, const struct lisa__family *family,
                            const json_t *json, const char *file);
lisa_status lisa__rope_write(const lisa_model_config *config, const struct lisa__family *family,
                             json_t *json);

#define LISA__FIELD(name) ((uint32_t)offsetof(lisa_model_config, name))

/* What LLaMA and those who came after it call their keys and tensors. */
#define LISA__LLAMA_KEYS(kv_heads, dim_of_head, positions)                                         \
    {"vocab_size", LISA__SIZE, LISA__FIELD(vocab_size), 0, 0},                                     \
        {"hidden_size", LISA__SIZE, LISA__FIELD(d_model), 0, 0},                                   \
        {"intermediate_size", LISA__SIZE, LISA__FIELD(d_ff), 0, 0},                                \
        {"num_hidden_layers", LISA__SIZE, LISA__FIELD(n_layers), 0, 0},                            \
        {"num_attention_heads", LISA__SIZE, LISA__FIELD(n_heads), 0, 0},                           \
        {"num_key_value_heads", LISA__COUNT, LISA__FIELD(n_kv_heads), kv_heads, 0},                \
        {"head_dim", LISA__COUNT, LISA__FIELD(head_dim), dim_of_head, 0},                          \
        {"max_position_embeddings", LISA__COUNT, LISA__FIELD(max_positions), positions,            \
         positions},                                                                               \
        {"initializer_range", LISA__DEVIATION, LISA__FIELD(init_std), 0.02, 0.02},                 \
        {"tie_word_embeddings", LISA__FLAG, LISA__FIELD(tied_head), 0, 0},                         \
        {"rope_theta", LISA__ELSEWHERE, 0, 0, 0}, {"rope_scaling", LISA__ELSEWHERE, 0, 0, 0}, {    \
        "rope_parameters", LISA__ELSEWHERE, 0, 0, 0                                                \
    }

#define LISA__RMS_KEYS                                                                             \
    {"rms_norm_eps", LISA__EPSILON, LISA__FIELD(norm_eps), 1e-6, 1e-6}, {                          \
        "hidden_act", LISA__ACTIVATION, LISA__FIELD(activation), LISA_ACT_SILU, LISA_ACT_SILU      \
    }

#define LISA__SWITCHED_WINDOW_KEYS                                                                 \
    {"use_sliding_window", LISA__ELSEWHERE, 0, 0, 0},                                              \
        {"sliding_window", LISA__ELSEWHERE, 0, 0, 0},                                              \
        {"max_window_layers", LISA__ELSEWHERE, 0, 0, 0}, {                                         \
        "layer_types", LISA__ELSEWHERE, 0, 0, 0                                                    \
    }

#define LISA__LLAMA_BASE .norm = LISA_NORM_RMS, .gated_mlp = 1, .rope = LISA_ROPE_DEFAULT

#define LISA__LLAMA_NAMES                                                                          \
    [LISA__ATTN_NORM_W] = "model.layers.%u.input_layernorm.weight",                                \
    [LISA__Q_W] = "model.layers.%u.self_attn.q_proj.weight",                                       \
    [LISA__Q_B] = "model.layers.%u.self_attn.q_proj.bias",                                         \
    [LISA__K_W] = "model.layers.%u.self_attn.k_proj.weight",                                       \
    [LISA__K_B] = "model.layers.%u.self_attn.k_proj.bias",                                         \
    [LISA__V_W] = "model.layers.%u.self_attn.v_proj.weight",                                       \
    [LISA__V_B] = "model.layers.%u.self_attn.v_proj.bias",                                         \
    [LISA__EMBED_W] = "model.embed_tokens.weight", [LISA__HEAD_W] = "lm_head.weight"

#define LISA__SWIGLU_NAMES                                                                         \
    [LISA__O_W] = "model.layers.%u.self_attn.o_proj.weight",                                       \
    [LISA__MLP_NORM_W] = "model.layers.%u.post_attention_layernorm.weight",                        \
    [LISA__GATE_W] = "model.layers.%u.mlp.gate_proj.weight",                                       \
    [LISA__UP_W] = "model.layers.%u.mlp.up_proj.weight",                                           \
    [LISA__DOWN_W] = "model.layers.%u.mlp.down_proj.weight",                                       \
    [LISA__FINAL_NORM_W] = "model.norm.weight"

/* Old files carry the rotary table of each layer. */
#define LISA__ROTARY_TABLES ((const char *const[]){".rotary_emb.inv_freq", NULL})

#endif
