#include "model/run.h"
#include "model/stream.h"

static lisa_embed embed_op(const struct lisa__run *run, uint32_t role) {
    const lisa_model_config *c = &run->model->config;
    const int tokens = role == LISA__EMBED_W;
    return (lisa_embed){
        .rows = run->batch * run->tokens,
        .cols = c->d_model,
        .table_rows = tokens ? c->vocab_size : c->max_positions,
        .index = tokens ? run->a->tokens : run->a->positions,
    };
}

static lisa_status embed_forward(const struct lisa__run *run, uint32_t role) {
    const struct lisa__tensor *table = lisa__model_tensor(run->model, 0, role);
    if (table == NULL)
        return LISA_OK;
    lisa_embed op = embed_op(run, role);
    op.table = table->value;
    op.out = lisa__stream(run->a, 0);
    op.accumulate = role != LISA__EMBED_W;
    return run->be->ops->embed_forward(run->be, &op);
}

/* Puts the tokens' slots where the tokens were: backward has no more use for those. */
static lisa_status upload_slots(const struct lisa__run *run, const struct lisa__row_map *rows) {
    const size_t n = (size_t)run->batch * run->tokens;
    int32_t slots[256];
    for (size_t at = 0; at < n; at += 256) {
        const size_t count = n - at < 256 ? n - at : 256;
        for (size_t i = 0; i < count; i++)
            slots[i] = (int32_t)rows->slot_of[run->host_tokens[at + i]] - 1;
        LISA_TRY(run->be->ops->upload(run->be, run->a->tokens + at, slots, count * sizeof *slots));
    }
    return LISA_OK;
}

static lisa_status embed_backward(const struct lisa__run *run, uint32_t role) {
    const struct lisa__tensor *table = lisa__model_tensor(run->model, 0, role);
    if (table == NULL)
        return LISA_OK;
    lisa_embed op = embed_op(run, role);
    op.dout = run->a->dstream;
    op.dtable = table->gradient;
    if (table->rows != NULL) {
        LISA_TRY(upload_slots(run, table->rows));
        op.table_rows = table->rows->n_slots;
    }
    return run->be->ops->embed_backward(run->be, &op);
}

/* A layer's weights are in their place again, also where the block fails. */
static lisa_status through_layer(const struct lisa__run *run, uint32_t layer, uint32_t next,
                                 lisa_status (*block)(const struct lisa__run *run,
                                                      uint32_t layer)) {
    struct lisa__error_kept kept;
    lisa_status status = lisa__layer_enter(run->model, layer, next);
    if (status == LISA_OK)
        status = block(run, layer);
    if (status == LISA_OK)
        return lisa__layer_leave(run->model, layer);
    lisa__error_keep(&kept);
    (void)lisa__layer_leave(run->model, layer);
    lisa__error_restore(&kept);
    return status;
}

static lisa_status block_forward(const struct lisa__run *run, uint32_t layer) {
    return lisa__block_forward(run, layer, 0);
}

lisa_status lisa__trunk_forward(const struct lisa__run *run) {
    LISA_TRY(embed_forward(run, LISA__EMBED_W));
    LISA_TRY(embed_forward(run, LISA__POSITION_W));
    for (uint32_t layer = 0; layer < run->model->config.n_layers; layer++) {
        LISA_TRY(lisa__poll(run->model->context));
        LISA_TRY(through_layer(run, layer, layer + 1, block_forward));
    }
    return LISA_OK;
}

lisa_status lisa__trunk_backward(const struct lisa__run *run) {
    const uint32_t n_layers = run->model->config.n_layers;
    uint32_t lowest = 0;
    while (lowest <= n_layers && !lisa__group_trains(run->model, lowest))
        lowest++;
    /* Group 1 + l is layer l: below the lowest group that trains nobody needs a gradient. */
    for (uint32_t layer = n_layers; layer-- > 0 && layer + 1 >= lowest;) {
        /* Not between updates. */
        if (run->model->sink.take == NULL)
            LISA_TRY(lisa__poll(run->model->context));
        LISA_TRY(through_layer(run, layer, layer > 0 ? layer - 1 : n_layers, lisa__block_backward));
    }
    if (lowest != 0)
        return LISA_OK;
    LISA_TRY(embed_backward(run, LISA__EMBED_W));
    LISA_TRY(embed_backward(run, LISA__POSITION_W));
    return lisa__gradients_whole(run->model, 0, LISA__EMBED_W);
}
