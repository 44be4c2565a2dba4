/* pass.h - a batch behind its handle, and the passes over it. */
#ifndef LISA_MODEL_PASS_H
#define LISA_MODEL_PASS_H

#include "data/rows.h"
#include "model/run.h"

struct lisa_batch {
    uint32_t forwarded; /* 1: the activations are those of the rows and weights as they are now */
    lisa_model *model;
    struct lisa__rows rows;
    struct lisa__layout layout;
    struct lisa__activations activations; /* nothing where inference_only */
    uint32_t head_rows;                   /* rows of logits at once */
    uint32_t inference_only;
    uint64_t forward_version; /* of the weights that forward saw */
    uint64_t draw;            /* of the dropout in it */
};

lisa_status lisa__batch_create(lisa_batch **out, lisa_model *model, uint32_t max_batch,
                               uint32_t max_tokens, const lisa_batch_options *options);
void lisa__batch_destroy(lisa_batch *batch);

/* Whether lisa__forward may begin. */
lisa_status lisa__forward_check(const lisa_model *model, const lisa_batch *batch);

/* The mean loss; it may be NULL: then the head is left to backward. */
lisa_status lisa__forward(lisa_model *model, lisa_batch *batch, double *loss);

/* Whether lisa__backward may begin. */
lisa_status lisa__backward_check(const lisa_model *model, const lisa_batch *batch);

/* Adds gradients where they are lent, and leaves the loss in the activations. */
lisa_status lisa__backward(lisa_model *model, lisa_batch *batch);

lisa_status lisa__evaluate(lisa_model *model, lisa_batch *batch, double *loss, float *log_probs,
                           uint8_t *greedy);
lisa_status lisa__logits(lisa_model *model, lisa_batch *batch, void *logits, uint32_t dtype);
lisa_status lisa__generate(lisa_model *model, const int32_t *prompt, uint32_t n_prompt,
                           const lisa_generate_options *options, int32_t *tokens,
                           uint32_t *n_tokens);

#endif
