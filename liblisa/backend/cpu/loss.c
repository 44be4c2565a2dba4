#include "backend/cpu/ops.h"
#include "core/error.h"

#include <math.h>
#include <string.h>

/* Elements that are summed in float before the sum goes on in double. */
#define BLOCK ((size_t)1024)

static double sum_exp(const struct lisa__vector *vector, const float *logits, float shift,
                      size_t n) {
    double sum = 0.0;
    for (size_t j = 0; j < n; j += BLOCK)
        sum += vector->sum_exp(logits + j, shift, lisa__min(BLOCK, n - j));
    return sum;
}

/* Whether `target` is the first of the greatest. */
static uint8_t is_first(const float *logits, size_t target, float greatest) {
    if (!(logits[target] == greatest))
        return 0;
    for (size_t j = 0; j < target; j++)
        if (logits[j] == greatest)
            return 0;
    return 1;
}

static void row_loss(const struct lisa__cpu *cpu, const lisa_cross_entropy *op, size_t i) {
    float *logits = (float *)op->logits + i * op->ldlogits;
    const size_t target = (size_t)op->targets[i];
    const double weight = op->weights[i];
    const float greatest = cpu->vector->maximum(logits, op->cols);
    const double sum = sum_exp(cpu->vector, logits, greatest, op->cols);
    const double log_prob = (double)logits[target] - greatest - log(sum);
    op->nll[i] = -weight * log_prob;
    if (op->log_probs != NULL)
        op->log_probs[i] = (float)log_prob;
    if (op->greedy != NULL)
        op->greedy[i] = is_first(logits, target, greatest);
    if (op->dlogits.data != NULL) {
        float *dlogits = (float *)op->dlogits.data + i * op->lddlogits;
        const double scaled = weight * op->gradient_scale;
        if (dlogits != logits)
            memcpy(dlogits, logits, op->cols * sizeof *dlogits);
        cpu->vector->exponentiate(dlogits, greatest, (float)(scaled / sum), op->cols);
        dlogits[target] -= (float)scaled;
    }
}

static void loss_piece(const struct lisa__pieces *all, size_t from, size_t to) {
    for (size_t i = from; i < to; i++)
        row_loss(all->cpu, all->op, i);
}

lisa_status lisa__cpu_cross_entropy(lisa_backend *be, const lisa_cross_entropy *op) {
    if (op->dlogits.data != NULL)
        LISA_TRY(lisa__cpu_check_real(be, op->dlogits.dtype));
    lisa__cpu_in_pieces(lisa__cpu_of(be), op, op->rows, lisa__cpu_rows(op->cols), loss_piece);
    return LISA_OK;
}
