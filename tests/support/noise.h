/* noise.h - numbers for tests: the same for the same seed on every machine. */
#ifndef LISA_TEST_NOISE_H
#define LISA_TEST_NOISE_H

#include <stddef.h>
#include <stdint.h>

/* splitmix64 (Steele, Lea and Flood, 2014). */
static inline uint64_t noise_bits(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Uniform in (-1, 1), with 24 bits: exact as a float. */
static inline double noise_uniform(uint64_t *state) {
    return ((double)(noise_bits(state) >> 40) + 0.5) / 8388608.0 - 1.0;
}

/* In [0, n). */
static inline uint32_t noise_below(uint64_t *state, uint32_t n) {
    return (uint32_t)((noise_bits(state) >> 32) * n >> 32);
}

static inline void noise_fill(double *x, size_t n, double scale, uint64_t *state) {
    for (size_t i = 0; i < n; i++)
        x[i] = scale * noise_uniform(state);
}

#endif
