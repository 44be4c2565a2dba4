/* fill.h - values into and out of tensors, chunk by chunk through staging memory. */
#ifndef LISA_MODEL_FILL_H
#define LISA_MODEL_FILL_H

#include "model/model.h"

/* A tensor's values from its place in the files, converted to the type it is held as. */
lisa_status lisa__fill_from_file(lisa_model *model, uint32_t index);

/* Norm weights 1, biases 0, all else normal(0, init_std) by Box and Muller's method from
 * Philox(seed, element / 2, tensor), rounded to the config's dtype. */
lisa_status lisa__fill_random(lisa_model *model, uint32_t index, uint64_t seed);

/* n values of the backend's real type to the host as F32 or F64. */
lisa_status lisa__download_real(lisa_model *model, const void *from, uint64_t n, void *out,
                                uint32_t dtype);

#endif
