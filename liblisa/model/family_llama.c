#include "model/family.h"

static const struct lisa__key keys[] = {
    LISA__LLAMA_KEYS(0, 0, 2048),
    LISA__RMS_KEYS,
    {"attention_bias", LISA__FLAG, LISA__FIELD(attention_bias), 0, 0},
    {"attention_bias", LISA__FLAG, LISA__FIELD(attention_output_bias), 0, 0},
    {"mlp_bias", LISA__FLAG, LISA__FIELD(mlp_bias), 0, 0},
    {NULL, 0, 0, 0, 0},
};

const struct lisa__family lisa__family_llama = {
    .name = "llama",
    .architecture = "LlamaForCausalLM",
    .base = {LISA__LLAMA_BASE},
    .keys = keys,
    .names = {LISA__LLAMA_NAMES,
              LISA__SWIGLU_NAMES, [LISA__O_B] = "model.layers.%u.self_attn.o_proj.bias",
              [LISA__GATE_B] = "model.layers.%u.mlp.gate_proj.bias",
              [LISA__UP_B] = "model.layers.%u.mlp.up_proj.bias",
              [LISA__DOWN_B] = "model.layers.%u.mlp.down_proj.bias"},
    .ignored = LISA__ROTARY_TABLES,
};
