/* The rows of a sparse embedding: which of them have a gradient and a state. */
#include "optim/optimizer.h"

#include <string.h>

lisa_status lisa__optimizer_alloc_rows(lisa_optimizer *o) {
    lisa_context *context = o->model->context;
    const uint32_t n_rows = o->model->config.vocab_size, n_slots = o->shape.embedding_rows;
    lisa_status status;
    struct lisa__row_map *map = &o->rows;
    map->slot_of = lisa__alloc(context, LISA_MEM_HANDLES, n_rows * sizeof *map->slot_of, &status);
    if (status == LISA_OK)
        map->row_of =
            lisa__alloc(context, LISA_MEM_HANDLES, n_slots * sizeof *map->row_of, &status);
    if (status != LISA_OK)
        return status;
    memset(map->slot_of, 0, n_rows * sizeof *map->slot_of);
    const struct lisa__tensor *t = lisa__model_tensor(o->model, 0, LISA__EMBED_W);
    map->low_bytes = lisa__row_extent(&o->shape, &o->trained->descs[t - o->trained->tensors]).low;
    map->n_slots = n_slots;
    return LISA_OK;
}

void lisa__optimizer_free_rows(lisa_optimizer *o) {
    lisa_context *context = o->model->context;
    lisa__release(context, LISA_MEM_HANDLES, o->rows.slot_of,
                  o->model->config.vocab_size * sizeof *o->rows.slot_of);
    lisa__release(context, LISA_MEM_HANDLES, o->rows.row_of,
                  o->shape.embedding_rows * sizeof *o->rows.row_of);
}

uint64_t lisa__gradient_in_use(const lisa_optimizer *o, uint32_t index) {
    const struct lisa__tensor_desc *d = &o->trained->descs[index];
    return lisa__is_sparse(&o->shape, index) ? o->rows.n_used * d->shape[1] : d->n_elements;
}

static void give_back(struct lisa__row_map *map, uint32_t n_used) {
    while (map->n_used > n_used)
        map->slot_of[map->row_of[--map->n_used]] = 0;
}

void lisa__optimizer_unclaim(lisa_optimizer *o) {
    give_back(&o->rows, o->rows_kept);
}

/* Slots for the rows that have none; as many as there are. Returns whether they sufficed. */
static int take_slots(struct lisa__row_map *map, const struct lisa__rows *rows) {
    const size_t n = (size_t)rows->batch * rows->tokens;
    for (size_t i = 0; i < n; i++) {
        const uint32_t row = (uint32_t)rows->token[i];
        if (map->slot_of[row] != 0)
            continue;
        if (map->n_used == map->n_slots)
            return 0;
        map->row_of[map->n_used] = row;
        map->slot_of[row] = ++map->n_used;
    }
    return 1;
}

void lisa__optimizer_set_rows(lisa_optimizer *o, uint32_t n) {
    struct lisa__row_map *map = &o->rows;
    for (uint32_t slot = 0; slot < n; slot++)
        map->slot_of[map->row_of[slot]] = slot + 1;
    map->n_used = o->rows_kept = o->rows_before = n;
}

/* Moments and the low bits of bf16 begin as zeros, which they are. */
static lisa_status open_rows(const lisa_optimizer *o, const struct lisa__tensor *t,
                             uint32_t first_slot) {
    const uint64_t width = o->model->config.d_model;
    for (uint32_t slot = first_slot; slot < o->rows.n_used; slot++) {
        const lisa_master op = {
            .what = LISA_MASTER_OPEN,
            .n = width,
            .weight = lisa__values_from(&t->value, o->rows.row_of[slot] * width),
            .low = (unsigned char *)t->low + slot * o->rows.low_bytes,
        };
        LISA_TRY(o->model->be->ops->master(o->model->be, &op));
    }
    return LISA_OK;
}

lisa_status lisa__optimizer_claim(lisa_optimizer *o, const struct lisa__rows *rows) {
    struct lisa__row_map *map = &o->rows;
    const struct lisa__tensor *t = lisa__model_tensor(o->model, 0, LISA__EMBED_W);
    const uint32_t before = map->n_used;
    if (map->n_slots == 0 || t->gradient == NULL)
        return LISA_OK;
    const int sufficed = take_slots(map, rows);
    lisa_status status = LISA_OK;
    if (sufficed && t->low != NULL)
        status = open_rows(o, t, before);
    if (!sufficed || status != LISA_OK)
        give_back(map, before);
    if (sufficed)
        return status;
    return lisa__fail(
        LISA_E_BUDGET,
        "the batch's tokens need more rows of the embedding than embedding_rows = %u, "
        "of which %u are taken",
        map->n_slots, before);
}
