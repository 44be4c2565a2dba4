/* For x86-64 with AVX2 and FMA (blas.mk gives the flags). */
#define VECTOR_NAME "avx2"
#define VECTOR_PRODUCT lisa__product_avx2
#define VECTOR_TABLE lisa__vector_avx2
#include "backend/cpu/vector.inc"
