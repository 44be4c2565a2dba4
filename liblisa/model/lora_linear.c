/* What an adapter adds to a linear map, forward and backward, in chunks of rows: its memory does
 * not grow with the batch, so that a base can carry any adapter at any time. */
#include "model/adapter.h"

struct chunk {
    uint32_t first, rows;
};

static lisa_typed row_of(lisa_typed x, uint64_t row, size_t width) {
    return lisa__values_from(&x, row * width);
}

static uint32_t rank_of(const struct lisa__run *run) {
    return run->model->adapter->options.rank;
}

static double scale_of(const struct lisa__run *run) {
    return lisa__lora_scale(&run->model->adapter->options);
}

static int drops(const struct lisa__run *run) {
    return run->trains && run->model->adapter->options.dropout > 0;
}

static lisa_typed inner_of(const struct lisa__run *run) {
    return lisa__operand(run, run->model->adapter->workspace.inner);
}

static lisa_status dropout(const struct lisa__run *run, const struct lisa__linear *l,
                           const struct chunk *k, lisa_typed x, lisa_typed y, int accumulate) {
    const lisa_adapter *adapter = run->model->adapter;
    const lisa_dropout op = {
        .n = (size_t)k->rows * l->n_in,
        .x = x,
        .y = y,
        .accumulate = accumulate ? 1 : 0,
        .p = adapter->options.dropout,
        .seed = adapter->options.seed,
        .stream = run->draw * adapter->own.n + l->site,
        .first = (uint64_t)k->first * l->n_in,
    };
    return run->be->ops->dropout(run->be, &op);
}

/* *in: the chunk's rows of x, through dropout; inner = in A^T. */
static lisa_status enter(const struct lisa__run *run, const struct lisa__linear *l,
                         const struct chunk *k, lisa_typed x, lisa_typed *in) {
    const lisa_typed rows = row_of(x, k->first, l->n_in);
    *in = rows;
    if (drops(run)) {
        *in = lisa__operand(run, run->model->adapter->workspace.input);
        LISA_TRY(dropout(run, l, k, rows, *in, 0));
    }
    const lisa_gemm op = {
        .m = k->rows,
        .n = rank_of(run),
        .k = l->n_in,
        .trans_b = 1,
        .a = *in,
        .lda = l->n_in,
        .b = l->lora_a->value,
        .ldb = l->n_in,
        .c = inner_of(run),
        .ldc = rank_of(run),
        .alpha = 1,
    };
    return run->be->ops->gemm(run->be, &op);
}

/* Where this map's rows of B, or of its gradient, begin: a fused matrix is several maps. */
static lisa_typed b_part(const struct lisa__run *run, const struct lisa__linear *l, lisa_typed b) {
    return row_of(b, l->first_out, rank_of(run));
}

static lisa_status forward_chunk(const struct lisa__run *run, const struct lisa__linear *l,
                                 const struct chunk *k, lisa_typed x, lisa_typed y) {
    lisa_typed in;
    LISA_TRY(enter(run, l, k, x, &in));
    const lisa_gemm op = {
        .m = k->rows,
        .n = l->n_out,
        .k = rank_of(run),
        .trans_b = 1,
        .a = inner_of(run),
        .lda = rank_of(run),
        .b = b_part(run, l, l->lora_b->value),
        .ldb = rank_of(run),
        .c = row_of(y, k->first, l->ld_out),
        .ldc = l->ld_out,
        .alpha = scale_of(run),
        .beta = 1,
    };
    return run->be->ops->gemm(run->be, &op);
}

/* dB += s dy^T (in A^T). */
static lisa_status b_gradient(const struct lisa__run *run, const struct lisa__linear *l,
                              const struct chunk *k, lisa_typed dy) {
    const lisa_gemm op = {
        .m = l->n_out,
        .n = rank_of(run),
        .k = k->rows,
        .trans_a = 1,
        .a = row_of(dy, k->first, l->ld_out),
        .lda = l->ld_out,
        .b = inner_of(run),
        .ldb = rank_of(run),
        .c = b_part(run, l, lisa__real(run, l->lora_b->gradient)),
        .ldc = rank_of(run),
        .alpha = scale_of(run),
        .beta = 1,
    };
    return run->be->ops->gemm(run->be, &op);
}

/* inner = s dy B. */
static lisa_status inner_gradient(const struct lisa__run *run, const struct lisa__linear *l,
                                  const struct chunk *k, lisa_typed dy) {
    const lisa_gemm op = {
        .m = k->rows,
        .n = rank_of(run),
        .k = l->n_out,
        .a = row_of(dy, k->first, l->ld_out),
        .lda = l->ld_out,
        .b = b_part(run, l, l->lora_b->value),
        .ldb = rank_of(run),
        .c = inner_of(run),
        .ldc = rank_of(run),
        .alpha = scale_of(run),
    };
    return run->be->ops->gemm(run->be, &op);
}

/* dA += inner^T in. */
static lisa_status a_gradient(const struct lisa__run *run, const struct lisa__linear *l,
                              const struct chunk *k, lisa_typed in) {
    const lisa_gemm op = {
        .m = rank_of(run),
        .n = l->n_in,
        .k = k->rows,
        .trans_a = 1,
        .a = inner_of(run),
        .lda = rank_of(run),
        .b = in,
        .ldb = l->n_in,
        .c = lisa__real(run, l->lora_a->gradient),
        .ldc = l->n_in,
        .alpha = 1,
        .beta = 1,
    };
    return run->be->ops->gemm(run->be, &op);
}

/* dx (or the buffer of dropout) from inner A. */
static lisa_status input_gradient(const struct lisa__run *run, const struct lisa__linear *l,
                                  const struct chunk *k, lisa_typed dx, int accumulate) {
    const int masked = drops(run);
    const lisa_typed input = lisa__operand(run, run->model->adapter->workspace.input);
    const lisa_typed rows = row_of(dx, k->first, l->n_in);
    const lisa_gemm op = {
        .m = k->rows,
        .n = l->n_in,
        .k = rank_of(run),
        .a = inner_of(run),
        .lda = rank_of(run),
        .b = l->lora_a->value,
        .ldb = l->n_in,
        .c = masked ? input : rows,
        .ldc = l->n_in,
        .alpha = 1,
        .beta = accumulate && !masked ? 1 : 0,
    };
    LISA_TRY(run->be->ops->gemm(run->be, &op));
    return masked ? dropout(run, l, k, input, rows, accumulate) : LISA_OK;
}

/* The chunk's x is read before its dx is written. */
static lisa_status backward_chunk(const struct lisa__run *run, const struct lisa__linear *l,
                                  const struct chunk *k, lisa_typed x, lisa_typed dy, lisa_typed dx,
                                  int accumulate) {
    const int trains = l->lora_a->gradient != NULL;
    lisa_typed in;
    if (trains) {
        LISA_TRY(enter(run, l, k, x, &in));
        LISA_TRY(b_gradient(run, l, k, dy));
    }
    LISA_TRY(inner_gradient(run, l, k, dy));
    if (trains)
        LISA_TRY(a_gradient(run, l, k, in));
    return dx.data != NULL ? input_gradient(run, l, k, dx, accumulate) : LISA_OK;
}

static uint32_t rows_at_once(const struct lisa__run *run) {
    return lisa__lora_rows(&run->model->adapter->options);
}

static struct chunk chunk_at(const struct lisa__run *run, uint32_t first, uint32_t rows) {
    const uint32_t left = rows - first, most = rows_at_once(run);
    return (struct chunk){first, left < most ? left : most};
}

lisa_status lisa__lora_forward(const struct lisa__run *run, const struct lisa__linear *l,
                               lisa_typed x, lisa_typed y, uint32_t rows) {
    for (uint32_t first = 0; first < rows; first += rows_at_once(run)) {
        const struct chunk k = chunk_at(run, first, rows);
        LISA_TRY(forward_chunk(run, l, &k, x, y));
    }
    return LISA_OK;
}

lisa_status lisa__lora_backward(const struct lisa__run *run, const struct lisa__linear *l,
                                lisa_typed x, lisa_typed dy, lisa_typed dx, int accumulate,
                                uint32_t rows) {
    if (l->lora_a->gradient == NULL && dx.data == NULL)
        return LISA_OK;
    for (uint32_t first = 0; first < rows; first += rows_at_once(run)) {
        const struct chunk k = chunk_at(run, first, rows);
        LISA_TRY(backward_chunk(run, l, &k, x, dy, dx, accumulate));
    }
    return LISA_OK;
}
