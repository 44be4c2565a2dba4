/* fill.h - values into and out of tensors, chunk by chunk through staging memory. */
#ifndef LISA_MODEL_FILL_H
#define LISA_MODEL_FILL_H

#include "model/model.h"

/* Staging memory of LISA__FILL_BYTES each, one for each side of a conversion; `device` instead of b
 * where the conversion is made there. end() is owed where begin succeeds. */
#define LISA__FILL_BYTES (LISA__STAGING_BYTES / 2)
struct lisa__fill {
    lisa_context *context;
    void *a, *b, *device;
};
lisa_status lisa__fill_begin(struct lisa__fill *s, lisa_context *context, int on_device);
void lisa__fill_end(struct lisa__fill *s);

/* A tensor's values from its place in the files, converted to the type it is held as. */
lisa_status lisa__fill_from_file(lisa_model *model, uint32_t index, const struct lisa__fill *s);

/* Norm weights 1, biases 0, all else normal(0, init_std) by Box and Muller's method from
 * Philox(seed, element / 2, tensor), rounded to the config's dtype. */
lisa_status lisa__fill_random(lisa_model *model, uint32_t index, uint64_t seed,
                              const struct lisa__fill *s);

/* n values uniform in +-bound from Philox(seed, element / 4, stream), rounded to float. */
lisa_status lisa__fill_uniform(lisa_model *model, const lisa_typed *value, uint64_t n, double bound,
                               uint64_t seed, uint64_t stream);

/* Values [begin, begin + n) to the host as another type. */
lisa_status lisa__typed_get(lisa_model *model, const lisa_typed *value, uint64_t begin, uint64_t n,
                            void *out, uint32_t dtype);

/* Values [begin, begin + n) of a tensor without a master from the host; they must be finite in
 * their new type. */
lisa_status lisa__values_put(lisa_model *model, struct lisa__parameters *p, uint32_t index,
                             uint64_t begin, uint64_t n, const void *data, uint32_t dtype);

/* As lisa__typed_get, of so few values that `staging` holds them as they are. */
lisa_status lisa__typed_get_staged(lisa_model *model, const lisa_typed *value, uint64_t begin,
                                   uint64_t n, void *out, uint32_t dtype, void *staging);

/* Private memory for the group's part, where it has none yet: what lisa__model_own_group wants. */
lisa_status lisa__reserve_group(lisa_model *model, uint32_t group);

/* Operations to come are after what is under way between the host's memory and the device. */
lisa_status lisa__wait_for_transfers(lisa_model *model);

/* The group's weights may be written where they lie. */
lisa_status lisa__make_writable(lisa_model *model, uint32_t group);

/* n values of the backend's real type to the host as F32 or F64. */
lisa_status lisa__download_real(lisa_model *model, const void *from, uint64_t n, void *out,
                                uint32_t dtype);

#endif
