/* adapter.h - a LoRA adapter behind its handle, and its share of the model's linear maps. */
#ifndef LISA_MODEL_ADAPTER_H
#define LISA_MODEL_ADAPTER_H

#include "lisa/adapter.h"
#include "model/lora.h"
#include "model/model.h"
#include "model/run.h"

struct lisa_adapter {
    uint32_t references;
    lisa_model *model;
    lisa_adapter_options options;
    struct lisa__parameters own; /* A and B of a map behind each other */
    struct lisa__layout layout;
    struct lisa__lora_workspace workspace;
    char *config; /* text of the adapter_config.json that it was opened with, or NULL */
    uint64_t config_bytes;
    uint64_t draws; /* backward passes so far: the dropout of the next is drawn from this number */
};

/* `options` have been read. Tensors are zero. */
lisa_status lisa__adapter_make(lisa_adapter **out, lisa_model *model,
                               const lisa_adapter_options *options);

/* A uniform, B zero. */
lisa_status lisa__adapter_create(lisa_adapter **out, lisa_model *model,
                                 const lisa_adapter_options *options);

/* From and to PEFT's directory. `options` have been read; only the seed counts. */
lisa_status lisa__adapter_open(lisa_adapter **out, lisa_model *model, const char *directory,
                               const lisa_adapter_options *options);
lisa_status lisa__adapter_save(lisa_adapter *adapter, const char *directory);

lisa_adapter *lisa__adapter_retain(lisa_adapter *adapter);
void lisa__adapter_release(lisa_adapter *adapter);

/* adapter may be NULL. */
void lisa__adapter_attach(lisa_model *model, lisa_adapter *adapter);

/* As lisa_adapter_merge. */
lisa_status lisa__adapter_merge(lisa_adapter *adapter);

/* Points a linear map of a layer at its A and B, where the attached adapter has them. */
void lisa__adapter_join(struct lisa__linear *l, const lisa_model *model, uint32_t layer,
                        uint32_t role);

/* y += s (dropout(x) A^T) B^T. */
lisa_status lisa__lora_forward(const struct lisa__run *run, const struct lisa__linear *l,
                               lisa_typed x, lisa_typed y, uint32_t rows);

/* dA and dB, where they train: += from x and dy. dx (NULL where it is not wanted, and it may be x)
 * = the gradient through the adapter, or += with `accumulate`. */
lisa_status lisa__lora_backward(const struct lisa__run *run, const struct lisa__linear *l,
                                lisa_typed x, lisa_typed dy, lisa_typed dx, int accumulate,
                                uint32_t rows);

#endif
