#include "model/pass.h"

#include "core/dtype.h"
#include "model/adapter.h"
#include "model/fill.h"

#include <math.h>
#include <string.h>

static lisa_status alloc_activations(lisa_batch *b, const struct lisa__activations_shape *shape) {
    lisa__activations_layout(&b->layout, &b->activations, shape);
    LISA_TRY(lisa__layout_alloc(&b->layout, b->model->context));
    lisa__activations_layout(&b->layout, &b->activations, shape);
    LISA_TRY(lisa__layout_check(&b->layout));
    return lisa__rope_tables(b->model, &b->activations);
}

static lisa_status fill_batch(lisa_batch *b, uint32_t max_batch, uint32_t max_tokens,
                              const lisa_batch_options *options) {
    lisa_model *m = b->model;
    LISA_TRY(lisa__rows_create(&b->rows, m->context, max_batch, max_tokens, m->config.vocab_size));
    const struct lisa__activations_shape shape = lisa__training_shape(
        &m->config, m->kinds, max_batch, max_tokens, options, lisa__spare(m->context));
    b->head_rows = shape.head_rows;
    b->inference_only = options->inference_only;
    return b->inference_only ? LISA_OK : alloc_activations(b, &shape);
}

lisa_status lisa__batch_create(lisa_batch **out, lisa_model *model, uint32_t max_batch,
                               uint32_t max_tokens, const lisa_batch_options *options) {
    LISA_TRY(lisa__batch_check_size(&model->config, max_batch, max_tokens));
    lisa_status status;
    lisa_batch *b = lisa__alloc(model->context, LISA_MEM_HANDLES, sizeof *b, &status);
    if (b == NULL)
        return status;
    memset(b, 0, sizeof *b);
    b->model = lisa__model_retain(model);
    status = fill_batch(b, max_batch, max_tokens, options);
    if (status != LISA_OK) {
        lisa__batch_destroy(b);
        return status;
    }
    *out = b;
    return LISA_OK;
}

void lisa__batch_destroy(lisa_batch *b) {
    if (b == NULL)
        return;
    lisa_model *model = b->model;
    lisa_context *context = model->context;
    lisa__layout_free(&b->layout, context);
    lisa__rows_destroy(&b->rows, context);
    lisa__release(context, LISA_MEM_HANDLES, b, sizeof *b);
    lisa__model_release(model);
}

static lisa_status check_ready(const lisa_model *model, const lisa_batch *b) {
    if (b->model != model)
        return lisa__fail(LISA_E_INVAL, "batch: belongs to another model");
    if (b->rows.batch == 0)
        return lisa__fail(LISA_E_STATE, "batch: no tokens yet, call lisa_batch_set first");
    return lisa__model_check(model);
}

lisa_status lisa__forward_check(const lisa_model *model, const lisa_batch *b) {
    if (b->inference_only)
        return lisa__fail(LISA_E_STATE, "batch: made with inference_only, for evaluate alone");
    return check_ready(model, b);
}

static lisa_status upload_rows(const struct lisa__run *run, const struct lisa__rows *r) {
    const struct lisa__activations *a = run->a;
    const size_t n = (size_t)r->batch * r->tokens;
    const struct {
        void *to;
        const void *from;
        size_t bytes;
    } parts[] = {
        {a->tokens, r->token, n * sizeof(int32_t)},
        {a->positions, r->position, n * sizeof(int32_t)},
        {a->documents, r->document, r->has_documents ? n * sizeof(int32_t) : 0},
        {a->head_index, r->index, r->n_scored * sizeof(int32_t)},
        {a->head_targets, r->target, r->n_scored * sizeof(int32_t)},
        {a->head_weights, r->weight, r->n_scored * sizeof(float)},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i].bytes != 0)
            LISA_TRY(run->be->ops->upload(run->be, parts[i].to, parts[i].from, parts[i].bytes));
    return LISA_OK;
}

static struct lisa__run run_of(lisa_model *model, const lisa_batch *b,
                               const struct lisa__activations *a) {
    return (struct lisa__run){
        .model = model,
        .be = model->be,
        .a = a,
        .host_tokens = b->rows.token,
        .batch = b->rows.batch,
        .tokens = b->rows.tokens,
        .has_documents = b->rows.has_documents,
        .head_rows = b->rows.n_scored,
    };
}

/* Adds up the rows' losses, in row order, into a->loss. */
static lisa_status sum_loss(const struct lisa__run *run) {
    const struct lisa__activations *a = run->a;
    LISA_TRY(run->be->ops->zero(run->be, a->loss, sizeof *a->loss));
    return run->be->ops->sum(run->be, a->head_nll, run->head_rows, a->loss);
}

static lisa_status check_loss(const struct lisa__run *run, double loss) {
    return isfinite(loss) ? LISA_OK : lisa__blame_weights(run->model, "the loss");
}

static lisa_status read_loss(const struct lisa__run *run, const lisa_batch *b, double *mean) {
    double sum = 0;
    LISA_TRY(sum_loss(run));
    LISA_TRY(run->be->ops->download(run->be, &sum, run->a->loss, sizeof sum));
    *mean = b->rows.weight_sum > 0 ? sum / b->rows.weight_sum : 0;
    return check_loss(run, sum);
}

/* A loss that is not finite ends a backward here, where that is known at once; else the update is
 * not made. */
static lisa_status watch_loss(const struct lisa__run *run) {
    const struct lisa__activations *a = run->a;
    uint64_t ticket;
    uint32_t known = 0;
    LISA_TRY(sum_loss(run));
    LISA_TRY(run->be->ops->post(run->be, a->posted_loss, a->loss, sizeof *a->loss, &ticket));
    LISA_TRY(run->be->ops->passed(run->be, ticket, &known));
    return known ? check_loss(run, *a->posted_loss) : LISA_OK;
}

static struct lisa__run training_run_of(lisa_model *model, const lisa_batch *b) {
    struct lisa__run run = run_of(model, b, &b->activations);
    run.trains = 1;
    run.draw = b->draw;
    return run;
}

lisa_status lisa__forward(lisa_model *model, lisa_batch *b, double *loss) {
    LISA_TRY(lisa__forward_check(model, b));
    b->forwarded = 0;
    b->draw = model->adapter != NULL ? model->adapter->draws : 0;
    const struct lisa__run run = training_run_of(model, b);
    LISA_TRY(upload_rows(&run, &b->rows));
    LISA_TRY(lisa__trunk_forward(&run));
    if (loss != NULL) {
        LISA_TRY(lisa__head(&run, 0));
        LISA_TRY(read_loss(&run, b, loss));
    }
    b->forwarded = 1;
    b->forward_version = model->version;
    return LISA_OK;
}

lisa_status lisa__backward_check(const lisa_model *model, const lisa_batch *b) {
    if (b->model != model)
        return lisa__fail(LISA_E_INVAL, "batch: belongs to another model");
    if (!b->forwarded || b->forward_version != model->version)
        return lisa__fail(LISA_E_STATE,
                          "lisa_backward: the batch and the weights as they are now have had no "
                          "lisa_forward");
    return lisa__model_check(model);
}

lisa_status lisa__backward(lisa_model *model, lisa_batch *b) {
    LISA_TRY(lisa__backward_check(model, b));
    /* Backward overwrites what forward saved: it can run once. */
    b->forwarded = 0;
    const struct lisa__run run = training_run_of(model, b);
    LISA_TRY(lisa__head(&run, 1));
    LISA_TRY(watch_loss(&run));
    LISA_TRY(lisa__trunk_backward(&run));
    /* Only now: a step that failed draws the same dropout when it is tried again. */
    if (model->adapter != NULL)
        model->adapter->draws++;
    return LISA_OK;
}

/* Evaluation memory of a batch as it is set now, for one call. */
static lisa_status begin_evaluation(struct lisa__layout *layout, struct lisa__activations *a,
                                    lisa_model *model, const lisa_batch *b) {
    const struct lisa__activations_shape shape = lisa__evaluation_shape(
        &model->config, model->kinds, b->rows.batch, b->rows.tokens, b->head_rows);
    memset(layout, 0, sizeof *layout);
    lisa__activations_layout(layout, a, &shape);
    LISA_TRY(lisa__layout_alloc(layout, model->context));
    lisa__activations_layout(layout, a, &shape);
    lisa_status status = lisa__layout_check(layout);
    if (status == LISA_OK)
        status = lisa__rope_tables(model, a);
    if (status != LISA_OK)
        lisa__layout_free(layout, model->context);
    return status;
}

/* Spreads the scored rows' results over the positions of the labels they predict. */
static lisa_status spread_results(const struct lisa__run *run, const lisa_batch *b,
                                  float *log_probs, uint8_t *greedy) {
    const struct lisa__rows *r = &b->rows;
    const size_t n = (size_t)r->batch * r->tokens;
    if (log_probs != NULL)
        memset(log_probs, 0, n * sizeof *log_probs);
    if (greedy != NULL)
        memset(greedy, 0, n * sizeof *greedy);
    for (uint32_t i = 0; i < r->n_scored; i++) {
        const size_t label = (size_t)r->index[i] + 1;
        if (log_probs != NULL)
            LISA_TRY(run->be->ops->download(run->be, log_probs + label, run->a->head_log_probs + i,
                                            sizeof *log_probs));
        if (greedy != NULL)
            LISA_TRY(run->be->ops->download(run->be, greedy + label, run->a->head_greedy + i,
                                            sizeof *greedy));
    }
    return LISA_OK;
}

static lisa_status evaluate(const struct lisa__run *run, const lisa_batch *b, double *loss,
                            float *log_probs, uint8_t *greedy) {
    double mean;
    LISA_TRY(upload_rows(run, &b->rows));
    LISA_TRY(lisa__trunk_forward(run));
    LISA_TRY(lisa__head(run, 0));
    LISA_TRY(read_loss(run, b, &mean));
    LISA_TRY(spread_results(run, b, log_probs, greedy));
    if (loss != NULL)
        *loss = mean;
    return LISA_OK;
}

lisa_status lisa__evaluate(lisa_model *model, lisa_batch *b, double *loss, float *log_probs,
                           uint8_t *greedy) {
    LISA_TRY(check_ready(model, b));
    if (b->rows.n_scored == 0)
        return lisa__fail(LISA_E_INVAL,
                          "lisa_model_evaluate: no label is scored (all are -100, first in their "
                          "document, or of weight 0)");
    struct lisa__layout layout;
    struct lisa__activations a;
    LISA_TRY(begin_evaluation(&layout, &a, model, b));
    const struct lisa__run run = run_of(model, b, &a);
    const lisa_status status = evaluate(&run, b, loss, log_probs, greedy);
    lisa__layout_free(&layout, model->context);
    return status;
}

static lisa_status all_logits(struct lisa__run *run, const lisa_batch *b, void *logits,
                              uint32_t dtype) {
    const uint32_t n = b->rows.batch * b->rows.tokens;
    const size_t row = (size_t)run->model->config.vocab_size * lisa__dtype_size(dtype);
    LISA_TRY(upload_rows(run, &b->rows));
    LISA_TRY(lisa__trunk_forward(run));
    for (int32_t i = 0; i < (int32_t)n; i++) {
        LISA_TRY(run->be->ops->upload(run->be, run->a->head_index, &i, sizeof i));
        LISA_TRY(lisa__head_logits(run));
        LISA_TRY(lisa__download_real(run->model, run->a->logits, run->model->config.vocab_size,
                                     (unsigned char *)logits + i * row, dtype));
    }
    return LISA_OK;
}

lisa_status lisa__logits(lisa_model *model, lisa_batch *b, void *logits, uint32_t dtype) {
    LISA_TRY(check_ready(model, b));
    struct lisa__layout layout;
    struct lisa__activations a;
    LISA_TRY(begin_evaluation(&layout, &a, model, b));
    struct lisa__run run = run_of(model, b, &a);
    const lisa_status status = all_logits(&run, b, logits, dtype);
    lisa__layout_free(&layout, model->context);
    return status;
}
