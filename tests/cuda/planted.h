/* planted.h - kernels with one error each, and their twins without it. */
#ifndef TESTS_CUDA_PLANTED_H
#define TESTS_CUDA_PLANTED_H

#include <stddef.h>

#define PLANTED_OUTPUTS 64 /* out[i] is i where a kernel is right */

struct PlantedKernel {
    const char *name;
    void (*run)(float *out);
    const char *report; /* a part of the report that must come; NULL: none may come */
    bool race_lane;     /* it comes in the race lane alone */
    bool spoils_output; /* where no report comes */
};

extern const PlantedKernel planted_kernels[];
extern const size_t planted_kernel_count;

/* For tests of the host's side: out[i] = in[i] + 1, of n elements. */
void planted_add_one(const float *in, float *out, int n, void *stream);
/* Opts in to `shared` bytes or not, and launches a kernel of as many threads that asks for them. */
void planted_ask(float *out, unsigned threads, size_t shared, bool opt_in);
/* Sums of 256 numbers by atomics: of floats, and of integers that no order changes. */
void planted_sum(const float *in, float *out, unsigned *counted, unsigned blocks);
/* Loads by lanes side by side, or `stride` floats apart. */
void planted_load(const float *in, float *out, int stride);

#endif
