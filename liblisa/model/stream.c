#include "model/stream.h"

#include "core/dtype.h"

#include <string.h>

enum { BUFFERS = LISA__STREAM_BUFFERS };

static unsigned char *host_of(const lisa_model *model, uint32_t layer) {
    return model->stream.host + layer * model->stream.layer_bytes;
}

/* Points a layer's tensors at a place that holds them all. */
static void place(lisa_model *model, uint32_t layer, unsigned char *base) {
    uint64_t offset = 0;
    for (uint32_t i = 0; i < model->base.n; i++) {
        const struct lisa__tensor_desc *d = &model->base.descs[i];
        if (d->group != 1 + layer)
            continue;
        model->base.tensors[i].value = (lisa_typed){base + offset, d->dtype};
        offset += lisa__streamed_bytes(d);
    }
}

static lisa_status begin_into(lisa_model *model) {
    struct lisa__stream *s = &model->stream;
    const uint32_t n_layers = model->config.n_layers;
    s->layer_bytes = lisa__stream_layout(&s->memory, model->base.descs, model->base.n, n_layers,
                                         (void **)&s->host, (void **)&s->buffers);
    LISA_TRY(lisa__layout_alloc(&s->memory, model->context));
    lisa__stream_layout(&s->memory, model->base.descs, model->base.n, n_layers, (void **)&s->host,
                        (void **)&s->buffers);
    LISA_TRY(lisa__layout_check(&s->memory));
    lisa_status status;
    s->slot_of =
        lisa__alloc(model->context, LISA_MEM_HANDLES, n_layers * sizeof *s->slot_of, &status);
    if (s->slot_of == NULL)
        return status;
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        s->slot_of[layer] = -1;
        place(model, layer, host_of(model, layer));
    }
    return LISA_OK;
}

void lisa__stream_forget(lisa_model *model) {
    for (int b = 0; b < BUFFERS; b++)
        model->stream.held[b] = UINT32_MAX;
}

lisa_status lisa__stream_begin(lisa_model *model) {
    model->stream.is_on = 1;
    lisa__stream_forget(model);
    return begin_into(model);
}

void lisa__stream_end(lisa_model *model) {
    struct lisa__stream *s = &model->stream;
    lisa__stream_unreserve(model);
    lisa__release(model->context, LISA_MEM_HANDLES, s->slot_of,
                  model->config.n_layers * sizeof *s->slot_of);
    lisa__layout_free(&s->memory, model->context);
    memset(s, 0, sizeof *s);
}

static void take_slots(struct lisa__stream *s, uint32_t n) {
    s->slots = lisa__take(&s->slots_memory, LISA_MEM_WEIGHTS_PRIVATE, n, s->layer_bytes);
}

lisa_status lisa__stream_reserve(lisa_model *model, uint32_t n_active) {
    struct lisa__stream *s = &model->stream;
    if (!s->is_on || s->n_slots >= n_active)
        return LISA_OK;
    lisa__stream_unreserve(model);
    take_slots(s, n_active);
    LISA_TRY(lisa__layout_alloc(&s->slots_memory, model->context));
    take_slots(s, n_active);
    s->n_slots = n_active;
    return lisa__layout_check(&s->slots_memory);
}

void lisa__stream_unreserve(lisa_model *model) {
    struct lisa__stream *s = &model->stream;
    lisa__layout_free(&s->slots_memory, model->context);
    s->slots = NULL;
    s->n_slots = 0;
}

/* Copies a layer between a slot and the host's memory, after the operations so far and before those
 * to come. */
static lisa_status move(lisa_model *model, uint32_t layer, unsigned char *slot, int to_host) {
    lisa_backend *be = model->be;
    unsigned char *host = host_of(model, layer);
    const lisa_transfer op = {
        .slot = LISA__OWN_TRANSFER,
        .to_host = to_host ? 1 : 0,
        .dst = to_host ? host : slot,
        .src = to_host ? slot : host,
        .bytes = model->stream.layer_bytes,
    };
    LISA_TRY(be->ops->transfer_free(be, LISA__OWN_TRANSFER));
    LISA_TRY(be->ops->transfer(be, &op));
    return be->ops->transfer_wait(be, LISA__OWN_TRANSFER);
}

static int is_taken(const lisa_model *model, int32_t slot) {
    for (uint32_t layer = 0; layer < model->config.n_layers; layer++)
        if (model->stream.slot_of[layer] == slot)
            return 1;
    return 0;
}

lisa_status lisa__stream_own(lisa_model *model, uint32_t layer) {
    struct lisa__stream *s = &model->stream;
    int32_t slot = 0;
    if (s->slot_of[layer] >= 0)
        return LISA_OK;
    while (is_taken(model, slot))
        slot++;
    unsigned char *at = s->slots + (uint64_t)slot * s->layer_bytes;
    LISA_TRY(move(model, layer, at, 0));
    s->slot_of[layer] = slot;
    place(model, layer, at);
    return LISA_OK;
}

lisa_status lisa__stream_disown(lisa_model *model, uint32_t layer) {
    struct lisa__stream *s = &model->stream;
    if (!s->is_on || s->slot_of[layer] < 0)
        return LISA_OK;
    LISA_TRY(move(model, layer, s->slots + (uint64_t)s->slot_of[layer] * s->layer_bytes, 1));
    s->slot_of[layer] = -1;
    place(model, layer, host_of(model, layer));
    lisa__stream_forget(model);
    return LISA_OK;
}

static int is_streamed(const lisa_model *model, uint32_t layer) {
    return model->stream.is_on && layer < model->config.n_layers &&
           model->stream.slot_of[layer] < 0;
}

/* The buffer that holds a layer, or BUFFERS. */
static uint32_t buffer_of(const lisa_model *model, uint32_t layer) {
    uint32_t b = 0;
    while (b < BUFFERS && model->stream.held[b] != layer)
        b++;
    return b;
}

static unsigned char *buffer_at(const lisa_model *model, uint32_t b) {
    return model->stream.buffers + b * model->stream.layer_bytes;
}

/* Into buffer b, after what has read from it. */
static lisa_status load(lisa_model *model, uint32_t layer, uint32_t b) {
    lisa_backend *be = model->be;
    const lisa_transfer op = {
        .slot = LISA__BUFFER_TRANSFERS + b,
        .dst = buffer_at(model, b),
        .src = host_of(model, layer),
        .bytes = model->stream.layer_bytes,
    };
    model->stream.held[b] = UINT32_MAX;
    LISA_TRY(be->ops->transfer(be, &op));
    model->stream.held[b] = layer;
    return LISA_OK;
}

lisa_status lisa__layer_enter(lisa_model *model, uint32_t layer, uint32_t next) {
    struct lisa__stream *s = &model->stream;
    if (!is_streamed(model, layer))
        return LISA_OK;
    uint32_t b = buffer_of(model, layer);
    if (b == BUFFERS) {
        b = s->turn;
        LISA_TRY(load(model, layer, b));
    }
    LISA_TRY(model->be->ops->transfer_wait(model->be, LISA__BUFFER_TRANSFERS + b));
    s->turn = (b + 1) % BUFFERS;
    place(model, layer, buffer_at(model, b));
    /* Ahead of its use, while this layer is computed. */
    if (is_streamed(model, next) && buffer_of(model, next) == BUFFERS)
        LISA_TRY(load(model, next, s->turn));
    return LISA_OK;
}

lisa_status lisa__layer_leave(lisa_model *model, uint32_t layer) {
    if (!is_streamed(model, layer))
        return LISA_OK;
    const uint32_t b = buffer_of(model, layer);
    place(model, layer, host_of(model, layer));
    return b == BUFFERS ? LISA_OK
                        : model->be->ops->transfer_free(model->be, LISA__BUFFER_TRANSFERS + b);
}
