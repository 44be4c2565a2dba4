#include "optim/optimizer.h"

#include "core/dtype.h"
#include "model/adapter.h"

#include <float.h>
#include <math.h>
#include <string.h>

static lisa_status check_in_backward(const lisa_optimizer_options *o, int adapted) {
    const char *without = o->update_in_backward > 1 ? "a value above 1"
                          : o->max_grad_norm > 0
                              ? "max_grad_norm, which needs all gradients at once"
                          : adapted ? "an adapter, whose gradients are small"
                                    : NULL;
    if (!o->update_in_backward || without == NULL)
        return LISA_OK;
    return lisa__fail(LISA_E_INVAL, "lisa_optimizer_options.update_in_backward: not with %s",
                      without);
}

static lisa_status check_embedding_rows(const lisa_optimizer_options *o,
                                        const lisa_model_config *config, int adapted) {
    const char *without = config->tied_head     ? "a tied head, whose gradient is dense"
                          : !o->train_embedding ? "train_embedding = 0"
                          : adapted             ? "an adapter"
                                                : NULL;
    if (o->embedding_rows == 0)
        return LISA_OK;
    if (without != NULL)
        return lisa__fail(LISA_E_INVAL, "lisa_optimizer_options.embedding_rows: not with %s",
                          without);
    if (o->embedding_rows > config->vocab_size)
        return lisa__fail(LISA_E_INVAL,
                          "lisa_optimizer_options.embedding_rows: %u, the embedding has %u rows",
                          o->embedding_rows, config->vocab_size);
    return LISA_OK;
}

lisa_status lisa__optimizer_check(const lisa_optimizer_options *o, const lisa_model_config *config,
                                  int adapted) {
    const struct {
        const char *name;
        double value, low, below;
    } ranges[] = {
        {"lr", o->lr, 0, INFINITY},
        {"beta1", o->beta1, 0, 1},
        {"beta2", o->beta2, 0, 1},
        /* Where a token never was, m = v = 0: without eps the update would be 0 / 0. */
        {"eps", o->eps, FLT_MIN, INFINITY},
        {"weight_decay", o->weight_decay, 0, INFINITY},
        {"max_grad_norm", o->max_grad_norm, 0, INFINITY},
        {"state_policy", o->state_policy, LISA_STATE_DROP, LISA_STATE_OFFLOAD + 1},
        {"train_embedding", o->train_embedding, 0, 2},
        {"train_head", o->train_head, 0, 2},
        {"moments_embedding", o->moments_embedding, 0, LISA_MOMENTS_8BIT + 1},
        {"moments_layers", o->moments_layers, 0, LISA_MOMENTS_8BIT + 1},
        {"moments_head", o->moments_head, 0, LISA_MOMENTS_8BIT + 1},
        {"lr_factor_embedding", o->lr_factor_embedding, 0, INFINITY},
        {"lr_factor_layers", o->lr_factor_layers, 0, INFINITY},
        {"lr_factor_head", o->lr_factor_head, 0, INFINITY},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (!(ranges[i].value >= ranges[i].low && ranges[i].value < ranges[i].below))
            return lisa__fail(LISA_E_INVAL,
                              "lisa_optimizer_options.%s: %g, expected at least %g and below %g",
                              ranges[i].name, ranges[i].value, ranges[i].low, ranges[i].below);
    if (o->max_active_layers > config->n_layers && o->max_active_layers != LISA_NO_LAYERS)
        return lisa__fail(LISA_E_INVAL,
                          "lisa_optimizer_options.max_active_layers: %u, the model has %u layers",
                          o->max_active_layers, config->n_layers);
    LISA_TRY(check_in_backward(o, adapted));
    LISA_TRY(check_embedding_rows(o, config, adapted));
    return LISA_OK;
}

static lisa_status alloc_tables(lisa_optimizer *o) {
    lisa_context *context = o->model->context;
    const uint32_t n_groups = o->n_layers + 2;
    lisa_status status = LISA_OK;
    o->groups = lisa__alloc(context, LISA_MEM_HANDLES, n_groups * sizeof *o->groups, &status);
    if (status == LISA_OK)
        o->wanted = lisa__alloc(context, LISA_MEM_HANDLES, n_groups, &status);
    if (status == LISA_OK)
        o->slot_taken = lisa__alloc(context, LISA_MEM_HANDLES,
                                    o->memory.n_slots * sizeof *o->slot_taken, &status);
    if (status == LISA_OK && o->shape.embedding_rows != 0)
        status = lisa__optimizer_alloc_rows(o);
    if (status != LISA_OK)
        return status;
    memset(o->groups, 0, n_groups * sizeof *o->groups);
    for (uint32_t g = 0; g < n_groups; g++)
        o->groups[g].slot = -1;
    memset(o->slot_taken, 0, o->memory.n_slots * sizeof *o->slot_taken);
    return LISA_OK;
}

/* Private copies for the weights that may train; an adapter's are private from the start. */
static lisa_status reserve_weights(lisa_optimizer *o) {
    if (o->adapter != NULL)
        return LISA_OK;
    if (o->max_active != 0)
        LISA_TRY(lisa__model_reserve_layers(o->model, o->max_active));
    if (o->options.train_embedding)
        LISA_TRY(lisa__model_reserve(o->model, LISA__PART_EMBEDDING));
    if (o->options.train_head)
        LISA_TRY(lisa__model_reserve(o->model, LISA__PART_HEAD));
    return LISA_OK;
}

static lisa_status check_offload(const lisa_optimizer *o) {
    if (o->options.state_policy != LISA_STATE_OFFLOAD || o->shape.streamed ||
        o->options.scratch_dir != NULL)
        return LISA_OK;
    return lisa__fail(LISA_E_INVAL,
                      "lisa_optimizer_options.scratch_dir: OFFLOAD needs a directory on a disk");
}

lisa_status lisa__optimizer_forget_updates(lisa_optimizer *o) {
    lisa_backend *be = o->model->be;
    o->confirmed = o->unsettled = 0;
    LISA_TRY(be->ops->zero(be, o->memory.squares, o->shape.n_tensors * sizeof(double)));
    return be->ops->zero(be, o->memory.outcome, sizeof *o->memory.outcome);
}

static lisa_status alloc_state(lisa_optimizer *o) {
    lisa_context *context = o->model->context;
    lisa__state_layout(&o->layout, &o->memory, &o->shape);
    LISA_TRY(lisa__layout_alloc(&o->layout, context));
    lisa__state_layout(&o->layout, &o->memory, &o->shape);
    LISA_TRY(lisa__layout_check(&o->layout));
    LISA_TRY(lisa__optimizer_forget_updates(o));
    LISA_TRY(alloc_tables(o));
    return lisa__scratch_create(&o->away, context, o->options.scratch_dir,
                                lisa__offload_bytes(&o->shape));
}

/* Everything trains from the start, if the slots hold all layers; else the layers wait for a mask.
 */
static lisa_status first_mask(lisa_optimizer *o) {
    const uint32_t n_groups = o->n_layers + 2;
    lisa_status status;
    uint8_t *mask = lisa__alloc(o->model->context, LISA_MEM_HANDLES, n_groups, &status);
    if (mask == NULL)
        return status;
    memset(mask, o->max_active == o->n_layers, n_groups);
    mask[0] = mask[n_groups - 1] = 1;
    status = lisa__optimizer_apply_mask(o, mask, n_groups, NULL);
    lisa__release(o->model->context, LISA_MEM_HANDLES, mask, n_groups);
    return status;
}

static lisa_status fill(lisa_optimizer *o) {
    LISA_TRY(check_offload(o));
    LISA_TRY(alloc_state(o));
    LISA_TRY(reserve_weights(o));
    o->model->optimizer = o;
    if (o->options.update_in_backward)
        o->model->sink = (struct lisa__gradient_sink){lisa__optimizer_take, o};
    return first_mask(o);
}

/* On failure the model holds what it held. */
static lisa_status create_into(lisa_optimizer *o) {
    lisa_model *model = o->model;
    uint32_t before[LISA__PARTS];
    memcpy(before, model->reserved, sizeof before);
    const lisa_status status = fill(o);
    if (status != LISA_OK) {
        /* Nothing has trained: a first mask that failed has moved weights, and changed none. */
        o->trained->torn = NULL;
        lisa__model_unreserve(model, before);
    }
    return status;
}

/* To the adapter that is attached now, or to the model's own weights. */
static void bind(lisa_optimizer *o) {
    o->trained = &o->model->base;
    if (o->model->adapter == NULL)
        return;
    o->adapter = lisa__adapter_retain(o->model->adapter);
    o->trained = &o->adapter->own;
    lisa__lora_restrict(&o->adapter->options, &o->options);
}

lisa_status lisa__optimizer_create(lisa_optimizer **out, lisa_model *model,
                                   const lisa_optimizer_options *options) {
    LISA_TRY(lisa__optimizer_check(options, &model->config, model->adapter != NULL));
    LISA_TRY(lisa__model_check(model));
    if (model->optimizer != NULL)
        return lisa__fail(LISA_E_STATE,
                          "lisa_optimizer_create: the model has an optimizer already");
    lisa_status status;
    lisa_optimizer *o = lisa__alloc(model->context, LISA_MEM_HANDLES, sizeof *o, &status);
    if (o == NULL)
        return status;
    memset(o, 0, sizeof *o);
    o->model = lisa__model_retain(model);
    o->options = *options;
    bind(o);
    o->n_layers = model->config.n_layers;
    o->shape = lisa__state_shape_of(o->trained->descs, o->trained->n, &model->config, &o->options,
                                    model->be->ops);
    o->max_active = o->shape.max_active;
    status = create_into(o);
    o->options.scratch_dir = NULL; /* the host's string, used up */
    if (status != LISA_OK) {
        lisa__optimizer_destroy(o);
        return status;
    }
    *out = o;
    return LISA_OK;
}

lisa_status lisa__optimizer_check_bound(const lisa_optimizer *o) {
    if (o->adapter == o->model->adapter)
        return LISA_OK;
    return lisa__fail(LISA_E_STATE, "the optimizer trains %s, but %s attached now",
                      o->adapter != NULL ? "an adapter" : "the model's own weights",
                      o->model->adapter == NULL ? "none is"
                      : o->adapter != NULL      ? "another is"
                                                : "an adapter is");
}

void lisa__optimizer_unlend(lisa_optimizer *o) {
    for (uint32_t i = 0; i < o->trained->n; i++) {
        o->trained->tensors[i].gradient = o->trained->tensors[i].low = NULL;
        o->trained->tensors[i].rows = NULL;
    }
}

/* Weights that trained go back to where frozen ones lie. */
static lisa_status disown_all(lisa_optimizer *o) {
    for (uint32_t g = 0; o->adapter == NULL && o->groups != NULL && g < o->n_layers + 2; g++)
        LISA_TRY(lisa__model_disown_group(o->model, g));
    return LISA_OK;
}

void lisa__optimizer_destroy(lisa_optimizer *o) {
    if (o == NULL)
        return;
    lisa_model *model = o->model;
    lisa_context *context = model->context;
    if (model->optimizer == o) {
        lisa__optimizer_unlend(o);
        if (disown_all(o) != LISA_OK)
            (void)lisa__change_begin(&model->base, "the return of a layer to the host's memory");
        model->optimizer = NULL;
        model->sink = (struct lisa__gradient_sink){NULL, NULL};
    }
    lisa__release(context, LISA_MEM_HANDLES, o->slot_taken,
                  o->memory.n_slots * sizeof *o->slot_taken);
    lisa__release(context, LISA_MEM_HANDLES, o->wanted, o->n_layers + 2);
    lisa__release(context, LISA_MEM_HANDLES, o->groups, (o->n_layers + 2) * sizeof *o->groups);
    lisa__optimizer_free_rows(o);
    lisa__scratch_destroy(&o->away, context);
    lisa__layout_free(&o->layout, context);
    lisa__adapter_release(o->adapter);
    lisa__release(context, LISA_MEM_HANDLES, o, sizeof *o);
    lisa__model_release(model);
}

struct lisa__state lisa__group_state(const lisa_optimizer *o, uint32_t group) {
    if (group == 0)
        return o->memory.embedding_state;
    if (group == o->n_layers + 1)
        return o->memory.head_state;
    return lisa__slot_at(&o->memory, (uint32_t)o->groups[group].slot);
}

lisa_status lisa__optimizer_clear(lisa_optimizer *o) {
    lisa_backend *be = o->model->be;
    LISA_TRY(be->ops->zero(be, &o->memory.outcome->loss, sizeof o->memory.outcome->loss));
    LISA_TRY(be->ops->zero(be, o->memory.gradients, o->gradient_elements * o->model->real_size));
    o->uncleared = 0;
    return LISA_OK;
}

void lisa__optimizer_void(lisa_optimizer *o) {
    struct lisa__error_kept kept;
    memset(&o->window, 0, sizeof o->window);
    lisa__optimizer_unclaim(o);
    o->uncleared = 1;
    lisa__error_keep(&kept);
    if (lisa__optimizer_clear(o) != LISA_OK)
        lisa__error_restore(&kept);
}

lisa_status lisa__optimizer_check_gradients(const lisa_optimizer *o) {
    return o->options.update_in_backward
               ? lisa__fail(LISA_E_STATE, "update_in_backward: gradients are not kept")
               : LISA_OK;
}

lisa_status lisa__optimizer_count(lisa_optimizer *o, const double *loss,
                                  const struct lisa__rows *rows) {
    lisa_backend *be = o->model->be;
    o->window.n_backward++;
    o->window.n_scored += rows->n_scored;
    o->window.weight_sum += rows->weight_sum;
    LISA_TRY(be->ops->sum(be, loss, 1, &o->memory.outcome->loss));
    return lisa__optimizer_put_weight(o, o->window.weight_sum);
}

lisa_status lisa__optimizer_put_weight(lisa_optimizer *o, double weight_sum) {
    lisa_backend *be = o->model->be;
    double real;
    lisa__store(&real, be->ops->real_dtype, 0, weight_sum * o->model->loss_scale);
    return be->ops->upload(be, o->memory.gradients, &real, o->model->real_size);
}
