#include "model/tensors.h"

#include "lisa/sampler.h"
#include "model/family.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const fields[] = {"n_layers", "d_model", "n_heads",    "n_kv_heads",
                                     "head_dim", "d_ff",    "vocab_size", "max_positions"};

static lisa_status check_sizes(const lisa_model_config *c) {
    const uint32_t values[] = {c->n_layers, c->d_model, c->n_heads,    c->n_kv_heads,
                               c->head_dim, c->d_ff,    c->vocab_size, c->max_positions};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        if (values[i] == 0 || values[i] > (1u << 30))
            return lisa__fail(LISA_E_INVAL, "model config: %s is %u, expected 1 to 2^30", fields[i],
                              values[i]);
    if (c->n_layers > LISA_SAMPLER_MAX_LAYERS)
        return lisa__fail(LISA_E_INVAL, "model config: n_layers is %u, expected at most %u",
                          c->n_layers, LISA_SAMPLER_MAX_LAYERS);
    if (c->n_heads % c->n_kv_heads != 0)
        return lisa__fail(LISA_E_INVAL, "model config: n_kv_heads %u does not divide n_heads %u",
                          c->n_kv_heads, c->n_heads);
    if ((uint64_t)c->n_heads * c->head_dim > (1u << 30))
        return lisa__fail(LISA_E_INVAL, "model config: n_heads * head_dim exceeds 2^30");
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
        {"qk_norm", c->qk_norm, 0, 0},
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

/* Whether a description has a tensor of this role. Families that fuse q, k and v have one matrix
 * for the three. */
static int has_role(const lisa_model_config *c, const struct lisa__family *family, uint32_t role) {
    const int fused = family->names[LISA__QKV_W] != NULL;
    const int layer_norm = c->norm == LISA_NORM_LAYER;
    switch (role) {
    case LISA__ATTN_NORM_B:
    case LISA__FINAL_NORM_B:
        return layer_norm;
    case LISA__MLP_NORM_W:
        return !c->parallel_residual;
    case LISA__MLP_NORM_B:
        return layer_norm && !c->parallel_residual;
    case LISA__QKV_W:
        return fused;
    case LISA__QKV_B:
        return fused && c->attention_bias;
    case LISA__Q_W:
    case LISA__K_W:
    case LISA__V_W:
        return !fused;
    case LISA__Q_B:
    case LISA__K_B:
    case LISA__V_B:
        return !fused && c->attention_bias;
    case LISA__Q_NORM_W:
    case LISA__K_NORM_W:
        return c->qk_norm;
    case LISA__O_B:
        return c->attention_output_bias;
    case LISA__GATE_W:
        return c->gated_mlp;
    case LISA__GATE_B:
        return c->gated_mlp && c->mlp_bias;
    case LISA__UP_B:
    case LISA__DOWN_B:
        return c->mlp_bias;
    case LISA__POSITION_W:
        return c->learned_positions;
    case LISA__HEAD_W:
        return !c->tied_head;
    case LISA__HEAD_B:
        return c->head_bias;
    default:
        return 1;
    }
}

struct shape {
    uint64_t out, in; /* in = 0 for a vector */
};

static struct shape shape_of(const lisa_model_config *c, uint32_t role) {
    const uint64_t q = (uint64_t)c->n_heads * c->head_dim;
    const uint64_t kv = (uint64_t)c->n_kv_heads * c->head_dim;
    const uint64_t width = c->d_model, ff = c->d_ff;
    switch (role) {
    case LISA__QKV_W:
        return (struct shape){q + 2 * kv, width};
    case LISA__QKV_B:
        return (struct shape){q + 2 * kv, 0};
    case LISA__Q_W:
        return (struct shape){q, width};
    case LISA__Q_B:
        return (struct shape){q, 0};
    case LISA__K_W:
    case LISA__V_W:
        return (struct shape){kv, width};
    case LISA__K_B:
    case LISA__V_B:
        return (struct shape){kv, 0};
    case LISA__Q_NORM_W:
    case LISA__K_NORM_W:
        return (struct shape){c->head_dim, 0};
    case LISA__O_W:
        return (struct shape){width, q};
    case LISA__GATE_W:
    case LISA__UP_W:
        return (struct shape){ff, width};
    case LISA__GATE_B:
    case LISA__UP_B:
        return (struct shape){ff, 0};
    case LISA__DOWN_W:
        return (struct shape){width, ff};
    case LISA__EMBED_W:
    case LISA__HEAD_W:
        return (struct shape){c->vocab_size, width};
    case LISA__POSITION_W:
        return (struct shape){c->max_positions, width};
    case LISA__HEAD_B:
        return (struct shape){c->vocab_size, 0};
    default: /* norms, and biases of the residual stream */
        return (struct shape){width, 0};
    }
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
    const struct shape s = shape_of(c, role);
    const int swapped = family->conv1d && role < LISA__BLOCK_ROLES && s.in != 0;
    memset(out, 0, sizeof *out);
    out->role = role;
    out->group = group_of(c, role, layer);
    out->n_dims = s.in != 0 ? 2 : 1;
    out->shape[0] = swapped ? s.in : s.out;
    out->shape[1] = s.in == 0 ? 1 : swapped ? s.out : s.in;
    out->n_elements = out->shape[0] * out->shape[1];
    out->decays = s.in != 0 && out->group != 0;
    out->dtype = c->weights_dtype;
    name_of(out->name, family, role, layer);
}

/* Describes every tensor in group and role order into `out` (NULL: only counts them). */
static uint32_t walk(const lisa_model_config *c, struct lisa__tensor_desc *out) {
    const struct lisa__family *family = lisa__family_find(c->family);
    const struct {
        uint32_t begin, end, repeat;
    } parts[] = {
        {LISA__EMBED_W, LISA__FINAL_NORM_W, 1},
        {0, LISA__BLOCK_ROLES, c->n_layers},
        {LISA__FINAL_NORM_W, LISA__ROLES, 1},
    };
    uint32_t n = 0;
    for (size_t p = 0; p < sizeof parts / sizeof *parts; p++)
        for (uint32_t layer = 0; layer < parts[p].repeat; layer++)
            for (uint32_t role = parts[p].begin; role < parts[p].end; role++) {
                if (!has_role(c, family, role))
                    continue;
                if (out != NULL)
                    describe(out + n, c, family, role, layer);
                n++;
            }
    return n;
}

uint32_t lisa__tensor_count(const lisa_model_config *config) {
    return walk(config, NULL);
}

void lisa__tensor_list(const lisa_model_config *config, struct lisa__tensor_desc *out) {
    walk(config, out);
}
