/* client_0_1.c - a whole program as it could be written for the first headers, kept for ever.
 * Passes every public struct: plans, trains by LISA, generates, makes an adapter, saves, opens
 * again. Prints the losses to the bit. client_0_1 DIRECTORY   (made, and filled with the model) */
#include <lisa/lisa.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_BATCH = 2, N_TOKENS = 12, N_STEPS = 3 };

static void must(lisa_status status) {
    if (status == LISA_OK)
        return;
    printf("%s: %s\n", lisa_status_name(status), lisa_error_last());
    exit(EXIT_FAILURE);
}

static int32_t never(void *user) {
    ++*(int *)user;
    return 0;
}

static lisa_context *make_context(lisa_context_options *options, int *n_polls) {
    lisa_context *context;
    must(lisa_context_options_init(options, sizeof *options));
    options->n_threads = 2;
    options->memory_limit = (uint64_t)1 << 26;
    options->interrupt = never;
    options->interrupt_user = n_polls;
    must(lisa_context_create(&context, options));
    return context;
}

static void describe(lisa_model_config *config) {
    must(lisa_model_config_init(config, sizeof *config));
    config->n_layers = 4;
    config->d_model = 24;
    config->n_heads = 3;
    config->d_ff = 40;
    config->vocab_size = 53;
    config->max_positions = 16;
    config->init_std = 0.1;
}

static lisa_model *make_model(lisa_context *context, const lisa_model_config *config) {
    lisa_model_options options;
    lisa_model *model;
    must(lisa_model_options_init(&options, sizeof options));
    options.seed = 3;
    must(lisa_model_create(&model, context, config, &options));
    return model;
}

static lisa_sampler *make_sampler(void) {
    lisa_sampler_options options;
    lisa_sampler *sampler;
    must(lisa_sampler_options_init(&options, sizeof options));
    options.n_layers = 4;
    options.n_active = 2;
    options.interval_steps = 1;
    options.seed = 7;
    must(lisa_sampler_create(&sampler, &options));
    return sampler;
}

static lisa_optimizer *make_optimizer(lisa_optimizer_options *options, lisa_model *model) {
    lisa_optimizer *optimizer;
    must(lisa_optimizer_options_init(options, sizeof *options));
    options->lr = 1e-3;
    options->max_active_layers = 2;
    options->max_grad_norm = 1;
    must(lisa_optimizer_create(&optimizer, model, options));
    return optimizer;
}

static lisa_batch *make_batch(lisa_model *model) {
    lisa_batch_options options;
    lisa_batch *batch;
    int32_t tokens[N_BATCH * N_TOKENS];
    must(lisa_batch_options_init(&options, sizeof options));
    options.activations = LISA_ACTIVATIONS_STORE;
    must(lisa_batch_create(&batch, model, N_BATCH, N_TOKENS, &options));
    for (int32_t i = 0; i < N_BATCH * N_TOKENS; i++)
        tokens[i] = i * 11 % 53;
    must(lisa_batch_set(batch, tokens, NULL, N_BATCH, N_TOKENS));
    return batch;
}

static void plan(const lisa_model_config *config, const lisa_context_options *context,
                 const lisa_optimizer_options *optimizer) {
    lisa_plan_request request;
    lisa_plan_report report;
    must(lisa_plan_request_init(&request, sizeof request));
    request.config = config;
    request.context = context;
    request.optimizer = optimizer;
    request.max_batch = N_BATCH;
    request.max_tokens = N_TOKENS;
    memset(&report, 0, sizeof report);
    report.struct_size = sizeof report;
    must(lisa_plan(&request, &report));
    printf("%llu parameters, %s\n", (unsigned long long)report.n_parameters,
           report.fits && report.total > 0 ? "fits" : "does not fit");
}

static void train(lisa_model *model, lisa_optimizer *optimizer, lisa_batch *batch) {
    lisa_sampler *sampler = make_sampler();
    for (uint64_t step = 0; step < N_STEPS; step++) {
        lisa_step_stats stats;
        memset(&stats, 0, sizeof stats);
        stats.struct_size = sizeof stats;
        must(lisa_train_step(model, sampler, optimizer, batch, step, &stats));
        printf("step %u: loss %a, norm %a, layers %u, updated %u\n", (unsigned)step, stats.loss,
               stats.grad_norm, stats.n_active_layers, stats.updated);
    }
    lisa_sampler_destroy(sampler);
}

static void look(lisa_model *model) {
    lisa_model_config config;
    lisa_tensor_info info;
    memset(&config, 0, sizeof config);
    config.struct_size = sizeof config;
    must(lisa_model_get_config(model, &config));
    memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    must(lisa_model_tensor_info(model, 0, &info));
    printf("%s of %u layers: %s [%u, %u]\n", config.family, config.n_layers, info.name,
           (unsigned)info.shape[0], (unsigned)info.shape[1]);
}

static void generate(lisa_model *model) {
    const int32_t prompt[3] = {1, 2, 3};
    int32_t tokens[4];
    uint32_t n_tokens = 0;
    lisa_generate_options options;
    must(lisa_generate_options_init(&options, sizeof options));
    options.max_new_tokens = 4;
    must(lisa_model_generate(model, prompt, 3, &options, tokens, &n_tokens));
    printf("generated %u:", n_tokens);
    for (uint32_t i = 0; i < n_tokens; i++)
        printf(" %d", (int)tokens[i]);
    printf("\n");
}

static void adapt(lisa_model *model) {
    lisa_adapter_options options;
    lisa_adapter *adapter;
    must(lisa_adapter_options_init(&options, sizeof options));
    options.rank = 2;
    must(lisa_adapter_create(&adapter, model, &options));
    must(lisa_adapter_get_options(adapter, &options));
    printf("adapter of rank %u: %u tensors\n", options.rank, lisa_adapter_n_tensors(adapter));
    lisa_adapter_destroy(adapter);
}

static double evaluate(lisa_model *model, lisa_batch *batch) {
    double loss;
    must(lisa_model_evaluate(model, batch, &loss, NULL, NULL));
    return loss;
}

static void save_and_open(lisa_context *context, lisa_model *model, const char *directory) {
    lisa_save_options options;
    lisa_model *again;
    must(lisa_save_options_init(&options, sizeof options));
    options.max_shard_bytes = 20000;
    must(lisa_model_save(model, directory, &options));
    must(lisa_model_open(&again, context, directory, NULL));
    lisa_batch *batch = make_batch(again);
    printf("saved and opened: loss %a\n", evaluate(again, batch));
    lisa_batch_destroy(batch);
    lisa_model_destroy(again);
}

int main(int argc, char **argv) {
    int n_polls = 0;
    lisa_context_options context_options;
    lisa_optimizer_options optimizer_options;
    lisa_model_config config;
    if (argc != 2)
        return EXIT_FAILURE;
    lisa_context *context = make_context(&context_options, &n_polls);
    describe(&config);
    lisa_model *model = make_model(context, &config);
    lisa_optimizer *optimizer = make_optimizer(&optimizer_options, model);
    lisa_batch *batch = make_batch(model);
    plan(&config, &context_options, &optimizer_options);
    train(model, optimizer, batch);
    printf("trained: loss %a\n", evaluate(model, batch));
    look(model);
    generate(model);
    adapt(model);
    save_and_open(context, model, argv[1]);
    printf("interrupts %s\n", n_polls > 0 ? "polled" : "never polled");
    lisa_batch_destroy(batch);
    lisa_optimizer_destroy(optimizer);
    lisa_model_destroy(model);
    lisa_context_destroy(context);
    return EXIT_SUCCESS;
}
