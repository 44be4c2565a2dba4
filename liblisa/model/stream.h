/* stream.h - layers whose weights stay in host memory and come to the device when they are used:
 * frozen ones through two buffers, one layer ahead, active ones into slots for as long as they are.
 */
#ifndef LISA_MODEL_STREAM_H
#define LISA_MODEL_STREAM_H

#include "model/model.h"

/* Memory for the layers of a model whose types are known; their tensors point to the host's. */
lisa_status lisa__stream_begin(lisa_model *model);
void lisa__stream_end(lisa_model *model);

/* Slots for n_active layers that train. Idempotent where there are as many already. */
lisa_status lisa__stream_reserve(lisa_model *model, uint32_t n_active);
void lisa__stream_unreserve(lisa_model *model);

/* A layer comes to a slot, or goes back to the host's memory. */
lisa_status lisa__stream_own(lisa_model *model, uint32_t layer);
lisa_status lisa__stream_disown(lisa_model *model, uint32_t layer);

/* Around what reads a layer's weights on the device; `next` is the layer that will be entered after
 * it, or n_layers. Nothing where weights are not streamed. */
lisa_status lisa__layer_enter(lisa_model *model, uint32_t layer, uint32_t next);
lisa_status lisa__layer_leave(lisa_model *model, uint32_t layer);

/* After weights in the host's memory were written: copies of them on the device are old. */
void lisa__stream_forget(lisa_model *model);

#endif
