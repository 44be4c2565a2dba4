/* The reference backend in float, its operands in the weights' type. */
#define REAL float
#define REAL_DTYPE LISA_DTYPE_F32
#define REFERENCE_NAME "reference-typed"
#define REFERENCE_FLAGS LISA_BACKEND_TYPED_OPERANDS
#define REFERENCE_OPS lisa__backend_reference_typed
#include "backend/reference/reference.inc"
