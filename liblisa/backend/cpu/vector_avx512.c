/* For x86-64 with AVX-512 (blas.mk gives the flags). */
#define VECTOR_NAME "avx512"
#define VECTOR_PRODUCT lisa__product_avx512
#define VECTOR_TABLE lisa__vector_avx512
#include "backend/cpu/vector.inc"
