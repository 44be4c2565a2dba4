#include "model/family.h"

static const struct lisa__key keys[] = {
    LISA__LLAMA_KEYS(32, 0, 32768),
    LISA__RMS_KEYS,
    LISA__SWITCHED_WINDOW_KEYS,
    {NULL, 0, 0, 0, 0},
};

const struct lisa__family lisa__family_qwen2 = {
    .name = "qwen2",
    .architecture = "Qwen2ForCausalLM",
    .base = {LISA__LLAMA_BASE, .attention_bias = 1},
    .keys = keys,
    .switched_window = 1,
    .names = {LISA__LLAMA_NAMES, LISA__SWIGLU_NAMES},
    .ignored = LISA__ROTARY_TABLES,
};
