/* adapter.h - LoRA: low-rank adapters beside a model's frozen linear maps.
 *
 * y = x W^T + b + s (dropout(x) A^T) B^T   (Hu et al., arXiv 2106.09685)
 * with A [rank, in], B [out, rank] and s = alpha / rank, or alpha / sqrt(rank) where
 * rank-stabilised (Kalajdzievski, arXiv 2312.03732). A begins uniform in +-1 / sqrt(in), B at zero,
 * as in PEFT.
 *
 * An adapter takes part in every pass of its model while it is attached. An optimizer made while
 * one is attached trains the adapter and nothing else: a mask selects the adapters of its layers.
 * Weight decay is on A and B alike, as torch's AdamW has it under PEFT.
 *
 * SPDX-License-Identifier: MIT */
#ifndef LISA_ADAPTER_H
#define LISA_ADAPTER_H

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Threads: as its context. */
typedef struct lisa_adapter lisa_adapter;

/* Linear maps of every layer, and the head. What a model has not (gate of an MLP without one) is
 * passed over; where q, k and v are one matrix, any of the three means all of it. */
#define LISA_TARGET_Q 1u
#define LISA_TARGET_K 2u
#define LISA_TARGET_V 4u
#define LISA_TARGET_O 8u
#define LISA_TARGET_GATE 16u
#define LISA_TARGET_UP 32u
#define LISA_TARGET_DOWN 64u
#define LISA_TARGET_HEAD 128u /* not where the head is the embedding */
#define LISA_TARGET_ATTENTION 15u
#define LISA_TARGET_MLP 112u
#define LISA_TARGET_ALL_LAYERS 127u /* every linear map of the layers */

typedef struct lisa_adapter_options {
    size_t struct_size;
    double alpha;        /* default 8; above 0 */
    double dropout;      /* of A's input while training; default 0, below 1 */
    uint64_t seed;       /* of A's first values and of dropout */
    uint32_t rank;       /* default 8; at most 4096 */
    uint32_t targets;    /* LISA_TARGET_* bits; default Q and V */
    uint32_t use_rslora; /* 1: alpha / sqrt(rank) */
    uint32_t reserved;
} lisa_adapter_options;

LISA_API lisa_status lisa_adapter_options_init(lisa_adapter_options *options, size_t struct_size);

/* Makes a fresh adapter for a model; it is not attached. options may be NULL. */
LISA_API lisa_status lisa_adapter_create(lisa_adapter **out, lisa_model *model,
                                         const lisa_adapter_options *options);

/* Reads a PEFT directory: adapter_config.json and adapter_model.safetensors (F32, BF16, F16 or
 * F64). Rank, alpha, dropout and rsLoRA are what the configuration says, the targets what the
 * tensors are for: each in every layer. Of `options` (may be NULL) only the seed counts.
 * LISA_E_UNSUPPORTED names what PEFT can say and this library has not (DoRA, biases, embeddings,
 * ...), LISA_E_FORMAT a tensor that is missing or of another shape, LISA_E_NONFINITE one with an
 * infinity or NaN. */
LISA_API lisa_status lisa_adapter_open(lisa_adapter **out, lisa_model *model, const char *directory,
                                       const lisa_adapter_options *options);

/* Detaches it and gives up the host's reference; NULL is a no-op. */
LISA_API void lisa_adapter_destroy(lisa_adapter *adapter);

/* What the adapter was made of; options->struct_size must be set. */
LISA_API lisa_status lisa_adapter_get_options(const lisa_adapter *adapter,
                                              lisa_adapter_options *options);

/* Writes a PEFT directory, its tensors as F32; it is made if need be. An adapter that was opened
 * keeps its configuration's other keys. Both files are on disk before either replaces an older one,
 * and after a failure the older ones are whole. */
LISA_API lisa_status lisa_adapter_save(lisa_adapter *adapter, const char *directory);

/* Attaches an adapter of this model in place of the one that is, or none (NULL). A model may have
 * any number of adapters and one attached. Allowed at any time: a base can be evaluated, or another
 * adapter, while one trains; backward and train_step want attached what the optimizer was made for.
 */
LISA_API lisa_status lisa_model_set_adapter(lisa_model *model, lisa_adapter *adapter);

/* Adds s B A to the base's weights, in fp32, rounded to nearest, and detaches the adapter, which
 * keeps its values. Weights leave the file mapping as for training. LISA_E_STATE while the model
 * has an optimizer; LISA_E_NONFINITE where a sum does not fit the weight's type: then nothing
 * changed. */
LISA_API lisa_status lisa_adapter_merge(lisa_adapter *adapter);

/* Tensors A and B of each target, in group order, by their PEFT names. */
LISA_API uint32_t lisa_adapter_n_tensors(const lisa_adapter *adapter);
LISA_API lisa_status lisa_adapter_tensor_info(const lisa_adapter *adapter, uint32_t index,
                                              lisa_tensor_info *info);

/* Copies a tensor's n_elements values out, or in (dtype F32 or F64). LISA_E_NONFINITE. */
LISA_API lisa_status lisa_adapter_tensor_read(lisa_adapter *adapter, uint32_t index, void *data,
                                              uint32_t dtype, uint64_t n_elements);
LISA_API lisa_status lisa_adapter_tensor_write(lisa_adapter *adapter, uint32_t index,
                                               const void *data, uint32_t dtype,
                                               uint64_t n_elements);

/* Euclidean norm of a group's adapter tensors, A and B together; 0 where it has none. */
LISA_API lisa_status lisa_adapter_weight_norm(lisa_adapter *adapter, uint32_t group, double *norm);

#ifdef __cplusplus
}
#endif

#endif
