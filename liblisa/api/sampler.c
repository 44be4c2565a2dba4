/* The handle of a sampler: one block, with the sampler's own copies of its arrays behind it. */
#include "sampler/sampler.h"

#include "api/check.h"
#include "api/sampler.h"
#include "core/options.h"

#include <stdlib.h>
#include <string.h>

struct lisa_sampler {
    struct lisa__sampler core;
};

static const char options_name[] = "lisa_sampler_options";

/* The struct of version 0.1 ends here. */
#define OPTIONS_MIN_SIZE (offsetof(lisa_sampler_options, layers) + sizeof(const uint32_t *))

lisa_status lisa_sampler_options_init(lisa_sampler_options *options, size_t struct_size) {
    LISA_TRY(lisa__options_init(options, struct_size, OPTIONS_MIN_SIZE, options_name));
    options->kind = LISA_SAMPLER_UNIFORM;
    options->n_active = 2;
    options->interval_steps = 20;
    options->train_embedding = 1;
    options->train_head = 1;
    return LISA_OK;
}

/* Copies into the handle the arrays that the kind reads, and forgets the host's others. */
static lisa_sampler *copy_of(const lisa_sampler_options *given) {
    const int has_weights =
        given->kind == LISA_SAMPLER_BERNOULLI || given->kind == LISA_SAMPLER_WEIGHTED;
    const size_t n_weights = has_weights ? given->n_layers : 0;
    const size_t n_layers = given->kind == LISA_SAMPLER_FIXED ? given->n_active : 0;
    lisa_sampler *sampler =
        calloc(1, sizeof *sampler + n_weights * (sizeof(uint64_t) + sizeof(double)) +
                      n_layers * sizeof(uint32_t));
    if (sampler == NULL)
        return NULL;
    uint64_t *shares = (void *)(sampler + 1);
    double *weights = (void *)(shares + n_weights);
    uint32_t *layers = (void *)(weights + n_weights);
    if (n_weights != 0)
        memcpy(weights, given->weights, n_weights * sizeof *weights);
    if (n_layers != 0)
        memcpy(layers, given->layers, n_layers * sizeof *layers);
    sampler->core.options = *given;
    sampler->core.options.weights = n_weights != 0 ? weights : NULL;
    sampler->core.options.layers = n_layers != 0 ? layers : NULL;
    sampler->core.shares = shares;
    return sampler;
}

lisa_status lisa_sampler_create(lisa_sampler **out, const lisa_sampler_options *options) {
    lisa_sampler_options own;
    LISA_REQUIRE(out);
    *out = NULL;
    LISA_TRY(lisa__options_read(&own, sizeof own, OPTIONS_MIN_SIZE, options, options_name));
    LISA_TRY(lisa__sampler_check(&own));
    lisa_sampler *sampler = copy_of(&own);
    if (sampler == NULL)
        return lisa__fail(LISA_E_NOMEM, "out of memory: a sampler of %u layers", own.n_layers);
    lisa__sampler_prepare(&sampler->core);
    *out = sampler;
    return LISA_OK;
}

const lisa_sampler_options *lisa__sampler_options(const lisa_sampler *sampler) {
    return &sampler->core.options;
}

void lisa_sampler_destroy(lisa_sampler *sampler) {
    free(sampler);
}

lisa_status lisa_sampler_mask(const lisa_sampler *sampler, uint64_t step, uint8_t *mask,
                              uint32_t n_groups) {
    LISA_REQUIRE(sampler);
    LISA_REQUIRE(mask);
    const lisa_sampler_options *options = &sampler->core.options;
    if (n_groups != options->n_layers + 2)
        return lisa__fail(LISA_E_INVAL,
                          "lisa_sampler_mask: n_groups is %u, expected n_layers + 2 "
                          "= %u",
                          n_groups, options->n_layers + 2);
    if (step < options->first_step)
        return lisa__fail(LISA_E_INVAL,
                          "lisa_sampler_mask: step %llu, expected at least first_step = %llu",
                          (unsigned long long)step, (unsigned long long)options->first_step);
    lisa__sampler_mask(&sampler->core, step, mask);
    return LISA_OK;
}

lisa_status lisa_sampler_probabilities(const lisa_sampler *sampler, double *probabilities,
                                       uint32_t n_layers) {
    LISA_REQUIRE(sampler);
    LISA_REQUIRE(probabilities);
    if (n_layers != sampler->core.options.n_layers)
        return lisa__fail(LISA_E_INVAL, "lisa_sampler_probabilities: n_layers is %u, expected %u",
                          n_layers, sampler->core.options.n_layers);
    lisa__sampler_probabilities(&sampler->core, probabilities);
    return LISA_OK;
}

uint32_t lisa_sampler_max_active(const lisa_sampler *sampler) {
    return sampler == NULL ? 0 : lisa__sampler_max_active(&sampler->core);
}

uint32_t lisa_sampler_n_groups(const lisa_sampler *sampler) {
    return sampler == NULL ? 0 : sampler->core.options.n_layers + 2;
}
