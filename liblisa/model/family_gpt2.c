#include "model/family.h"

static const struct lisa__key keys[] = {
    {"vocab_size", LISA__SIZE, LISA__FIELD(vocab_size), 0, 0},
    {"n_embd", LISA__SIZE, LISA__FIELD(d_model), 0, 0},
    {"n_layer", LISA__SIZE, LISA__FIELD(n_layers), 0, 0},
    {"n_head", LISA__SIZE, LISA__FIELD(n_heads), 0, 0},
    {"n_positions", LISA__COUNT, LISA__FIELD(max_positions), 1024, 1024},
    {"n_inner", LISA__COUNT, LISA__FIELD(d_ff), 0, 0},
    {"activation_function", LISA__ACTIVATION, LISA__FIELD(activation), LISA_ACT_GELU_TANH,
     LISA_ACT_GELU_TANH},
    {"layer_norm_epsilon", LISA__EPSILON, LISA__FIELD(norm_eps), 1e-5, 1e-5},
    {"initializer_range", LISA__DEVIATION, LISA__FIELD(init_std), 0.02, 0.02},
    {"tie_word_embeddings", LISA__FLAG, LISA__FIELD(tied_head), 1, 1},
    {"scale_attn_weights", LISA__TRUE, 0, 0, 0},
    {"n_ctx", LISA__ELSEWHERE, 0, 0, 0},
    {"reorder_and_upcast_attn", LISA__ELSEWHERE, 0, 0, 0},
    {"summary_activation", LISA__ELSEWHERE, 0, 0, 0},
    {"summary_first_dropout", LISA__ELSEWHERE, 0, 0, 0},
    {"summary_proj_to_labels", LISA__ELSEWHERE, 0, 0, 0},
    {"summary_type", LISA__ELSEWHERE, 0, 0, 0},
    {"summary_use_proj", LISA__ELSEWHERE, 0, 0, 0},
    {NULL, 0, 0, 0, 0},
};

const struct lisa__family lisa__family_gpt2 = {
    .name = "gpt2",
    .architecture = "GPT2LMHeadModel",
    .base =
        {
            .norm = LISA_NORM_LAYER,
            .attention_bias = 1,
            .attention_output_bias = 1,
            .mlp_bias = 1,
            .learned_positions = 1,
        },
    .keys = keys,
    .conv1d = 1,
    .names =
        {
            [LISA__ATTN_NORM_W] = "transformer.h.%u.ln_1.weight",
            [LISA__ATTN_NORM_B] = "transformer.h.%u.ln_1.bias",
            [LISA__QKV_W] = "transformer.h.%u.attn.c_attn.weight",
            [LISA__QKV_B] = "transformer.h.%u.attn.c_attn.bias",
            [LISA__O_W] = "transformer.h.%u.attn.c_proj.weight",
            [LISA__O_B] = "transformer.h.%u.attn.c_proj.bias",
            [LISA__MLP_NORM_W] = "transformer.h.%u.ln_2.weight",
            [LISA__MLP_NORM_B] = "transformer.h.%u.ln_2.bias",
            [LISA__UP_W] = "transformer.h.%u.mlp.c_fc.weight",
            [LISA__UP_B] = "transformer.h.%u.mlp.c_fc.bias",
            [LISA__DOWN_W] = "transformer.h.%u.mlp.c_proj.weight",
            [LISA__DOWN_B] = "transformer.h.%u.mlp.c_proj.bias",
            [LISA__EMBED_W] = "transformer.wte.weight",
            [LISA__POSITION_W] = "transformer.wpe.weight",
            [LISA__FINAL_NORM_W] = "transformer.ln_f.weight",
            [LISA__FINAL_NORM_B] = "transformer.ln_f.bias",
            [LISA__HEAD_W] = "lm_head.weight",
        },
    .optional_prefix = "transformer.",
    .dropouts = (const char *const[]){"attn_pdrop", "embd_pdrop", "resid_pdrop", NULL},
    /* The causal mask of each layer, and what it was filled with. */
    .ignored = (const char *const[]){".attn.bias", ".attn.masked_bias", NULL},
};
