/* dtype.h - element types: sizes, and conversions of single values. */
#ifndef LISA_CORE_DTYPE_H
#define LISA_CORE_DTYPE_H

#include "core/inline.h"
#include "lisa/common.h"

#include <string.h>

LISA_INLINE size_t lisa__dtype_size(uint32_t dtype) {
    switch (dtype) {
    case LISA_DTYPE_F64:
        return 8;
    case LISA_DTYPE_F32:
        return 4;
    case LISA_DTYPE_BF16:
    case LISA_DTYPE_F16:
        return 2;
    default:
        return 0;
    }
}

LISA_INLINE uint32_t lisa__bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

LISA_INLINE float lisa__float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

LISA_INLINE float lisa__bf16_to_f32(uint16_t value) {
    return lisa__float_of((uint32_t)value << 16);
}

/* To nearest, ties to even; NaN stays NaN. */
LISA_INLINE uint16_t lisa__f32_to_bf16(float value) {
    uint32_t bits = lisa__bits_of(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

LISA_INLINE float lisa__f16_to_f32(uint16_t value) {
    uint32_t sign = (uint32_t)(value & 0x8000u) << 16;
    uint32_t exponent = (value >> 10) & 0x1Fu;
    uint32_t mantissa = value & 0x3FFu;
    if (exponent == 0x1Fu)
        return lisa__float_of(sign | 0x7F800000u | (mantissa << 13));
    if (exponent != 0)
        return lisa__float_of(sign | ((exponent + 112u) << 23) | (mantissa << 13));
    /* Subnormal: mantissa * 2^-24, exact in f32. */
    float magnitude = (float)mantissa * 5.9604644775390625e-8f;
    return lisa__float_of(sign | lisa__bits_of(magnitude));
}

/* To nearest, ties to even; overflow becomes Inf, NaN stays NaN. */
LISA_INLINE uint16_t lisa__f32_to_f16(float value) {
    uint32_t bits = lisa__bits_of(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u)
        return (uint16_t)(sign | 0x7E00u);
    if (magnitude >= 0x477FF000u) /* rounds to 2^16 or more */
        return (uint16_t)(sign | 0x7C00u);
    if (magnitude < 0x38800000u) {
        /* Below 2^-14: adding 0.5 aligns the units place with f16's smallest step. */
        float shifted = lisa__float_of(magnitude) + 0.5f;
        return (uint16_t)(sign | (lisa__bits_of(shifted) - 0x3F000000u));
    }
    uint32_t odd = (magnitude >> 13) & 1u;
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xFFFu + odd) >> 13));
}

/* Element i of an array of any type, as a double. */
LISA_INLINE double lisa__load(const void *data, uint32_t dtype, size_t i) {
    switch (dtype) {
    case LISA_DTYPE_F64:
        return ((const double *)data)[i];
    case LISA_DTYPE_F32:
        return ((const float *)data)[i];
    case LISA_DTYPE_BF16:
        return lisa__bf16_to_f32(((const uint16_t *)data)[i]);
    default:
        return lisa__f16_to_f32(((const uint16_t *)data)[i]);
    }
}

/* The inverse; 16-bit types are rounded from float to nearest even. */
LISA_INLINE void lisa__store(void *data, uint32_t dtype, size_t i, double value) {
    switch (dtype) {
    case LISA_DTYPE_F64:
        ((double *)data)[i] = value;
        break;
    case LISA_DTYPE_F32:
        ((float *)data)[i] = (float)value;
        break;
    case LISA_DTYPE_BF16:
        ((uint16_t *)data)[i] = lisa__f32_to_bf16((float)value);
        break;
    default:
        ((uint16_t *)data)[i] = lisa__f32_to_f16((float)value);
        break;
    }
}

#endif
