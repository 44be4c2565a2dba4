/* Another mask comes into force: layers leave their slots, others take them. */
#include "optim/spans.h"

#include "core/dtype.h"

#include <string.h>

static void *at(void *base, uint64_t bytes) {
    return base == NULL ? NULL : (unsigned char *)base + bytes;
}

static int is_layer(const lisa_optimizer *o, uint32_t group) {
    return group != 0 && group != o->n_layers + 1;
}

static struct lisa__extent extent_of(const lisa_optimizer *o, uint32_t group) {
    return is_layer(o, group) ? o->memory.layer : group == 0 ? o->memory.embedding : o->memory.head;
}

/* A layer's state in the scratch file. */
static struct lisa__state away_at(const lisa_optimizer *o, uint32_t group) {
    unsigned char *base =
        (unsigned char *)o->away.base + (group - 1) * lisa__slot_bytes(&o->memory.layer);
    const uint64_t moment = o->memory.layer.moment;
    return (struct lisa__state){base, base + moment, base + 2 * moment};
}

static lisa_status copy_state(const lisa_optimizer *o, struct lisa__state to,
                              struct lisa__state from) {
    lisa_backend *be = o->model->be;
    const struct lisa__extent *layer = &o->memory.layer;
    LISA_TRY(be->ops->copy(be, to.m, from.m, layer->moment));
    LISA_TRY(be->ops->copy(be, to.v, from.v, layer->moment));
    return layer->low == 0 ? LISA_OK : be->ops->copy(be, to.low, from.low, layer->low);
}

static lisa_status open_span(const lisa_optimizer *o, uint32_t tensor,
                             const struct lisa__span *span) {
    lisa_backend *be = o->model->be;
    const lisa_master op = {
        .what = LISA_MASTER_OPEN, .n = span->n, .weight = span->weight, .low = span->low};
    (void)tensor;
    return be->ops->master(be, &op);
}

static lisa_status close_span(const lisa_optimizer *o, uint32_t tensor,
                              const struct lisa__span *span) {
    lisa_backend *be = o->model->be;
    const uint32_t group = o->trained->descs[tensor].group;
    const lisa_master op = {
        .what = LISA_MASTER_CLOSE,
        .n = span->n,
        .first = span->first,
        .weight = span->weight,
        .low = span->low,
        .seed = o->options.seed,
        .stream = (uint64_t)o->groups[group].rounded * o->trained->n + tensor,
    };
    return be->ops->master(be, &op);
}

/* Opens or closes the masters of a group's 16-bit weights. */
static lisa_status masters(const lisa_optimizer *o, uint32_t group, enum lisa__span_use use,
                           lisa__span_visitor visit) {
    for (uint32_t i = 0; i < o->trained->n; i++) {
        const struct lisa__tensor_desc *d = &o->trained->descs[i];
        if (d->group == group && lisa__low_size(d->dtype) != 0 && !lisa__is_sparse(&o->shape, i))
            LISA_TRY(lisa__visit_spans(o, i, use, visit));
    }
    return LISA_OK;
}

/* A streamed state that is new has never moved: nothing is under way to or from it. */
static lisa_status clear(const lisa_optimizer *o, uint32_t group, void *state, uint64_t bytes) {
    lisa_backend *be = o->model->be;
    if (!lisa__is_state_streamed(&o->shape, group))
        return be->ops->zero(be, state, bytes);
    if (bytes != 0)
        memset(state, 0, bytes);
    return LISA_OK;
}

/* m = v = 0, low bits from the weights alone. */
static lisa_status begin_state(lisa_optimizer *o, uint32_t group) {
    const struct lisa__state state = lisa__group_state(o, group);
    const uint64_t moment = extent_of(o, group).moment;
    LISA_TRY(clear(o, group, state.m, moment));
    LISA_TRY(clear(o, group, state.v, moment));
    /* Those of a sparse embedding's rows are opened when they come to train. */
    if (group == 0 && o->rows.n_slots != 0 && state.low != NULL)
        LISA_TRY(clear(o, group, state.low, o->memory.embedding.low));
    LISA_TRY(masters(o, group, LISA__LOW_BITS_MADE, open_span));
    o->groups[group].steps = 0;
    o->groups[group].has_state = 1;
    return LISA_OK;
}

/* The masters' low bits go, rounded into the weights; untrained ones have none. */
static lisa_status drop_state(lisa_optimizer *o, uint32_t group) {
    struct lisa__group *g = &o->groups[group];
    if (g->steps != 0) {
        LISA_TRY(masters(o, group, LISA__STATE_UPDATED, close_span));
        g->rounded++;
    }
    g->has_state = 0;
    g->steps = 0;
    return LISA_OK;
}

static lisa_status leave_slot(lisa_optimizer *o, uint32_t group) {
    struct lisa__group *g = &o->groups[group];
    if (o->options.state_policy == LISA_STATE_OFFLOAD)
        LISA_TRY(copy_state(o, away_at(o, group), lisa__group_state(o, group)));
    else
        LISA_TRY(drop_state(o, group));
    o->slot_taken[g->slot] = 0;
    g->slot = -1;
    return LISA_OK;
}

static lisa_status leave(lisa_optimizer *o, uint32_t group) {
    struct lisa__group *g = &o->groups[group];
    g->active = 0;
    if (!is_layer(o, group))
        return LISA_OK;
    if (!lisa__is_kept(&o->shape))
        LISA_TRY(leave_slot(o, group));
    /* After the last rounding of its weights. */
    return o->adapter == NULL ? lisa__model_disown_group(o->model, group) : LISA_OK;
}

void lisa__optimizer_take_slot(lisa_optimizer *o, uint32_t group) {
    uint32_t slot = 0;
    if (lisa__is_kept(&o->shape))
        slot = group - 1;
    else
        while (o->slot_taken[slot])
            slot++;
    o->slot_taken[slot] = 1;
    o->groups[group].slot = (int32_t)slot;
}

static lisa_status arrive(lisa_optimizer *o, uint32_t group) {
    struct lisa__group *g = &o->groups[group];
    const int needs_slot = is_layer(o, group) && g->slot < 0;
    if (o->adapter == NULL)
        LISA_TRY(lisa__model_own_group(o->model, group));
    if (needs_slot)
        lisa__optimizer_take_slot(o, group);
    g->active = 1;
    if (!g->has_state)
        return begin_state(o, group);
    return needs_slot ? copy_state(o, lisa__group_state(o, group), away_at(o, group)) : LISA_OK;
}

struct lisa__state lisa__optimizer_held(const lisa_optimizer *o, uint32_t group) {
    const struct lisa__group *g = &o->groups[group];
    if (!g->has_state)
        return (struct lisa__state){NULL, NULL, NULL};
    return is_layer(o, group) && g->slot < 0 ? away_at(o, group) : lisa__group_state(o, group);
}

void lisa__optimizer_lend(lisa_optimizer *o) {
    const struct lisa__parameters *trained = o->trained;
    uint64_t element = LISA__GRADIENT_HEADER;
    for (uint32_t i = 0; i < trained->n; i++) {
        const struct lisa__tensor_desc *d = &trained->descs[i];
        const struct lisa__extent place = lisa__tensor_place(&o->shape, i);
        struct lisa__tensor *t = &trained->tensors[i];
        void *low = lisa__optimizer_held(o, d->group).low;
        t->low = lisa__low_size(d->dtype) != 0 ? at(low, place.low) : NULL;
        t->gradient = NULL;
        t->rows = lisa__is_sparse(&o->shape, i) ? &o->rows : NULL;
        if (!o->groups[d->group].active)
            continue;
        const uint64_t lent =
            o->options.update_in_backward ? lisa__shared_gradient_place(&o->shape, i) : element;
        t->gradient = at(o->memory.gradients, lent * o->model->real_size);
        element += (lisa__trained_elements(&o->shape, d) + 15) / 16 * 16;
    }
    o->gradient_elements = o->options.update_in_backward ? o->memory.gradient_elements : element;
    lisa__optimizer_void(o);
}

/* What of the mask this optimizer can train goes to o->wanted; *differs from what is in force. */
static lisa_status read_mask(lisa_optimizer *o, const uint8_t *mask, uint32_t n_groups,
                             int *differs) {
    const uint32_t head = o->n_layers + 1;
    uint32_t n_active = 0;
    if (n_groups != o->n_layers + 2)
        return lisa__fail(LISA_E_INVAL, "mask: %u groups, expected n_layers + 2 = %u", n_groups,
                          o->n_layers + 2);
    *differs = 0;
    for (uint32_t g = 0; g < n_groups; g++) {
        if (mask[g] > 1)
            return lisa__fail(LISA_E_INVAL, "mask[%u]: %u, expected 0 or 1", g, mask[g]);
        const uint32_t may = g == 0      ? o->options.train_embedding
                             : g == head ? o->options.train_head
                                         : 1;
        o->wanted[g] = mask[g] && may;
        n_active += is_layer(o, g) ? o->wanted[g] : 0;
        *differs |= o->wanted[g] != o->groups[g].active;
    }
    if (n_active > o->max_active)
        return lisa__fail(LISA_E_BUDGET,
                          "mask: %u active layers, the optimizer has max_active_layers = %u",
                          n_active, o->max_active);
    return LISA_OK;
}

static lisa_status swap(lisa_optimizer *o, uint32_t n_groups) {
    for (uint32_t g = 0; g < n_groups; g++)
        if (o->groups[g].active && !o->wanted[g])
            LISA_TRY(leave(o, g));
    for (uint32_t g = 0; g < n_groups; g++)
        if (!o->groups[g].active && o->wanted[g])
            LISA_TRY(arrive(o, g));
    return LISA_OK;
}

lisa_status lisa__optimizer_apply_mask(lisa_optimizer *o, const uint8_t *mask, uint32_t n_groups,
                                       uint32_t *swapped) {
    int differs = 0;
    LISA_TRY(read_mask(o, mask, n_groups, &differs));
    if (swapped != NULL)
        *swapped = differs != 0;
    /* The very first mask has nothing to differ from, yet pointers to lend. */
    if (!differs && o->gradient_elements != 0)
        return LISA_OK;
    if (o->window.n_backward != 0)
        return lisa__fail(LISA_E_STATE,
                          "mask: changed inside an accumulation window of %u backward passes",
                          o->window.n_backward);
    LISA_TRY(lisa__optimizer_settle(o, 1));
    LISA_TRY(lisa__model_check(o->model));
    LISA_TRY(lisa__change_begin(o->trained, "a swap"));
    LISA_TRY(lisa__change_end(o->trained, swap(o, n_groups)));
    o->model->version++;
    lisa__optimizer_lend(o);
    return LISA_OK;
}
