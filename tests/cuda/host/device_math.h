/* device_math.h - arithmetic that a CUDA compiler knows and a C++ library does not. Functions that
 * a GPU approximates (rsqrtf, __expf and the like) are exact here: tests of what uses them need a
 * tolerance that is the GPU's, not this one's. */
#ifndef HOSTDEVICE_DEVICE_MATH_H
#define HOSTDEVICE_DEVICE_MATH_H

#include <cmath>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* ---- bits ---- */

namespace hostdevice {
template <class To, class From> inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
} // namespace hostdevice

inline int __float_as_int(float x) {
    return hostdevice::bits_as<int>(x);
}
inline unsigned __float_as_uint(float x) {
    return hostdevice::bits_as<unsigned>(x);
}
inline float __int_as_float(int x) {
    return hostdevice::bits_as<float>(x);
}
inline float __uint_as_float(unsigned x) {
    return hostdevice::bits_as<float>(x);
}
inline long long __double_as_longlong(double x) {
    return hostdevice::bits_as<long long>(x);
}
inline double __longlong_as_double(long long x) {
    return hostdevice::bits_as<double>(x);
}
inline int __double2hiint(double x) {
    return static_cast<int>(__double_as_longlong(x) >> 32);
}
inline int __double2loint(double x) {
    return static_cast<int>(__double_as_longlong(x));
}
inline double __hiloint2double(int high, int low) {
    const uint64_t bits = static_cast<uint64_t>(static_cast<unsigned>(high)) << 32;
    return hostdevice::bits_as<double>(bits | static_cast<unsigned>(low));
}

inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
inline int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}
inline int __clz(int x) {
    return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
inline int __clzll(long long x) {
    return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline int __ffs(int x) {
    return __builtin_ffs(x);
}
inline int __ffsll(long long x) {
    return __builtin_ffsll(x);
}
inline unsigned __brev(unsigned x) {
    return __builtin_bitreverse32(x);
}
inline unsigned long long __brevll(unsigned long long x) {
    return __builtin_bitreverse64(x);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}
inline int __mulhi(int a, int b) {
    return static_cast<int>((static_cast<int64_t>(a) * b) >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
    return static_cast<unsigned>((both << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
    return static_cast<unsigned>(both >> (shift & 31));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const uint64_t both = static_cast<uint64_t>(y) << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned pick = selector >> (4 * i) & 0xf;
        unsigned byte = static_cast<unsigned>(both >> (8 * (pick & 7))) & 0xff;
        if ((pick & 8) != 0)
            byte = (byte & 0x80) != 0 ? 0xff : 0;
        out |= byte << (8 * i);
    }
    return out;
}

/* ---- rounding that is named, and no contraction ---- */

inline float __fadd_rn(float a, float b) {
    return a + b;
}
inline float __fsub_rn(float a, float b) {
    return a - b;
}
inline float __fmul_rn(float a, float b) {
    return a * b;
}
inline float __fdiv_rn(float a, float b) {
    return a / b;
}
inline float __fmaf_rn(float a, float b, float c) {
    return fmaf(a, b, c);
}
inline float __frcp_rn(float a) {
    return 1.0f / a;
}
inline float __fsqrt_rn(float a) {
    return sqrtf(a);
}
inline float __frsqrt_rn(float a) {
    return static_cast<float>(1.0 / sqrt(static_cast<double>(a)));
}
inline double __dadd_rn(double a, double b) {
    return a + b;
}
inline double __dsub_rn(double a, double b) {
    return a - b;
}
inline double __dmul_rn(double a, double b) {
    return a * b;
}
inline double __ddiv_rn(double a, double b) {
    return a / b;
}
inline double __drcp_rn(double a) {
    return 1.0 / a;
}
inline double __dsqrt_rn(double a) {
    return sqrt(a);
}
inline double __fma_rn(double a, double b, double c) {
    return fma(a, b, c);
}

/* ---- conversions; out of range saturates, NaN is 0, as on a GPU ---- */

namespace hostdevice {
template <class To, class From>
inline To saturated(From x, From low, From high, To least, To most) {
    if (x != x)
        return 0;
    return x < low ? least : x > high ? most : static_cast<To>(x);
}
template <class From> inline int to_int(From x) {
    return saturated<int, double>(x, -2147483648.0, 2147483647.0, INT32_MIN, INT32_MAX);
}
template <class From> inline unsigned to_unsigned(From x) {
    return saturated<unsigned, double>(x, 0.0, 4294967295.0, 0, UINT32_MAX);
}
} // namespace hostdevice

inline float __double2float_rn(double x) {
    return static_cast<float>(x);
}
inline float __double2float_rz(double x) {
    const float nearest = static_cast<float>(x);
    return fabs(static_cast<double>(nearest)) > fabs(x) ? nextafterf(nearest, 0.0f) : nearest;
}
inline int __float2int_rn(float x) {
    return hostdevice::to_int(rintf(x));
}
inline int __float2int_rz(float x) {
    return hostdevice::to_int(truncf(x));
}
inline int __float2int_rd(float x) {
    return hostdevice::to_int(floorf(x));
}
inline int __float2int_ru(float x) {
    return hostdevice::to_int(ceilf(x));
}
inline unsigned __float2uint_rn(float x) {
    return hostdevice::to_unsigned(rintf(x));
}
inline unsigned __float2uint_rz(float x) {
    return hostdevice::to_unsigned(truncf(x));
}
inline unsigned __float2uint_rd(float x) {
    return hostdevice::to_unsigned(floorf(x));
}
inline int __double2int_rn(double x) {
    return hostdevice::to_int(rint(x));
}
inline int __double2int_rz(double x) {
    return hostdevice::to_int(trunc(x));
}
inline unsigned __double2uint_rz(double x) {
    return hostdevice::to_unsigned(trunc(x));
}
inline float __int2float_rn(int x) {
    return static_cast<float>(x);
}
inline float __uint2float_rn(unsigned x) {
    return static_cast<float>(x);
}
inline double __int2double_rn(int x) {
    return static_cast<double>(x);
}
inline double __uint2double_rn(unsigned x) {
    return static_cast<double>(x);
}
inline double __ull2double_rn(unsigned long long x) {
    return static_cast<double>(x);
}
inline float __ull2float_rn(unsigned long long x) {
    return static_cast<float>(x);
}

/* ---- fast functions ---- */

inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
inline double rsqrt(double x) {
    return 1.0 / sqrt(x);
}
inline float __fdividef(float a, float b) {
    return a / b;
}
inline float __saturatef(float x) {
    return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f;
}
/* The C library declares functions of these names for itself. */
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __sincosf(x, s, c) sincosf(x, s, c)
#define __tanhf(x) tanhf(x)

/* ---- loads with a hint ---- */

template <class T> inline T __ldg(const T *p) {
    return *p;
}
template <class T> inline T __ldcs(const T *p) {
    return *p;
}
template <class T> inline T __ldcg(const T *p) {
    return *p;
}
template <class T> inline void __stcs(T *p, T value) {
    *p = value;
}
template <class T> inline void __stcg(T *p, T value) {
    *p = value;
}

/* ---- min and max ---- */

#define HOSTDEVICE_MIN_MAX(type)                                                                   \
    inline type min(type a, type b) {                                                              \
        return b < a ? b : a;                                                                      \
    }                                                                                              \
    inline type max(type a, type b) {                                                              \
        return a < b ? b : a;                                                                      \
    }
HOSTDEVICE_MIN_MAX(int)
HOSTDEVICE_MIN_MAX(unsigned)
HOSTDEVICE_MIN_MAX(long)
HOSTDEVICE_MIN_MAX(unsigned long)
HOSTDEVICE_MIN_MAX(long long)
HOSTDEVICE_MIN_MAX(unsigned long long)
#undef HOSTDEVICE_MIN_MAX
/* Of a number and a NaN, the number. */
inline float min(float a, float b) {
    return fminf(a, b);
}
inline float max(float a, float b) {
    return fmaxf(a, b);
}
inline double min(double a, double b) {
    return fmin(a, b);
}
inline double max(double a, double b) {
    return fmax(a, b);
}
/* Mixed signs: the unsigned one, as CUDA's overloads have it. */
inline unsigned min(int a, unsigned b) {
    return min(static_cast<unsigned>(a), b);
}
inline unsigned min(unsigned a, int b) {
    return min(a, static_cast<unsigned>(b));
}
inline unsigned max(int a, unsigned b) {
    return max(static_cast<unsigned>(a), b);
}
inline unsigned max(unsigned a, int b) {
    return max(a, static_cast<unsigned>(b));
}

#endif
