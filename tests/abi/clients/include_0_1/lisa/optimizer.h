/* optimizer.h - AdamW on the groups that train: gradients, moments, masters, and their swap.
 *
 * m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
 * w = w - lr wd w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
 * (Loshchilov and Hutter, arXiv 1711.05101, as torch.optim.AdamW orders it). t counts a group's own
 * steps since its state was made, from 1. The lr of a group's step is
 * lr * lr_factor of its class * min(1, t / warmup_steps); without warm-up the last factor is 1. So
 * a layer warms up after each DROP, the embedding and the head once, at their first steps.
 *
 * SPDX-License-Identifier: MIT */
#ifndef LISA_OPTIMIZER_H
#define LISA_OPTIMIZER_H

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Threads: as its context. */
typedef struct lisa_optimizer lisa_optimizer;

/* What happens to the state of a layer that leaves the mask. */
#define LISA_STATE_DROP 1    /* freed; a returning layer starts at m = v = t = 0 */
#define LISA_STATE_KEEP 2    /* held for every layer, all the time */
#define LISA_STATE_OFFLOAD 3 /* held: layers in a scratch file (CPU), all in host memory (cuda) */

/* max_active_layers of an optimizer that trains embedding and head alone. */
#define LISA_NO_LAYERS 0xFFFFFFFFu

typedef struct lisa_optimizer_options {
    size_t struct_size;
    double lr;           /* default 1e-5; see lisa_optimizer_set_lr */
    double beta1;        /* default 0.9 */
    double beta2;        /* default 0.999 */
    double eps;          /* default 1e-8; above 0 */
    double weight_decay; /* default 0; never on norms, biases and embeddings */
    double
        max_grad_norm; /* default 0: no clipping; else torch's clip_grad_norm_ over active groups */
    uint64_t seed;     /* of stochastic rounding */
    uint32_t max_active_layers; /* slots; default 0: all layers (full AdamW) */
    uint32_t state_policy;      /* LISA_STATE_*; default DROP */
    uint32_t train_embedding;   /* default 1; 0 reserves nothing for the group and freezes it */
    uint32_t train_head;        /* default 1; likewise */
    const char *scratch_dir;    /* OFFLOAD on the CPU: a directory on a disk, not tmpfs */
    /* How a class of groups keeps its moments, LISA_MOMENTS_*, default 0: F32. */
    uint32_t moments_embedding;
    uint32_t moments_layers;
    uint32_t moments_head;      /* and of the final norm */
    uint32_t warmup_steps;      /* of every new state, see above; default 0: none */
    double lr_factor_embedding; /* times lr, for the class; above 0, default 0: 1 */
    double lr_factor_layers;
    double lr_factor_head; /* and of the final norm */
    /* 1: lisa_backward updates each tensor as soon as its gradient is whole, so that no more of
     * them than one linear map's exist at a time (and a tied embedding's). One backward for each
     * lisa_optimizer_step, which then only counts the step. The lr is the one at backward. Not with
     * max_grad_norm or an adapter. Weights come out bit for bit as without it. A gradient that is
     * not finite may be found after other tensors were updated, which the text says. No interrupt
     * is polled between updates. */
    uint32_t update_in_backward;
    /* Rows of the embedding that may train, default 0: all. Above 0 gradient, moments and low bits
     * are held for so many rows alone: a row takes one when a batch first has its token, and is
     * updated in every step from then on. A row without a token has no gradient and no update, so
     * the weights come out as with all rows (docs/lisa.md has three exceptions). A backward whose
     * batch needs more is LISA_E_BUDGET and changes nothing. Not with a tied head or an adapter. */
    uint32_t embedding_rows;
} lisa_optimizer_options;

LISA_API lisa_status lisa_optimizer_options_init(lisa_optimizer_options *options,
                                                 size_t struct_size);

/* Reserves slots and gradients, and binds to the model: a second optimizer on it is LISA_E_STATE
 * until this one is destroyed. The first mask in force is "everything it may train", if the slots
 * hold that, else "no layers". */
LISA_API lisa_status lisa_optimizer_create(lisa_optimizer **out, lisa_model *model,
                                           const lisa_optimizer_options *options);

/* Unbinds and destroys; 16-bit weights keep their masters' nearest values. NULL is a no-op. */
LISA_API void lisa_optimizer_destroy(lisa_optimizer *optimizer);

/* Learning rate of the following steps; finite and >= 0. */
LISA_API lisa_status lisa_optimizer_set_lr(lisa_optimizer *optimizer, double lr);

/* Makes a mask (n_groups = L + 2 bytes, each 0 or 1) the one in force and re-binds slots. Groups
 * that the options exclude stay frozen. LISA_E_BUDGET above max_active_layers; LISA_E_STATE inside
 * an accumulation window, unless the mask is the same. */
LISA_API lisa_status lisa_optimizer_apply_mask(lisa_optimizer *optimizer, const uint8_t *mask,
                                               uint32_t n_groups);

/* Copies the mask in force. */
LISA_API lisa_status lisa_optimizer_get_mask(const lisa_optimizer *optimizer, uint8_t *mask,
                                             uint32_t n_groups);

/* What one update did. */
typedef struct lisa_step_stats {
    size_t struct_size;
    double loss;       /* weighted mean over the window's batches of this process */
    double weight_sum; /* of the targets; after an all-reduce, of all processes */
    double grad_norm;  /* of the normalised gradient of active groups, before clipping */
    double lr;
    uint64_t n_targets;  /* scored positions of the window */
    uint32_t n_backward; /* batches of the window */
    uint32_t updated;    /* 0: no targets in the window, nothing changed and no step counted */
    uint32_t swapped;    /* train_step: 1 when this step's mask replaced another */
    uint32_t n_active_layers;
} lisa_step_stats;

/* Updates the active groups from the window's gradients, then clears them. stats may be NULL, else
 * its struct_size must be set. Without stats a backend with memory of its own is not waited for: an
 * update that failed is told by the first of the following calls that finds it, which then does
 * nothing else; no update after it was made, and no step counted. LISA_E_STATE without a backward;
 * LISA_E_NONFINITE names the first bad tensor (or the norm, where its square alone is not finite),
 * leaves weights and moments as they were and voids the window; LISA_E_CANCELLED leaves the window
 * too, so that the step can be tried again. */
LISA_API lisa_status lisa_optimizer_step(lisa_optimizer *optimizer, lisa_step_stats *stats);

/* Forgets the window: gradients cleared, nothing else. LISA_E_STATE where update_in_backward has
 * made the window's update. */
LISA_API lisa_status lisa_optimizer_discard(lisa_optimizer *optimizer);

/* The contiguous region of un-normalised gradient sums of the active groups, led by 16 elements of
 * which the first is the window's sum of target weights (both times a loss scale, where activations
 * are f16); each tensor is filled up with zeros to a
 * multiple of 16. All-reduce (sum) it as n_elements of `dtype` and step divides. Borrowed; host
 * memory on the CPU backends, device memory on others; valid until the mask changes. LISA_E_STATE
 * with update_in_backward, which keeps no gradients (so the next two), and with embedding_rows, as
 * processes would hold different rows. */
LISA_API lisa_status lisa_optimizer_gradients(lisa_optimizer *optimizer, void **data,
                                              uint64_t *n_elements, uint32_t *dtype);

/* Copies one tensor's gradient sum out (dtype F32 or F64). LISA_E_STATE when its group is frozen.
 */
LISA_API lisa_status lisa_optimizer_gradient_read(lisa_optimizer *optimizer, uint32_t tensor,
                                                  void *data, uint32_t dtype, uint64_t n_elements);

/* Euclidean norm of a group's un-normalised gradient; 0 when frozen. */
LISA_API lisa_status lisa_optimizer_gradient_norm(lisa_optimizer *optimizer, uint32_t group,
                                                  double *norm);

/* Steps counted by a group's state; 0 when it holds none. */
LISA_API lisa_status lisa_optimizer_group_steps(const lisa_optimizer *optimizer, uint32_t group,
                                                uint64_t *steps);

#ifdef __cplusplus
}
#endif

#endif
