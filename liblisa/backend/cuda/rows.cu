/* Rows of tables: a bias added to all, an embedding's looked up, some of many gathered or
 * scattered. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/storage.cuh"

namespace {

template <class Y, int N> __global__ void bias_kernel(lisa_bias op, bool wide) {
    const size_t j = lisa__sheet_column<N>();
    if (j >= op.cols)
        return;
    float bias[N];
    lisa__read_typed(bias, op.bias, j, op.cols - j, wide);
    for (size_t row = lisa__sheet_row(); row < op.rows; row += lisa__sheet_next_row()) {
        Y *y = static_cast<Y *>(op.y.data) + row * op.ldy + j;
        float sum[N];
        lisa__read(sum, y, op.cols - j, wide);
        LISA_UNROLL
        for (int k = 0; k < N; k++)
            sum[k] += bias[k];
        lisa__write(y, sum, op.cols - j, wide);
    }
}

template <class T> __global__ void embed_kernel(lisa_embed op, bool wide) {
    constexpr int N = 4;
    const size_t j = lisa__sheet_column<N>();
    if (j >= op.cols)
        return;
    for (size_t row = lisa__sheet_row(); row < op.rows; row += lisa__sheet_next_row()) {
        const size_t from = static_cast<size_t>(op.index[row]) * op.cols + j;
        float *out = static_cast<float *>(op.out) + row * op.cols + j;
        float value[N], before[N];
        lisa__read(value, static_cast<const T *>(op.table.data) + from, op.cols - j, wide);
        if (op.accumulate) {
            lisa__read(before, out, op.cols - j, wide);
            LISA_UNROLL
            for (int k = 0; k < N; k++)
                value[k] += before[k];
        }
        lisa__write(out, value, op.cols - j, wide);
    }
}

/* Gather or, with `to_index`, scatter. */
__global__ void rows_kernel(lisa_rows op, bool to_index, bool wide) {
    constexpr int N = 4;
    const size_t j = lisa__sheet_column<N>();
    if (j >= op.cols)
        return;
    for (size_t row = lisa__sheet_row(); row < op.rows; row += lisa__sheet_next_row()) {
        const size_t named = static_cast<size_t>(op.index[row]);
        const size_t from = (to_index ? row : named) * op.cols + j;
        const size_t to = (to_index ? named : row) * op.cols + j;
        float value[N];
        lisa__read(value, static_cast<const float *>(op.src) + from, op.cols - j, wide);
        lisa__write(static_cast<float *>(op.dst) + to, value, op.cols - j, wide);
        if (op.operand.data != nullptr)
            lisa__write_typed(op.operand, to, value, op.cols - j, wide);
    }
}

lisa_status move_rows(lisa_backend *be, const lisa_rows *op, bool to_index, const char *what) {
    const bool wide = lisa__is_aligned(op->src) && lisa__is_aligned(op->dst) &&
                      lisa__is_aligned(op->operand.data) && op->cols % 4 == 0;
    if (op->rows == 0 || op->cols == 0)
        return LISA_OK;
    const lisa__sheet sheet = lisa__sheet_for(op->rows, lisa__blocks_for(op->cols, 4));
    LISA_LAUNCH(rows_kernel, sheet.grid, sheet.block, 0, lisa__cuda_of(be)->stream, *op, to_index,
                wide);
    return lisa__cuda_launched(be, what);
}

template <class Y> lisa_status add_bias(struct lisa__cuda *cuda, const lisa_bias *op) {
    constexpr int N = lisa__per_16<Y>;
    const bool wide =
        lisa__is_aligned(op->y.data) && lisa__is_aligned(op->bias.data) && op->ldy % N == 0;
    if (op->rows == 0 || op->cols == 0)
        return LISA_OK;
    /* A thread has its biases for some rows at once. */
    const lisa__sheet sheet =
        lisa__sheet_for(lisa__blocks_for(op->rows, 8), lisa__blocks_for(op->cols, N));
    LISA_LAUNCH((bias_kernel<Y, N>), sheet.grid, sheet.block, 0, cuda->stream, *op, wide);
    return lisa__cuda_launched(&cuda->base, "bias_forward");
}

template <class T> lisa_status look_up(struct lisa__cuda *cuda, const lisa_embed *op) {
    const bool wide =
        lisa__is_aligned(op->table.data) && lisa__is_aligned(op->out) && op->cols % 4 == 0;
    if (op->rows == 0 || op->cols == 0)
        return LISA_OK;
    const lisa__sheet sheet = lisa__sheet_for(op->rows, lisa__blocks_for(op->cols, 4));
    LISA_LAUNCH(embed_kernel<T>, sheet.grid, sheet.block, 0, cuda->stream, *op, wide);
    return lisa__cuda_launched(&cuda->base, "embed_forward");
}

} // namespace

lisa_status lisa__cuda_bias_forward(lisa_backend *be, const lisa_bias *op) {
    if (!lisa__is_storage(op->bias.dtype))
        return lisa__cuda_refuse(be, "cuda: bias_forward: the bias is none of f32, bf16, f16");
    return lisa__with_type(be, op->y.dtype, "cuda: bias_forward: y is none of f32, bf16, f16",
                           [=](auto y) { return add_bias<decltype(y)>(lisa__cuda_of(be), op); });
}

lisa_status lisa__cuda_embed_forward(lisa_backend *be, const lisa_embed *op) {
    return lisa__with_type(
        be, op->table.dtype, "cuda: embed_forward: the table is none of f32, bf16, f16",
        [=](auto table) { return look_up<decltype(table)>(lisa__cuda_of(be), op); });
}

lisa_status lisa__cuda_gather(lisa_backend *be, const lisa_rows *op) {
    lisa_rows rows = *op;
    rows.operand.data = nullptr;
    return move_rows(be, &rows, false, "gather");
}

lisa_status lisa__cuda_scatter(lisa_backend *be, const lisa_rows *op) {
    if (op->operand.data != nullptr && !lisa__is_storage(op->operand.dtype))
        return lisa__cuda_refuse(be, "cuda: scatter: the operand is none of f32, bf16, f16");
    return move_rows(be, op, true, "scatter");
}
