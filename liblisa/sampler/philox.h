/* philox.h - Philox4x32-10, the counter-based generator of Salmon et al. (SC'11). */
#ifndef LISA_SAMPLER_PHILOX_H
#define LISA_SAMPLER_PHILOX_H

#include <stdint.h>

/* Four 32-bit draws for a 64-bit key and a 128-bit counter. Counter words are, from the least
 * significant: low(a), high(a), low(b), high(b); key words: low(key), high(key). Pure. */
void lisa__philox(uint64_t key, uint64_t a, uint64_t b, uint32_t out[4]);

#endif
