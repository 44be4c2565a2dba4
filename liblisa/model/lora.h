/* lora.h - which tensors an adapter has: two for each linear map that it is beside. */
#ifndef LISA_MODEL_LORA_H
#define LISA_MODEL_LORA_H

#include "core/layout.h"
#include "lisa/adapter.h"
#include "lisa/optimizer.h"
#include "model/tensors.h"

/* Rows that pass through an adapter at once: enough that its products are worth more than their
 * handing out, few where each is as wide as an input. */
static inline uint32_t lisa__lora_rows(const lisa_adapter_options *options) {
    return options->dropout > 0 ? 256 : 1024;
}

/* No adapter comes near: what trains as many directions as this trains the matrix itself. */
#define LISA__MAX_RANK 4096u

/* The target bits of a weight role; 0 where the role is no linear map. */
uint32_t lisa__lora_target(uint32_t role);

/* LISA_E_INVAL or LISA_E_UNSUPPORTED names the option at fault. */
lisa_status lisa__lora_check(const lisa_adapter_options *options, const lisa_model_config *config);

/* Number of the adapter's tensors, and the tensors, A and B of a map behind each other, in group
 * and role order: their role is the map's weight role, their name PEFT's, their dtype `dtype`. */
uint32_t lisa__lora_count(const lisa_adapter_options *options, const lisa_model_config *config);
lisa_status lisa__lora_list(const lisa_adapter_options *options, const lisa_model_config *config,
                            uint32_t dtype, struct lisa__tensor_desc *out);

/* Of an optimizer's options, what an adapter has nothing of: the embedding, and mostly the head. */
void lisa__lora_restrict(const lisa_adapter_options *adapter, lisa_optimizer_options *optimizer);

/* s of the formula. */
double lisa__lora_scale(const lisa_adapter_options *options);

/* What an adapter holds beside its tensors. */
struct lisa__lora_workspace {
    void *inner; /* [rows, rank]: x A^T, or the gradient of it */
    void *input; /* [rows, widest input]: dropout(x), or its gradient; without dropout NULL */
};

/* Takes the tensors (values[n], may be NULL while measuring) and the workspace. */
void lisa__lora_layout(struct lisa__layout *layout, void **values,
                       struct lisa__lora_workspace *workspace,
                       const struct lisa__tensor_desc *descs, uint32_t n,
                       const lisa_adapter_options *options, size_t operand_size);

#endif
