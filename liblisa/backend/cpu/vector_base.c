/* For every processor of the architecture. */
#define VECTOR_NAME "base"
#define VECTOR_PRODUCT lisa__product_base
#define VECTOR_TABLE lisa__vector_base
#include "backend/cpu/vector.inc"
