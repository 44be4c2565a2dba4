/* batch.h - tokens and labels of a step, and the activations that the step will need.
 *
 * SPDX-License-Identifier: MIT */
#ifndef LISA_BATCH_H
#define LISA_BATCH_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

struct lisa_model;

/* Threads: as its context. */
typedef struct lisa_batch lisa_batch;

/* A label that is not trained on, as in Hugging Face. */
#define LISA_IGNORE_LABEL (-100)

#define LISA_ACTIVATIONS_AUTO 0      /* store what the memory limit still allows: optimizer first */
#define LISA_ACTIVATIONS_STORE 1     /* every layer's activations are kept until backward */
#define LISA_ACTIVATIONS_RECOMPUTE 2 /* layer inputs only: one more forward, far less memory */

typedef struct lisa_batch_options {
    size_t struct_size;
    uint32_t activations;    /* LISA_ACTIVATIONS_*; default AUTO */
    uint32_t head_rows;      /* rows of logits that exist at once; 0: chosen by the plan */
    uint32_t inference_only; /* 1: for evaluate alone; nothing is reserved for backward */
    uint32_t reserved;
} lisa_batch_options;

LISA_API lisa_status lisa_batch_options_init(lisa_batch_options *options, size_t struct_size);

/* Reserves everything that forward and backward need for up to max_batch x max_tokens tokens.
 * options may be NULL. LISA_E_BUDGET names the class that does not fit and what would. */
LISA_API lisa_status lisa_batch_create(lisa_batch **out, struct lisa_model *model,
                                       uint32_t max_batch, uint32_t max_tokens,
                                       const lisa_batch_options *options);

/* Gives up the host's reference; NULL is a no-op. */
LISA_API void lisa_batch_destroy(lisa_batch *batch);

/* Copies tokens [B,T] and labels [B,T] in. targets[b,t] labels token t, as in Hugging Face: the
 * library shifts, so position t is scored on targets[b,t+1]. targets = NULL means the tokens.
 * LISA_IGNORE_LABEL is skipped. Resets documents and weights. Right-pad with any valid token and
 * LISA_IGNORE_LABEL. */
LISA_API lisa_status lisa_batch_set(lisa_batch *batch, const int32_t *tokens,
                                    const int32_t *targets, uint32_t n_batch, uint32_t n_tokens);

/* Document ids [B,T] of packed sequences, after lisa_batch_set: tokens see their own document only,
 * positions restart with it, and no label crosses into the next. NULL: one document per row. */
LISA_API lisa_status lisa_batch_set_documents(lisa_batch *batch, const int32_t *documents);

/* Weights [B,T] of the targets, each finite and >= 0, after lisa_batch_set. NULL: all 1. */
LISA_API lisa_status lisa_batch_set_weights(lisa_batch *batch, const float *weights);

/* Scored positions of the batch as it is set now. */
LISA_API uint64_t lisa_batch_n_targets(const lisa_batch *batch);

#ifdef __cplusplus
}
#endif

#endif
