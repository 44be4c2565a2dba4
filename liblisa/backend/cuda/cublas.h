/* cublas.h - NVIDIA's matrix products: found at run time, so that a machine without them is told so
 * by a status, and shared with whoever in the process has them already. */
#ifndef LISA_BACKEND_CUDA_CUBLAS_H
#define LISA_BACKEND_CUDA_CUBLAS_H

#include "backend/cuda/cuda.h"

struct lisa__cublas {
    cublasStatus_t (*create)(cublasHandle_t *out);
    cublasStatus_t (*destroy)(cublasHandle_t handle);
    cublasStatus_t (*set_stream)(cublasHandle_t handle, cudaStream_t stream);
    cublasStatus_t (*set_workspace)(cublasHandle_t handle, void *memory, size_t bytes);
    cublasStatus_t (*set_math_mode)(cublasHandle_t handle, cublasMath_t mode);
    cublasStatus_t (*gemm)(cublasHandle_t handle, cublasOperation_t trans_a,
                           cublasOperation_t trans_b, int m, int n, int k, const void *alpha,
                           const void *a, cudaDataType a_type, int lda, const void *b,
                           cudaDataType b_type, int ldb, const void *beta, void *c,
                           cudaDataType c_type, int ldc, cublasComputeType_t compute,
                           cublasGemmAlgo_t algorithm);
    const char *(*words)(cublasStatus_t status);
};

/* NVIDIA's recommendation for compute capability 9.0, and more than it is for those below: a plan
 * is made without a device, so it is one number for all. */
#define LISA_CUDA_BLAS_WORKSPACE ((size_t)32 << 20)

/* Loads the library for good and fills *out. */
lisa_status lisa__cublas_find(lisa_backend *be, struct lisa__cublas *out);

/* cuda->handle, on cuda->stream and with cuda->blas_workspace. */
lisa_status lisa__cublas_open(struct lisa__cuda *cuda);

/* C *= beta, by rows ldc apart; beta = 0 does not read it. Of f32, bf16 or f16 (scale.cu). */
lisa_status lisa__cuda_scale(lisa_backend *be, lisa_typed c, size_t ldc, uint32_t rows,
                             uint32_t cols, float beta);

#endif
