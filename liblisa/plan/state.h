/* state.h - the memory of training: gradients, moments, low bits, and private copies of weights.
 *
 * A group's state is laid out tensor after tensor, each beginning on 64 bytes; so do the scales
 * that 8-bit moments have behind each tensor's codes. Layers share slots of the largest layer;
 * embedding and head have their own. */
#ifndef LISA_PLAN_STATE_H
#define LISA_PLAN_STATE_H

#include "core/layout.h"
#include "lisa/optimizer.h"
#include "lisa/sys/backend.h"
#include "model/tensors.h"

/* Elements of real that lead the gradient region; the first is the sum of target weights. */
#define LISA__GRADIENT_HEADER 16u

/* The types that a model computes in on a backend. */
struct lisa__kinds {
    uint32_t real, operand; /* see sys/backend.h */
};

/* Groups whose private copies are reserved together. */
enum lisa__part { LISA__PART_EMBEDDING, LISA__PART_LAYERS, LISA__PART_HEAD, LISA__PARTS };

/* What a group's (or slot's) state spans. */
struct lisa__extent {
    uint64_t elements; /* of gradients */
    uint64_t moment;   /* bytes of m, and as many of v */
    uint64_t low;      /* bytes of low bits */
};

/* Moments and low bits of one group, as one slot holds them. */
struct lisa__state {
    void *m, *v, *low;
};

struct lisa__state_shape {
    const struct lisa__tensor_desc *tensors;
    uint32_t n_tensors;
    uint32_t n_layers;
    uint32_t max_active; /* layers with a gradient at once */
    uint32_t policy;     /* LISA_STATE_* */
    uint32_t train_embedding, train_head;
    uint32_t moments[LISA__PARTS]; /* LISA_MOMENTS_*, never 0 */
    uint32_t in_backward;          /* update_in_backward */
    uint32_t embedding_rows;       /* of the option; 0: the embedding is dense */
    uint32_t tied_head;
    uint32_t streamed; /* OFFLOAD on a device: states are in host memory, and come in pieces */
    size_t real_size;
};

/* What comes of a window. */
struct lisa__outcome {
    lisa_control control;
    double loss; /* the sum over its targets */
};

/* On the device at a time: two layers whose weights are streamed, and two pieces of a streamed
 * state; one of each is in use, and one on its way. */
#define LISA__STREAM_BUFFERS 2
#define LISA__STATE_WINDOWS 2

/* Who has which slots of transfers (sys/backend.h). */
enum lisa__transfers {
    LISA__BUFFER_TRANSFERS,
    LISA__OWN_TRANSFER = LISA__BUFFER_TRANSFERS + LISA__STREAM_BUFFERS,
    LISA__WINDOW_TRANSFERS,
    LISA__TRANSFERS = LISA__WINDOW_TRANSFERS + LISA__STATE_WINDOWS
};
_Static_assert(LISA__TRANSFERS <= LISA_TRANSFER_SLOTS, "a slot for each");

struct lisa__state_memory {
    struct lisa__extent embedding, layer, head;
    struct lisa__extent window; /* of a piece; nothing where states are not streamed */
    uint32_t n_slots;
    uint64_t gradient_elements; /* the most, header included */
    void *gradients;
    struct lisa__state slots;   /* n_slots after each other */
    struct lisa__state windows; /* LISA__STATE_WINDOWS after each other */
    struct lisa__state embedding_state, head_state;
    double *squares;               /* [n_tensors] of gradients */
    struct lisa__outcome *outcome; /* on the device */
    struct lisa__outcome *posted;  /* its last copy, in host memory */
};

/* What an optimizer with these (checked) options holds. */
struct lisa__state_shape lisa__state_shape_of(const struct lisa__tensor_desc *descs,
                                              uint32_t n_tensors, const lisa_model_config *config,
                                              const lisa_optimizer_options *options,
                                              const lisa_backend_ops *ops);

/* Bytes that complete a weight to its fp32 master. */
size_t lisa__low_size(uint32_t dtype);

/* The part that a group belongs to. */
uint32_t lisa__part_of(const struct lisa__state_shape *shape, uint32_t group);

/* Whether tensor `index` is the embedding, of which embedding_rows rows train. */
int lisa__is_sparse(const struct lisa__state_shape *shape, uint32_t index);

/* Whether the state of a group is streamed: that of a sparse embedding stays on the device. */
int lisa__is_state_streamed(const struct lisa__state_shape *shape, uint32_t group);

/* Whether each layer has a slot of its own. */
int lisa__is_kept(const struct lisa__state_shape *shape);

/* Elements of a tensor that have a gradient. */
uint64_t lisa__trained_elements(const struct lisa__state_shape *shape,
                                const struct lisa__tensor_desc *desc);

/* What one row of a sparse embedding spans in it. */
struct lisa__extent lisa__row_extent(const struct lisa__state_shape *shape,
                                     const struct lisa__tensor_desc *desc);

/* What the state of tensor `index` spans, with rows_used rows of a sparse embedding. */
struct lisa__extent lisa__tensor_extent(const struct lisa__state_shape *shape, uint32_t index,
                                        uint32_t rows_used);

/* Where the state of tensor `index` begins within its group's. */
struct lisa__extent lisa__tensor_place(const struct lisa__state_shape *shape, uint32_t index);

/* With update_in_backward: where the gradient of tensor `index` begins in the region, in elements.
 * Tensors whose gradients never exist at the same time share a place. */
uint64_t lisa__shared_gradient_place(const struct lisa__state_shape *shape, uint32_t index);

/* Bytes of the 8-bit codes of n elements; their scales follow. */
uint64_t lisa__code_bytes(uint64_t n);

void lisa__state_layout(struct lisa__layout *layout, struct lisa__state_memory *out,
                        const struct lisa__state_shape *shape);

/* Slot i of the layers' slots, and window i. */
struct lisa__state lisa__slot_at(const struct lisa__state_memory *memory, uint32_t i);
struct lisa__state lisa__window_at(const struct lisa__state_memory *memory, uint32_t i);

/* How tensor `index` keeps its moments (LISA_MOMENTS_*), and the bytes of one element, without
 * scales. */
uint32_t lisa__moments_of(const struct lisa__state_shape *shape, uint32_t index);
size_t lisa__moment_size(const struct lisa__state_shape *shape, uint32_t index);

/* Bytes of the L layers' states that OFFLOAD keeps in a scratch file; else 0. */
uint64_t lisa__offload_bytes(const struct lisa__state_shape *shape);

/* Bytes of one layer's state, as OFFLOAD moves them. */
uint64_t lisa__slot_bytes(const struct lisa__extent *extent);

/* Private copies for the mapped tensors of groups [first, last]: homes[i] for each tensor, NULL for
 * those that need none. */
void lisa__homes_layout(struct lisa__layout *layout, void **homes,
                        const struct lisa__tensor_desc *tensors, uint32_t n_tensors, uint32_t first,
                        uint32_t last);

/* The in-memory type of a weight that a file holds as file_dtype. */
uint32_t lisa__held_dtype(const lisa_backend_ops *ops, uint32_t file_dtype);

/* Layers of a model whose weights are streamed: all of them in host memory, and buffers for
 * LISA__STREAM_BUFFERS on the device. Returns the bytes of one layer, which are the same for all.
 */
uint64_t lisa__stream_layout(struct lisa__layout *layout, const struct lisa__tensor_desc *tensors,
                             uint32_t n_tensors, uint32_t n_layers, void **host, void **buffers);

/* Of one tensor in it, to a multiple of 64. */
uint64_t lisa__streamed_bytes(const struct lisa__tensor_desc *desc);

/* Whether weights are streamed: where a host asks for it, or where they would take more than half
 * of the limit on a backend that has memory of its own. */
int lisa__is_streamed(const lisa_model_options *options, const lisa_backend_ops *ops,
                      const struct lisa__tensor_desc *tensors, uint32_t n_tensors, uint64_t limit);

/* A double on the device that belongs to a model. */
double *lisa__take_number(struct lisa__layout *layout);

/* For a model whose weights are held as held_dtype. */
struct lisa__kinds lisa__kinds_of(const lisa_backend_ops *ops, uint32_t held_dtype);

/* First and last group of a part. */
void lisa__part_groups(const lisa_model_config *config, uint32_t part, uint32_t *first,
                       uint32_t *last);

#endif
