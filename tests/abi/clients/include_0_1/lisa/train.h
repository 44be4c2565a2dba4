/* train.h - a training step and its parts.
 *
 * SPDX-License-Identifier: MIT */
#ifndef LISA_TRAIN_H
#define LISA_TRAIN_H

#include "optimizer.h"
#include "sampler.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Runs the model on the batch and saves what backward needs. With loss = NULL the head waits for
 * backward, which computes it once; else the weighted mean loss is computed here as well. */
LISA_API lisa_status lisa_forward(lisa_model *model, lisa_batch *batch, double *loss);

/* Adds the gradients of the last forward of this batch into the bound optimizer's window. On
 * failure the whole window is void: gradients cleared, nothing else changed. */
LISA_API lisa_status lisa_backward(lisa_model *model, lisa_batch *batch);

/* One step: apply_mask(sampler's mask of `step`), forward, backward, optimizer_step, and nothing
 * else. sampler = NULL keeps the mask in force (full AdamW where all layers have slots). stats may
 * be NULL. On failure no weight is updated and a window that backward had reached is void; the mask
 * may be in force already, so that the same call, made again, takes the same step. */
LISA_API lisa_status lisa_train_step(lisa_model *model, const lisa_sampler *sampler,
                                     lisa_optimizer *optimizer, lisa_batch *batch, uint64_t step,
                                     lisa_step_stats *stats);

#ifdef __cplusplus
}
#endif

#endif
