#include "backend/cpu/ops.h"
#include "backend/judge.h"
#include "backend/moments.h"
#include "core/error.h"

#include <math.h>

lisa_status lisa__cpu_judge(lisa_backend *be, const lisa_judge *op) {
    (void)be;
    lisa__judge(op, LISA_DTYPE_F32);
    return LISA_OK;
}

struct update {
    const lisa_adamw *op;
    struct lisa__adamw_factors factors;
};

/* Combined in double, then used as float, as the reference does. */
static struct lisa__adamw_factors factors_of(const lisa_adamw *op) {
    return (struct lisa__adamw_factors){
        .grad_scale = (float)op->control->scale,
        .keep = (float)(1.0 - op->lr * op->weight_decay),
        .beta1 = (float)op->beta1,
        .one_minus_beta1 = (float)(1.0 - op->beta1),
        .beta2 = (float)op->beta2,
        .one_minus_beta2 = (float)(1.0 - op->beta2),
        .step_size = (float)(op->lr / op->correction1),
        .sqrt_correction2 = (float)sqrt(op->correction2),
        .eps = (float)op->eps,
    };
}

/* Element i of what completes a weight to its master. */
static void *low_at(lisa_typed weight, void *low, size_t i) {
    if (weight.dtype == LISA_DTYPE_BF16)
        return (int16_t *)low + i;
    return weight.dtype == LISA_DTYPE_F16 ? (float *)low + i : NULL;
}

static void adamw_block(const struct lisa__pieces *all, size_t from, size_t n) {
    const struct update *update = all->op;
    const lisa_adamw *op = update->op;
    const struct lisa__vector *vector = all->cpu->vector;
    const struct lisa__kept kept = lisa__kept_at(op, from / LISA_MOMENTS_BLOCK);
    float m[LISA_MOMENTS_BLOCK], v[LISA_MOMENTS_BLOCK];
    uint32_t draws[LISA_MOMENTS_BLOCK];
    vector->kept_load(op->moments, kept, m, v, n);
    vector->adamw(&update->factors, lisa__typed_at(op->weight, from),
                  low_at(op->weight, op->low, from), (const float *)op->gradient + from, m, v, n);
    vector->draws(op->seed, op->stream, (uint64_t)(op->first + from) / 4, draws);
    vector->kept_store(op->moments, kept, m, v, draws, n);
}

_Static_assert(LISA_CPU_CHUNK % LISA_MOMENTS_BLOCK == 0 && LISA_CPU_CHUNK % LISA_CPU_DRAWS == 0,
               "a piece begins where a block does");

static void adamw_kept_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    for (size_t i = from; i < to; i += LISA_MOMENTS_BLOCK)
        adamw_block(all, i, lisa__min(LISA_MOMENTS_BLOCK, to - i));
}

static void adamw_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const struct update *update = all->op;
    const lisa_adamw *op = update->op;
    all->cpu->vector->adamw(&update->factors, lisa__typed_at(op->weight, from),
                            low_at(op->weight, op->low, from), (const float *)op->gradient + from,
                            (float *)op->m + from, (float *)op->v + from, to - from);
}

lisa_status lisa__cpu_adamw(lisa_backend *be, const lisa_adamw *op) {
    LISA_TRY(lisa__cpu_check_dtype(be, op->weight));
    if (op->moments < LISA_MOMENTS_F32 || op->moments > LISA_MOMENTS_8BIT)
        return lisa__cpu_refuse(be, "cpu: adamw's `moments` is no LISA_MOMENTS_*");
    if (op->control->verdict != LISA_VERDICT_OK)
        return LISA_OK;
    struct update update = {.op = op, .factors = factors_of(op)};
    lisa__cpu_in_pieces(lisa__cpu_of(be), &update, op->n, LISA_CPU_CHUNK,
                        op->moments == LISA_MOMENTS_F32 ? adamw_piece : adamw_kept_piece);
    return LISA_OK;
}

static float load_master(const lisa_master *op, size_t i) {
    if (op->weight.dtype == LISA_DTYPE_F16)
        return ((const float *)op->low)[i];
    return lisa__master_join(((const uint16_t *)op->weight.data)[i], ((const int16_t *)op->low)[i]);
}

static void open_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_master *op = all->op;
    if (op->weight.dtype == LISA_DTYPE_F16)
        all->cpu->vector->widen((float *)op->low + from, lisa__typed_at(op->weight, from).data,
                                LISA_DTYPE_F16, to - from);
    else
        for (size_t i = from; i < to; i++)
            ((int16_t *)op->low)[i] = 0;
}

static void close_block(const lisa_master *op, const uint32_t *draws, size_t from, size_t n) {
    uint16_t *weights = (uint16_t *)op->weight.data + from;
    for (size_t i = 0; i < n; i++) {
        const float master = load_master(op, from + i);
        weights[i] = op->weight.dtype == LISA_DTYPE_BF16 ? lisa__round_bf16(master, draws[i])
                                                         : lisa__round_f16(master, draws[i]);
    }
}

static void close_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_master *op = all->op;
    uint32_t draws[LISA_CPU_DRAWS];
    for (size_t i = from; i < to; i += LISA_CPU_DRAWS) {
        all->cpu->vector->draws(op->seed, op->stream, (uint64_t)(op->first + i) / 4, draws);
        close_block(op, draws, i, lisa__min(LISA_CPU_DRAWS, to - i));
    }
}

static void read_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_master *op = all->op;
    for (size_t i = from; i < to; i++)
        op->values[i] = load_master(op, i);
}

static void write_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_master *op = all->op;
    uint16_t *weights = op->weight.data;
    for (size_t i = from; i < to; i++) {
        if (op->weight.dtype == LISA_DTYPE_BF16) {
            lisa__master_split(op->values[i], &weights[i], &((int16_t *)op->low)[i]);
        } else {
            ((float *)op->low)[i] = op->values[i];
            weights[i] = lisa__f32_to_f16_finite(op->values[i]);
        }
    }
}

lisa_status lisa__cpu_master(lisa_backend *be, const lisa_master *op) {
    static void (*const pieces[])(const struct lisa__pieces *all, size_t from, size_t to) = {
        [LISA_MASTER_OPEN] = open_piece,
        [LISA_MASTER_CLOSE] = close_piece,
        [LISA_MASTER_READ] = read_piece,
        [LISA_MASTER_WRITE] = write_piece,
    };
    if (op->weight.dtype != LISA_DTYPE_BF16 && op->weight.dtype != LISA_DTYPE_F16)
        return lisa__cpu_refuse(be, "cpu: only bf16 and f16 weights have masters");
    if (op->what < LISA_MASTER_OPEN || op->what > LISA_MASTER_WRITE)
        return lisa__cpu_refuse(be, "cpu: master's `what` is no LISA_MASTER_*");
    lisa__cpu_in_pieces(lisa__cpu_of(be), op, op->n, LISA_CPU_CHUNK, pieces[op->what]);
    return LISA_OK;
}

/* Partial sums of sum_squares: their number limits the pieces, whatever n is. */
#define PARTS 256

struct squares {
    lisa_typed x;
    double parts[PARTS];
    size_t piece;
};

static void squares_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    struct squares *squares = *(struct squares *const *)all->op;
    float buffer[LISA_CPU_FLOATS];
    double sum = 0.0;
    for (size_t i = from; i < to; i += LISA_CPU_FLOATS) {
        size_t n = lisa__min(LISA_CPU_FLOATS, to - i);
        const float *x = lisa__cpu_floats(all->cpu, squares->x, i, n, buffer);
        sum += all->cpu->vector->sum_squares(x, 0.0f, n);
    }
    squares->parts[from / squares->piece] = sum;
}

static double sum_squares_double(const double *x, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum;
}

lisa_status lisa__cpu_sum_squares(lisa_backend *be, lisa_typed x, size_t n, double *result) {
    LISA_TRY(lisa__cpu_check_dtype(be, x));
    *result = 0.0;
    if (x.dtype == LISA_DTYPE_F64) { /* a float may not hold it */
        *result = sum_squares_double(x.data, n);
        return LISA_OK;
    }
    size_t piece = lisa__ceil_div(lisa__ceil_div(n, PARTS), LISA_CPU_CHUNK) * LISA_CPU_CHUNK;
    struct squares squares = {.x = x, .piece = piece > 0 ? piece : 1}, *op = &squares;
    lisa__cpu_in_pieces(lisa__cpu_of(be), &op, n, squares.piece, squares_piece);
    for (size_t i = 0; i < lisa__ceil_div(n, squares.piece); i++)
        *result += squares.parts[i];
    return LISA_OK;
}

lisa_status lisa__cpu_sum(lisa_backend *be, const double *x, size_t n, double *result) {
    (void)be;
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    *result += sum;
    return LISA_OK;
}
