/* peft.h - a LoRA adapter as PEFT's directory: adapter_config.json and adapter_model.safetensors.
 */
#ifndef LISA_FORMATS_PEFT_H
#define LISA_FORMATS_PEFT_H

#include "core/context.h"
#include "formats/safetensors.h"
#include "model/lora.h"

#define LISA__PEFT_CONFIG "adapter_config.json"
#define LISA__PEFT_TENSORS "adapter_model.safetensors"
#define LISA__PEFT_MAX_CONFIG (1u << 20) /* bytes; real ones have a thousand */

/* The model that an adapter is for. */
struct lisa__peft_base {
    const lisa_model_config *config;
    const char *directory; /* or NULL */
};

/* Reads rank, alpha, dropout and use_rslora from a configuration's text (n bytes, from the file
 * `path`) and leaves the other options alone. What PEFT can say there and this library has not is
 * LISA_E_UNSUPPORTED; keys that are not known are reported through `context`'s log. */
lisa_status lisa__peft_config_read(lisa_adapter_options *options, lisa_context *context,
                                   const struct lisa__peft_base *base, const char *text, uint64_t n,
                                   const char *path);

/* Makes a configuration's text of n bytes; free() it. `kept`, when not NULL, is the text that the
 * adapter was read with: its other keys stay. */
lisa_status lisa__peft_config_text(char **out, uint64_t *n, const lisa_adapter_options *options,
                                   const struct lisa__peft_base *base, const char *kept,
                                   uint64_t kept_bytes);

/* Finds an adapter's tensors in a file. `all` are the tensors of an adapter of this rank on every
 * target; sources[n_all] becomes their places, NULL where the file does not target the map, and
 * *targets says what it targets. LISA_E_UNSUPPORTED names a tensor that is none of them,
 * LISA_E_FORMAT one that is missing or misshapen. */
lisa_status lisa__peft_bind(uint32_t *targets, const struct lisa__st_tensor **sources,
                            const struct lisa__tensor_desc *all, uint32_t n_all,
                            const struct lisa__weights *file, const char *directory);

#endif
