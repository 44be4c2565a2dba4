/* options.h - option structs of the public interface, read with their defaults (given may be NULL).
 */
#ifndef LISA_API_OPTIONS_H
#define LISA_API_OPTIONS_H

#include "lisa/lisa.h"

lisa_status lisa__batch_options_read(lisa_batch_options *own, const lisa_batch_options *given);
lisa_status lisa__optimizer_options_read(lisa_optimizer_options *own,
                                         const lisa_optimizer_options *given);
lisa_status lisa__adapter_options_read(lisa_adapter_options *own,
                                       const lisa_adapter_options *given);
lisa_status lisa__model_options_read(lisa_model_options *own, const lisa_model_options *given);
lisa_status lisa__context_options_read(lisa_context_options *own,
                                       const lisa_context_options *given);

#endif
