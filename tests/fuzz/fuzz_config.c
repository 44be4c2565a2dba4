/* A config.json. */
#include "formats/hf_config.h"
#include "memory_files.h"

FUZZ_ENTRY(fuzz_config) {
    lisa_model_config config;
    put_memory_file(0, "config.json", data, size);
    if (lisa__hf_config_read(&config, NULL, "memory") == LISA_OK) {
        must(config.struct_size == sizeof config);
        must(config.n_layers > 0 && config.d_model > 0 && config.n_heads > 0);
        must(config.n_heads % config.n_kv_heads == 0 && config.head_dim > 0);
        must(config.norm_eps > 0);
        must(config.rope == LISA_ROPE_NONE || (config.rope_theta > 0 && config.rotary_dim > 0));
    } else {
        must(lisa_error_last()[0] != '\0');
    }
    put_memory_file(0, NULL, NULL, 0);
    return 0;
}
