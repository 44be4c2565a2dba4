#include "model/family.h"

static const struct lisa__key keys[] = {
    LISA__LLAMA_KEYS(32, 128, 32768),
    LISA__RMS_KEYS,
    LISA__SWITCHED_WINDOW_KEYS,
    {"attention_bias", LISA__FLAG, LISA__FIELD(attention_bias), 0, 0},
    {"attention_bias", LISA__FLAG, LISA__FIELD(attention_output_bias), 0, 0},
    {NULL, 0, 0, 0, 0},
};

const struct lisa__family lisa__family_qwen3 = {
    .name = "qwen3",
    .architecture = "Qwen3ForCausalLM",
    .base = {LISA__LLAMA_BASE, .qk_norm = 1},
    .keys = keys,
    .switched_window = 1,
    .names = {LISA__LLAMA_NAMES,
              LISA__SWIGLU_NAMES, [LISA__Q_NORM_W] = "model.layers.%u.self_attn.q_norm.weight",
              [LISA__K_NORM_W] = "model.layers.%u.self_attn.k_norm.weight",
              [LISA__O_B] = "model.layers.%u.self_attn.o_proj.bias"},
    .ignored = LISA__ROTARY_TABLES,
};
