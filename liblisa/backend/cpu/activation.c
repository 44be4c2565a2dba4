#include "backend/cpu/ops.h"
#include "core/error.h"
#include "lisa/model.h"

static lisa_status check_activation(lisa_backend *be, const lisa_activation *op) {
    if (op->kind < LISA_ACT_SILU || op->kind > LISA_ACT_RELU)
        return lisa__cpu_refuse(be, "cpu: activation kind is no LISA_ACT_*");
    return lisa__cpu_check_real(be, op->dtype);
}

static void forward_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_activation *op = all->op;
    all->cpu->vector->activate(op->kind, (float *)op->y + from, (const float *)op->gate + from,
                               op->up != NULL ? (const float *)op->up + from : NULL, to - from);
}

lisa_status lisa__cpu_activation_forward(lisa_backend *be, const lisa_activation *op) {
    LISA_TRY(check_activation(be, op));
    lisa__cpu_in_pieces(lisa__cpu_of(be), op, op->n, LISA_CPU_CHUNK, forward_piece);
    return LISA_OK;
}

static void backward_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_activation *op = all->op;
    all->cpu->vector->activate_back(
        op->kind, (float *)op->dgate + from, op->up != NULL ? (float *)op->dup + from : NULL,
        (const float *)op->gate + from, op->up != NULL ? (const float *)op->up + from : NULL,
        (const float *)op->dy + from, to - from);
}

lisa_status lisa__cpu_activation_backward(lisa_backend *be, const lisa_activation *op) {
    LISA_TRY(check_activation(be, op));
    lisa__cpu_in_pieces(lisa__cpu_of(be), op, op->n, LISA_CPU_CHUNK, backward_piece);
    return LISA_OK;
}
