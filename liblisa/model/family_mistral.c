#include "model/family.h"

static const struct lisa__key keys[] = {
    LISA__LLAMA_KEYS(8, 0, 131072),
    LISA__RMS_KEYS,
    {"sliding_window", LISA__COUNT, LISA__FIELD(sliding_window), 4096, 0},
    {"layer_types", LISA__ELSEWHERE, 0, 0, 0},
    {NULL, 0, 0, 0, 0},
};

const struct lisa__family lisa__family_mistral = {
    .name = "mistral",
    .architecture = "MistralForCausalLM",
    .base = {LISA__LLAMA_BASE},
    .keys = keys,
    .names = {LISA__LLAMA_NAMES, LISA__SWIGLU_NAMES},
    .ignored = LISA__ROTARY_TABLES,
};
