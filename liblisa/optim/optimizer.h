/* optimizer.h - AdamW behind its handle: slots, the mask in force, and the accumulation window. */
#ifndef LISA_OPTIM_OPTIMIZER_H
#define LISA_OPTIM_OPTIMIZER_H

#include "data/rows.h"
#include "model/model.h"
#include "plan/state.h"

/* One group: embedding, a layer, or final norm and head. */
struct lisa__group {
    uint64_t steps;     /* counted by its state */
    uint32_t active;    /* in the mask in force */
    uint32_t has_state; /* m, v and low bits are kept for it: in a slot, its own place, or away */
    int32_t slot;       /* of a layer whose state is in a slot, else -1 */
    uint32_t rounded;   /* times its trained masters were dropped: a stream of rounding each */
};

/* Batches since the last update. */
struct lisa__window {
    uint32_t n_backward;
    uint64_t n_scored;
    double weight_sum;
    double lr; /* update_in_backward: with which the update was made */
};

struct lisa_optimizer {
    lisa_model *model;
    struct lisa__parameters *trained; /* the model's weights, or the adapter's */
    struct lisa_adapter *adapter;     /* whose they are, or NULL */
    lisa_optimizer_options options;
    uint32_t n_layers, max_active;
    struct lisa__state_shape shape;
    struct lisa__layout layout;
    struct lisa__state_memory memory;
    struct lisa__scratch away;  /* OFFLOAD on a host's memory: L layers' states */
    struct lisa__group *groups; /* [L + 2] */
    uint32_t *slot_taken;       /* [n_slots] */
    uint8_t *wanted;            /* [L + 2], scratch of apply_mask */
    struct lisa__row_map rows;  /* of a sparse embedding, else empty */
    uint32_t rows_kept;         /* of them: have been updated, or will be */
    uint32_t rows_before;       /* as many were kept before the first unsettled update */
    uint64_t gradient_elements; /* of the region, header included, for the mask in force */
    struct lisa__window window;
    uint64_t updates;   /* tried so far: a stream of rounding each, and for each tensor */
    uint64_t confirmed; /* updates that the device is known to have made */
    uint32_t unsettled; /* updates since, of which that is not known */
    uint64_t ticket;    /* of the last one's outcome */
    uint32_t uncleared; /* 1: gradients of a void window are still to be cleared */
};

/* LISA_E_INVAL names the option at fault. adapted: they are of an adapter's optimizer. */
lisa_status lisa__optimizer_check(const lisa_optimizer_options *options,
                                  const lisa_model_config *config, int adapted);

/* LISA_E_STATE unless what is attached to the model now is what the optimizer was made for. */
lisa_status lisa__optimizer_check_bound(const lisa_optimizer *o);

lisa_status lisa__optimizer_create(lisa_optimizer **out, lisa_model *model,
                                   const lisa_optimizer_options *options);
void lisa__optimizer_destroy(lisa_optimizer *o);

/* See lisa_optimizer_apply_mask. *swapped (may be NULL): 1 when another mask came into force. */
lisa_status lisa__optimizer_apply_mask(lisa_optimizer *o, const uint8_t *mask, uint32_t n_groups,
                                       uint32_t *swapped);

/* Points the model's tensors at gradients and low bits as the groups say, packing the gradients of
 * active groups, and clears them. */
void lisa__optimizer_lend(lisa_optimizer *o);

/* Where a group's moments and low bits lie now. Only for groups that have state in memory. */
struct lisa__state lisa__group_state(const lisa_optimizer *o, uint32_t group);

/* Where a group's state is held, in a slot or away; all NULL where it has none. */
struct lisa__state lisa__optimizer_held(const lisa_optimizer *o, uint32_t group);

/* A slot for a layer: its own where each has one, else the first that is free. */
void lisa__optimizer_take_slot(lisa_optimizer *o, uint32_t group);

/* The device has made no update, and none is under way. */
lisa_status lisa__optimizer_forget_updates(lisa_optimizer *o);

/* Takes back what was lent to the tensors. */
void lisa__optimizer_unlend(lisa_optimizer *o);

/* Clears gradients and window, and gives rows that were not updated back. Where the backend cannot
 * clear them now, the next backward does before it begins. */
void lisa__optimizer_void(lisa_optimizer *o);
lisa_status lisa__optimizer_clear(lisa_optimizer *o);

/* The outcome of updates that were made without waiting for it. LISA_E_NONFINITE where one failed:
 * nothing has changed since before it, and the window is void. wait: until all is known. */
lisa_status lisa__optimizer_settle(lisa_optimizer *o, int wait);

/* Before a backward over these rows. LISA_E_STATE where the window may not take it, LISA_E_BUDGET
 * where the rows of a sparse embedding do not suffice. */
lisa_status lisa__optimizer_begin_backward(lisa_optimizer *o, const struct lisa__rows *rows);

/* The map of a sparse embedding, without a row. */
lisa_status lisa__optimizer_alloc_rows(lisa_optimizer *o);
void lisa__optimizer_free_rows(lisa_optimizer *o);

/* Gives the tokens of a batch slots of a sparse embedding: all of them, or LISA_E_BUDGET. */
lisa_status lisa__optimizer_claim(lisa_optimizer *o, const struct lisa__rows *rows);

/* Takes those back that were not updated. */
void lisa__optimizer_unclaim(lisa_optimizer *o);

/* The first n rows that row_of has, all different, have slots, and no others. */
void lisa__optimizer_set_rows(lisa_optimizer *o, uint32_t n);

/* Elements of a tensor's gradient in use: all, or those of the rows that have a slot. */
uint64_t lisa__gradient_in_use(const lisa_optimizer *o, uint32_t index);

/* Takes gradients in backward, with update_in_backward (see lisa__gradient_sink). */
lisa_status lisa__optimizer_take(void *self, uint32_t tensor);

/* LISA_E_STATE where update_in_backward keeps no gradients. */
lisa_status lisa__optimizer_check_gradients(const lisa_optimizer *o);

/* Adds a backward's loss (one number on the device) to the window, and the window's weight to the
 * gradient region. */
lisa_status lisa__optimizer_count(lisa_optimizer *o, const double *loss,
                                  const struct lisa__rows *rows);

/* Into the region's first element, as gradients are scaled. */
lisa_status lisa__optimizer_put_weight(lisa_optimizer *o, double weight_sum);

/* stats NULL: without waiting for the outcome, where the backend need not. */
lisa_status lisa__optimizer_step(lisa_optimizer *o, lisa_step_stats *stats);

#endif
