/* run.h - one pass of tokens through the model: the forward and backward that all families share.
 */
#ifndef LISA_MODEL_RUN_H
#define LISA_MODEL_RUN_H

#include "model/model.h"
#include "plan/activations.h"

struct lisa__run {
    lisa_model *model;
    lisa_backend *be;
    const struct lisa__activations *a;
    const int32_t *host_tokens; /* [B,T] of a batch; generate: NULL */
    uint32_t batch, tokens;     /* B, T of this pass */
    uint32_t has_documents;
    uint32_t past;      /* generate: tokens already in the KV cache */
    uint32_t head_rows; /* scored rows of this pass, listed in a->head_index */
    uint32_t trains;    /* forward and backward of a step: an adapter's dropout is on */
    uint64_t draw;      /* of that dropout */
};

/* Memory of the pass as an operand, or as real. What is only read comes so, too. */
static inline lisa_typed lisa__operand(const struct lisa__run *run, const void *data) {
    return (lisa_typed){(void *)(uintptr_t)data, run->model->kinds.operand};
}

static inline lisa_typed lisa__real(const struct lisa__run *run, const void *data) {
    return (lisa_typed){(void *)(uintptr_t)data, run->model->kinds.real};
}

/* The gradient of the residual stream as a product reads it. */
static inline lisa_typed lisa__dstream_operand(const struct lisa__run *run) {
    const void *apart = run->a->doperand;
    return lisa__operand(run, apart != NULL ? apart : run->a->dstream);
}

/* RoPE tables for `positions` positions into the activations' cos and sin. */
lisa_status lisa__rope_tables(lisa_model *model, const struct lisa__activations *a);

/* y = x W^T + b (y += where accumulate). A linear map is `n_out` outputs from `first_out` on of a
 * weight, so that a fused matrix is several of them. */
struct lisa__linear {
    struct lisa__tensor *weight, *bias; /* bias may be NULL */
    uint32_t n_in, n_out;
    size_t ld_out; /* row stride of y and dy; n_out but in the gradient of logits */
    uint32_t first_out, total_out;
    uint32_t transposed;                  /* 1: the weight is stored [in, out] (Conv1D) */
    struct lisa__tensor *lora_a, *lora_b; /* of the attached adapter, or NULL */
    uint32_t site;                        /* which of the adapter's maps it is */
};

/* The linear map of a weight role and its bias role in a layer; q, k and v fall back on the fused
 * matrix. */
struct lisa__linear lisa__linear_of(const lisa_model *model, uint32_t layer, uint32_t role);

lisa_status lisa__linear_forward(const struct lisa__run *run, const struct lisa__linear *l,
                                 lisa_typed x, lisa_typed y, int accumulate, uint32_t rows);

/* Whether backward reads x: the weight, or its adapter, trains. */
int lisa__linear_trains(const struct lisa__linear *l);

/* dx = dy W (dx += where accumulate; its data may be NULL, or x's), and, where they train,
 * dW += dy^T x and db += sum dy, likewise of the adapter. x may be NULL unless lisa__linear_trains.
 */
lisa_status lisa__linear_backward(const struct lisa__run *run, const struct lisa__linear *l,
                                  lisa_typed x, lisa_typed dy, lisa_typed dx, int accumulate,
                                  uint32_t rows);

/* Layer l: stream(l) -> stream(l + 1), saving what saved_at(l) names. rebuild: only what backward
 * reads is made again; the stream out is left as it is. */
lisa_status lisa__block_forward(const struct lisa__run *run, uint32_t layer, int rebuild);

/* Gradient of the stream, through layer l, in place; weight gradients where they are lent. */
lisa_status lisa__block_backward(const struct lisa__run *run, uint32_t layer);

/* Final norm, head and loss of the scored rows, chunk by chunk: nll to a->head_nll. With gradient,
 * dstream is written and the head's weight gradients are added. */
lisa_status lisa__head(const struct lisa__run *run, int gradient);

/* Logits of the one row of the last stream that a->head_index begins with. */
lisa_status lisa__head_logits(const struct lisa__run *run);

/* Embedding and all layers. */
lisa_status lisa__trunk_forward(const struct lisa__run *run);

/* From dstream at the top down to the lowest group that trains. */
lisa_status lisa__trunk_backward(const struct lisa__run *run);

#endif
