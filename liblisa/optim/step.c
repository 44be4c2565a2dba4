/* The update: one AdamW step of the active groups. */
#include "optim/optimizer.h"

#include "core/dtype.h"

#include <math.h>
#include <string.h>

/* Of the un-normalised gradient of a tensor. */
static lisa_status gradient_squares(const lisa_optimizer *o, uint32_t index, double *out) {
    lisa_backend *be = o->model->be;
    const struct lisa__tensor_desc *d = &o->trained->descs[index];
    const lisa_typed gradient = {o->trained->tensors[index].gradient, be->ops->real_dtype};
    LISA_TRY(be->ops->sum_squares(be, gradient, lisa__gradient_in_use(o, index), out));
    if (isfinite(*out))
        return LISA_OK;
    return lisa__fail(LISA_E_NONFINITE, "the gradient of tensor \"%s\" has NaN or Inf%s", d->name,
                      o->options.update_in_backward ? " (update_in_backward: tensors nearer to the "
                                                      "loss have been updated)"
                                                    : "");
}

/* Norm of the un-normalised gradient of all active groups, in group order. */
static lisa_status gradient_norm(const lisa_optimizer *o, double *out) {
    double total = 0;
    for (uint32_t i = 0; i < o->trained->n; i++) {
        double part = 0;
        if (o->trained->tensors[i].gradient != NULL)
            LISA_TRY(gradient_squares(o, i, &part));
        total += part;
    }
    *out = sqrt(total);
    return LISA_OK;
}

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

/* What is updated at once: a tensor, or a row of a sparse embedding. */
struct part {
    uint64_t n;
    lisa_typed weight;
    void *low, *gradient;
    unsigned char *m, *v;
    uint64_t draw; /* below the number of parts that there can be */
};

/* No other update of a moment, and no closing of a master, draws from the same. */
static uint64_t rounding_stream(const lisa_optimizer *o, const struct part *part) {
    const uint64_t n_parts = (uint64_t)o->trained->n + o->shape.embedding_rows;
    return 1ull << 63 | (o->updates * n_parts + part->draw);
}

static struct part whole_tensor(const lisa_optimizer *o, uint32_t index) {
    const struct lisa__tensor_desc *d = &o->trained->descs[index];
    const struct lisa__tensor *t = &o->trained->tensors[index];
    const struct lisa__state state = lisa__group_state(o, d->group);
    const uint64_t place = lisa__tensor_place(&o->shape, index).moment;
    return (struct part){
        .n = d->n_elements,
        .weight = t->value,
        .low = t->low,
        .gradient = t->gradient,
        .m = (unsigned char *)state.m + place,
        .v = (unsigned char *)state.v + place,
        .draw = index,
    };
}

static struct part row_of(const lisa_optimizer *o, uint32_t index, uint32_t slot) {
    const struct lisa__extent row = lisa__row_extent(&o->shape, &o->trained->descs[index]);
    struct part part = whole_tensor(o, index);
    part.n = row.elements;
    part.weight = lisa__values_from(&part.weight, o->rows.row_of[slot] * row.elements);
    part.low = part.low != NULL ? (unsigned char *)part.low + slot * row.low : NULL;
    part.gradient = (unsigned char *)part.gradient + slot * row.elements * o->model->real_size;
    part.m += slot * row.moment;
    part.v += slot * row.moment;
    part.draw = (uint64_t)o->trained->n + slot;
    return part;
}

static lisa_status update_part(const lisa_optimizer *o, uint32_t index, const struct part *part,
                               double grad_scale) {
    lisa_backend *be = o->model->be;
    const lisa_optimizer_options *p = &o->options;
    const struct lisa__tensor_desc *d = &o->trained->descs[index];
    const uint64_t codes = lisa__code_bytes(part->n);
    const uint32_t moments = o->shape.moments[lisa__part_of(&o->shape, d->group)];
    const double t = (double)(o->groups[d->group].steps + 1);
    const lisa_adamw op = {
        .n = part->n,
        .weight = part->weight,
        .low = part->low,
        .gradient = part->gradient,
        .m = part->m,
        .v = part->v,
        .moments = moments,
        .m_scale = moments == LISA_MOMENTS_8BIT ? (float *)(void *)(part->m + codes) : NULL,
        .v_scale = moments == LISA_MOMENTS_8BIT ? (float *)(void *)(part->v + codes) : NULL,
        .seed = p->seed,
        .stream = rounding_stream(o, part),
        .lr = group_lr(o, d->group),
        .beta1 = p->beta1,
        .beta2 = p->beta2,
        .eps = p->eps,
        .weight_decay = d->decays ? p->weight_decay : 0,
        .grad_scale = grad_scale,
        .correction1 = 1 - pow(p->beta1, t),
        .correction2 = 1 - pow(p->beta2, t),
    };
    return be->ops->adamw(be, &op);
}

static lisa_status update_tensor(const lisa_optimizer *o, uint32_t index, double grad_scale) {
    if (!lisa__is_sparse(&o->shape, index)) {
        const struct part part = whole_tensor(o, index);
        return update_part(o, index, &part, grad_scale);
    }
    for (uint32_t slot = 0; slot < o->rows.n_used; slot++) {
        const struct part part = row_of(o, index, slot);
        LISA_TRY(update_part(o, index, &part, grad_scale));
    }
    return LISA_OK;
}

static lisa_status update_all(lisa_optimizer *o, double grad_scale) {
    for (uint32_t i = 0; i < o->trained->n; i++)
        if (o->trained->tensors[i].gradient != NULL)
            LISA_TRY(update_tensor(o, i, grad_scale));
    return LISA_OK;
}

static void count_update(lisa_optimizer *o) {
    for (uint32_t g = 0; g < o->n_layers + 2; g++)
        o->groups[g].steps += o->groups[g].active;
    o->updates++;
    o->model->version++;
}

static void fill_stats(const lisa_optimizer *o, double weight_sum, lisa_step_stats *stats) {
    const struct lisa__window *w = &o->window;
    stats->loss = w->weight_sum > 0 ? w->loss_sum / w->weight_sum : 0;
    stats->weight_sum = weight_sum;
    stats->lr = o->options.lr;
    stats->n_targets = w->n_scored;
    stats->n_backward = w->n_backward;
    for (uint32_t l = 0; l < o->n_layers; l++)
        stats->n_active_layers += o->groups[1 + l].active;
}

/* As the backend will round it. */
static double in_real(const lisa_optimizer *o, double x) {
    return o->model->be->ops->real_dtype == LISA_DTYPE_F64 ? x : (float)x;
}

static lisa_status check_weight(const lisa_optimizer *o, double weight) {
    if (isfinite(weight) && weight >= 0 && (weight == 0 || isfinite(in_real(o, 1 / weight))))
        return LISA_OK;
    return lisa__fail(LISA_E_NONFINITE,
                      "the window's sum of target weights is %g, expected 0 or a number that "
                      "gradients can be divided by",
                      weight);
}

/* The window's sum of target weights: this process's, or what a host's all-reduce made of it. */
static lisa_status window_weight(const lisa_optimizer *o, double *out) {
    const lisa_model *m = o->model;
    double real;
    LISA_TRY(m->be->ops->download(m->be, &real, o->memory.gradients, m->real_size));
    *out = lisa__load(&real, m->be->ops->real_dtype, 0);
    return check_weight(o, *out);
}

/* Squares of finite gradients may not be finite: v would be Inf, and the weight stand still. */
static lisa_status check_squares(const lisa_optimizer *o, double norm) {
    if (isfinite(in_real(o, norm * norm)))
        return LISA_OK;
    return lisa__fail(LISA_E_NONFINITE,
                      "the gradient's norm is %g, whose square is not finite as a moment", norm);
}

lisa_status lisa__optimizer_begin_backward(lisa_optimizer *o, const struct lisa__rows *rows) {
    const double weight_sum = rows->weight_sum;
    if (!o->options.update_in_backward)
        return lisa__optimizer_claim(o, rows);
    if (o->window.n_backward != 0)
        return lisa__fail(LISA_E_STATE, "lisa_backward: update_in_backward takes one for each "
                                        "lisa_optimizer_step");
    LISA_TRY(check_weight(o, weight_sum));
    LISA_TRY(lisa__optimizer_claim(o, rows));
    o->grad_scale = weight_sum > 0 ? 1 / weight_sum : 0;
    o->squares = 0;
    return LISA_OK;
}

lisa_status lisa__optimizer_take(void *self, uint32_t tensor) {
    lisa_optimizer *o = self;
    lisa_backend *be = o->model->be;
    double squares = 0;
    if (o->grad_scale == 0)
        return LISA_OK;
    LISA_TRY(gradient_squares(o, tensor, &squares));
    LISA_TRY(check_squares(o, sqrt(squares) * o->grad_scale));
    LISA_TRY(update_tensor(o, tensor, o->grad_scale));
    o->squares += squares;
    o->model->version++;
    return be->ops->zero(be, o->trained->tensors[tensor].gradient,
                         lisa__gradient_in_use(o, tensor) * o->model->real_size);
}

/* Unless backward has updated already. */
static lisa_status update(lisa_optimizer *o, double weight_sum, double *norm) {
    if (o->options.update_in_backward) {
        *norm = sqrt(o->squares) / weight_sum;
        return LISA_OK;
    }
    LISA_TRY(gradient_norm(o, norm));
    *norm /= weight_sum;
    double scale = 1 / weight_sum;
    const double most = o->options.max_grad_norm;
    /* torch.nn.utils.clip_grad_norm_ */
    if (most > 0 && most / (*norm + 1e-6) < 1)
        scale *= most / (*norm + 1e-6);
    LISA_TRY(check_squares(o, *norm * weight_sum * scale));
    return update_all(o, scale);
}

static lisa_status step(lisa_optimizer *o, lisa_step_stats *stats) {
    double weight_sum = 0;
    LISA_TRY(window_weight(o, &weight_sum));
    fill_stats(o, weight_sum, stats);
    if (weight_sum == 0) {
        lisa__log(o->model->context, LISA_LOG_WARN,
                  "no label of the window is scored: nothing is updated, no step is counted");
        return LISA_OK;
    }
    LISA_TRY(update(o, weight_sum, &stats->grad_norm));
    count_update(o);
    stats->updated = 1;
    return LISA_OK;
}

lisa_status lisa__optimizer_step(lisa_optimizer *o, lisa_step_stats *stats) {
    if (o->window.n_backward == 0)
        return lisa__fail(LISA_E_STATE, "lisa_optimizer_step: no lisa_backward since the last one");
    memset(stats, 0, sizeof *stats);
    stats->struct_size = sizeof *stats;
    /* The update has been made already where backward makes it. */
    if (!o->options.update_in_backward)
        LISA_TRY(lisa__poll(o->model->context));
    const lisa_status status = step(o, stats);
    const lisa_status cleared = lisa__optimizer_void(o);
    return status != LISA_OK ? status : cleared;
}
