/* columns.cuh - sums over rows, the same bits on every device: each of some parts of the rows is
 * summed by itself, and the parts are added up in order. */
#ifndef LISA_BACKEND_CUDA_COLUMNS_CUH
#define LISA_BACKEND_CUDA_COLUMNS_CUH

#include "backend/cuda/cuda.h"

/* sum[j] += parts[0][j] + parts[1][j] + ... for j below cols; parts lie `stride` floats apart. */
lisa_status lisa__cuda_add_parts(struct lisa__cuda *cuda, float *sum, const float *parts,
                                 uint32_t n_parts, size_t stride, uint32_t cols, const char *what);

#endif
