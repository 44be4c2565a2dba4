/* adaptive.c - a host that lets the layers' gradients decide which of them train next, on nothing
 * but public calls: while layers train their gradient norms are read, and every period begins with
 * a new WEIGHTED sampler made of what was seen. Needs no file and no download.
 *
 *   cc adaptive.c $(pkg-config --cflags --libs lisa) -o adaptive && ./adaptive
 *
 * lisa_model_weight_norm in place of lisa_optimizer_gradient_norm would draw by the weights' norms,
 * which can be read for layers that are frozen too. */
#include <lisa/lisa.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 8, ACTIVE = 2, PERIODS = 20, STEPS_PER_PERIOD = 5, BATCH = 4, TOKENS = 48 };

#define MEMORY 0.8 /* of a layer's score, per step in which it trains */
#define FLOOR 0.1  /* of the highest score: the weight that a layer has at least */

static void must(lisa_status status) {
    if (status == LISA_OK)
        return;
    fprintf(stderr, "%s: %s\n", lisa_status_name(status), lisa_error_last());
    exit(EXIT_FAILURE);
}

/* What the host knows of the layers. */
struct scores {
    double gradient[LAYERS]; /* moving average of the norm, per target */
    uint32_t steps[LAYERS];  /* in which the layer trained; 0: it was never seen */
};

static double highest(const struct scores *scores) {
    double top = 0.0;
    for (int layer = 0; layer < LAYERS; layer++)
        if (scores->steps[layer] > 0 && scores->gradient[layer] > top)
            top = scores->gradient[layer];
    return top > 0.0 ? top : 1.0;
}

/* A layer that was never seen counts as much as the best: it will soon have its turn. */
static void weigh(const struct scores *scores, double *weights) {
    const double top = highest(scores);
    for (int layer = 0; layer < LAYERS; layer++)
        weights[layer] =
            scores->steps[layer] > 0 ? scores->gradient[layer] + FLOOR * top : top * (1.0 + FLOOR);
}

/* Gradients exist between backward and step, those of frozen layers never: their scores stay. */
static void observe(struct scores *scores, lisa_optimizer *optimizer, const uint8_t *mask,
                    double n_targets) {
    for (int layer = 0; layer < LAYERS; layer++) {
        if (!mask[1 + layer])
            continue;
        double norm;
        must(lisa_optimizer_gradient_norm(optimizer, 1 + (uint32_t)layer, &norm));
        const double seen = norm / n_targets;
        const double kept = scores->steps[layer] > 0 ? MEMORY : 0.0;
        scores->gradient[layer] = kept * scores->gradient[layer] + (1.0 - kept) * seen;
        scores->steps[layer]++;
    }
}

/* A sampler is a function of its options and of the periods since first_step. This one lives for
 * one period, its number 0: what differs from period to period is the seed. */
static lisa_sampler *sampler_for(const struct scores *scores, uint64_t period) {
    double weights[LAYERS];
    weigh(scores, weights);
    lisa_sampler_options options;
    must(lisa_sampler_options_init(&options, sizeof options));
    options.kind = LISA_SAMPLER_WEIGHTED;
    options.n_layers = LAYERS;
    options.n_active = ACTIVE;
    options.interval_steps = STEPS_PER_PERIOD;
    options.first_step = period * STEPS_PER_PERIOD;
    options.seed = 1 + period;
    options.weights = weights;
    lisa_sampler *sampler;
    must(lisa_sampler_create(&sampler, &options));
    return sampler;
}

static lisa_model *make_model(lisa_context *context) {
    lisa_model_config config;
    must(lisa_model_config_init(&config, sizeof config));
    config.n_layers = LAYERS;
    config.d_model = 64;
    config.n_heads = 4;
    config.d_ff = 128;
    config.vocab_size = 128;
    config.max_positions = 64;
    lisa_model *model;
    must(lisa_model_create(&model, context, &config, NULL));
    return model;
}

static lisa_optimizer *make_optimizer(lisa_model *model) {
    lisa_optimizer_options options;
    must(lisa_optimizer_options_init(&options, sizeof options));
    options.lr = 3e-3;
    options.max_active_layers = ACTIVE;
    lisa_optimizer *optimizer;
    must(lisa_optimizer_create(&optimizer, model, &options));
    return optimizer;
}

/* Tokens are characters: row b is the sentence, over and over, from another place. */
static void fill(int32_t tokens[BATCH][TOKENS]) {
    const char *sentence = "a layer with a steep gradient is drawn more often than a flat one; ";
    const size_t length = strlen(sentence);
    for (size_t b = 0; b < BATCH; b++)
        for (size_t t = 0; t < TOKENS; t++)
            tokens[b][t] = sentence[(17 * b + t) % length];
}

/* lisa_train_step in its parts, to look at the gradients before they are spent. */
static double train(lisa_model *model, lisa_optimizer *optimizer, lisa_batch *batch,
                    const uint8_t *mask, struct scores *scores) {
    lisa_step_stats stats = {.struct_size = sizeof stats};
    must(lisa_optimizer_apply_mask(optimizer, mask, LAYERS + 2));
    must(lisa_forward(model, batch, NULL));
    must(lisa_backward(model, batch));
    observe(scores, optimizer, mask, (double)lisa_batch_n_targets(batch));
    must(lisa_optimizer_step(optimizer, &stats));
    return stats.loss;
}

static void show(uint64_t period, const lisa_sampler *sampler, const uint8_t *mask, double loss) {
    double probabilities[LAYERS];
    must(lisa_sampler_probabilities(sampler, probabilities, LAYERS));
    printf("period %2d  loss %.4f  %%", (int)period, loss);
    for (int layer = 0; layer < LAYERS; layer++)
        printf(" %4.0f%s", 100 * probabilities[layer], mask[1 + layer] ? "*" : " ");
    printf("\n");
}

int main(void) {
    lisa_context *context;
    must(lisa_context_create(&context, NULL));
    lisa_model *model = make_model(context);
    lisa_optimizer *optimizer = make_optimizer(model);
    lisa_batch *batch;
    must(lisa_batch_create(&batch, model, BATCH, TOKENS, NULL));
    int32_t tokens[BATCH][TOKENS];
    fill(tokens);
    must(lisa_batch_set(batch, tokens[0], NULL, BATCH, TOKENS));

    printf("chance of each layer to be drawn; * was drawn\n");
    struct scores scores = {{0}, {0}};
    for (uint64_t period = 0; period < PERIODS; period++) {
        lisa_sampler *sampler = sampler_for(&scores, period);
        uint8_t mask[LAYERS + 2];
        must(lisa_sampler_mask(sampler, period * STEPS_PER_PERIOD, mask, LAYERS + 2));
        double loss = 0.0;
        for (int step = 0; step < STEPS_PER_PERIOD; step++)
            loss = train(model, optimizer, batch, mask, &scores);
        show(period, sampler, mask, loss);
        lisa_sampler_destroy(sampler);
    }
    printf("steps trained        ");
    for (int layer = 0; layer < LAYERS; layer++)
        printf(" %4u ", (unsigned)scores.steps[layer]);
    printf("\n");

    lisa_batch_destroy(batch);
    lisa_optimizer_destroy(optimizer);
    lisa_model_destroy(model);
    lisa_context_destroy(context);
    return EXIT_SUCCESS;
}
