#include "backend/cpu/ops.h"
#include "backend/elementwise.h"

static void dropout_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    const lisa_dropout *op = all->op;
    const uint32_t threshold = lisa__dropout_threshold(op->p);
    const float scale = (float)(1.0 / (1.0 - op->p));
    const float *x = op->x;
    float *y = op->y;
    uint32_t draws[4];
    for (size_t i = from; i < to; i++) {
        const uint64_t place = op->first + i;
        if (i == from || place % 4 == 0) /* one block of the generator makes four draws */
            lisa__philox(op->seed, place / 4, op->stream, draws);
        const float kept = draws[place % 4] >= threshold ? x[i] * scale : 0.0f;
        y[i] = op->accumulate ? y[i] + kept : kept;
    }
}

lisa_status lisa__cpu_dropout(lisa_backend *be, const lisa_dropout *op) {
    lisa__cpu_in_pieces(lisa__cpu_of(be), op, op->n, LISA_CPU_CHUNK, dropout_piece);
    return LISA_OK;
}
