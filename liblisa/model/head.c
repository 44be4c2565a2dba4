#include "model/run.h"

#include "core/dtype.h"

/* Gradients of logits take their place, row by row. */
static size_t dlogits_stride(const struct lisa__run *run) {
    const struct lisa__kinds *kinds = &run->model->kinds;
    return (size_t)run->model->config.vocab_size *
           (lisa__dtype_size(kinds->real) / lisa__dtype_size(kinds->operand));
}

/* The scored rows [first, first + rows) of the last stream, as one chunk. */
struct chunk {
    uint32_t first, rows;
};

static lisa_rows rows_op(const struct lisa__run *run, const struct chunk *k) {
    return (lisa_rows){
        .rows = k->rows,
        .cols = run->model->config.d_model,
        .index = run->a->head_index + k->first,
    };
}

static lisa_norm norm_op(const struct lisa__run *run, const struct chunk *k) {
    const lisa_model_config *c = &run->model->config;
    const struct lisa__tensor *bias = lisa__model_tensor(run->model, 0, LISA__FINAL_NORM_B);
    return (lisa_norm){
        .kind = c->norm,
        .rows = k->rows,
        .segments = 1,
        .cols = c->d_model,
        .eps = c->norm_eps,
        .x = lisa__real(run, run->a->head_in),
        .ldx = c->d_model,
        .weight = lisa__model_tensor(run->model, 0, LISA__FINAL_NORM_W)->value,
        .bias = bias != NULL ? bias->value : (lisa_typed){NULL, 0},
        .stats = run->a->head_stats,
    };
}

static lisa_status chunk_logits(const struct lisa__run *run, const struct chunk *k) {
    lisa_rows rows = rows_op(run, k);
    rows.src = lisa__stream(run->a, run->model->config.n_layers);
    rows.dst = run->a->head_in;
    LISA_TRY(run->be->ops->gather(run->be, &rows));
    lisa_norm norm = norm_op(run, k);
    norm.y = lisa__operand(run, run->a->head_normed);
    norm.ldy = norm.cols;
    LISA_TRY(run->be->ops->norm_forward(run->be, &norm));
    const struct lisa__linear head = lisa__linear_of(run->model, 0, LISA__HEAD_W);
    return lisa__linear_forward(run, &head, norm.y, lisa__real(run, run->a->logits), 0, k->rows);
}

static lisa_status chunk_loss(const struct lisa__run *run, const struct chunk *k, int gradient) {
    const struct lisa__activations *a = run->a;
    const int evaluating = a->shape.forward_only != 0;
    const lisa_cross_entropy op = {
        .rows = k->rows,
        .cols = run->model->config.vocab_size,
        .logits = a->logits,
        .ldlogits = run->model->config.vocab_size,
        .targets = a->head_targets + k->first,
        .weights = a->head_weights + k->first,
        .nll = a->head_nll + k->first,
        .log_probs = evaluating ? a->head_log_probs + k->first : NULL,
        .greedy = evaluating ? a->head_greedy + k->first : NULL,
        .dlogits = lisa__operand(run, gradient ? a->logits : NULL),
        .lddlogits = dlogits_stride(run),
        .gradient_scale = run->model->loss_scale,
    };
    return run->be->ops->cross_entropy(run->be, &op);
}

static lisa_status chunk_backward(const struct lisa__run *run, const struct chunk *k) {
    const lisa_model *m = run->model;
    const struct lisa__activations *a = run->a;
    struct lisa__linear head = lisa__linear_of(m, 0, LISA__HEAD_W);
    head.ld_out = dlogits_stride(run);
    const lisa_typed din = lisa__real(run, a->head_din);
    LISA_TRY(lisa__linear_backward(run, &head, lisa__operand(run, a->head_normed),
                                   lisa__operand(run, a->logits), din, 0, k->rows));
    const struct lisa__tensor *bias = lisa__model_tensor(m, 0, LISA__FINAL_NORM_B);
    lisa_norm norm = norm_op(run, k);
    norm.dy = norm.dx = din;
    norm.lddy = norm.lddx = norm.cols;
    norm.dweight = lisa__model_tensor(m, 0, LISA__FINAL_NORM_W)->gradient;
    norm.dbias = bias != NULL ? bias->gradient : NULL;
    LISA_TRY(run->be->ops->norm_backward(run->be, &norm));
    lisa_rows rows = rows_op(run, k);
    rows.src = a->head_din;
    rows.dst = a->dstream;
    rows.operand = lisa__operand(run, a->doperand);
    return run->be->ops->scatter(run->be, &rows);
}

static lisa_status clear_dstream(const struct lisa__run *run) {
    const struct lisa__kinds *kinds = &run->model->kinds;
    const size_t n = (size_t)run->batch * run->tokens * run->model->config.d_model;
    LISA_TRY(run->be->ops->zero(run->be, run->a->dstream, n * lisa__dtype_size(kinds->real)));
    if (run->a->doperand == NULL)
        return LISA_OK;
    return run->be->ops->zero(run->be, run->a->doperand, n * lisa__dtype_size(kinds->operand));
}

lisa_status lisa__head(const struct lisa__run *run, int gradient) {
    const uint32_t most = run->a->shape.head_rows;
    if (gradient)
        LISA_TRY(clear_dstream(run));
    for (uint32_t first = 0; first < run->head_rows; first += most) {
        const uint32_t left = run->head_rows - first;
        const struct chunk k = {first, left < most ? left : most};
        LISA_TRY(lisa__poll(run->model->context));
        LISA_TRY(chunk_logits(run, &k));
        LISA_TRY(chunk_loss(run, &k, gradient));
        if (gradient)
            LISA_TRY(chunk_backward(run, &k));
    }
    if (!gradient)
        return LISA_OK;
    LISA_TRY(lisa__gradients_whole(run->model, 0, LISA__FINAL_NORM_W));
    return lisa__gradients_whole(run->model, 0, LISA__HEAD_W);
}

lisa_status lisa__head_logits(const struct lisa__run *run) {
    const struct chunk k = {0, 1};
    return chunk_logits(run, &k);
}
