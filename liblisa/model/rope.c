#include "model/run.h"

#include "core/dtype.h"

#include <math.h>

/* Llama 3.1's scaling (transformers, modeling_rope_utils.py): long wavelengths are divided by the
 * factor, short ones kept, those between interpolated. */
static double llama3_frequency(const lisa_model_config *c, double frequency) {
    const double wavelength = 6.283185307179586 / frequency;
    const double original = c->rope_original_positions;
    if (wavelength < original / c->rope_high_freq_factor)
        return frequency;
    if (wavelength > original / c->rope_low_freq_factor)
        return frequency / c->rope_factor;
    const double smooth = (original / wavelength - c->rope_low_freq_factor) /
                          (c->rope_high_freq_factor - c->rope_low_freq_factor);
    return (1 - smooth) * frequency / c->rope_factor + smooth * frequency;
}

/* Angle per position of pair i (Su et al., arXiv 2104.09864): theta^(-2 i / rotary_dim), scaled. */
static double frequency_of(const lisa_model_config *c, uint32_t i) {
    const double frequency = pow(c->rope_theta, -2.0 * i / c->rotary_dim);
    switch (c->rope) {
    case LISA_ROPE_LINEAR:
        return frequency / c->rope_factor;
    case LISA_ROPE_LLAMA3:
        return llama3_frequency(c, frequency);
    default:
        return frequency;
    }
}

static lisa_status fill_table(lisa_model *model, const struct lisa__activations *a, void *table,
                              double (*function)(double), void *row) {
    const uint32_t half = model->config.rotary_dim / 2;
    const size_t bytes = half * model->real_size;
    for (uint32_t p = 0; p < a->shape.positions; p++) {
        for (uint32_t i = 0; i < half; i++)
            lisa__store(row, model->be->ops->real_dtype, i,
                        function(p * frequency_of(&model->config, i)));
        LISA_TRY(model->be->ops->upload(model->be, (unsigned char *)table + p * bytes, row, bytes));
    }
    return LISA_OK;
}

lisa_status lisa__rope_tables(lisa_model *model, const struct lisa__activations *a) {
    if (model->config.rope == LISA_ROPE_NONE)
        return LISA_OK;
    const uint64_t bytes = model->config.rotary_dim * sizeof(double);
    lisa_status status;
    void *row = lisa__alloc(model->context, LISA_MEM_STAGING, bytes, &status);
    if (row == NULL)
        return status;
    status = fill_table(model, a, a->cos, cos, row);
    if (status == LISA_OK)
        status = fill_table(model, a, a->sin, sin, row);
    lisa__release(model->context, LISA_MEM_STAGING, row, bytes);
    return status;
}
