/* Rows of tables, and biases. */
#include "backend/cpu/ops.h"
#include "core/error.h"

#include <string.h>

static void add_typed(const struct lisa__cpu *cpu, float *y, lisa_typed x, size_t n) {
    float buffer[LISA_CPU_FLOATS];
    for (size_t j = 0; j < n; j += LISA_CPU_FLOATS) {
        size_t here = lisa__min(LISA_CPU_FLOATS, n - j);
        cpu->vector->add(y + j, lisa__cpu_floats(cpu, x, j, here, buffer), here);
    }
}

static void embed_forward_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_embed *op = all->op;
    for (size_t i = from; i < to; i++) {
        float *out = (float *)op->out + i * op->cols;
        lisa_typed row = lisa__typed_at(op->table, (size_t)op->index[i] * op->cols);
        if (op->accumulate)
            add_typed(all->cpu, out, row, op->cols);
        else
            all->cpu->vector->widen(out, row.data, row.dtype, op->cols);
    }
}

lisa_status lisa__cpu_embed_forward(lisa_backend *be, const lisa_embed *op) {
    LISA_TRY(lisa__cpu_check_dtype(be, op->table));
    lisa__cpu_in_pieces(lisa__cpu_of(be), op, op->rows, lisa__cpu_rows(op->cols),
                        embed_forward_piece);
    return LISA_OK;
}

/* Columns [from, to) of all rows: rows may share a line of the table, and their order counts. */
static void embed_backward_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_embed *op = all->op;
    for (size_t i = 0; i < op->rows; i++)
        all->cpu->vector->add((float *)op->dtable + (size_t)op->index[i] * op->cols + from,
                              (const float *)op->dout + i * op->cols + from, to - from);
}

lisa_status lisa__cpu_embed_backward(lisa_backend *be, const lisa_embed *op) {
    lisa__cpu_in_pieces(lisa__cpu_of(be), op, op->cols, LISA_CPU_COLUMNS, embed_backward_piece);
    return LISA_OK;
}

static void gather_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_rows *op = all->op;
    for (size_t i = from; i < to; i++)
        memcpy((float *)op->dst + i * op->cols,
               (const float *)op->src + (size_t)op->index[i] * op->cols, op->cols * sizeof(float));
}

lisa_status lisa__cpu_gather(lisa_backend *be, const lisa_rows *op) {
    lisa__cpu_in_pieces(lisa__cpu_of(be), op, op->rows, lisa__cpu_rows(op->cols), gather_piece);
    return LISA_OK;
}

static void scatter_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_rows *op = all->op;
    const size_t bytes = op->cols * sizeof(float);
    for (size_t i = from; i < to; i++) {
        const float *src = (const float *)op->src + i * op->cols;
        const size_t place = (size_t)op->index[i] * op->cols;
        memcpy((float *)op->dst + place, src, bytes);
        if (op->operand.data != NULL)
            memcpy((float *)op->operand.data + place, src, bytes);
    }
}

lisa_status lisa__cpu_scatter(lisa_backend *be, const lisa_rows *op) {
    if (op->operand.data != NULL)
        LISA_TRY(lisa__cpu_check_real(be, op->operand.dtype));
    lisa__cpu_in_pieces(lisa__cpu_of(be), op, op->rows, lisa__cpu_rows(op->cols), scatter_piece);
    return LISA_OK;
}

static void bias_forward_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_bias *op = all->op;
    for (size_t i = from; i < to; i++)
        add_typed(all->cpu, (float *)op->y.data + i * op->ldy, op->bias, op->cols);
}

lisa_status lisa__cpu_bias_forward(lisa_backend *be, const lisa_bias *op) {
    LISA_TRY(lisa__cpu_check_real(be, op->y.dtype));
    LISA_TRY(lisa__cpu_check_dtype(be, op->bias));
    lisa__cpu_in_pieces(lisa__cpu_of(be), op, op->rows, lisa__cpu_rows(op->cols),
                        bias_forward_piece);
    return LISA_OK;
}

static void bias_backward_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_bias *op = all->op;
    double sums[LISA_CPU_COLUMNS] = {0};
    for (size_t i = 0; i < op->rows; i++)
        all->cpu->vector->add_columns(sums, (const float *)op->y.data + i * op->ldy + from,
                                      to - from);
    float *dbias = op->dbias;
    for (size_t j = from; j < to; j++)
        dbias[j] = (float)(dbias[j] + sums[j - from]);
}

lisa_status lisa__cpu_bias_backward(lisa_backend *be, const lisa_bias *op) {
    LISA_TRY(lisa__cpu_check_real(be, op->y.dtype));
    lisa__cpu_in_pieces(lisa__cpu_of(be), op, op->cols, LISA_CPU_COLUMNS, bias_backward_piece);
    return LISA_OK;
}
