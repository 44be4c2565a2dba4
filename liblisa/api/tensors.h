/* tensors.h - what public functions say and ask about a tensor of a model or an adapter. */
#ifndef LISA_API_TENSORS_H
#define LISA_API_TENSORS_H

#include "model/model.h"

/* Fills *info (struct_size set). */
lisa_status lisa__tensor_info_write(const struct lisa__parameters *p, uint32_t index,
                                    lisa_tensor_info *info);

/* Whether n_elements values of a host's type are those of a tensor. */
lisa_status lisa__transfer_check(const struct lisa__parameters *p, uint32_t index, uint32_t dtype,
                                 uint64_t n_elements);

/* Whether a model of n_layers has the group. */
lisa_status lisa__group_check(uint32_t n_layers, uint32_t group);

#endif
