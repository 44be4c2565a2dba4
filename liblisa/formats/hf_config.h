/* hf_config.h - config.json of transformers 4 and 5, in and out. */
#ifndef LISA_FORMATS_HF_CONFIG_H
#define LISA_FORMATS_HF_CONFIG_H

#include "core/context.h"
#include "lisa/model.h"

/* Fills a whole config (every field, struct_size included) from DIRECTORY/config.json. Unknown keys
 * that change no mathematics are reported through `context`'s log (NULL: nowhere). weights_dtype is
 * from the config's dtype key, LISA_DTYPE_F32 where it has none. */
lisa_status lisa__hf_config_read(lisa_model_config *config, lisa_context *context,
                                 const char *directory);

/* Replaces weights_dtype of a config by what the headers in DIRECTORY say of the embedding; leaves
 * it where there are no weights. `context` may be NULL. */
lisa_status lisa__hf_weights_dtype(lisa_model_config *config, lisa_context *context,
                                   const char *directory);

/* Refuses, as lisa__hf_config_write would, a description that its family's config.json cannot say.
 */
lisa_status lisa__hf_config_check(const lisa_model_config *config);

/* Writes DIRECTORY/config.json for a model. `source`, when not NULL, is the directory that the
 * model came from: its config.json is kept, with only dtype and tying brought up to date; where it
 * is gone by now, the description is written. */
lisa_status lisa__hf_config_write(lisa_context *context, const lisa_model_config *config,
                                  const char *directory, const char *source);

#endif
