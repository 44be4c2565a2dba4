/* Rotary positions. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/storage.cuh"

namespace {

constexpr uint32_t HEADS = 8; /* that a thread turns by the same angles */

/* N of a row's angles. */
template <int N> struct angles { float cosines[N], sines[N]; };

template <class T, int N>
__device__ __forceinline__ void turn(T *head, const angles<N> &by, uint32_t half, uint32_t n,
                                     bool wide) {
    float x[N], y[N];
    lisa__read(x, head, n, wide);
    lisa__read(y, head + half, n, wide);
    LISA_UNROLL
    for (int k = 0; k < N; k++) {
        const float before = x[k];
        x[k] = before * by.cosines[k] - y[k] * by.sines[k];
        y[k] = y[k] * by.cosines[k] + before * by.sines[k];
    }
    lisa__write(head, x, n, wide);
    lisa__write(head + half, y, n, wide);
}

/* A thread has N angles of a row, of HEADS heads; `pieces` threads have all the angles. */
template <class T, int N> __global__ void rope_kernel(lisa_rope op, uint32_t pieces, bool wide) {
    const size_t place = lisa__sheet_column<1>();
    const uint32_t half = op.rotary_dim / 2, i = place % pieces * N, n = half - i;
    const size_t first = place / pieces * HEADS;
    const size_t n_heads = static_cast<size_t>(op.heads) + op.also_heads;
    for (size_t row = lisa__sheet_row(); row < op.rows && first < n_heads;
         row += lisa__sheet_next_row()) {
        const size_t line = static_cast<size_t>(op.position[row]) * half + i;
        T *heads = static_cast<T *>(op.x.data) + row * op.ldx + i;
        T *others = op.also_heads > 0 ? static_cast<T *>(op.also) + row * op.ldalso + i : nullptr;
        angles<N> by;
        lisa__read(by.cosines, static_cast<const float *>(op.cos) + line, n, wide);
        lisa__read(by.sines, static_cast<const float *>(op.sin) + line, n, wide);
        LISA_UNROLL
        for (int k = 0; k < N; k++)
            by.sines[k] = op.inverse ? -by.sines[k] : by.sines[k];
#pragma unroll 2
        for (size_t h = first; h < first + HEADS && h < n_heads; h++)
            turn<T, N>(h < op.heads ? heads + h * op.head_dim
                                    : others + (h - op.heads) * op.head_dim,
                       by, half, n, wide);
    }
}

template <class T> lisa_status rope(struct lisa__cuda *cuda, const lisa_rope *op) {
    constexpr uint32_t N = lisa__per_16<T>;
    const uint32_t half = op->rotary_dim / 2;
    const uint32_t pieces = static_cast<uint32_t>(lisa__blocks_for(half, N));
    const bool wide = lisa__is_aligned(op->x.data) && lisa__is_aligned(op->cos) &&
                      lisa__is_aligned(op->sin) && lisa__is_aligned(op->also) && op->ldx % N == 0 &&
                      op->ldalso % N == 0 && op->head_dim % N == 0 && half % N == 0;
    const size_t n_heads = static_cast<size_t>(op->heads) + op->also_heads;
    if (op->rows == 0 || n_heads == 0 || pieces == 0)
        return LISA_OK;
    const lisa__sheet sheet = lisa__sheet_for(op->rows, lisa__blocks_for(n_heads, HEADS) * pieces);
    LISA_LAUNCH((rope_kernel<T, N>), sheet.grid, sheet.block, 0, cuda->stream, *op, pieces, wide);
    return lisa__cuda_launched(&cuda->base, "rope");
}

} // namespace

lisa_status lisa__cuda_rope(lisa_backend *be, const lisa_rope *op) {
    return lisa__with_type(be, op->x.dtype, "cuda: rope: x is none of f32, bf16, f16",
                           [=](auto x) { return rope<decltype(x)>(lisa__cuda_of(be), op); });
}
