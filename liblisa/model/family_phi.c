#include "model/family.h"

static const struct lisa__key keys[] = {
    LISA__LLAMA_KEYS(0, 0, 2048),
    {"layer_norm_eps", LISA__EPSILON, LISA__FIELD(norm_eps), 1e-5, 1e-5},
    {"hidden_act", LISA__ACTIVATION, LISA__FIELD(activation), LISA_ACT_GELU_TANH,
     LISA_ACT_GELU_TANH},
    {"partial_rotary_factor", LISA__ELSEWHERE, 0, 0, 0},
    {NULL, 0, 0, 0, 0},
};

/* One norm, attention and MLP side by side, a bias everywhere. */
const struct lisa__family lisa__family_phi = {
    .name = "phi",
    .architecture = "PhiForCausalLM",
    .base =
        {
            .norm = LISA_NORM_LAYER,
            .attention_bias = 1,
            .attention_output_bias = 1,
            .mlp_bias = 1,
            .head_bias = 1,
            .parallel_residual = 1,
            .rope = LISA_ROPE_DEFAULT,
        },
    .keys = keys,
    .partial_rotary = 0.5,
    .names =
        {
            LISA__LLAMA_NAMES,
            [LISA__ATTN_NORM_B] = "model.layers.%u.input_layernorm.bias",
            [LISA__O_W] = "model.layers.%u.self_attn.dense.weight",
            [LISA__O_B] = "model.layers.%u.self_attn.dense.bias",
            [LISA__UP_W] = "model.layers.%u.mlp.fc1.weight",
            [LISA__UP_B] = "model.layers.%u.mlp.fc1.bias",
            [LISA__DOWN_W] = "model.layers.%u.mlp.fc2.weight",
            [LISA__DOWN_B] = "model.layers.%u.mlp.fc2.bias",
            [LISA__FINAL_NORM_W] = "model.final_layernorm.weight",
            [LISA__FINAL_NORM_B] = "model.final_layernorm.bias",
            [LISA__HEAD_B] = "lm_head.bias",
        },
    .ignored = LISA__ROTARY_TABLES,
};
