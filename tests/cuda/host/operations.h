/* operations.h - kernels that use each operation of the host device once, for its tests. */
#ifndef HOSTDEVICE_OPERATIONS_H
#define HOSTDEVICE_OPERATIONS_H

#include <stdint.h>

/* Rows of 32, one for each operation: what lane i got is in column i. */
enum OperationRow {
    ROW_INDEX,      /* __shfl_sync from 3 i, in groups of 8 */
    ROW_UP,         /* by 2, in groups of 16 */
    ROW_DOWN,       /* by 3 */
    ROW_XOR,        /* with 5 */
    ROW_WIDE,       /* the high half of 64 bits of lane i ^ 1 */
    ROW_BALLOT,     /* of i % 3 == 0 */
    ROW_ANY,        /* i == 7 */
    ROW_ALL,        /* i != 7 */
    ROW_ADD,        /* of i */
    ROW_MIN,        /* of i ^ 21 */
    ROW_MAX,        /* of i - 16, unsigned */
    ROW_MIN_SIGNED, /* of i - 16 */
    ROW_MAX_SIGNED, /* of i - 16 */
    ROW_AND,        /* of i | 32 */
    ROW_OR,         /* of i, of lanes 0 to 7 */
    ROW_BITS_XOR,   /* of i * i */
    ROW_COUNT,      /* __syncthreads_count of i > 3 */
    ROW_BLOCK_OR,   /* __syncthreads_or of i == 40 */
    ROW_BLOCK_AND,  /* __syncthreads_and of i < 40 */
    OPERATION_ROWS
};

void operations_of_warps(uint32_t *out);

/* C[16,16] = A[16,16] B[16,16], of 16-bit elements, by ldmatrix and mma. */
void operations_of_matrices(const uint16_t *a, const uint16_t *b, float *c, bool is_bf16);

/* Of 64 threads i: sum of floats by compare and swap, least and most of i - 10, bits of 1 << i %
 * 32, a counter that wraps above 5, what was left after an exchange. */
struct AtomicResults {
    float sum;
    int least, most;
    unsigned bits, wrapped;
    int exchanged;
};
void operations_of_atomics(AtomicResults *results);

/* NULL, or the first arithmetic function that is wrong. */
const char *operations_wrong_arithmetic(void);

#endif
