/* The reference backend in double. */
#define REAL double
#define REAL_DTYPE LISA_DTYPE_F64
#define REFERENCE_NAME "reference64"
#define REFERENCE_FLAGS 0u
#define REFERENCE_OPS lisa__backend_reference64
#include "backend/reference/reference.inc"
