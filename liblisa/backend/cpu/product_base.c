/* For any processor. */
#define LANES 4
#define ROWS 6
#define VECTORS 2
#define PRODUCT lisa__product_base
#include "backend/cpu/product.inc"
