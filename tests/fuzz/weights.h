/* weights.h - opens what lies in memory_files and looks at everything that came out. */
#ifndef LISA_FUZZ_WEIGHTS_H
#define LISA_FUZZ_WEIGHTS_H

#include "formats/safetensors.h"
#include "memory_files.h"

static inline void look_at_tensor(const struct lisa__weights *weights, uint32_t i) {
    const struct lisa__st_tensor *tensor = lisa__weights_at(weights, i);
    uint8_t byte;
    must(lisa__weights_find(weights, tensor->name) == tensor);
    must(strlen(tensor->dtype_name) < sizeof tensor->dtype_name);
    must(tensor->n_dims <= LISA__ST_MAX_DIMS);
    if (tensor->bytes > 0)
        must(lisa__weights_read(weights, tensor, tensor->bytes - 1, &byte, 1) == LISA_OK);
}

static inline void open_and_look(void) {
    struct lisa__weights *weights;
    if (lisa__weights_open(&weights, NULL, "memory", 0) != LISA_OK) {
        must(weights == NULL && lisa_error_last()[0] != '\0');
        return;
    }
    for (uint32_t i = 0; i < lisa__weights_count(weights); i++)
        look_at_tensor(weights, i);
    lisa__weights_close(weights);
}

#endif
