/* matrix.cpp - what the tensor cores do with the fragments of a warp (dialect.cuh). */
#include "block.h"

namespace hostdevice {

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Exact: the exponent's bias changes by a product with a power of two, but for Inf and NaN. */
static float widened(uint16_t bits, bool is_bf16) {
    if (is_bf16)
        return float_of(static_cast<uint32_t>(bits) << 16);
    const uint32_t sign = (bits & 0x8000u) << 16, magnitude = (bits & 0x7fffu) << 13;
    if (magnitude >= 0x0f800000u)
        return float_of(sign | 0x70000000u | magnitude);
    const float value = float_of(magnitude) * 0x1p112f;
    return sign != 0 ? -value : value;
}

/* Two elements to a word, the lower one first. */
static void put_pair(float *at, uint32_t word, bool is_bf16, size_t step) {
    at[0] = widened(static_cast<uint16_t>(word), is_bf16);
    at[step] = widened(static_cast<uint16_t>(word >> 16), is_bf16);
}

/* Sums in ascending k, each product and each sum rounded to float. */
void multiply_matrices(WarpRequest *const *lanes, bool is_bf16) {
    float a[16][16], b[16][8], c[16][8];
    for (unsigned i = 0; i < warp_lanes; i++) {
        const auto *in = static_cast<const Fragments *>(lanes[i]->in);
        const auto *sums = static_cast<const float *>(lanes[i]->out);
        const unsigned group = i / 4, pair = 2 * (i % 4);
        for (unsigned half = 0; half < 2; half++) {
            put_pair(&a[group][pair + 8 * half], in->a[2 * half], is_bf16, 1);
            put_pair(&a[group + 8][pair + 8 * half], in->a[2 * half + 1], is_bf16, 1);
            put_pair(&b[pair + 8 * half][group], in->b[half], is_bf16, 8);
            memcpy(&c[group + 8 * half][pair], sums + 2 * half, 2 * sizeof(float));
        }
    }
    for (unsigned row = 0; row < 16; row++)
        for (unsigned k = 0; k < 16; k++)
            for (unsigned column = 0; column < 8; column++)
                c[row][column] += a[row][k] * b[k][column];
    for (unsigned i = 0; i < warp_lanes; i++)
        for (unsigned half = 0; half < 2; half++)
            memcpy(static_cast<float *>(lanes[i]->out) + 2 * half,
                   &c[i / 4 + 8 * half][2 * (i % 4)], 2 * sizeof(float));
}

void load_matrices(WarpRequest *const *lanes, bool transposed) {
    for (unsigned matrix = 0; matrix < 4; matrix++) {
        uint16_t rows[8][8];
        for (unsigned row = 0; row < 8; row++)
            memcpy(rows[row], lanes[8 * matrix + row]->in, sizeof rows[row]);
        for (unsigned i = 0; i < warp_lanes; i++) {
            const unsigned group = i / 4, pair = 2 * (i % 4);
            const uint16_t low = transposed ? rows[pair][group] : rows[group][pair];
            const uint16_t high = transposed ? rows[pair + 1][group] : rows[group][pair + 1];
            static_cast<uint32_t *>(lanes[i]->out)[matrix] =
                static_cast<uint32_t>(high) << 16 | low;
        }
    }
}

} // namespace hostdevice
