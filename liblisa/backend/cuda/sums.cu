/* Sums of whole arrays, in double and in a fixed order. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/storage.cuh"

namespace {

constexpr uint32_t PARTS = 1024;

/* The block's sum in thread 0; a block of LISA_BLOCK threads. */
__device__ __forceinline__ double over_block(double sum) {
    __shared__ double warps[LISA_BLOCK / 32];
    for (uint32_t step = 16; step > 0; step /= 2)
        sum += __shfl_down_sync(0xFFFFFFFFu, sum, step);
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = sum;
    __syncthreads();
    for (uint32_t i = 1; i < LISA_BLOCK / 32 && threadIdx.x == 0; i++)
        sum += warps[i];
    return sum;
}

__device__ __forceinline__ double as_double(double value) {
    return value;
}
template <class T> __device__ __forceinline__ double as_double(T value) {
    return lisa__widen(value);
}

template <class T> __global__ void squares_kernel(double *parts, const T *x, size_t n, bool wide) {
    constexpr int N = lisa__per_16<T>;
    double sum = 0.0;
#pragma unroll 2
    for (size_t i = lisa__first_place<N>(); i < n; i += lisa__next_place<N>()) {
        T some[N];
        lisa__fetch(some, x + i, n - i, wide);
        LISA_UNROLL
        for (int k = 0; k < N; k++)
            sum += as_double(some[k]) * as_double(some[k]);
    }
    sum = over_block(sum);
    if (threadIdx.x == 0)
        parts[blockIdx.x] = sum;
}

__global__ void parts_kernel(double *result, const double *parts, uint32_t n) {
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < n; i += LISA_BLOCK)
        sum += parts[i];
    sum = over_block(sum);
    if (threadIdx.x == 0)
        *result = sum;
}

/* One thread adds what the block has fetched. */
__global__ void sum_kernel(double *result, const double *x, size_t n) {
    constexpr uint32_t EACH = 8, TILE = EACH * LISA_BLOCK;
    __shared__ double tile[TILE];
    double sum = 0.0;
    for (size_t from = 0; from < n; from += TILE) {
        const uint32_t here = n - from < TILE ? n - from : TILE;
        for (uint32_t i = threadIdx.x; i < here; i += LISA_BLOCK)
            tile[i] = x[from + i];
        __syncthreads();
        for (uint32_t i = 0; i < here && threadIdx.x == 0; i++)
            sum += tile[i];
        __syncthreads();
    }
    if (threadIdx.x == 0)
        *result += sum;
}

template <class T>
lisa_status sum_squares(struct lisa__cuda *cuda, const void *data, size_t n, double *result) {
    double *parts = reinterpret_cast<double *>(cuda->scratch);
    const uint64_t blocks = lisa__blocks_for(n, 4 * LISA_BLOCK * lisa__per_16<T>);
    const uint32_t grid = static_cast<uint32_t>(blocks < PARTS ? blocks : PARTS);
    if (grid > 0) {
        LISA_LAUNCH(squares_kernel<T>, grid, LISA_BLOCK, 0, cuda->stream, parts,
                    static_cast<const T *>(data), n, lisa__is_aligned(data));
        LISA_TRY(lisa__cuda_launched(&cuda->base, "sum_squares"));
    }
    LISA_LAUNCH(parts_kernel, 1, LISA_BLOCK, 0, cuda->stream, result, parts, grid);
    return lisa__cuda_launched(&cuda->base, "sum_squares");
}

} // namespace

lisa_status lisa__cuda_sum_squares(lisa_backend *be, lisa_typed x, size_t n, double *result) {
    if (x.dtype == LISA_DTYPE_F64)
        return sum_squares<double>(lisa__cuda_of(be), x.data, n, result);
    return lisa__with_type(
        be, x.dtype, "cuda: sum_squares: x is none of f32, bf16, f16, f64", [=](auto element) {
            return sum_squares<decltype(element)>(lisa__cuda_of(be), x.data, n, result);
        });
}

lisa_status lisa__cuda_sum(lisa_backend *be, const double *x, size_t n, double *result) {
    if (n == 0)
        return LISA_OK;
    LISA_LAUNCH(sum_kernel, 1, LISA_BLOCK, 0, lisa__cuda_of(be)->stream, result, x, n);
    return lisa__cuda_launched(be, "sum");
}
