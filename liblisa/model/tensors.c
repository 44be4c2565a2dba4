#include "model/tensors.h"

#include "lisa/sampler.h"
#include "model/family.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What no model comes near, and small enough that the bytes of any number of layers, of any plan,
 * can be added up in 64 bits. */
enum { MOST_WIDTH = 1 << 22, MOST_ROWS = 1 << 30 };

static lisa_status check_sizes(const lisa_model_config *c) {
    const struct {
        const char *name;
        uint32_t value, most;
    } sizes[] = {
        {"n_layers", c->n_layers, LISA_SAMPLER_MAX_LAYERS},
        {"d_model", c->d_model, MOST_WIDTH},
        {"n_heads", c->n_heads, MOST_WIDTH},
        {"n_kv_heads", c->n_kv_heads, c->n_heads},
        {"head_dim", c->head_dim, MOST_WIDTH},
        {"d_ff", c->d_ff, MOST_WIDTH},
        {"vocab_size", c->vocab_size, MOST_ROWS},
        {"max_positions", c->max_positions, MOST_ROWS},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value == 0 || sizes[i].value > sizes[i].most)
            return lisa__fail(LISA_E_INVAL, "model config: %s is %u, expected 1 to %u",
                              sizes[i].name, sizes[i].value, sizes[i].most);
    if (c->n_heads % c->n_kv_heads != 0)
        return lisa__fail(LISA_E_INVAL, "model config: n_kv_heads %u does not divide n_heads %u",
                          c->n_kv_heads, c->n_heads);
    if ((uint64_t)c->n_heads * c->head_dim > MOST_WIDTH)
        return lisa__fail(LISA_E_INVAL, "model config: n_heads * head_dim exceeds %u",
                          (unsigned)MOST_WIDTH);
    return LISA_OK;
}

static lisa_status check_flags(const lisa_model_config *c) {
    const struct {
        const char *name;
        uint32_t value, low, high;
    } ranges[] = {
        {"weights_dtype", c->weights_dtype, LISA_DTYPE_F32, LISA_DTYPE_F64},
        {"norm", c->norm, LISA_NORM_RMS, LISA_NORM_LAYER},
        {"activation", c->activation, LISA_ACT_SILU, LISA_ACT_RELU},
        {"gated_mlp", c->gated_mlp, 0, 1},
        {"tied_head", c->tied_head, 0, 1},
        {"attention_bias", c->attention_bias, 0, 1},
        {"attention_output_bias", c->attention_output_bias, 0, 1},
        {"mlp_bias", c->mlp_bias, 0, 1},
        {"head_bias", c->head_bias, 0, 1},
        {"parallel_residual", c->parallel_residual, 0, 1},
        {"qk_norm", c->qk_norm, 0, 1},
        {"learned_positions", c->learned_positions, 0, 1},
        {"rope", c->rope, LISA_ROPE_NONE, LISA_ROPE_LLAMA3},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (ranges[i].value < ranges[i].low || ranges[i].value > ranges[i].high)
            return lisa__fail(LISA_E_UNSUPPORTED,
                              "model config: %s is %u, this version implements %u to %u",
                              ranges[i].name, ranges[i].value, ranges[i].low, ranges[i].high);
    return LISA_OK;
}

static int is_positive(double x) {
    return isfinite(x) && x > 0;
}

static lisa_status check_rope(const lisa_model_config *c) {
    if (c->rope == LISA_ROPE_NONE)
        return LISA_OK;
    if (c->rotary_dim % 2 != 0 || c->rotary_dim > c->head_dim)
        return lisa__fail(LISA_E_INVAL,
                          "model config: rotary_dim is %u, expected an even number up to head_dim "
                          "%u",
                          c->rotary_dim, c->head_dim);
    if (!is_positive(c->rope_theta))
        return lisa__fail(LISA_E_INVAL, "model config: rope_theta is %g, expected above 0",
                          c->rope_theta);
    if (c->rope != LISA_ROPE_DEFAULT && !is_positive(c->rope_factor))
        return lisa__fail(LISA_E_INVAL, "model config: rope_factor is %g, expected above 0",
                          c->rope_factor);
    if (c->rope == LISA_ROPE_LLAMA3 &&
        (!is_positive(c->rope_low_freq_factor) || c->rope_original_positions == 0 ||
         !(c->rope_high_freq_factor > c->rope_low_freq_factor)))
        return lisa__fail(LISA_E_INVAL,
                          "model config: llama3 rope needs 0 < low_freq_factor < high_freq_factor "
                          "and original positions");
    return LISA_OK;
}

lisa_status lisa__config_check(lisa_model_config *c) {
    if (memchr(c->family, '\0', sizeof c->family) == NULL || lisa__family_find(c->family) == NULL)
        return lisa__fail(LISA_E_UNSUPPORTED, "model config: family \"%.31s\" is not implemented",
                          c->family);
    if (c->n_kv_heads == 0)
        c->n_kv_heads = c->n_heads;
    if (c->head_dim == 0 && c->n_heads != 0)
        c->head_dim = c->d_model / c->n_heads;
    if (c->rotary_dim == 0)
        c->rotary_dim = c->head_dim;
    if (c->init_std == 0)
        c->init_std = 0.02;
    LISA_TRY(check_sizes(c));
    LISA_TRY(check_flags(c));
    LISA_TRY(check_rope(c));
    if (!is_positive(c->norm_eps))
        return lisa__fail(LISA_E_INVAL, "model config: norm_eps is %g, expected above 0",
                          c->norm_eps);
    if (!is_positive(c->init_std))
        return lisa__fail(LISA_E_INVAL, "model config: init_std is %g, expected above 0",
                          c->init_std);
    return LISA_OK;
}

/* Sizes that shapes are made of. */
enum size { NONE, WIDTH, QUERIES, KEYS, FUSED, HIDDEN, VOCABULARY, POSITIONS, HEAD, SIZES };

/* What a description or its family says yes to. */
enum fact {
    LAYER_NORM = 1 << 0,
    SEQUENTIAL = 1 << 1,
    FUSED_QKV = 1 << 2,
    SPLIT_QKV = 1 << 3,
    ATTENTION_BIAS = 1 << 4,
    OUTPUT_BIAS = 1 << 5,
    QK_NORM = 1 << 6,
    GATED = 1 << 7,
    MLP_BIAS = 1 << 8,
    LEARNED_POSITIONS = 1 << 9,
    UNTIED = 1 << 10,
    HEAD_BIAS = 1 << 11,
};

/* A tensor of each role is [out, in], or a vector [out], and is there when all of `needs` hold. */
static const struct {
    uint8_t out, in;
    uint16_t needs;
} roles[LISA__ROLES] = {
    [LISA__ATTN_NORM_W] = {WIDTH, NONE, 0},
    [LISA__ATTN_NORM_B] = {WIDTH, NONE, LAYER_NORM},
    [LISA__QKV_W] = {FUSED, WIDTH, FUSED_QKV},
    [LISA__QKV_B] = {FUSED, NONE, FUSED_QKV | ATTENTION_BIAS},
    [LISA__Q_W] = {QUERIES, WIDTH, SPLIT_QKV},
    [LISA__Q_B] = {QUERIES, NONE, SPLIT_QKV | ATTENTION_BIAS},
    [LISA__K_W] = {KEYS, WIDTH, SPLIT_QKV},
    [LISA__K_B] = {KEYS, NONE, SPLIT_QKV | ATTENTION_BIAS},
    [LISA__V_W] = {KEYS, WIDTH, SPLIT_QKV},
    [LISA__V_B] = {KEYS, NONE, SPLIT_QKV | ATTENTION_BIAS},
    [LISA__Q_NORM_W] = {HEAD, NONE, QK_NORM},
    [LISA__K_NORM_W] = {HEAD, NONE, QK_NORM},
    [LISA__O_W] = {WIDTH, QUERIES, 0},
    [LISA__O_B] = {WIDTH, NONE, OUTPUT_BIAS},
    [LISA__MLP_NORM_W] = {WIDTH, NONE, SEQUENTIAL},
    [LISA__MLP_NORM_B] = {WIDTH, NONE, SEQUENTIAL | LAYER_NORM},
    [LISA__GATE_W] = {HIDDEN, WIDTH, GATED},
    [LISA__GATE_B] = {HIDDEN, NONE, GATED | MLP_BIAS},
    [LISA__UP_W] = {HIDDEN, WIDTH, 0},
    [LISA__UP_B] = {HIDDEN, NONE, MLP_BIAS},
    [LISA__DOWN_W] = {WIDTH, HIDDEN, 0},
    [LISA__DOWN_B] = {WIDTH, NONE, MLP_BIAS},
    [LISA__EMBED_W] = {VOCABULARY, WIDTH, 0},
    [LISA__POSITION_W] = {POSITIONS, WIDTH, LEARNED_POSITIONS},
    [LISA__FINAL_NORM_W] = {WIDTH, NONE, 0},
    [LISA__FINAL_NORM_B] = {WIDTH, NONE, LAYER_NORM},
    [LISA__HEAD_W] = {VOCABULARY, WIDTH, UNTIED},
    [LISA__HEAD_B] = {VOCABULARY, NONE, HEAD_BIAS},
};

static uint32_t facts_of(const lisa_model_config *c, const struct lisa__family *family) {
    const struct {
        int holds;
        uint32_t fact;
    } facts[] = {
        {c->norm == LISA_NORM_LAYER, LAYER_NORM},
        {!c->parallel_residual, SEQUENTIAL},
        {family->names[LISA__QKV_W] != NULL, FUSED_QKV},
        {family->names[LISA__QKV_W] == NULL, SPLIT_QKV},
        {c->attention_bias != 0, ATTENTION_BIAS},
        {c->attention_output_bias != 0, OUTPUT_BIAS},
        {c->qk_norm != 0, QK_NORM},
        {c->gated_mlp != 0, GATED},
        {c->mlp_bias != 0, MLP_BIAS},
        {c->learned_positions != 0, LEARNED_POSITIONS},
        {!c->tied_head, UNTIED},
        {c->head_bias != 0, HEAD_BIAS},
    };
    uint32_t all = 0;
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        all |= facts[i].holds ? facts[i].fact : 0;
    return all;
}

static uint64_t size_of(const lisa_model_config *c, uint32_t size) {
    const uint64_t q = (uint64_t)c->n_heads * c->head_dim;
    const uint64_t kv = (uint64_t)c->n_kv_heads * c->head_dim;
    const uint64_t sizes[SIZES] = {
        [WIDTH] = c->d_model,           [QUERIES] = q,        [KEYS] = kv,
        [FUSED] = q + 2 * kv,           [HIDDEN] = c->d_ff,   [VOCABULARY] = c->vocab_size,
        [POSITIONS] = c->max_positions, [HEAD] = c->head_dim,
    };
    return sizes[size];
}

static uint32_t group_of(const lisa_model_config *c, uint32_t role, uint32_t layer) {
    if (role < LISA__BLOCK_ROLES)
        return 1 + layer;
    return role == LISA__EMBED_W || role == LISA__POSITION_W ? 0 : c->n_layers + 1;
}

static void name_of(char *out, const struct lisa__family *family, uint32_t role, uint32_t layer) {
    /* The patterns are constants of family tables with at most one %u. */
    const char *pattern = family->names[role];
    const char *mark = pattern == NULL ? NULL : strstr(pattern, "%u");
    if (mark == NULL)
        snprintf(out, LISA__MAX_NAME, "%s", pattern == NULL ? "" : pattern);
    else
        snprintf(out, LISA__MAX_NAME, "%.*s%u%s", (int)(mark - pattern), pattern, layer, mark + 2);
}

static void describe(struct lisa__tensor_desc *out, const lisa_model_config *c,
                     const struct lisa__family *family, uint32_t role, uint32_t layer) {
    const uint64_t n_out = size_of(c, roles[role].out), n_in = size_of(c, roles[role].in);
    const int is_matrix = roles[role].in != NONE;
    const int swapped = family->conv1d && role < LISA__BLOCK_ROLES && is_matrix;
    memset(out, 0, sizeof *out);
    out->role = role;
    out->group = group_of(c, role, layer);
    out->n_dims = is_matrix ? 2 : 1;
    out->shape[0] = swapped ? n_in : n_out;
    out->shape[1] = !is_matrix ? 1 : swapped ? n_out : n_in;
    out->n_elements = out->shape[0] * out->shape[1];
    out->decays = is_matrix && out->group != 0;
    out->dtype = c->weights_dtype;
    name_of(out->name, family, role, layer);
}

void lisa__tensor_visit(const lisa_model_config *c, lisa__tensor_visitor visit, void *user) {
    const struct lisa__family *family = lisa__family_find(c->family);
    const uint32_t facts = facts_of(c, family);
    const struct {
        uint32_t begin, end, repeat;
    } parts[] = {
        {LISA__EMBED_W, LISA__FINAL_NORM_W, 1},
        {0, LISA__BLOCK_ROLES, c->n_layers},
        {LISA__FINAL_NORM_W, LISA__ROLES, 1},
    };
    struct lisa__tensor_desc desc;
    for (size_t p = 0; p < sizeof parts / sizeof *parts; p++)
        for (uint32_t layer = 0; layer < parts[p].repeat; layer++)
            for (uint32_t role = parts[p].begin; role < parts[p].end; role++) {
                if ((roles[role].needs & ~facts) != 0)
                    continue;
                describe(&desc, c, family, role, layer);
                visit(user, &desc);
            }
}

static void count_one(void *user, const struct lisa__tensor_desc *desc) {
    (void)desc;
    ++*(uint32_t *)user;
}

static void list_one(void *user, const struct lisa__tensor_desc *desc) {
    struct lisa__tensor_desc **next = user;
    *(*next)++ = *desc;
}

uint32_t lisa__tensor_count(const lisa_model_config *config) {
    uint32_t n = 0;
    lisa__tensor_visit(config, count_one, &n);
    return n;
}

void lisa__tensor_list(const lisa_model_config *config, struct lisa__tensor_desc *out) {
    lisa__tensor_visit(config, list_one, &out);
}
