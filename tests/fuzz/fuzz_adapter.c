/* An adapter_config.json, a NUL, an adapter_model.safetensors; for a model of one layer. */
#include "formats/peft.h"
#include "memory_files.h"

enum { MAX_TENSORS = 16 };

static void describe_model(lisa_model_config *config) {
    must(lisa_model_config_init(config, sizeof *config) == LISA_OK);
    config->n_layers = 1;
    config->d_model = 4;
    config->n_heads = 2;
    config->d_ff = 8;
    config->vocab_size = 6;
    config->max_positions = 8;
    must(lisa__config_check(config) == LISA_OK);
}

/* What is targeted is there in full. */
static void look_at_sources(uint32_t targets, const struct lisa__st_tensor **sources,
                            const struct lisa__tensor_desc *all, uint32_t n) {
    must(targets != 0);
    for (uint32_t i = 0; i < n; i++) {
        must((sources[i] != NULL) == ((lisa__lora_target(all[i].role) & targets) != 0));
        must(sources[i] == NULL || sources[i]->n_elements == all[i].n_elements);
    }
}

static void open_tensors(lisa_adapter_options *options, const lisa_model_config *config) {
    struct lisa__tensor_desc all[MAX_TENSORS];
    const struct lisa__st_tensor *sources[MAX_TENSORS];
    struct lisa__weights *file;
    uint32_t targets;
    options->targets = LISA_TARGET_ALL_LAYERS | LISA_TARGET_HEAD;
    const uint32_t n = lisa__lora_count(options, config);
    must(n == MAX_TENSORS && lisa__lora_list(options, config, LISA_DTYPE_F32, all) == LISA_OK);
    if (lisa__weights_open_file(&file, NULL, "memory", LISA__PEFT_TENSORS) != LISA_OK) {
        must(file == NULL && lisa_error_last()[0] != '\0');
        return;
    }
    if (lisa__peft_bind(&targets, sources, all, n, file, "memory") == LISA_OK)
        look_at_sources(targets, sources, all, n);
    else
        must(lisa_error_last()[0] != '\0');
    lisa__weights_close(file);
}

FUZZ_ENTRY(fuzz_adapter) {
    const uint8_t *nul = size == 0 ? NULL : memchr(data, '\0', size);
    const size_t n = nul == NULL ? size : (size_t)(nul - data);
    lisa_model_config config;
    lisa_adapter_options options;
    describe_model(&config);
    must(lisa_adapter_options_init(&options, sizeof options) == LISA_OK);
    const struct lisa__peft_base base = {&config, NULL};
    if (lisa__peft_config_read(&options, NULL, &base, (const char *)data, n, "config") != LISA_OK) {
        must(lisa_error_last()[0] != '\0');
        return 0;
    }
    must(lisa__lora_check(&options, &config) == LISA_OK);
    if (nul == NULL)
        return 0;
    put_memory_file(0, LISA__PEFT_TENSORS, nul + 1, size - n - 1);
    open_tensors(&options, &config);
    put_memory_file(0, NULL, NULL, 0);
    return 0;
}
