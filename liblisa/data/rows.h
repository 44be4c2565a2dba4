/* rows.h - tokens and labels of a batch, and the rows of it that are scored. Knows no model. */
#ifndef LISA_DATA_ROWS_H
#define LISA_DATA_ROWS_H

#include "core/context.h"
#include "lisa/batch.h"

struct lisa__rows {
    uint32_t max_batch, max_tokens, vocab_size;
    uint32_t batch, tokens;            /* as set; 0 before */
    int32_t *token, *label, *document; /* [B,T] as given; document NULL-like until set */
    float *label_weight;               /* [B,T] */
    int32_t *position;                 /* [B,T], restarting with each document */
    int32_t *index, *target;           /* [n_scored] rows that predict a label, and the label */
    float *weight;                     /* [n_scored] */
    uint32_t n_scored;
    uint32_t has_documents;
    double weight_sum;
    void *memory;
};

/* Room for max_batch x max_tokens, of class LISA_MEM_HANDLES. */
lisa_status lisa__rows_create(struct lisa__rows *rows, lisa_context *context, uint32_t max_batch,
                              uint32_t max_tokens, uint32_t vocab_size);
void lisa__rows_destroy(struct lisa__rows *rows, lisa_context *context);

/* As the public functions of the same names. On failure the rows are what they were. */
lisa_status lisa__rows_set(struct lisa__rows *rows, const int32_t *tokens, const int32_t *targets,
                           uint32_t n_batch, uint32_t n_tokens);
lisa_status lisa__rows_set_documents(struct lisa__rows *rows, const int32_t *documents);
lisa_status lisa__rows_set_weights(struct lisa__rows *rows, const float *weights);

#endif
