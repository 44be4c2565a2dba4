#include "backend/cuda/columns.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/storage.cuh"

namespace {

/* A block is LANES threads down and 32 across; the sums of its threads one below the other are
 * added up by the topmost. */
constexpr uint32_t LANES = 8;

template <int N> __device__ __forceinline__ void add_lanes(float (&sum)[N]) {
    __shared__ float lanes[LANES][32 * N];
    LISA_UNROLL
    for (int k = 0; k < N; k++)
        lanes[threadIdx.y][threadIdx.x + 32 * k] = sum[k];
    __syncthreads();
    if (threadIdx.y != 0)
        return;
    for (uint32_t lane = 1; lane < LANES; lane++)
        LISA_UNROLL
    for (int k = 0; k < N; k++)
        sum[k] += lanes[lane][threadIdx.x + 32 * k];
}

__global__ void parts_kernel(float *sums, const float *parts, uint32_t n_parts, size_t stride,
                             uint32_t cols) {
    const size_t j = static_cast<size_t>(blockIdx.x) * 32 + threadIdx.x;
    float sum[1] = {0.0f};
    if (j < cols)
        for (uint32_t part = threadIdx.y; part < n_parts; part += LANES)
            sum[0] += parts[part * stride + j];
    add_lanes(sum);
    if (threadIdx.y == 0 && j < cols)
        sums[j] += sum[0];
}

/* Part blockIdx.y of the rows, of the columns from `first` on. */
template <class T>
__global__ void columns_kernel(float *parts, lisa_bias op, uint32_t cols, uint32_t first,
                               uint32_t rows_in_part, bool wide) {
    constexpr int N = lisa__per_16<T>;
    const size_t j = (static_cast<size_t>(blockIdx.x) * 32 + threadIdx.x) * N;
    const size_t n = j < cols ? cols - j : 0;
    const size_t from = static_cast<size_t>(blockIdx.y) * rows_in_part;
    const size_t to = from + rows_in_part < op.rows ? from + rows_in_part : op.rows;
    float sum[N] = {};
#pragma unroll 4
    for (size_t row = from + threadIdx.y; row < to; row += LANES) {
        float x[N];
        lisa__read(x, static_cast<const T *>(op.y.data) + row * op.ldy + first + j, n, wide);
        LISA_UNROLL
        for (int k = 0; k < N; k++)
            sum[k] += x[k];
    }
    add_lanes(sum);
    if (threadIdx.y == 0)
        lisa__write(parts + static_cast<size_t>(blockIdx.y) * cols + j, sum, n, cols % N == 0);
}

/* As many parts as give each thread some rows, if scratch holds them. */
uint32_t parts_for(uint32_t rows, uint32_t cols) {
    const uint64_t wanted = lisa__blocks_for(rows, 8 * LANES), most = LISA_CUDA_SCRATCH / cols;
    const uint64_t parts = wanted < most ? wanted : most;
    return static_cast<uint32_t>(parts < 1024 ? parts : 1024);
}

template <class T>
lisa_status sum_columns(struct lisa__cuda *cuda, const lisa_bias *op, uint32_t first,
                        uint32_t cols) {
    constexpr int N = lisa__per_16<T>;
    const bool wide = lisa__is_aligned(op->y.data) && op->ldy % N == 0;
    const uint64_t each = lisa__blocks_for(op->rows, parts_for(op->rows, cols));
    const uint32_t parts = static_cast<uint32_t>(lisa__blocks_for(op->rows, each));
    const dim3 grid(static_cast<uint32_t>(lisa__blocks_for(cols, 32 * N)), parts);
    LISA_LAUNCH(columns_kernel<T>, grid, dim3(32, LANES), 0, cuda->stream, cuda->scratch, *op, cols,
                first, static_cast<uint32_t>(each), wide);
    LISA_TRY(lisa__cuda_launched(&cuda->base, "bias_backward"));
    return lisa__cuda_add_parts(cuda, static_cast<float *>(op->dbias) + first, cuda->scratch, parts,
                                cols, cols, "bias_backward");
}

/* As many columns at once as scratch holds. */
template <class T> lisa_status sum_all_columns(struct lisa__cuda *cuda, const lisa_bias *op) {
    const uint64_t cols = op->rows > 0 ? op->cols : 0, most = LISA_CUDA_SCRATCH;
    for (uint64_t first = 0; first < cols; first += most) {
        const uint64_t some = cols - first < most ? cols - first : most;
        LISA_TRY(
            sum_columns<T>(cuda, op, static_cast<uint32_t>(first), static_cast<uint32_t>(some)));
    }
    return LISA_OK;
}

} // namespace

lisa_status lisa__cuda_add_parts(struct lisa__cuda *cuda, float *sum, const float *parts,
                                 uint32_t n_parts, size_t stride, uint32_t cols, const char *what) {
    LISA_LAUNCH(parts_kernel, static_cast<uint32_t>(lisa__blocks_for(cols, 32)), dim3(32, LANES), 0,
                cuda->stream, sum, parts, n_parts, stride, cols);
    return lisa__cuda_launched(&cuda->base, what);
}

lisa_status lisa__cuda_bias_backward(lisa_backend *be, const lisa_bias *op) {
    return lisa__with_type(
        be, op->y.dtype, "cuda: bias_backward: dy is none of f32, bf16, f16",
        [=](auto dy) { return sum_all_columns<decltype(dy)>(lisa__cuda_of(be), op); });
}
