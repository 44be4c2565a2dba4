#include "backend/cpu/ops.h"
#include "core/error.h"
#include "lisa/model.h"

#include <math.h>
#include <string.h>

/* A vector is one segment of one row; they are numbered row by row. Where the i-th begins in a
 * matrix whose rows are ld apart: */
static size_t place(const lisa_norm *op, size_t i, size_t ld) {
    return i / op->segments * ld + i % op->segments * op->cols;
}

static void put_stats(const lisa_norm *op, size_t i, struct lisa__moments s) {
    float *stats = op->stats;
    if (op->kind == LISA_NORM_LAYER) {
        stats[2 * i] = s.mean;
        stats[2 * i + 1] = s.rstd;
    } else {
        stats[i] = s.rstd;
    }
}

static struct lisa__moments get_stats(const lisa_norm *op, size_t i) {
    const float *stats = op->stats;
    if (op->kind == LISA_NORM_LAYER)
        return (struct lisa__moments){stats[2 * i], stats[2 * i + 1]};
    return (struct lisa__moments){0.0f, stats[i]};
}

static struct lisa__moments measure(const struct lisa__vector *vector, const lisa_norm *op,
                                    const float *x) {
    struct lisa__moments s = {0.0f, 0.0f};
    if (op->kind == LISA_NORM_LAYER)
        s.mean = (float)(vector->sum(x, op->cols) / op->cols);
    double square = vector->sum_squares(x, s.mean, op->cols) / op->cols;
    s.rstd = (float)(1.0 / sqrt(square + op->eps));
    return s;
}

static void forward_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_norm *op = all->op;
    const struct lisa__vector *vector = all->cpu->vector;
    float w_buffer[LISA_CPU_FLOATS], b_buffer[LISA_CPU_FLOATS];
    for (size_t i = from; i < to; i++) {
        const float *x = (const float *)op->x.data + place(op, i, op->ldx);
        float *y = (float *)op->y.data + place(op, i, op->ldy);
        struct lisa__moments s = measure(vector, op, x);
        put_stats(op, i, s);
        if (op->copy != NULL)
            memcpy((float *)op->copy + place(op, i, op->ldx), x, op->cols * sizeof(float));
        for (size_t j = 0; j < op->cols; j += LISA_CPU_FLOATS) {
            size_t n = lisa__min(LISA_CPU_FLOATS, op->cols - j);
            const float *b = NULL;
            if (op->bias.data != NULL)
                b = lisa__cpu_floats(all->cpu, op->bias, j, n, b_buffer);
            vector->normalize(y + j, x + j, s,
                              lisa__cpu_floats(all->cpu, op->weight, j, n, w_buffer), b, n);
        }
    }
}

static lisa_status check_norm(lisa_backend *be, const lisa_norm *op) {
    if (op->kind != LISA_NORM_RMS && op->kind != LISA_NORM_LAYER)
        return lisa__cpu_refuse(be, "cpu: norm kind is neither RMS nor LAYER");
    if (op->bias.data != NULL)
        LISA_TRY(lisa__cpu_check_dtype(be, op->bias));
    LISA_TRY(lisa__cpu_check_real(be, op->x.dtype));
    return lisa__cpu_check_dtype(be, op->weight);
}

static size_t n_vectors(const lisa_norm *op) {
    return (size_t)op->rows * op->segments;
}

lisa_status lisa__cpu_norm_forward(lisa_backend *be, const lisa_norm *op) {
    LISA_TRY(check_norm(be, op));
    LISA_TRY(lisa__cpu_check_real(be, op->y.dtype));
    lisa__cpu_in_pieces(lisa__cpu_of(be), op, n_vectors(op), lisa__cpu_rows(op->cols),
                        forward_piece);
    return LISA_OK;
}

/* dweight and dbias of columns [from, to), over all vectors. */
static void weight_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_norm *op = all->op;
    double dw[LISA_CPU_COLUMNS] = {0}, db[LISA_CPU_COLUMNS] = {0};
    for (size_t i = 0; i < n_vectors(op); i++)
        all->cpu->vector->norm_columns(
            dw, db, (const float *)op->dy.data + place(op, i, op->lddy) + from,
            (const float *)op->x.data + place(op, i, op->ldx) + from, get_stats(op, i), to - from);
    for (size_t j = from; j < to; j++) {
        if (op->dweight != NULL)
            ((float *)op->dweight)[j] = (float)(((float *)op->dweight)[j] + dw[j - from]);
        if (op->dbias != NULL)
            ((float *)op->dbias)[j] = (float)(((float *)op->dbias)[j] + db[j - from]);
    }
}

/* With xhat = (x - mean) rstd and g = dy w: the means of g, which RMS has not, and of g xhat. */
static void input_means(const struct lisa__cpu *cpu, const lisa_norm *op, size_t i,
                        float means[2]) {
    const float *x = (const float *)op->x.data + place(op, i, op->ldx);
    const float *dy = (const float *)op->dy.data + place(op, i, op->lddy);
    double sums[2] = {0.0, 0.0};
    float buffer[LISA_CPU_FLOATS];
    for (size_t j = 0; j < op->cols; j += LISA_CPU_FLOATS) {
        size_t n = lisa__min(LISA_CPU_FLOATS, op->cols - j);
        const float *w = lisa__cpu_floats(cpu, op->weight, j, n, buffer);
        cpu->vector->norm_sums(sums, dy + j, x + j, get_stats(op, i), w, n);
    }
    means[0] = op->kind == LISA_NORM_LAYER ? (float)(sums[0] / op->cols) : 0.0f;
    means[1] = (float)(sums[1] / op->cols);
}

static void input_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_norm *op = all->op;
    const struct lisa__cpu *cpu = all->cpu;
    float buffer[LISA_CPU_FLOATS], means[2];
    for (size_t i = from; i < to; i++) {
        const float *x = (const float *)op->x.data + place(op, i, op->ldx);
        const float *dy = (const float *)op->dy.data + place(op, i, op->lddy);
        float *dx = (float *)op->dx.data + place(op, i, op->lddx);
        input_means(cpu, op, i, means);
        for (size_t j = 0; j < op->cols; j += LISA_CPU_FLOATS) {
            size_t n = lisa__min(LISA_CPU_FLOATS, op->cols - j);
            const float *w = lisa__cpu_floats(cpu, op->weight, j, n, buffer);
            cpu->vector->norm_input(dx + j, dy + j, x + j, get_stats(op, i), w, means,
                                    op->accumulate, n);
        }
        if (op->operand.data != NULL)
            memcpy((float *)op->operand.data + place(op, i, op->lddx), dx, op->cols * sizeof *dx);
    }
}

lisa_status lisa__cpu_norm_backward(lisa_backend *be, const lisa_norm *op) {
    LISA_TRY(check_norm(be, op));
    LISA_TRY(lisa__cpu_check_real(be, op->dy.dtype));
    LISA_TRY(lisa__cpu_check_real(be, op->dx.dtype));
    if (op->operand.data != NULL)
        LISA_TRY(lisa__cpu_check_real(be, op->operand.dtype));
    struct lisa__cpu *cpu = lisa__cpu_of(be);
    /* The weights' gradients first: dx may overwrite dy. */
    if (op->dweight != NULL || op->dbias != NULL)
        lisa__cpu_in_pieces(cpu, op, op->cols, LISA_CPU_COLUMNS, weight_piece);
    lisa__cpu_in_pieces(cpu, op, n_vectors(op), lisa__cpu_rows(op->cols), input_piece);
    return LISA_OK;
}

/* The heads of one row. */
static void rotate_heads(const struct lisa__pieces *all, float *row, uint32_t heads,
                         int32_t position) {
    const lisa_rope *op = all->op;
    const size_t half = op->rotary_dim / 2;
    const float *cosines = (const float *)op->cos + (size_t)position * half;
    const float *sines = (const float *)op->sin + (size_t)position * half;
    for (size_t h = 0; h < heads; h++) {
        float *head = row + h * op->head_dim;
        all->cpu->vector->rotate(head, head + half, cosines, sines, op->inverse ? -1.0f : 1.0f,
                                 half);
    }
}

static void rope_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_rope *op = all->op;
    for (size_t i = from; i < to; i++) {
        rotate_heads(all, (float *)op->x.data + i * op->ldx, op->heads, op->position[i]);
        if (op->also != NULL)
            rotate_heads(all, (float *)op->also + i * op->ldalso, op->also_heads, op->position[i]);
    }
}

lisa_status lisa__cpu_rope(lisa_backend *be, const lisa_rope *op) {
    LISA_TRY(lisa__cpu_check_real(be, op->x.dtype));
    lisa__cpu_in_pieces(lisa__cpu_of(be), op, op->rows,
                        lisa__cpu_rows(((size_t)op->heads + op->also_heads) * op->head_dim),
                        rope_piece);
    return LISA_OK;
}
