/* philox.h - Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel
 * random numbers: as easy as 1, 2, 3", SC 2011, section 3.3: the 4x32 round with its multipliers,
 * and the Weyl sequence that advances the key. */
#ifndef LISA_SAMPLER_PHILOX_H
#define LISA_SAMPLER_PHILOX_H

#include "core/inline.h"

#include <stdint.h>

LISA_INLINE void lisa__philox_round(uint32_t counter[4], uint32_t key0, uint32_t key1) {
    const uint64_t product0 = (uint64_t)0xD2511F53u * counter[0];
    const uint64_t product1 = (uint64_t)0xCD9E8D57u * counter[2];
    counter[0] = (uint32_t)(product1 >> 32) ^ counter[1] ^ key0;
    counter[1] = (uint32_t)product1;
    counter[2] = (uint32_t)(product0 >> 32) ^ counter[3] ^ key1;
    counter[3] = (uint32_t)product0;
}

/* Four 32-bit draws for a 64-bit key and a 128-bit counter. Counter words are, from the least
 * significant: low(a), high(a), low(b), high(b); key words: low(key), high(key). Pure. */
LISA_INLINE void lisa__philox(uint64_t key, uint64_t a, uint64_t b, uint32_t out[4]) {
    uint32_t key0 = (uint32_t)key;
    uint32_t key1 = (uint32_t)(key >> 32);
    out[0] = (uint32_t)a;
    out[1] = (uint32_t)(a >> 32);
    out[2] = (uint32_t)b;
    out[3] = (uint32_t)(b >> 32);
    for (int round = 0; round < 10; round++) {
        lisa__philox_round(out, key0, key1);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

#endif
