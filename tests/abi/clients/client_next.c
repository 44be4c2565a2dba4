/* client_next.c - a program built with headers of a later version, in which every struct has one
 * more field at its end, `later`: a library that does not know the field refuses a value in it by
 * the struct's name, and leaves none in what it fills. */
#include <lisa/lisa.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(lisa_status status) {
    if (status == LISA_OK)
        return;
    printf("%s: %s\n", lisa_status_name(status), lisa_error_last());
    exit(EXIT_FAILURE);
}

/* A byte at either end of the unknown field is enough. */
#define REFUSED(type, options, call)                                                               \
    do {                                                                                           \
        static const uint64_t values[] = {1, (uint64_t)1 << 63};                                   \
        must(call);                                                                                \
        for (int i = 0; i < 2; i++) {                                                              \
            (options).later = values[i];                                                           \
            if ((call) != LISA_E_ABI || strstr(lisa_error_last(), #type ": byte ") == NULL)        \
                printf(#type " is taken: %s\n", lisa_error_last());                                \
        }                                                                                          \
        (options).later = 0;                                                                       \
    } while (0)

#define FILLED(type, call)                                                                         \
    do {                                                                                           \
        type filled;                                                                               \
        memset(&filled, 0xEE, sizeof filled);                                                      \
        filled.struct_size = sizeof filled;                                                        \
        filled.later = 0;                                                                          \
        must(call);                                                                                \
        if (filled.later != 0 || filled.struct_size != sizeof filled)                              \
            printf(#type " is not filled to its end\n");                                           \
    } while (0)

/* Creates to see whether it may, and destroys. */
#define MAKES(kind, ...)                                                                           \
    (lisa_##kind##_destroy(made.kind), made.kind = NULL,                                           \
     lisa_##kind##_create(&made.kind, __VA_ARGS__))

static struct {
    lisa_context *context;
    lisa_model *model;
    lisa_sampler *sampler;
    lisa_batch *batch;
    lisa_optimizer *optimizer;
    lisa_adapter *adapter;
} made;

static lisa_context_options context_options;
static lisa_model_config config;
static lisa_model_options model_options;
static lisa_sampler_options sampler_options;
static lisa_batch_options batch_options;
static lisa_optimizer_options optimizer_options;
static lisa_adapter_options adapter_options;
static lisa_save_options save_options;
static lisa_generate_options generate_options;
static lisa_plan_request request;
static lisa_checkpoint_options checkpoint_options;
static char checkpoint[4096];

static void init(void) {
    must(lisa_context_options_init(&context_options, sizeof context_options));
    must(lisa_model_config_init(&config, sizeof config));
    must(lisa_model_options_init(&model_options, sizeof model_options));
    must(lisa_sampler_options_init(&sampler_options, sizeof sampler_options));
    must(lisa_batch_options_init(&batch_options, sizeof batch_options));
    must(lisa_optimizer_options_init(&optimizer_options, sizeof optimizer_options));
    must(lisa_adapter_options_init(&adapter_options, sizeof adapter_options));
    must(lisa_save_options_init(&save_options, sizeof save_options));
    must(lisa_generate_options_init(&generate_options, sizeof generate_options));
    must(lisa_plan_request_init(&request, sizeof request));
    must(lisa_checkpoint_options_init(&checkpoint_options, sizeof checkpoint_options));
    config.n_layers = sampler_options.n_layers = 2;
    config.d_model = 8;
    config.n_heads = 2;
    config.d_ff = 8;
    config.vocab_size = 11;
    config.max_positions = 8;
    generate_options.max_new_tokens = 1;
    request.config = &config;
    request.max_batch = request.max_tokens = 2;
}

static lisa_status generate(void) {
    const int32_t prompt[1] = {1};
    int32_t token[1];
    uint32_t n;
    return lisa_model_generate(made.model, prompt, 1, &generate_options, token, &n);
}

static lisa_status plan(void) {
    lisa_plan_report report;
    memset(&report, 0, sizeof report);
    report.struct_size = sizeof report;
    return lisa_plan(&request, &report);
}

static lisa_status step(lisa_step_stats *stats) {
    const int32_t tokens[4] = {1, 2, 3, 4};
    must(lisa_batch_set(made.batch, tokens, NULL, 2, 2));
    return lisa_train_step(made.model, made.sampler, made.optimizer, made.batch, 0, stats);
}

int main(int argc, char **argv) {
    if (argc != 2)
        return EXIT_FAILURE;
    init();
    REFUSED(lisa_context_options, context_options, MAKES(context, &context_options));
    must(MAKES(context, &context_options));
    REFUSED(lisa_model_config, config, MAKES(model, made.context, &config, &model_options));
    REFUSED(lisa_model_options, model_options, MAKES(model, made.context, &config, &model_options));
    must(MAKES(model, made.context, &config, &model_options));
    REFUSED(lisa_sampler_options, sampler_options, MAKES(sampler, &sampler_options));
    must(MAKES(sampler, &sampler_options));
    REFUSED(lisa_batch_options, batch_options, MAKES(batch, made.model, 2, 2, &batch_options));
    must(MAKES(batch, made.model, 2, 2, &batch_options));
    REFUSED(lisa_optimizer_options, optimizer_options,
            MAKES(optimizer, made.model, &optimizer_options));
    must(MAKES(optimizer, made.model, &optimizer_options));
    REFUSED(lisa_checkpoint_options, checkpoint_options,
            lisa_checkpoint_save(made.optimizer, argv[1], 1, &checkpoint_options));
    must(lisa_checkpoint_find(argv[1], checkpoint, sizeof checkpoint));
    REFUSED(lisa_adapter_options, adapter_options, MAKES(adapter, made.model, &adapter_options));
    must(MAKES(adapter, made.model, &adapter_options));
    REFUSED(lisa_save_options, save_options, lisa_model_save(made.model, argv[1], &save_options));
    REFUSED(lisa_generate_options, generate_options, generate());
    REFUSED(lisa_plan_request, request, plan());

    FILLED(lisa_model_config, lisa_model_get_config(made.model, &filled));
    FILLED(lisa_adapter_options, lisa_adapter_get_options(made.adapter, &filled));
    FILLED(lisa_tensor_info, lisa_model_tensor_info(made.model, 0, &filled));
    FILLED(lisa_checkpoint_info, lisa_checkpoint_verify(checkpoint, &filled));
    FILLED(lisa_checkpoint_info, lisa_checkpoint_load(made.optimizer, checkpoint, &filled));
    FILLED(lisa_step_stats, step(&filled));
    FILLED(lisa_plan_report, lisa_plan(&request, &filled));
    printf("done\n");
    lisa_adapter_destroy(made.adapter);
    lisa_optimizer_destroy(made.optimizer);
    lisa_batch_destroy(made.batch);
    lisa_sampler_destroy(made.sampler);
    lisa_model_destroy(made.model);
    lisa_context_destroy(made.context);
    return EXIT_SUCCESS;
}
