/* lora.c - LoRA on one page: an adapter beside every linear map of a small model learns a sentence
 * while the model stays as it is, and is merged into it at the end. Needs no file and no download.
 *
 *   cc lora.c $(pkg-config --cflags --libs lisa) -o lora && ./lora */
#include <lisa/lisa.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 4
#define TOKENS 48
#define STEPS 200
#define LAYERS 6

static void must(lisa_status status) {
    if (status == LISA_OK)
        return;
    fprintf(stderr, "%s: %s\n", lisa_status_name(status), lisa_error_last());
    exit(EXIT_FAILURE);
}

/* Tokens are characters: row b is the sentence, over and over, from another place. */
static void fill(int32_t tokens[BATCH][TOKENS]) {
    const char *sentence = "the adapter learns what the frozen model does not know; ";
    const size_t length = strlen(sentence);
    for (size_t b = 0; b < BATCH; b++)
        for (size_t t = 0; t < TOKENS; t++)
            tokens[b][t] = sentence[(17 * b + t) % length];
}

static lisa_model_config model_config(void) {
    lisa_model_config config;
    must(lisa_model_config_init(&config, sizeof config));
    config.n_layers = LAYERS;
    config.d_model = 64;
    config.n_heads = 4;
    config.d_ff = 128;
    config.vocab_size = 128;
    config.max_positions = 128;
    return config;
}

/* Beside every linear map of the layers, and the head. */
static lisa_adapter_options adapter_options(void) {
    lisa_adapter_options options;
    must(lisa_adapter_options_init(&options, sizeof options));
    options.rank = 8;
    options.alpha = 16;
    options.targets = LISA_TARGET_ALL_LAYERS | LISA_TARGET_HEAD;
    return options;
}

static lisa_optimizer_options optimizer_options(uint32_t max_active_layers) {
    lisa_optimizer_options options;
    must(lisa_optimizer_options_init(&options, sizeof options));
    options.lr = 3e-3;
    options.max_active_layers = max_active_layers;
    return options;
}

/* What a run would hold, known before anything is made. */
static void plan(const char *method, uint32_t max_active_layers,
                 const lisa_adapter_options *adapter) {
    const lisa_model_config config = model_config();
    const lisa_optimizer_options optimizer = optimizer_options(max_active_layers);
    lisa_plan_request request;
    must(lisa_plan_request_init(&request, sizeof request));
    request.config = &config;
    request.optimizer = &optimizer;
    request.adapter = adapter;
    request.max_batch = BATCH;
    request.max_tokens = TOKENS;
    lisa_plan_report report = {.struct_size = sizeof report};
    must(lisa_plan(&request, &report));
    printf(
        "%-15s trains %6llu values at once: %7llu bytes of gradients and moments, %8llu in all\n",
        method, (unsigned long long)report.n_trained,
        (unsigned long long)(report.bytes[LISA_MEM_GRADIENTS] + report.bytes[LISA_MEM_MOMENTS]),
        (unsigned long long)report.total);
}

static double loss_of(lisa_model *model, lisa_batch *batch) {
    double loss;
    must(lisa_model_evaluate(model, batch, &loss, NULL, NULL));
    return loss;
}

static void train(lisa_model *model, lisa_batch *batch) {
    const lisa_optimizer_options options = optimizer_options(0);
    lisa_optimizer *optimizer; /* of the adapter that is attached now */
    must(lisa_optimizer_create(&optimizer, model, &options));
    for (uint64_t step = 0; step < STEPS; step++) {
        lisa_step_stats stats = {.struct_size = sizeof stats};
        must(lisa_train_step(model, NULL, optimizer, batch, step, &stats));
        if (step % 50 == 0 || step + 1 == STEPS)
            printf("step %3d  loss %.4f\n", (int)step, stats.loss);
    }
    lisa_optimizer_destroy(optimizer);
}

int main(void) {
    const lisa_adapter_options options = adapter_options();
    plan("full AdamW", 0, NULL);
    plan("LISA, 2 layers", 2, NULL);
    plan("LoRA, rank 8", 0, &options);

    lisa_context *context;
    must(lisa_context_create(&context, NULL));
    const lisa_model_config config = model_config();
    lisa_model *model;
    must(lisa_model_create(&model, context, &config, NULL));
    lisa_batch *batch;
    must(lisa_batch_create(&batch, model, BATCH, TOKENS, NULL));
    int32_t tokens[BATCH][TOKENS];
    fill(tokens);
    must(lisa_batch_set(batch, tokens[0], NULL, BATCH, TOKENS));

    lisa_adapter *adapter;
    must(lisa_adapter_create(&adapter, model, &options));
    must(lisa_model_set_adapter(model, adapter));
    train(model, batch);
    printf("with the adapter %.4f\n", loss_of(model, batch));
    must(lisa_model_set_adapter(model, NULL));
    printf("without it       %.4f\n", loss_of(model, batch));
    must(lisa_adapter_merge(adapter));
    printf("merged           %.4f\n", loss_of(model, batch));

    lisa_adapter_destroy(adapter);
    lisa_batch_destroy(batch);
    lisa_model_destroy(model);
    lisa_context_destroy(context);
    return EXIT_SUCCESS;
}
