/* judge.h - the verdict over an update, as lisa_judge in backend.h describes it: in double
 * throughout, so that every backend comes to the same. */
#ifndef LISA_BACKEND_JUDGE_H
#define LISA_BACKEND_JUDGE_H

#include "core/dtype.h"
#include "lisa/sys/backend.h"

#include <math.h>

LISA_INLINE int lisa__is_finite_in(double x, uint32_t real_dtype) {
    return real_dtype == LISA_DTYPE_F64 ? isfinite(x) : isfinite((float)x);
}

/* WEIGHT or EMPTY where that is so, else OK. */
LISA_INLINE uint32_t lisa__judge_weight(double weight, uint32_t real_dtype) {
    if (!(isfinite(weight) && weight >= 0))
        return LISA_VERDICT_WEIGHT;
    if (weight == 0)
        return LISA_VERDICT_EMPTY;
    return lisa__is_finite_in(1 / weight, real_dtype) ? LISA_VERDICT_OK : LISA_VERDICT_WEIGHT;
}

/* Of the gradient whose squares are given; fills norm, scale and tensor. */
LISA_INLINE uint32_t lisa__judge_squares(const lisa_judge *op, uint32_t real_dtype) {
    lisa_control *c = op->control;
    double total = 0;
    for (uint32_t i = op->first; i < op->first + op->n; i++) {
        if (!isfinite(op->squares[i])) {
            c->tensor = i;
            return LISA_VERDICT_GRADIENT;
        }
        total += op->squares[i];
    }
    c->norm = sqrt(total) / c->weight_sum;
    c->scale = 1 / c->weight_sum;
    /* torch.nn.utils.clip_grad_norm_ */
    const double clipped = op->max_norm / (c->norm + 1e-6);
    if (op->max_norm > 0 && clipped < 1)
        c->scale *= clipped;
    const double norm = c->norm * c->weight_sum * c->scale;
    return lisa__is_finite_in(norm * norm, real_dtype) ? LISA_VERDICT_OK : LISA_VERDICT_NORM;
}

LISA_INLINE void lisa__judge(const lisa_judge *op, uint32_t real_dtype) {
    lisa_control *c = op->control;
    if (c->verdict > LISA_VERDICT_EMPTY)
        return;
    c->weight_sum = lisa__load(op->weight_sum, real_dtype, 0);
    c->norm = c->scale = 0;
    c->verdict = lisa__judge_weight(c->weight_sum, real_dtype);
    if (c->verdict == LISA_VERDICT_OK && op->loss != NULL && !isfinite(*op->loss))
        c->verdict = LISA_VERDICT_LOSS;
    if (c->verdict == LISA_VERDICT_OK)
        c->verdict = lisa__judge_squares(op, real_dtype);
    c->updates += op->counts && c->verdict == LISA_VERDICT_OK;
}

#endif
