/* family.h - a model family as a table: config keys -> description, role -> tensor name. */
#ifndef LISA_MODEL_FAMILY_H
#define LISA_MODEL_FAMILY_H

#include "model/tensors.h"

#include <jansson.h>

struct lisa__family {
    const char *name;         /* lisa_model_config.family, and "model_type" in config.json */
    const char *architecture; /* "LlamaForCausalLM" */
    /* Hugging Face names, with %u for the layer in block roles; NULL where the family has none. */
    const char *names[LISA__ROLES];
    /* Prefixes that a file may have before the names or lack ("transformer."), or NULL. */
    const char *optional_prefix;
    uint32_t conv1d; /* 1: linear weights of blocks are stored [in, out] */
    /* Fills a description from config.json; `file` is for texts. */
    lisa_status (*read)(lisa_model_config *config, const json_t *json, const char *file);
    /* Writes a description's keys into a config.json object (transformers 4 keys). */
    lisa_status (*write)(const lisa_model_config *config, json_t *json);
    /* Tensors in files that are not weights (mask buffers, inv_freq): 1 if `name` is one. */
    int (*ignores)(const char *name);
    /* The keys of config.json that `read` understands, NULL-terminated. */
    const char *const *keys;
};

extern const struct lisa__family lisa__family_llama;

/* By name; NULL if there is none. */
const struct lisa__family *lisa__family_find(const char *name);

/* The i-th family, NULL past the last. */
const struct lisa__family *lisa__family_at(uint32_t i);

/* What families share of reading and writing: rotary positions (rope_theta with rope_scaling of
 * transformers 4, rope_parameters of 5) and the names of activations. */
lisa_status lisa__family_read_rope(lisa_model_config *config, const json_t *json, const char *file);
lisa_status lisa__family_write_rope(const lisa_model_config *config, json_t *json);
lisa_status lisa__family_read_activation(lisa_model_config *config, const json_t *json,
                                         const char *file, const char *key, const char *absent);
const char *lisa__family_activation_name(uint32_t activation);

#endif
