#include "backend/cuda/cublas.h"
#include "backend/cuda/storage.cuh"

/* A block for each row, or for every gridDim.x-th of them. */
template <class T>
__global__ void scale_rows(T *c, size_t ldc, uint32_t rows, uint32_t cols, float beta) {
    for (size_t i = blockIdx.x; i < rows; i += gridDim.x)
        for (uint32_t j = threadIdx.x; j < cols; j += LISA_BLOCK)
            c[i * ldc + j] =
                lisa__narrow<T>(beta == 0.0f ? 0.0f : beta * lisa__widen(c[i * ldc + j]));
}

template <class T>
static void scale(const struct lisa__cuda *cuda, lisa_typed c, size_t ldc, uint32_t rows,
                  uint32_t cols, float beta) {
    LISA_LAUNCH(scale_rows<T>, lisa__grid(rows), LISA_BLOCK, 0, cuda->stream,
                static_cast<T *>(c.data), ldc, rows, cols, beta);
}

lisa_status lisa__cuda_scale(lisa_backend *be, lisa_typed c, size_t ldc, uint32_t rows,
                             uint32_t cols, float beta) {
    const struct lisa__cuda *cuda = lisa__cuda_of(be);
    if (c.dtype == LISA_DTYPE_F32)
        scale<float>(cuda, c, ldc, rows, cols, beta);
    else if (c.dtype == LISA_DTYPE_BF16)
        scale<__nv_bfloat16>(cuda, c, ldc, rows, cols, beta);
    else
        scale<__half>(cuda, c, ldc, rows, cols, beta);
    return lisa__cuda_launched(be, "gemm");
}
