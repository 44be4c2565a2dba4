/* sampler.h - which layers train at a step. Needs nothing else of the library.
 *
 * A sampler is immutable and a pure function of (options, step): ask for any step in any order,
 * from any thread, in any process, and the answer is the same. docs/lisa.md gives the algorithm and
 * test vectors.
 *
 * A mask has one byte per group, 0 (frozen) or 1 (trains): mask[0] is the embedding group,
 * mask[1 + l] is layer l, mask[n_layers + 1] is the final norm and head.
 *
 * SPDX-License-Identifier: MIT */
#ifndef LISA_SAMPLER_H
#define LISA_SAMPLER_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Threads: every function that takes a const lisa_sampler may run on any number of threads. */
typedef struct lisa_sampler lisa_sampler;

/* n_active of n_layers without replacement, afresh every period (arXiv 2403.17919 v3/v4). */
#define LISA_SAMPLER_UNIFORM 1
/* Each layer independently with probability weights[l] (arXiv 2403.17919 v1, Algorithm 1). A draw
 * of more than max_active layers keeps a uniformly chosen subset of max_active of them. */
#define LISA_SAMPLER_BERNOULLI 2
/* A fresh permutation per epoch of ceil(n_layers / n_active) periods, dealt n_active at a time; the
 * last deal is topped up from the permutation's start (the order of BAdam, arXiv 2404.02827). */
#define LISA_SAMPLER_RESHUFFLE 3
/* n_active layers with inclusion probability exactly min(1, c * weights[l]): systematic sampling
 * over a fresh permutation each period. */
#define LISA_SAMPLER_WEIGHTED 4
/* The next n_active layers each period, ascending or descending, wrapping around. */
#define LISA_SAMPLER_ROUND_ROBIN 5
/* Always the n_active layers listed in `layers`. */
#define LISA_SAMPLER_FIXED 6

#define LISA_SAMPLER_MAX_LAYERS 4096

typedef struct lisa_sampler_options {
    size_t struct_size;
    uint64_t seed;            /* key of the counter-based generator */
    uint64_t first_step;      /* period 0 begins here; earlier steps are LISA_E_INVAL */
    uint32_t kind;            /* LISA_SAMPLER_*; default UNIFORM */
    uint32_t n_layers;        /* L, 1 to LISA_SAMPLER_MAX_LAYERS */
    uint32_t n_active;        /* gamma, 0 to L; default 2. BERNOULLI ignores it */
    uint32_t interval_steps;  /* K, at least 1; default 20 */
    uint32_t max_active;      /* BERNOULLI: most layers of a draw; 0 means L */
    uint32_t descending;      /* ROUND_ROBIN: 0 ascending, 1 descending */
    uint32_t train_embedding; /* 0 or 1; default 1 */
    uint32_t train_head;      /* 0 or 1; default 1 */
    const double *weights;    /* WEIGHTED: n_layers values >= 0; BERNOULLI: probabilities; copied */
    const uint32_t *layers;   /* FIXED: n_active distinct layer indices; copied */
} lisa_sampler_options;

/* Zero-fills *options (of `struct_size` bytes) and sets the defaults above. LISA_E_ABI when the
 * size is smaller than version 0.1's. */
LISA_API lisa_status lisa_sampler_options_init(lisa_sampler_options *options, size_t struct_size);

/* Creates a sampler. LISA_E_INVAL names the option at fault; LISA_E_NOMEM. */
LISA_API lisa_status lisa_sampler_create(lisa_sampler **out, const lisa_sampler_options *options);

/* Destroys; NULL is a no-op. */
LISA_API void lisa_sampler_destroy(lisa_sampler *sampler);

/* Writes the mask of `step`, which depends on (step - first_step) / interval_steps alone. n_groups
 * must be n_layers + 2. */
LISA_API lisa_status lisa_sampler_mask(const lisa_sampler *sampler, uint64_t step, uint8_t *mask,
                                       uint32_t n_groups);

/* Writes P(layer l is active in a period), n_layers values; for ROUND_ROBIN the share of periods.
 * Exact, also where max_active truncates BERNOULLI's draws. */
LISA_API lisa_status lisa_sampler_probabilities(const lisa_sampler *sampler, double *probabilities,
                                                uint32_t n_layers);

/* The most layers that any mask of this sampler activates: what an optimizer must hold slots for.
 */
LISA_API uint32_t lisa_sampler_max_active(const lisa_sampler *sampler);

/* n_layers + 2. */
LISA_API uint32_t lisa_sampler_n_groups(const lisa_sampler *sampler);

#ifdef __cplusplus
}
#endif

#endif
