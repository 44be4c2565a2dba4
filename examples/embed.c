/* embed.c - the whole loop on one page: a small model made from a description learns a sentence.
 * Needs no file and no download.
 *
 *   cc embed.c $(pkg-config --cflags --libs lisa) -o embed && ./embed */
#include <lisa/lisa.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 4
#define TOKENS 48
#define STEPS 200

static void must(lisa_status status) {
    if (status == LISA_OK)
        return;
    fprintf(stderr, "%s: %s\n", lisa_status_name(status), lisa_error_last());
    exit(EXIT_FAILURE);
}

/* Tokens are characters: row b is the sentence, over and over, from another place. */
static void fill(int32_t tokens[BATCH][TOKENS]) {
    const char *sentence = "the sampled layers learn while the frozen layers wait their turn; ";
    const size_t length = strlen(sentence);
    for (size_t b = 0; b < BATCH; b++)
        for (size_t t = 0; t < TOKENS; t++)
            tokens[b][t] = sentence[(17 * b + t) % length];
}

static lisa_model *make_model(lisa_context *context) {
    lisa_model_config config;
    must(lisa_model_config_init(&config, sizeof config));
    config.n_layers = 6;
    config.d_model = 64;
    config.n_heads = 4;
    config.d_ff = 128;
    config.vocab_size = 128;
    config.max_positions = 128;
    lisa_model *model;
    must(lisa_model_create(&model, context, &config, NULL));
    return model;
}

static lisa_sampler *make_sampler(uint32_t n_layers) {
    lisa_sampler_options options;
    must(lisa_sampler_options_init(&options, sizeof options));
    options.n_layers = n_layers;
    options.n_active = 2;
    options.interval_steps = 5;
    options.seed = 1;
    lisa_sampler *sampler;
    must(lisa_sampler_create(&sampler, &options));
    return sampler;
}

static lisa_optimizer *make_optimizer(lisa_model *model, const lisa_sampler *sampler) {
    lisa_optimizer_options options;
    must(lisa_optimizer_options_init(&options, sizeof options));
    options.lr = 3e-3;
    options.max_active_layers = lisa_sampler_max_active(sampler);
    lisa_optimizer *optimizer;
    must(lisa_optimizer_create(&optimizer, model, &options));
    return optimizer;
}

static void complete(lisa_model *model, const char *prompt) {
    int32_t tokens[64];
    const uint32_t n_prompt = (uint32_t)strlen(prompt);
    for (uint32_t i = 0; i < n_prompt; i++)
        tokens[i] = prompt[i];
    lisa_generate_options options;
    must(lisa_generate_options_init(&options, sizeof options));
    options.max_new_tokens = 28;
    int32_t text[28];
    uint32_t n_text;
    must(lisa_model_generate(model, tokens, n_prompt, &options, text, &n_text));
    printf("%s|", prompt);
    for (uint32_t i = 0; i < n_text; i++)
        putchar(text[i] >= ' ' && text[i] < 127 ? text[i] : '.');
    putchar('\n');
}

int main(void) {
    lisa_context *context;
    must(lisa_context_create(&context, NULL));
    lisa_model *model = make_model(context);
    lisa_sampler *sampler = make_sampler(6);
    lisa_batch *batch;
    must(lisa_batch_create(&batch, model, BATCH, TOKENS, NULL));
    lisa_optimizer *optimizer = make_optimizer(model, sampler);

    int32_t tokens[BATCH][TOKENS];
    fill(tokens);
    complete(model, "the sampled");
    for (uint64_t step = 0; step < STEPS; step++) {
        lisa_step_stats stats = {.struct_size = sizeof stats};
        must(lisa_batch_set(batch, tokens[0], NULL, BATCH, TOKENS));
        must(lisa_train_step(model, sampler, optimizer, batch, step, &stats));
        if (step % 50 == 0 || step + 1 == STEPS)
            printf("step %3d  loss %.4f\n", (int)step, stats.loss);
    }
    complete(model, "the sampled");

    lisa_optimizer_destroy(optimizer);
    lisa_batch_destroy(batch);
    lisa_sampler_destroy(sampler);
    lisa_model_destroy(model);
    lisa_context_destroy(context);
    return EXIT_SUCCESS;
}
