/* For x86-64 with AVX2 and FMA (blas.mk gives the flags). */
#define LANES 8
#define ROWS 6
#define VECTORS 2
#define PRODUCT lisa__product_avx2
#include "backend/cpu/product.inc"
