/* moments.h - AdamW's moments in fewer bits, as lisa_adamw in backend.h describes them.
 *
 * Why the codes of 8 bits are what they are. Adam divides m by the root of v, so an element that is
 * small beside its block matters as much as the largest: codes are spaced like a logarithm, not
 * evenly. A gradient 2^-15 of the block's largest has v = 2^-30 of its largest, hence 5 bits of
 * exponent in v where m needs 4, and the smallest code of v has a root above the smallest code of
 * m: what m is rounded up to cannot outgrow what it is divided by. In a simulation of a quadratic
 * whose gradients span 4 decades within a block, a bit taken from v's exponent for its mantissa
 * left a loss 22 times as high; one taken from m's 1.02 times, or 1.4 with noisy gradients. Scales
 * are powers of two, which makes scaling exact: a value that has a code keeps it in whatever
 * company it is.
 *
 * Why the rounding is stochastic. At beta2 = 0.999 a step changes v by a thousandth, less than half
 * a gap between neighbours of 3 (or bf16's 7) bits of mantissa: to nearest, v would never decay. */
#ifndef LISA_BACKEND_MOMENTS_H
#define LISA_BACKEND_MOMENTS_H

#include "backend/elementwise.h"
#include "lisa/sys/backend.h"

/* Octaves between the smallest normal code and the scale. */
#define LISA_M_OCTAVES 14u
#define LISA_V_OCTAVES 30u

/* The scale of a block whose largest magnitude (NaN above Inf above all) has these bits. */
LISA_INLINE float lisa__block_scale(uint32_t largest) {
    if (largest >= 0x7F800000u)
        return lisa__float_of(largest > 0x7F800000u ? 0x7FC00000u : largest);
    uint32_t bits = (largest + 0x000FFFFFu) & 0x7F800000u; /* one octave up above 1.875 */
    bits = bits < (31u << 23) ? 31u << 23 : bits;          /* 2^-96: normal codes are normal */
    return lisa__float_of(bits > (254u << 23) ? 254u << 23 : bits);
}

/* The code of a magnitude (its bits), 3 of its bits a mantissa; draw in [0, 2^16). */
LISA_INLINE uint32_t lisa__minifloat_of(uint32_t bits, float scale, uint32_t octaves,
                                        uint32_t draw) {
    const uint32_t one = lisa__bits_of(scale), top = ((octaves + 2u) << 3) - 1u;
    if (one >= 0x7F800000u)
        return bits != 0 ? top : 0;
    /* Below the smallest normal, even steps of an eighth of it. */
    const float steps = lisa__float_of(bits) * (1.0f / scale) * (float)(8ull << (octaves + 16u));
    const uint32_t even = ((uint32_t)(int32_t)(steps < 524288.0f ? steps : 524288.0f) + draw) >> 16;
    const uint32_t normal = (bits - one + ((octaves + 1u) << 23) + (draw << 4 | 8u)) >> 20;
    const uint32_t code = bits < one - (octaves << 23) ? even : normal;
    return code < top ? code : top;
}

LISA_INLINE float lisa__minifloat_value(uint32_t code, float scale, uint32_t octaves) {
    const float normal = lisa__float_of((code << 20) + ((126u - octaves) << 23));
    const float even = (float)(int32_t)code * lisa__float_of((124u - octaves) << 23);
    return code == 0 ? 0.0f : (code < 8 ? even : normal) * scale;
}

LISA_INLINE uint8_t lisa__m_code(float m, float scale, uint32_t draw) {
    const uint32_t bits = lisa__bits_of(m);
    const uint32_t code = lisa__minifloat_of(bits & 0x7FFFFFFFu, scale, LISA_M_OCTAVES, draw);
    return (uint8_t)(code | (bits >> 31) << 7);
}

LISA_INLINE float lisa__m_value(uint8_t code, float scale) {
    const float magnitude = lisa__minifloat_value(code & 0x7Fu, scale, LISA_M_OCTAVES);
    return lisa__float_of(lisa__bits_of(magnitude) | (uint32_t)(code & 0x80u) << 24);
}

/* v > 0 is never 0: the next update would divide m by eps. */
LISA_INLINE uint8_t lisa__v_code(float v, float scale, uint32_t draw) {
    const uint32_t bits = lisa__bits_of(v) & 0x7FFFFFFFu;
    const uint32_t code = lisa__minifloat_of(bits, scale, LISA_V_OCTAVES, draw);
    return (uint8_t)(code + (code == 0 && bits != 0));
}

LISA_INLINE float lisa__v_value(uint8_t code, float scale) {
    return lisa__minifloat_value(code, scale, LISA_V_OCTAVES);
}

LISA_INLINE uint16_t lisa__v_bf16(float v, uint32_t draw) {
    const uint16_t rounded = lisa__round_bf16(v, draw << 16);
    return (uint16_t)(rounded + (rounded == 0 && v > 0.0f));
}

#ifndef __cplusplus /* whole blocks: what runs on a GPU divides them among threads */

/* A block of kept moments: bf16 or codes of n elements, and the scales of codes. */
struct lisa__kept {
    void *m, *v;
    float *m_scale, *v_scale;
};

/* Block i of an operation's. */
static inline struct lisa__kept lisa__kept_at(const lisa_adamw *op, size_t i) {
    if (op->moments == LISA_MOMENTS_BF16)
        return (struct lisa__kept){(uint16_t *)op->m + i * LISA_MOMENTS_BLOCK,
                                   (uint16_t *)op->v + i * LISA_MOMENTS_BLOCK, NULL, NULL};
    return (struct lisa__kept){(uint8_t *)op->m + i * LISA_MOMENTS_BLOCK,
                               (uint8_t *)op->v + i * LISA_MOMENTS_BLOCK, op->m_scale + i,
                               op->v_scale + i};
}

static inline void lisa__kept_load(uint32_t moments, struct lisa__kept kept, float *restrict m,
                                   float *restrict v, size_t n) {
    if (moments == LISA_MOMENTS_BF16) {
        const uint16_t *m16 = kept.m, *v16 = kept.v;
        for (size_t i = 0; i < n; i++) {
            m[i] = lisa__bf16_to_f32(m16[i]);
            v[i] = lisa__bf16_to_f32(v16[i]);
        }
        return;
    }
    const uint8_t *m8 = kept.m, *v8 = kept.v;
    const float m_scale = *kept.m_scale, v_scale = *kept.v_scale;
    for (size_t i = 0; i < n; i++) {
        m[i] = lisa__m_value(m8[i], m_scale);
        v[i] = lisa__v_value(v8[i], v_scale);
    }
}

static inline uint32_t lisa__largest_bits(const float *x, size_t n) {
    uint32_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = lisa__bits_of(x[i]) & 0x7FFFFFFFu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/* draws[i]: the word of element i, its low half for m and its high half for v. */
static inline void lisa__kept_store(uint32_t moments, struct lisa__kept kept,
                                    const float *restrict m, const float *restrict v,
                                    const uint32_t *restrict draws, size_t n) {
    if (moments == LISA_MOMENTS_BF16) {
        uint16_t *restrict m16 = kept.m, *restrict v16 = kept.v;
        for (size_t i = 0; i < n; i++) {
            m16[i] = lisa__round_bf16(m[i], draws[i] << 16);
            v16[i] = lisa__v_bf16(v[i], draws[i] >> 16);
        }
        return;
    }
    uint8_t *restrict m8 = kept.m, *restrict v8 = kept.v;
    const float m_scale = lisa__block_scale(lisa__largest_bits(m, n));
    const float v_scale = lisa__block_scale(lisa__largest_bits(v, n));
    for (size_t i = 0; i < n; i++)
        m8[i] = lisa__m_code(m[i], m_scale, draws[i] & 0xFFFFu);
    for (size_t i = 0; i < n; i++)
        v8[i] = lisa__v_code(v[i], v_scale, draws[i] >> 16);
    *kept.m_scale = m_scale;
    *kept.v_scale = v_scale;
}

#endif /* __cplusplus */

#endif
