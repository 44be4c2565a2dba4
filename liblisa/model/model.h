/* model.h - a model behind its handle: tensors where they lie, and what is lent to it. */
#ifndef LISA_MODEL_MODEL_H
#define LISA_MODEL_MODEL_H

#include "core/layout.h"
#include "core/scratch.h"
#include "formats/safetensors.h"
#include "model/family.h"
#include "model/tensors.h"
#include "plan/state.h"

/* Of a table, the rows that train: each has a slot in the gradient and in the state. */
struct lisa__row_map {
    uint32_t *slot_of; /* [rows of the table]: its slot + 1, or 0 */
    uint32_t *row_of;  /* [n_slots], the first n_used */
    uint32_t n_slots, n_used;
    size_t low_bytes; /* of a slot */
};

struct lisa__tensor {
    lisa_typed value; /* where it lies now, and as what */
    void *home;       /* private memory reserved for it, or NULL */
    void *gradient;   /* real; lent by the bound optimizer while the group trains, else NULL */
    void *low;        /* lent likewise: completes a 16-bit weight to its master */
    const struct lisa__row_map
        *rows;           /* lent where gradient and low have rows of their own; or NULL */
    uint32_t file_dtype; /* as it is saved */
    uint32_t changed;    /* 1: no longer what the model was opened or drawn with */
    uint32_t is_summed;  /* 1: file_sum is XXH3 of its bytes in the files, which may be gone */
    uint64_t file_sum;
    const struct lisa__st_tensor *source; /* its place in the files, or NULL */
};

/* Tensors that an optimizer may train: a model's weights, or an adapter's. */
struct lisa__parameters {
    struct lisa__tensor_desc *descs; /* [n], in group order */
    struct lisa__tensor *tensors;    /* [n] */
    uint32_t n;
    const char *torn; /* the change that a failure left half made, or NULL */
};

/* See stream.h. */
struct lisa__stream {
    struct lisa__layout memory, slots_memory;
    unsigned char *host, *buffers, *slots;
    uint64_t layer_bytes;
    uint32_t n_slots;
    int32_t *slot_of;                    /* [L]: the slot of a layer that trains, else -1 */
    uint32_t held[LISA__STREAM_BUFFERS]; /* the layer in each buffer, or UINT32_MAX */
    uint32_t turn;                       /* the buffer that was entered longer ago */
    uint32_t is_on;
};

struct lisa_adapter;

/* Where it is set, backward tells of every tensor whose gradient is whole and whose value it needs
 * no more. */
struct lisa__gradient_sink {
    lisa_status (*take)(void *self, uint32_t tensor);
    void *self;
};

struct lisa_model {
    uint32_t references;
    lisa_context *context;
    lisa_backend *be;
    size_t real_size;
    struct lisa__kinds kinds;
    double loss_scale; /* of all gradients: what is small in f16 is kept from vanishing */
    lisa_model_config config;
    const struct lisa__family *family;
    char *directory;   /* it was opened from; NULL when made from a description */
    char *scratch_dir; /* or NULL */
    uint64_t seed;     /* of weights that were drawn */
    struct lisa__weights *files;
    struct lisa__parameters base;
    uint64_t *base_sums;        /* [base.n]; NULL until somebody asks (base.h) */
    struct lisa__layout loaded; /* tensors that never were in a mapping, and `number` */
    double *number;             /* on the device: a sum that is read at once */
    struct lisa__layout homes[LISA__PARTS];
    struct lisa__stream stream;
    struct lisa__scratch scratch;
    uint32_t reserved[LISA__PARTS];
    struct lisa_optimizer *optimizer; /* the bound one; opaque here */
    struct lisa_adapter *adapter;     /* the attached one, or NULL */
    struct lisa__gradient_sink sink;  /* lent by the optimizer, or empty */
    uint64_t version;                 /* counts changes of weights: a forward is stale after one */
};

lisa_status lisa__model_open(lisa_model **out, lisa_context *context, const char *directory,
                             const lisa_model_options *options);
lisa_status lisa__model_create(lisa_model **out, lisa_context *context,
                               const lisa_model_config *config, const lisa_model_options *options);
lisa_model *lisa__model_retain(lisa_model *model);
void lisa__model_release(lisa_model *model);

/* LISA_E_IO when a weight still lies in a file that was changed: reading it might end the process.
 * LISA_E_STATE where weights, or an attached adapter's, are torn. */
lisa_status lisa__model_check(const lisa_model *model);
lisa_status lisa__model_check_files(const lisa_model *model);

/* What fails between these leaves values and states that are neither the old ones nor the new:
 * lisa__parameters_check says so until a checkpoint is loaded. `what` is kept. begin refuses what
 * is torn already; end returns status. */
lisa_status lisa__change_begin(struct lisa__parameters *p, const char *what);
lisa_status lisa__change_end(struct lisa__parameters *p, lisa_status status);
lisa_status lisa__parameters_check(const struct lisa__parameters *p);

/* Reserves private memory (or the scratch file) for a part's mapped tensors. Idempotent. */
lisa_status lisa__model_reserve(lisa_model *model, uint32_t part);

/* What n_active layers that train need, whichever way their weights are held. */
lisa_status lisa__model_reserve_layers(lisa_model *model, uint32_t n_active);

/* Gives back what was reserved since model->reserved was `before`, unless a tensor has moved there.
 */
void lisa__model_unreserve(lisa_model *model, const uint32_t before[LISA__PARTS]);

/* Moves a group's tensors into their reserved memory. Cannot run out of memory. */
lisa_status lisa__model_own_group(lisa_model *model, uint32_t group);

/* The group trains no more: streamed weights go back to the host. */
lisa_status lisa__model_disown_group(lisa_model *model, uint32_t group);

/* Tensor of a role in a layer, or of the model where the role is none of a block's (layer ignored).
 * NULL where the description has none. */
struct lisa__tensor *lisa__model_tensor(const lisa_model *model, uint32_t layer, uint32_t role);

/* 1 when a group has gradients lent, of the model's own tensors or of its adapter's. */
int lisa__group_trains(const lisa_model *model, uint32_t group);

/* Tells the sink of the tensors of a role and of its second (a bias, or a like norm), if they have
 * gradients. */
lisa_status lisa__gradients_whole(const lisa_model *model, uint32_t layer, uint32_t role);

/* A tensor's values from an element on. */
lisa_typed lisa__values_from(const lisa_typed *value, uint64_t element);

/* Elements [begin, begin + n) of a tensor as dtype (F32, F64, BF16 or F16), rounded to nearest. */
lisa_status lisa__tensor_get(lisa_model *model, uint32_t index, uint64_t begin, uint64_t n,
                             void *out, uint32_t dtype);

/* Replaces a whole tensor (dtype F32 or F64), its master included. */
lisa_status lisa__tensor_put(lisa_model *model, uint32_t index, const void *data, uint32_t dtype);

/* Sum of squares of values on the device, at once. */
lisa_status lisa__sum_squares(const lisa_model *model, lisa_typed x, uint64_t n, double *out);

/* Of a group's weights, the model's own or its adapter's. */
lisa_status lisa__group_sum_squares(const lisa_model *model, const struct lisa__parameters *p,
                                    uint32_t group, double *out);

/* After a loss came out non-finite: LISA_E_NONFINITE naming the first tensor, of the model or of
 * the attached adapter, with a non-finite weight, or saying that the weights are finite. */
lisa_status lisa__blame_weights(lisa_model *model, const char *what);

/* Saves as lisa_model_save documents. */
lisa_status lisa__model_save(lisa_model *model, const char *directory,
                             const lisa_save_options *options);

#endif
