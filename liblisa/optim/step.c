/* The update: one AdamW step of the active groups. */
#include "optim/spans.h"

#include <math.h>
#include <string.h>

/* Of a group's next step; see optimizer.h. */
static double group_lr(const lisa_optimizer *o, uint32_t group) {
    const lisa_optimizer_options *p = &o->options;
    const double factors[LISA__PARTS] = {p->lr_factor_embedding, p->lr_factor_layers,
                                         p->lr_factor_head};
    const double factor = factors[lisa__part_of(&o->shape, group)];
    const uint64_t t = o->groups[group].steps + 1;
    const double lr = factor == 0 ? p->lr : p->lr * factor;
    return t < p->warmup_steps ? lr * ((double)t / p->warmup_steps) : lr;
}

/* No other update of a moment, and no closing of a master, draws from the same. */
static uint64_t rounding_stream(const lisa_optimizer *o, const struct lisa__span *span) {
    const uint64_t n_spans = (uint64_t)o->trained->n + o->shape.embedding_rows;
    return 1ull << 63 | ((o->updates - 1) * n_spans + span->draw);
}

static lisa_status update_span(const lisa_optimizer *o, uint32_t tensor,
                               const struct lisa__span *span) {
    lisa_backend *be = o->model->be;
    const lisa_optimizer_options *p = &o->options;
    const struct lisa__tensor_desc *d = &o->trained->descs[tensor];
    const double t = (double)(o->groups[d->group].steps + 1);
    const lisa_adamw op = {
        .n = span->n,
        .first = span->first,
        .weight = span->weight,
        .low = span->low,
        .gradient = span->gradient,
        .m = span->m,
        .v = span->v,
        .moments = lisa__moments_of(&o->shape, tensor),
        .m_scale = span->m_scale,
        .v_scale = span->v_scale,
        .seed = p->seed,
        .stream = rounding_stream(o, span),
        .lr = group_lr(o, d->group),
        .beta1 = p->beta1,
        .beta2 = p->beta2,
        .eps = p->eps,
        .weight_decay = d->decays ? p->weight_decay : 0,
        .correction1 = 1 - pow(p->beta1, t),
        .correction2 = 1 - pow(p->beta2, t),
        .control = &o->memory.outcome->control,
    };
    return be->ops->adamw(be, &op);
}

static lisa_status update_tensor(const lisa_optimizer *o, uint32_t index) {
    return lisa__visit_spans(o, index, LISA__STATE_UPDATED, update_span);
}

static lisa_status update_all(const lisa_optimizer *o) {
    for (uint32_t i = 0; i < o->trained->n; i++)
        if (o->trained->tensors[i].gradient != NULL)
            LISA_TRY(update_tensor(o, i));
    return LISA_OK;
}

static void count_update(lisa_optimizer *o) {
    for (uint32_t g = 0; g < o->n_layers + 2; g++)
        o->groups[g].steps += o->groups[g].active;
    o->model->version++;
    if (o->unsettled++ == 0)
        o->rows_before = o->rows_kept;
    o->rows_kept = o->rows.n_used;
}

/* n updates were not made. Draws that were taken are not taken again. */
static void uncount_updates(lisa_optimizer *o, uint64_t n, uint32_t verdict) {
    for (uint32_t g = 0; g < o->n_layers + 2; g++)
        o->groups[g].steps -= o->groups[g].active ? n : 0;
    if (!o->options.update_in_backward || verdict == LISA_VERDICT_EMPTY)
        o->updates -= n;
}

static lisa_status square_tensor(const lisa_optimizer *o, uint32_t index) {
    lisa_backend *be = o->model->be;
    const lisa_typed gradient = {o->trained->tensors[index].gradient, be->ops->real_dtype};
    return be->ops->sum_squares(be, gradient, lisa__gradient_in_use(o, index),
                                o->memory.squares + index);
}

/* Squares of all tensors, in group order; 0 for the frozen. */
static lisa_status square_all(const lisa_optimizer *o) {
    lisa_backend *be = o->model->be;
    LISA_TRY(be->ops->zero(be, o->memory.squares, o->trained->n * sizeof *o->memory.squares));
    for (uint32_t i = 0; i < o->trained->n; i++)
        if (o->trained->tensors[i].gradient != NULL)
            LISA_TRY(square_tensor(o, i));
    return LISA_OK;
}

static lisa_status judge(const lisa_optimizer *o, uint32_t first, uint32_t n) {
    lisa_backend *be = o->model->be;
    const int is_whole = n == o->trained->n;
    const lisa_judge op = {
        .squares = o->memory.squares,
        .first = first,
        .n = n,
        .counts = is_whole ? 1 : 0,
        .weight_sum = o->memory.gradients,
        .loss = is_whole ? &o->memory.outcome->loss : NULL,
        .max_norm = o->options.max_grad_norm,
        .control = &o->memory.outcome->control,
    };
    return be->ops->judge(be, &op);
}

static lisa_status post_outcome(lisa_optimizer *o) {
    lisa_backend *be = o->model->be;
    return be->ops->post(be, o->memory.posted, o->memory.outcome, sizeof *o->memory.outcome,
                         &o->ticket);
}

/* The text of a failed update. */
static lisa_status blame(const lisa_optimizer *o, const lisa_control *c) {
    const char *more = o->options.update_in_backward
                           ? " (update_in_backward: tensors nearer to the loss have been updated)"
                           : "";
    switch (c->verdict) {
    case LISA_VERDICT_WEIGHT:
        return lisa__fail(LISA_E_NONFINITE,
                          "the window's sum of target weights is %g, expected 0 or a number that "
                          "gradients can be divided by",
                          c->weight_sum / o->model->loss_scale);
    case LISA_VERDICT_LOSS:
        return lisa__blame_weights(o->model, "the loss");
    case LISA_VERDICT_GRADIENT:
        return lisa__fail(LISA_E_NONFINITE, "the gradient of tensor \"%s\" has NaN or Inf%s",
                          o->trained->descs[c->tensor].name, more);
    default:
        return lisa__fail(LISA_E_NONFINITE,
                          "the gradient's norm is %g, whose square is not finite as a moment%s",
                          c->norm, more);
    }
}

/* Forgets a verdict that its host is told now. */
static lisa_status clear_verdict(lisa_optimizer *o, uint64_t updates) {
    lisa_backend *be = o->model->be;
    const lisa_control control = {.updates = updates};
    return be->ops->upload(be, &o->memory.outcome->control, &control, sizeof control);
}

static lisa_status is_known(const lisa_optimizer *o, int wait, uint32_t *known) {
    lisa_backend *be = o->model->be;
    *known = 0;
    if (wait)
        LISA_TRY(be->ops->sync(be));
    return be->ops->passed(be, o->ticket, known);
}

lisa_status lisa__optimizer_settle(lisa_optimizer *o, int wait) {
    uint32_t known = 0;
    if (o->unsettled == 0)
        return LISA_OK;
    LISA_TRY(is_known(o, wait, &known));
    if (!known)
        return LISA_OK;
    const lisa_control control = o->memory.posted->control;
    if (control.verdict > LISA_VERDICT_EMPTY)
        LISA_TRY(clear_verdict(o, control.updates));
    uncount_updates(o, o->unsettled - (control.updates - o->confirmed), control.verdict);
    o->confirmed = control.updates;
    o->unsettled = 0;
    if (control.verdict <= LISA_VERDICT_EMPTY)
        return LISA_OK;
    o->rows_kept = o->rows_before;
    lisa__optimizer_void(o);
    return blame(o, &control);
}

lisa_status lisa__optimizer_begin_backward(lisa_optimizer *o, const struct lisa__rows *rows) {
    lisa_backend *be = o->model->be;
    LISA_TRY(lisa__optimizer_settle(o, 0));
    if (o->uncleared)
        LISA_TRY(lisa__optimizer_clear(o));
    if (!o->options.update_in_backward)
        return lisa__optimizer_claim(o, rows);
    if (o->window.n_backward != 0)
        return lisa__fail(LISA_E_STATE, "lisa_backward: update_in_backward takes one for each "
                                        "lisa_optimizer_step");
    LISA_TRY(lisa__optimizer_claim(o, rows));
    o->window.lr = o->options.lr;
    LISA_TRY(be->ops->zero(be, o->memory.squares, o->trained->n * sizeof *o->memory.squares));
    LISA_TRY(lisa__optimizer_put_weight(o, rows->weight_sum));
    o->updates++;
    return LISA_OK;
}

/* An update inside backward that failed, where that is known already. */
static lisa_status check_taken(lisa_optimizer *o) {
    uint32_t known = 0;
    /* A device would have to be asked, or waited for, tensor by tensor. */
    if ((o->model->be->ops->flags & LISA_BACKEND_HOST_MEMORY) == 0)
        return LISA_OK;
    LISA_TRY(post_outcome(o));
    LISA_TRY(is_known(o, 0, &known));
    const lisa_control control = o->memory.posted->control;
    if (control.verdict <= LISA_VERDICT_EMPTY)
        return LISA_OK;
    LISA_TRY(clear_verdict(o, control.updates));
    return blame(o, &control);
}

lisa_status lisa__optimizer_take(void *self, uint32_t tensor) {
    lisa_optimizer *o = self;
    lisa_backend *be = o->model->be;
    LISA_TRY(square_tensor(o, tensor));
    LISA_TRY(judge(o, tensor, 1));
    o->trained->tensors[tensor].changed = 1;
    LISA_TRY(lisa__change_begin(o->trained, "an update"));
    LISA_TRY(lisa__change_end(o->trained, update_tensor(o, tensor)));
    LISA_TRY(check_taken(o));
    if (lisa__is_sparse(&o->shape, tensor))
        o->rows_kept = o->rows.n_used;
    o->model->version++;
    return be->ops->zero(be, o->trained->tensors[tensor].gradient,
                         lisa__gradient_in_use(o, tensor) * o->model->real_size);
}

static void mark_changed(const lisa_optimizer *o) {
    for (uint32_t i = 0; i < o->trained->n; i++)
        o->trained->tensors[i].changed |= o->trained->tensors[i].gradient != NULL;
}

/* What backward has not updated already, and the count of it. */
static lisa_status update(lisa_optimizer *o) {
    if (!o->options.update_in_backward) {
        o->updates++;
        mark_changed(o); /* also where only some of it comes to be */
        LISA_TRY(update_all(o));
    }
    /* Not the other way round: of an update that is counted, what comes next reads the outcome. */
    LISA_TRY(post_outcome(o));
    count_update(o);
    return LISA_OK;
}

static void fill_stats(const lisa_optimizer *o, const struct lisa__window *window,
                       lisa_step_stats *stats) {
    const struct lisa__outcome *outcome = o->memory.posted;
    const lisa_control *c = &outcome->control;
    memset(stats, 0, sizeof *stats);
    stats->struct_size = sizeof *stats;
    stats->loss = window->weight_sum > 0 ? outcome->loss / window->weight_sum : 0;
    stats->weight_sum = c->weight_sum / o->model->loss_scale;
    stats->grad_norm = c->norm;
    stats->lr = o->options.update_in_backward ? window->lr : o->options.lr;
    stats->n_targets = window->n_scored;
    stats->n_backward = window->n_backward;
    stats->updated = c->verdict == LISA_VERDICT_OK;
    for (uint32_t l = 0; l < o->n_layers; l++)
        stats->n_active_layers += o->groups[1 + l].active;
}

static lisa_status step(lisa_optimizer *o, lisa_step_stats *stats) {
    const struct lisa__window window = o->window;
    if (!o->options.update_in_backward)
        LISA_TRY(square_all(o));
    LISA_TRY(judge(o, 0, o->trained->n));
    LISA_TRY(lisa__change_begin(o->trained, "an update"));
    lisa_status status = update(o);
    /* A window without targets counts no step, which the next one has to know. */
    if (status == LISA_OK)
        status = lisa__optimizer_settle(o, stats != NULL || window.weight_sum == 0);
    /* What is known to have failed as a whole has changed nothing. */
    (void)lisa__change_end(o->trained, status == LISA_E_NONFINITE ? LISA_OK : status);
    LISA_TRY(status);
    if (o->unsettled == 0 && o->memory.posted->control.verdict == LISA_VERDICT_EMPTY)
        lisa__log(o->model->context, LISA_LOG_WARN,
                  "no label of the window is scored: nothing is updated, no step is counted");
    if (stats != NULL)
        fill_stats(o, &window, stats);
    return LISA_OK;
}

lisa_status lisa__optimizer_step(lisa_optimizer *o, lisa_step_stats *stats) {
    LISA_TRY(lisa__optimizer_settle(o, 0));
    if (o->window.n_backward == 0)
        return lisa__fail(LISA_E_STATE, "lisa_optimizer_step: no lisa_backward since the last one");
    /* The update has been made already where backward makes it. */
    if (!o->options.update_in_backward)
        LISA_TRY(lisa__poll(o->model->context));
    const lisa_status status = step(o, stats);
    lisa__optimizer_void(o);
    return status;
}
