/* sampler.h - the layers of a period as a pure function of a sampler's options. Allocates nothing:
 * whoever makes the handle lends the arrays. */
#ifndef LISA_SAMPLER_SAMPLER_H
#define LISA_SAMPLER_SAMPLER_H

#include "lisa/sampler.h"

/* A layer of WEIGHTED that is in every mask. */
#define LISA__SHARE_CERTAIN UINT64_MAX

/* Never written after lisa__sampler_prepare. */
struct lisa__sampler {
    lisa_sampler_options options; /* `weights` and `layers` outlive the sampler */
    /* WEIGHTED: n_layers shares. A layer whose share is not certain is drawn with probability
     * share / share_unit exactly; those shares sum to n_drawn * share_unit. */
    uint64_t *shares;
    uint64_t share_unit;
};

/* LISA_E_INVAL with the option at fault. Reads the arrays that the kind needs, no others. */
lisa_status lisa__sampler_check(const lisa_sampler_options *options);

/* Fills `shares` for WEIGHTED; a no-op for every other kind. Options must have passed the check. */
void lisa__sampler_prepare(struct lisa__sampler *sampler);

/* Writes n_layers + 2 bytes. `step` must not lie before first_step. */
void lisa__sampler_mask(const struct lisa__sampler *sampler, uint64_t step, uint8_t *mask);

/* Writes n_layers values. */
void lisa__sampler_probabilities(const struct lisa__sampler *sampler, double *probabilities);

uint32_t lisa__sampler_max_active(const struct lisa__sampler *sampler);

#endif
