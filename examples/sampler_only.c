/* Which layers LISA trains, period by period, for each way of choosing them. Needs no model: only
 * the sampler, so that another training loop can take its masks from here.
 *
 *   cc sampler_only.c $(pkg-config --cflags --libs lisa) -o sampler_only && ./sampler_only */
#include <lisa/sampler.h>

#include <stdio.h>
#include <stdlib.h>

enum { LAYERS = 12, ACTIVE = 3, STEPS_PER_PERIOD = 20, PERIODS = 6 };

static void must(lisa_status status) {
    if (status == LISA_OK)
        return;
    fprintf(stderr, "%s: %s\n", lisa_status_name(status), lisa_error_last());
    exit(EXIT_FAILURE);
}

/* Every options struct starts from its init function, which sets struct_size and the defaults. */
static lisa_sampler_options options_for(uint32_t kind) {
    lisa_sampler_options options;
    must(lisa_sampler_options_init(&options, sizeof options));
    options.kind = kind;
    options.n_layers = LAYERS;
    options.n_active = ACTIVE;
    options.interval_steps = STEPS_PER_PERIOD;
    options.seed = 42;
    return options;
}

static void show_masks(const lisa_sampler *sampler) {
    uint8_t mask[LAYERS + 2]; /* embedding, layers, final norm and head */
    for (uint64_t period = 0; period < PERIODS; period++) {
        const uint64_t step = period * STEPS_PER_PERIOD;
        must(lisa_sampler_mask(sampler, step, mask, LAYERS + 2));
        printf("  from step %3llu  %s ", (unsigned long long)step, mask[0] ? "E" : ".");
        for (int layer = 0; layer < LAYERS; layer++)
            if (mask[1 + layer])
                printf(" %3d", layer);
            else
                printf("   .");
        printf("  %s\n", mask[LAYERS + 1] ? "H" : ".");
    }
}

static void show_probabilities(const lisa_sampler *sampler) {
    double probabilities[LAYERS];
    must(lisa_sampler_probabilities(sampler, probabilities, LAYERS));
    printf("  probability in %% ");
    for (int layer = 0; layer < LAYERS; layer++)
        printf(" %3.0f", 100 * probabilities[layer]);
    printf("\n\n");
}

static void show(const char *title, const lisa_sampler_options *options) {
    lisa_sampler *sampler;
    must(lisa_sampler_create(&sampler, options));
    printf("%s (at most %u layers at a time)\n", title, lisa_sampler_max_active(sampler));
    show_masks(sampler);
    show_probabilities(sampler);
    lisa_sampler_destroy(sampler);
}

int main(void) {
    const uint32_t chosen[ACTIVE] = {0, 5, 11};
    double chances[LAYERS];
    double weights[LAYERS];
    for (int layer = 0; layer < LAYERS; layer++) {
        chances[layer] = (double)ACTIVE / LAYERS;
        weights[layer] = LAYERS - layer;
    }

    lisa_sampler_options options = options_for(LISA_SAMPLER_UNIFORM);
    show("UNIFORM: LISA as in its paper", &options);

    options = options_for(LISA_SAMPLER_BERNOULLI);
    options.weights = chances;
    options.max_active = 5;
    show("BERNOULLI: each layer by its own chance", &options);

    options = options_for(LISA_SAMPLER_RESHUFFLE);
    show("RESHUFFLE: every layer once per epoch", &options);

    options = options_for(LISA_SAMPLER_WEIGHTED);
    options.weights = weights;
    show("WEIGHTED: low layers more often", &options);

    options = options_for(LISA_SAMPLER_ROUND_ROBIN);
    options.descending = 1;
    show("ROUND_ROBIN: from the top down", &options);

    options = options_for(LISA_SAMPLER_FIXED);
    options.layers = chosen;
    options.train_embedding = 0;
    options.train_head = 0;
    show("FIXED: the same layers, embedding and head frozen", &options);
    return EXIT_SUCCESS;
}
