#include "backend/cpu/ops.h"
#include "backend/elementwise.h"
#include "core/error.h"

static void dropout_block(const lisa_dropout *op, const uint32_t *draws, size_t from, size_t n) {
    const uint32_t threshold = lisa__dropout_threshold(op->p);
    const float scale = (float)(1.0 / (1.0 - op->p));
    const float *x = (const float *)op->x.data + from;
    float *y = (float *)op->y.data + from;
    for (size_t i = 0; i < n; i++) {
        const float kept = draws[i] >= threshold ? x[i] * scale : 0.0f;
        y[i] = op->accumulate ? y[i] + kept : kept;
    }
}

/* Piece by piece of what the generator draws at once. */
static void dropout_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_dropout *op = all->op;
    uint32_t draws[LISA_CPU_DRAWS];
    for (size_t i = from, n; i < to; i += n) {
        const uint64_t place = op->first + i;
        const size_t skip = (size_t)(place % LISA_CPU_DRAWS);
        n = lisa__min(LISA_CPU_DRAWS - skip, to - i);
        all->cpu->vector->draws(op->seed, op->stream, (place - skip) / 4, draws);
        dropout_block(op, draws + skip, i, n);
    }
}

lisa_status lisa__cpu_dropout(lisa_backend *be, const lisa_dropout *op) {
    LISA_TRY(lisa__cpu_check_real(be, op->x.dtype));
    LISA_TRY(lisa__cpu_check_real(be, op->y.dtype));
    lisa__cpu_in_pieces(lisa__cpu_of(be), op, op->n, LISA_CPU_CHUNK, dropout_piece);
    return LISA_OK;
}
