/* elementwise.h - arithmetic of single elements that every backend must do in the same way.
 *
 * Masters of 16-bit weights, stochastic rounding and activations are defined here once. Backends
 * call these functions, a GPU's kernels too; they have activations of their own, in float. */
#ifndef LISA_BACKEND_ELEMENTWISE_H
#define LISA_BACKEND_ELEMENTWISE_H

#include "core/dtype.h"
#include "lisa/model.h"
#include "sampler/philox.h"

#include <math.h>

/* The largest fp32 pattern whose nearest bf16 is finite, and the largest finite f16. */
#define LISA_BF16_MASTER_MAX 0x7F7F7FFFu
#define LISA_BF16_MAX 0x7F7Fu
#define LISA_F16_MAX 0x7BFFu

/* To float, towards zero with the last bit set when inexact ("round to odd"): a second rounding to
 * fewer bits then gives what one rounding of the double would have given. */
LISA_INLINE float lisa__f64_to_f32_odd(double value) {
    float nearest = (float)value;
    if (isnan(value) || (double)nearest == value)
        return nearest;
    uint32_t bits = lisa__bits_of(nearest);
    if (fabs((double)nearest) > fabs(value))
        bits -= 1;
    return lisa__float_of(bits | 1u);
}

LISA_INLINE uint16_t lisa__f64_to_bf16(double value) {
    return lisa__f32_to_bf16(lisa__f64_to_f32_odd(value));
}

LISA_INLINE uint16_t lisa__f64_to_f16(double value) {
    return lisa__f32_to_f16(lisa__f64_to_f32_odd(value));
}

/* To f16 as lisa__f32_to_f16, but finite values stay finite. */
LISA_INLINE uint16_t lisa__f32_to_f16_finite(float value) {
    uint16_t half = lisa__f32_to_f16(value);
    if ((half & 0x7FFFu) == 0x7C00u && isfinite(value))
        return (uint16_t)(half - 1u);
    return half;
}

/* The fp32 master of a bf16 weight. The addition wraps, which is what makes it exact. */
LISA_INLINE float lisa__master_join(uint16_t bf16, int16_t low) {
    return lisa__float_of(((uint32_t)bf16 << 16) + (uint32_t)(int32_t)low);
}

/* The inverse: *bf16 is the master rounded to nearest, ties away from zero, and *low the rest. A
 * finite master that would be Inf as bf16 becomes LISA_BF16_MASTER_MAX with its sign; a NaN becomes
 * a quiet NaN with low = 0; all other patterns join to themselves again. */
LISA_INLINE void lisa__master_split(float master, uint16_t *bf16, int16_t *low) {
    uint32_t bits = lisa__bits_of(master);
    uint32_t sign = bits & 0x80000000u;
    uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u)
        bits = sign | 0x7FC00000u;
    else if (magnitude > LISA_BF16_MASTER_MAX && magnitude < 0x7F800000u)
        bits = sign | LISA_BF16_MASTER_MAX;
    *bf16 = (uint16_t)((bits + 0x8000u) >> 16);
    *low = (int16_t)((int32_t)(bits & 0xFFFFu) - ((bits & 0x8000u) ? 0x10000 : 0));
}

/* One of the two bf16 around `value`, away from zero with a probability of the distance from the
 * one nearer to zero in units of their distance. Never from finite to Inf. */
LISA_INLINE uint16_t lisa__round_bf16(float value, uint32_t draw) {
    uint32_t bits = lisa__bits_of(value);
    uint32_t magnitude = bits & 0x7FFFFFFFu;
    uint32_t sign = (bits >> 16) & 0x8000u;
    if (magnitude >= 0x7F800000u)
        return lisa__f32_to_bf16(value);
    uint32_t rounded = (magnitude + (draw >> 16)) >> 16;
    return (uint16_t)(sign | (rounded > LISA_BF16_MAX ? LISA_BF16_MAX : rounded));
}

/* The same for f16. */
LISA_INLINE uint16_t lisa__round_f16(float value, uint32_t draw) {
    uint32_t bits = lisa__bits_of(value);
    uint32_t magnitude = bits & 0x7FFFFFFFu;
    uint32_t sign = (bits >> 16) & 0x8000u;
    if (magnitude >= 0x7F800000u)
        return lisa__f32_to_f16(value);
    if (magnitude >= 0x47800000u) /* 2^16 or more */
        return (uint16_t)(sign | LISA_F16_MAX);
    if (magnitude < 0x38800000u) {
        /* Below 2^-14 f16 counts in steps of 2^-24; the scaling is exact. */
        double steps = (double)lisa__float_of(magnitude) * 16777216.0;
        uint32_t whole = (uint32_t)steps;
        double up = (steps - whole) * 4294967296.0;
        return (uint16_t)(sign | (whole + ((double)draw < up ? 1u : 0u)));
    }
    uint32_t rounded = (magnitude - 0x38000000u + (draw >> 19)) >> 13;
    return (uint16_t)(sign | (rounded > LISA_F16_MAX ? LISA_F16_MAX : rounded));
}

/* The draw of element i in a closing: word i % 4 of Philox block i / 4. */
LISA_INLINE uint32_t lisa__round_draw(uint64_t seed, uint64_t stream, size_t i) {
    uint32_t words[4];
    lisa__philox(seed, (uint64_t)i / 4, stream, words);
    return words[i % 4];
}

/* What the draw of an element that dropout keeps is at least; p is below 1. */
LISA_INLINE uint32_t lisa__dropout_threshold(double p) {
    return (uint32_t)(p * 4294967296.0);
}

static inline double lisa__sigmoid(double x) {
    return 1.0 / (1.0 + exp(-x));
}

#define LISA_SQRT_2_OVER_PI 0.79788456080286535588
#define LISA_SQRT_1_OVER_2 0.70710678118654752440
#define LISA_1_OVER_SQRT_2PI 0.39894228040143267794
#define LISA_GELU_CUBE 0.044715

/* act(x) for a LISA_ACT_* kind. */
static inline double lisa__activation(uint32_t kind, double x) {
    switch (kind) {
    case LISA_ACT_SILU:
        return x * lisa__sigmoid(x);
    case LISA_ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(LISA_SQRT_2_OVER_PI * (x + LISA_GELU_CUBE * x * x * x)));
    case LISA_ACT_GELU_ERF:
        return 0.5 * x * (1.0 + erf(x * LISA_SQRT_1_OVER_2));
    default: /* LISA_ACT_RELU; NaN stays NaN */
        return x < 0.0 ? 0.0 : x;
    }
}

/* d act(x) / dx; 0 at ReLU's corner. */
static inline double lisa__activation_slope(uint32_t kind, double x) {
    switch (kind) {
    case LISA_ACT_SILU: {
        double s = lisa__sigmoid(x);
        return s * (1.0 + x * (1.0 - s));
    }
    case LISA_ACT_GELU_TANH: {
        double t = tanh(LISA_SQRT_2_OVER_PI * (x + LISA_GELU_CUBE * x * x * x));
        double inner = LISA_SQRT_2_OVER_PI * (1.0 + 3.0 * LISA_GELU_CUBE * x * x);
        return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner;
    }
    case LISA_ACT_GELU_ERF:
        return 0.5 * (1.0 + erf(x * LISA_SQRT_1_OVER_2)) +
               x * LISA_1_OVER_SQRT_2PI * exp(-0.5 * x * x);
    default:
        return x > 0.0 ? 1.0 : 0.0;
    }
}

#endif
