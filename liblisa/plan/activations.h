/* activations.h - the memory that forward and backward of a batch need, laid out.
 *
 * N = rows (batch x tokens), C = d_model, Q = n_heads * head_dim, KV = n_kv_heads * head_dim,
 * F = d_ff, R = rows of logits that exist at once, V = vocab_size, L = n_layers. What is said to be
 * an operand has that type, the rest is real. */
#ifndef LISA_PLAN_ACTIVATIONS_H
#define LISA_PLAN_ACTIVATIONS_H

#include "core/layout.h"
#include "lisa/model.h"
#include "plan/state.h"

/* What one layer keeps for its backward. Frozen and active layers keep the same: inputs of weight
 * gradients are made again from these, in the workspace. */
struct lisa__saved {
    void *q, *k, *v;     /* [N, Q], [N, KV], [N, KV], operands, after RoPE; with qk-norm, in
                            training, q and k as they were before it */
    void *attention;     /* [N, Q], an operand */
    void *lse;           /* [N, n_heads] */
    void *middle;        /* [N, C], the residual stream between attention and MLP; parallel: NULL */
    void *norm1, *norm2; /* statistics, [N] or [N, 2]; parallel: norm2 NULL */
    void *gate, *up;     /* [N, F], operands; gate NULL where the MLP is not gated */
};

struct lisa__activations_shape {
    const lisa_model_config *config;
    struct lisa__kinds kinds;
    uint64_t rows;          /* N */
    uint32_t positions;     /* longest sequence, rows of the RoPE tables */
    uint32_t head_rows;     /* R */
    uint32_t stored_layers; /* the last ones keep their activations; the first are recomputed */
    uint32_t forward_only;  /* evaluate and generate: two residual buffers, no backward */
    uint32_t cache_rows;    /* generate: rows of the KV cache of each layer, else 0 */
};

/* What the attention's part of a layer keeps in the workspace, NULL where a pass has no use for it.
 * With qk-norm, q and k are what attention reads in training: normalised and rotated, made again in
 * backward, so that what is saved does not grow. */
struct lisa__attention_phase {
    void *q, *k;             /* [N, Q], [N, KV], operands */
    void *q_stats, *k_stats; /* [N, n_heads], [N, n_kv_heads] */
    void *dq, *dout;         /* [N, Q], operands */
    void *dk, *dv;           /* [N, KV], operands */
};

struct lisa__activations {
    struct lisa__activations_shape shape;
    void *stream;     /* residual stream into each layer and out of the last; see lisa__stream */
    void *stored;     /* stored_layers of what lisa__saved_at describes */
    void *recomputed; /* one of them, shared by the other layers */
    void *cache;      /* 2 L [cache_rows, KV], operands: keys, then values */
    void *normed;     /* [N, C], an operand */
    void *phase;      /* [N, F], an operand, or what lisa__attention_phase says */
    void *dstream;    /* [N, C] gradient of the residual stream */
    void *doperand;   /* the same as an operand; NULL where that is real */
    void *dnormed;    /* [N, C] */
    void *cos, *sin;  /* [positions, rotary_dim / 2] */
    int32_t *tokens, *positions, *documents; /* [N] on the device */
    int32_t *head_index, *head_targets;      /* [N]: rows with a target, compact */
    float *head_weights;                     /* [N] */
    double *head_nll;                        /* [N] */
    float *head_log_probs;                   /* [N], forward_only */
    uint8_t *head_greedy;                    /* [N], forward_only */
    double *loss;                            /* [1], the sum of head_nll */
    double *posted_loss;                     /* a copy of it in host memory; not forward_only */
    void *head_in, *head_din;                /* [R, C] */
    void *head_normed;                       /* [R, C], an operand */
    void *head_stats;                        /* [R, 2] */
    void *logits;                            /* [R, V] */
};

/* Takes everything from the layout; forward_only takes all of it as LISA_MEM_EVALUATION. */
void lisa__activations_layout(struct lisa__layout *layout, struct lisa__activations *out,
                              const struct lisa__activations_shape *shape);

/* Residual stream into layer l (l = L: out of the last), [N, C]. */
void *lisa__stream(const struct lisa__activations *a, uint32_t layer);

/* Whether layer l keeps its activations from forward to backward. */
int lisa__is_stored(const struct lisa__activations *a, uint32_t layer);

/* Where layer l's activations lie. */
struct lisa__saved lisa__saved_at(const struct lisa__activations *a, uint32_t layer);

struct lisa__attention_phase lisa__attention_phase(const struct lisa__activations *a);

/* Rows of logits to hold at once for at most N rows: enough for an efficient product. */
uint32_t lisa__head_rows(const lisa_model_config *config, uint64_t rows, uint32_t asked);

/* The shape that training at most max_batch x max_tokens needs; AUTO is settled by `spare`, the
 * bytes that may still be taken (UINT64_MAX: no limit). */
struct lisa__activations_shape
lisa__training_shape(const lisa_model_config *config, struct lisa__kinds kinds, uint32_t max_batch,
                     uint32_t max_tokens, const lisa_batch_options *options, uint64_t spare);

/* The shape that evaluating a batch of that size needs. */
struct lisa__activations_shape lisa__evaluation_shape(const lisa_model_config *config,
                                                      struct lisa__kinds kinds, uint32_t batch,
                                                      uint32_t tokens, uint32_t head_rows);

/* The shape that generating up to n_total tokens from a prompt of n_prompt needs. */
struct lisa__activations_shape lisa__generation_shape(const lisa_model_config *config,
                                                      struct lisa__kinds kinds, uint32_t n_prompt,
                                                      uint32_t n_total);

/* What generate stages on the host. */
struct lisa__generation_host {
    double *logits;     /* [V] */
    uint32_t *ids;      /* [V] scratch of lisa__choose */
    int32_t *positions; /* [N] */
};

/* Its pieces from `base` (64-aligned; NULL to measure); returns their bytes. */
uint64_t lisa__generation_host(const struct lisa__activations_shape *shape, void *base,
                               struct lisa__generation_host *out);

lisa_status lisa__batch_check_size(const lisa_model_config *config, uint32_t max_batch,
                                   uint32_t max_tokens);

#endif
