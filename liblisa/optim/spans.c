#include "optim/spans.h"

#include "core/dtype.h"

static void *at(void *base, uint64_t bytes) {
    return base == NULL ? NULL : (unsigned char *)base + bytes;
}

/* Points a span to a state that begins with it: codes of n elements, then their scales. */
static void set_state(const lisa_optimizer *o, uint32_t tensor, struct lisa__state state,
                      uint64_t n, struct lisa__span *span) {
    const int coded = lisa__moments_of(&o->shape, tensor) == LISA_MOMENTS_8BIT;
    span->m = state.m;
    span->v = state.v;
    span->m_scale = coded ? at(state.m, lisa__code_bytes(n)) : NULL;
    span->v_scale = coded ? at(state.v, lisa__code_bytes(n)) : NULL;
    span->low = state.low;
}

static struct lisa__span whole_tensor(const lisa_optimizer *o, uint32_t tensor) {
    const struct lisa__tensor_desc *d = &o->trained->descs[tensor];
    const struct lisa__tensor *t = &o->trained->tensors[tensor];
    const struct lisa__state group = lisa__group_state(o, d->group);
    const struct lisa__extent place = lisa__tensor_place(&o->shape, tensor);
    const struct lisa__state own = {
        .m = at(group.m, place.moment),
        .v = at(group.v, place.moment),
        .low = lisa__low_size(d->dtype) != 0 ? at(group.low, place.low) : NULL,
    };
    struct lisa__span span = {
        .n = d->n_elements, .weight = t->value, .gradient = t->gradient, .draw = tensor};
    set_state(o, tensor, own, span.n, &span);
    return span;
}

/* ---- rows of a sparse embedding ---- */

static struct lisa__span row_of(const lisa_optimizer *o, uint32_t tensor, uint32_t slot) {
    const struct lisa__extent row = lisa__row_extent(&o->shape, &o->trained->descs[tensor]);
    struct lisa__span span = whole_tensor(o, tensor);
    const struct lisa__state own = {
        .m = at(span.m, slot * row.moment),
        .v = at(span.v, slot * row.moment),
        .low = at(span.low, slot * row.low),
    };
    span.n = row.elements;
    span.weight = lisa__values_from(&span.weight, o->rows.row_of[slot] * row.elements);
    span.gradient = at(span.gradient, slot * row.elements * o->model->real_size);
    span.draw = (uint64_t)o->trained->n + slot;
    set_state(o, tensor, own, span.n, &span);
    return span;
}

static lisa_status visit_rows(const lisa_optimizer *o, uint32_t tensor, lisa__span_visitor visit) {
    for (uint32_t slot = 0; slot < o->rows.n_used; slot++) {
        const struct lisa__span span = row_of(o, tensor, slot);
        LISA_TRY(visit(o, tensor, &span));
    }
    return LISA_OK;
}

/* ---- pieces of a streamed state ---- */

/* One piece: in host memory, and in its window. Pieces take turns with windows from a tensor's
 * first on, so that transfers of the same memory are of the same slot, and follow each other. */
struct piece {
    struct lisa__span host, device;
    uint32_t transfer;
};

static struct piece piece_of(const lisa_optimizer *o, uint32_t tensor, uint64_t i) {
    const uint64_t size = o->memory.window.elements, first = i * size;
    const struct lisa__span whole = whole_tensor(o, tensor);
    const uint32_t window = (uint32_t)(i % LISA__STATE_WINDOWS);
    const uint64_t moment = first * lisa__moment_size(&o->shape, tensor);
    const uint64_t scales = first / LISA_MOMENTS_BLOCK * sizeof(float);
    struct piece p = {.host = whole, .transfer = LISA__WINDOW_TRANSFERS + window};
    p.host.n = whole.n - first < size ? whole.n - first : size;
    p.host.first = first;
    p.host.weight = lisa__values_from(&whole.weight, first);
    p.host.gradient = at(whole.gradient, first * o->model->real_size);
    p.host.m = at(whole.m, moment);
    p.host.v = at(whole.v, moment);
    p.host.m_scale = at(whole.m_scale, scales);
    p.host.v_scale = at(whole.v_scale, scales);
    p.host.low = at(whole.low, first * lisa__low_size(whole.weight.dtype));
    p.device = p.host;
    set_state(o, tensor, lisa__window_at(&o->memory, window), p.host.n, &p.device);
    if (whole.low == NULL)
        p.device.low = NULL;
    return p;
}

static lisa_status move(lisa_backend *be, const struct piece *p, void *host, void *device,
                        uint64_t bytes, int to_host) {
    const lisa_transfer op = {
        .slot = p->transfer,
        .to_host = to_host ? 1 : 0,
        .dst = to_host ? host : device,
        .src = to_host ? device : host,
        .bytes = bytes,
    };
    return host == NULL ? LISA_OK : be->ops->transfer(be, &op);
}

static lisa_status move_moments(const lisa_optimizer *o, uint32_t tensor, const struct piece *p,
                                int to_host) {
    lisa_backend *be = o->model->be;
    const uint64_t n = p->host.n;
    const uint64_t bytes = n * lisa__moment_size(&o->shape, tensor);
    const uint64_t scales =
        (n + LISA_MOMENTS_BLOCK - 1) / LISA_MOMENTS_BLOCK * sizeof *p->host.m_scale;
    LISA_TRY(move(be, p, p->host.m, p->device.m, bytes, to_host));
    LISA_TRY(move(be, p, p->host.v, p->device.v, bytes, to_host));
    LISA_TRY(move(be, p, p->host.m_scale, p->device.m_scale, scales, to_host));
    return move(be, p, p->host.v_scale, p->device.v_scale, scales, to_host);
}

static lisa_status move_low(const lisa_optimizer *o, const struct piece *p, int to_host) {
    const uint64_t bytes = p->host.n * lisa__low_size(p->host.weight.dtype);
    return move(o->model->be, p, p->host.low, p->device.low, bytes, to_host);
}

static lisa_status bring(const lisa_optimizer *o, uint32_t tensor, const struct piece *p) {
    LISA_TRY(move_moments(o, tensor, p, 0));
    return move_low(o, p, 0);
}

static lisa_status take_back(const lisa_optimizer *o, uint32_t tensor, const struct piece *p,
                             enum lisa__span_use use) {
    LISA_TRY(o->model->be->ops->transfer_free(o->model->be, p->transfer));
    if (use == LISA__STATE_UPDATED)
        LISA_TRY(move_moments(o, tensor, p, 1));
    return move_low(o, p, 1);
}

static lisa_status visit_pieces(const lisa_optimizer *o, uint32_t tensor, enum lisa__span_use use,
                                lisa__span_visitor visit) {
    const uint64_t n = o->trained->descs[tensor].n_elements, size = o->memory.window.elements;
    for (uint64_t i = 0; i * size < n; i++) {
        const struct piece p = piece_of(o, tensor, i);
        if (use == LISA__STATE_UPDATED && i == 0)
            LISA_TRY(bring(o, tensor, &p));
        if (use == LISA__STATE_UPDATED && (i + 1) * size < n) {
            const struct piece next = piece_of(o, tensor, i + 1);
            LISA_TRY(bring(o, tensor, &next));
        }
        LISA_TRY(o->model->be->ops->transfer_wait(o->model->be, p.transfer));
        LISA_TRY(visit(o, tensor, &p.device));
        LISA_TRY(take_back(o, tensor, &p, use));
    }
    return LISA_OK;
}

lisa_status lisa__visit_spans(const lisa_optimizer *o, uint32_t tensor, enum lisa__span_use use,
                              lisa__span_visitor visit) {
    if (lisa__is_sparse(&o->shape, tensor))
        return visit_rows(o, tensor, visit);
    if (lisa__is_state_streamed(&o->shape, o->trained->descs[tensor].group))
        return visit_pieces(o, tensor, use, visit);
    const struct lisa__span span = whole_tensor(o, tensor);
    return visit(o, tensor, &span);
}
