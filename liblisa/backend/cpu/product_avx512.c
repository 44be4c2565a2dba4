/* For x86-64 with AVX-512 (blas.mk gives the flags). */
#define LANES 16
#define ROWS 6
#define VECTORS 4
#define PRODUCT lisa__product_avx512
#include "backend/cpu/product.inc"
