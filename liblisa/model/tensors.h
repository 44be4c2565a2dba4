/* tensors.h - which tensors a description has: roles, shapes, groups and Hugging Face names. */
#ifndef LISA_MODEL_TENSORS_H
#define LISA_MODEL_TENSORS_H

#include "core/error.h"
#include "lisa/model.h"

#define LISA__MAX_NAME 128

/* What a tensor is for. Block roles come before the others, so that a block's tensors are an array
 * indexed by role. */
enum lisa__role {
    LISA__ATTN_NORM_W,
    LISA__ATTN_NORM_B,
    LISA__QKV_W, /* fused q | k | v */
    LISA__QKV_B,
    LISA__Q_W,
    LISA__Q_B,
    LISA__K_W,
    LISA__K_B,
    LISA__V_W,
    LISA__V_B,
    LISA__Q_NORM_W,
    LISA__K_NORM_W,
    LISA__O_W,
    LISA__O_B,
    LISA__MLP_NORM_W,
    LISA__MLP_NORM_B,
    LISA__GATE_W,
    LISA__GATE_B,
    LISA__UP_W,
    LISA__UP_B,
    LISA__DOWN_W,
    LISA__DOWN_B,
    LISA__BLOCK_ROLES,
    LISA__EMBED_W = LISA__BLOCK_ROLES, /* [V, C] */
    LISA__POSITION_W,                  /* [max_positions, C] */
    LISA__FINAL_NORM_W,
    LISA__FINAL_NORM_B,
    LISA__HEAD_W, /* [V, C] */
    LISA__HEAD_B,
    LISA__ROLES
};

struct lisa__tensor_desc {
    uint32_t role;
    uint32_t group;    /* 0 embedding, 1 + l, L + 1 final norm and head */
    uint32_t n_dims;   /* 1 or 2 */
    uint32_t decays;   /* weight decay applies: 2-D, and no embedding */
    uint32_t dtype;    /* as held in memory; the config's until a file says otherwise */
    uint32_t mapped;   /* 1: lies in a file mapping until it is first trained */
    uint64_t shape[2]; /* as in the file; shape[1] = 1 for a vector */
    uint64_t n_elements;
    char name[LISA__MAX_NAME];
};

/* Checks a description for consistency, fills in what 0 stands for (kv heads, head_dim,
 * rotary_dim, init_std), and refuses what is not implemented by name. */
lisa_status lisa__config_check(lisa_model_config *config);

/* Calls visit(user, desc) for every tensor of a checked description, in group and role order. */
typedef void (*lisa__tensor_visitor)(void *user, const struct lisa__tensor_desc *desc);
void lisa__tensor_visit(const lisa_model_config *config, lisa__tensor_visitor visit, void *user);

/* Number of tensors of a checked description, and the tensors in group and role order. */
uint32_t lisa__tensor_count(const lisa_model_config *config);
void lisa__tensor_list(const lisa_model_config *config, struct lisa__tensor_desc *out);

#endif
