/* half.h - the 16-bit float types as bits, and how numbers become them. */
#ifndef LISA_TESTS_CUDA_PTX_HALF_H
#define LISA_TESTS_CUDA_PTX_HALF_H

#include "program.h"

#include <cstring>

namespace ptx {

struct F16 {
    uint16_t bits;
};
struct BF16 {
    uint16_t bits;
};

inline float to_float(F16 x) {
    /* As a float's bits the number is 2^112 too small, subnormal ones included. */
    uint32_t bits = (x.bits & 0x7FFFu) << 13;
    float value;
    memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;
    memcpy(&bits, &value, sizeof bits);
    if (value >= 65536.0f)
        bits |= 0x7F800000u;
    bits |= (x.bits & 0x8000u) << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}
inline float to_float(BF16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Any float is exact as a double. */
F16 to_f16(double x, Rounding rounding);
BF16 to_bf16(double x, Rounding rounding);

/* The same to nearest even, fast. */
inline BF16 nearest_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t up = bits + 0x7FFF + (bits >> 16 & 1);
    const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
    return {static_cast<uint16_t>(nan ? 0x7FFF : up >> 16)};
}

inline F16 nearest_f16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7FFFFFFFu;
    uint32_t half = (bits - 0x38000000u + 0xFFF + (bits >> 13 & 1)) >> 13;
    if (bits < 0x38800000u) { /* subnormal: the sum's last bit is 2^-24 */
        float magnitude;
        memcpy(&magnitude, &bits, sizeof magnitude);
        magnitude += 0.5f;
        memcpy(&half, &magnitude, sizeof half);
        half -= 0x3F000000u;
    }
    if (bits >= 0x477FF000u)
        half = 0x7C00;
    if (bits > 0x7F800000u)
        return {0x7FFF};
    return {static_cast<uint16_t>(sign | half)};
}

} // namespace ptx

#endif
