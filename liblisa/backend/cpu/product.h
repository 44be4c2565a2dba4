/* product.h - products of a few dozen rows and columns, for blocks of attention: too small for a
 * BLAS, which would spend its time on packing them. */
#ifndef LISA_BACKEND_CPU_PRODUCT_H
#define LISA_BACKEND_CPU_PRODUCT_H

#include <stddef.h>
#include <stdint.h>

/* C[m,n] (+= where accumulate) A[m,k] B[k,n]. A's element (i, l) is a[i a_row + l a_column]; rows
 * of B and C are ldb and ldc apart. */
struct lisa__product {
    uint32_t m, n, k, accumulate;
    const float *a;
    size_t a_row, a_column;
    const float *b;
    size_t ldb;
    float *c;
    size_t ldc;
};

/* Each element is one sum in the order of l, whatever m and n are. With fused multiplication and
 * addition where the instruction set has it. */
void lisa__product_base(const struct lisa__product *p);
void lisa__product_avx2(const struct lisa__product *p);
void lisa__product_avx512(const struct lisa__product *p);

#endif
