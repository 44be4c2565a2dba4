/* kernels.h - the operations of the backend's table. */
#ifndef LISA_BACKEND_CUDA_KERNELS_H
#define LISA_BACKEND_CUDA_KERNELS_H

#include "lisa/sys/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

lisa_status lisa__cuda_convert(lisa_backend *be, lisa_typed dst, lisa_typed src, size_t n);
lisa_status lisa__cuda_gemm(lisa_backend *be, const lisa_gemm *op);
lisa_status lisa__cuda_bias_forward(lisa_backend *be, const lisa_bias *op);
lisa_status lisa__cuda_bias_backward(lisa_backend *be, const lisa_bias *op);
lisa_status lisa__cuda_embed_forward(lisa_backend *be, const lisa_embed *op);
lisa_status lisa__cuda_embed_backward(lisa_backend *be, const lisa_embed *op);
lisa_status lisa__cuda_gather(lisa_backend *be, const lisa_rows *op);
lisa_status lisa__cuda_scatter(lisa_backend *be, const lisa_rows *op);
lisa_status lisa__cuda_norm_forward(lisa_backend *be, const lisa_norm *op);
lisa_status lisa__cuda_norm_backward(lisa_backend *be, const lisa_norm *op);
lisa_status lisa__cuda_rope(lisa_backend *be, const lisa_rope *op);
lisa_status lisa__cuda_attention_forward(lisa_backend *be, const lisa_attention *op);
lisa_status lisa__cuda_attention_backward(lisa_backend *be, const lisa_attention *op);
lisa_status lisa__cuda_activation_forward(lisa_backend *be, const lisa_activation *op);
lisa_status lisa__cuda_activation_backward(lisa_backend *be, const lisa_activation *op);
lisa_status lisa__cuda_dropout(lisa_backend *be, const lisa_dropout *op);
lisa_status lisa__cuda_cross_entropy(lisa_backend *be, const lisa_cross_entropy *op);
lisa_status lisa__cuda_judge(lisa_backend *be, const lisa_judge *op);
lisa_status lisa__cuda_adamw(lisa_backend *be, const lisa_adamw *op);
lisa_status lisa__cuda_master(lisa_backend *be, const lisa_master *op);
lisa_status lisa__cuda_sum_squares(lisa_backend *be, lisa_typed x, size_t n, double *result);
lisa_status lisa__cuda_sum(lisa_backend *be, const double *x, size_t n, double *result);

#ifdef __cplusplus
}
#endif

#endif
