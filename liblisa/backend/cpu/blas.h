/* blas.h - the one product that everything is made of, on the calling thread alone. */
#ifndef LISA_BACKEND_CPU_BLAS_H
#define LISA_BACKEND_CPU_BLAS_H

#include <stddef.h>
#include <stdint.h>

/* The largest product that lisa__sgemm takes; k is not limited. */
#define LISA_BLAS_MAX_M 512
#define LISA_BLAS_MAX_N 640

/* Row-major C[m,n] = beta C + alpha op(A)[m,k] op(B)[k,n]. */
struct lisa__sgemm {
    uint32_t m, n, k;
    uint32_t trans_a, trans_b;
    float alpha, beta;
    const float *a, *b;
    float *c;
    size_t lda, ldb, ldc; /* at most INT32_MAX */
};

/* OpenBLAS's name for the kernels that products run in. */
const char *lisa__blas_kernels(void);

/* Bytes of the buffer that lisa__sgemm needs on this processor, a multiple of 4096 and the same in
 * every call; 0 when the system's memory does not suffice to find out. */
size_t lisa__blas_buffer_bytes(void);

/* `buffer`: lisa__blas_buffer_bytes() bytes, aligned to 4096, used by no one else meanwhile.
 * Changes nothing outside C and the buffer: any number of threads may call at a time. */
void lisa__sgemm(void *buffer, const struct lisa__sgemm *op);

#endif
