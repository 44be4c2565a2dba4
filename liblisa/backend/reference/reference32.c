/* The reference backend in float. */
#define REAL float
#define REAL_DTYPE LISA_DTYPE_F32
#define REFERENCE_NAME "reference"
#define REFERENCE_FLAGS 0u
#define REFERENCE_OPS lisa__backend_reference
#include "backend/reference/reference.inc"
