/* choose.h - the next token from its logits. Knows no model and takes no memory. */
#ifndef LISA_MODEL_CHOOSE_H
#define LISA_MODEL_CHOOSE_H

#include <stdint.h>

/* How to choose; the fields of lisa_generate_options, checked. */
struct lisa__choice {
    double temperature; /* 0: the most likely token, whatever else is set */
    double top_p;       /* 0 or 1: off */
    uint32_t top_k;     /* 0: off */
    uint64_t seed;
};

/* One of n > 0 finite logits, by the rule at lisa_model_generate, as new token number `index`.
 * `ids` is scratch of n elements, not read or written where the temperature is 0. Pure. */
uint32_t lisa__choose(const struct lisa__choice *choice, const double *logits, uint32_t n,
                      uint32_t *ids, uint64_t index);

#endif
