/* test_operations.cpp - arithmetic, bits, comparisons and conversions against C. */
#include "half.h"
#include "test.h"

#include <algorithm>
#include <cmath>

namespace ptx {
namespace {

constexpr unsigned COUNT = 1024;

template <class T> bool alike(T a, T b) {
    if constexpr (std::is_floating_point_v<T>)
        if (std::isnan(a) && std::isnan(b))
            return true;
    return memcmp(&a, &b, sizeof a) == 0;
}

template <class T> std::string shown(T x) {
    if constexpr (std::is_floating_point_v<T>) {
        char text[40];
        snprintf(text, sizeof text, "%a", static_cast<double>(x));
        return text;
    } else {
        return std::to_string(x);
    }
}

std::string bits_type(size_t bytes) {
    return ".b" + std::to_string(8 * bytes);
}

/* A kernel that loads %a, %b, ... for each item, runs `body` and stores %z. */
template <class R, class... A> std::string item_kernel(const std::string &body) {
    const size_t sizes[] = {sizeof(A)...};
    std::string text = "mov.u32 %r1, %ctaid.x;\nmad.lo.s32 %r0, %r1, 256, %r0;\n.reg " +
                       bits_type(sizeof(R)) + " %z;\n";
    char name = 'a';
    for (unsigned i = 0; i < sizeof...(A); i++, name++) {
        const std::string type = bits_type(sizes[i]), reg = std::string("%") + name;
        text += ".reg " + type + " " + reg + ";\nmad.wide.u32 %rd9, %r0, 8, %rd" +
                std::to_string(i) + ";\nld.global" + type + " " + reg + ", [%rd9];\n";
    }
    text += body + "\nmad.wide.u32 %rd9, %r0, 8, %rd" + std::to_string(sizeof...(A)) +
            ";\nst.global" + bits_type(sizeof(R)) + " [%rd9], %z;";
    return kernel(sizeof...(A) + 1, text);
}

/* One every 8 bytes, whatever the type. */
template <class T> struct Items {
    uint8_t *at;
    T get(size_t i) const {
        T value;
        memcpy(&value, at + 8 * i, sizeof value);
        return value;
    }
    void set(size_t i, T value) {
        memcpy(at + 8 * i, &value, sizeof value);
    }
};

/* Runs `body` over items that `make` gives and holds each %z to reference(a, b, ...). */
template <class R, class... A, class F, class Same>
void compare(const std::string &body, F reference, std::tuple<A...> (*make)(), Same same) {
    Bench bench(item_kernel<R, A...>(body));
    Items<R> out{bench.array<uint8_t>(8 * COUNT)};
    std::tuple<Items<A>...> in{Items<A>{bench.array<uint8_t>(8 * COUNT)}...};
    for (size_t i = 0; i < COUNT; i++) {
        const std::tuple<A...> values = make();
        std::apply(
            [&](auto &...item) {
                std::apply([&](auto... value) { (item.set(i, value), ...); }, values);
            },
            in);
    }
    const std::string report = std::apply(
        [&](auto &...item) { return bench.report({COUNT / 256}, {256}, 0, item.at..., out.at); },
        in);
    if (!report.empty())
        return check(false, body + ": " + report);
    for (size_t i = 0; i < COUNT; i++) {
        const R expected = std::apply([&](auto &...item) { return reference(item.get(i)...); }, in);
        if (same(out.get(i), expected))
            continue;
        std::string values;
        std::apply([&](auto &...item) { ((values += " " + shown(item.get(i))), ...); }, in);
        return check(false, body + " of" + values + ": " + shown(out.get(i)) + ", expected " +
                                shown(expected));
    }
    check(true, body);
}

template <class... A> std::tuple<A...> any() {
    return {some<A>()...};
}

template <class R, class... A, class F> void operation(const std::string &body, F reference) {
    compare<R, A...>(body, reference, any<A...>, alike<R>);
}

/* Of floats in the midst. */
template <class R, class... A, class F> void moderate(const std::string &body, F reference) {
    compare<R, A...>(
        body, reference, +[]() { return std::tuple<A...>{static_cast<A>(some_moderate())...}; },
        alike<R>);
}

/* To a relative error of 2^-21: what is approximate on the hardware. */
template <class F> void approximate(const std::string &body, F reference) {
    compare<float, float>(
        body, reference, +[]() { return std::tuple<float>{some<float>()}; },
        [](float a, float b) {
            return alike(a, b) || std::fabs(a - b) <= std::fabs(b) * 0x1p-21f ||
                   std::fabs(b) < 1e-30f;
        });
}

template <class T> void integer_family(const std::string &type) {
    using U = std::make_unsigned_t<T>;
    using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
    operation<T, T, T>("add." + type + " %z, %a, %b;", [](T a, T b) { return T(U(a) + U(b)); });
    operation<T, T, T>("sub." + type + " %z, %a, %b;", [](T a, T b) { return T(U(a) - U(b)); });
    operation<T, T, T>("mul.lo." + type + " %z, %a, %b;",
                       [](T a, T b) { return T(Wide(a) * Wide(b)); });
    operation<T, T, T>("mul.hi." + type + " %z, %a, %b;",
                       [](T a, T b) { return T(Wide(a) * Wide(b) >> 8 * sizeof(T)); });
    operation<T, T, T, T>("mad.lo." + type + " %z, %a, %b, %c;",
                          [](T a, T b, T c) { return T(Wide(a) * Wide(b) + Wide(c)); });
    operation<T, T, T, T>("mad.hi." + type + " %z, %a, %b, %c;", [](T a, T b, T c) {
        return T((Wide(a) * Wide(b) >> 8 * sizeof(T)) + Wide(c));
    });
    operation<T, T, T>("min." + type + " %z, %a, %b;", [](T a, T b) { return std::min(a, b); });
    operation<T, T, T>("max." + type + " %z, %a, %b;", [](T a, T b) { return std::max(a, b); });
    operation<T, T, T>("div." + type + " %z, %a, %b;",
                       [](T a, T b) { return b == 0 ? T(-1) : T(Wide(a) / Wide(b)); });
    operation<T, T, T>("rem." + type + " %z, %a, %b;",
                       [](T a, T b) { return b == 0 ? a : T(Wide(a) % Wide(b)); });
    operation<T, T, uint32_t>("shr." + type + " %z, %a, %b;", [](T a, uint32_t by) {
        return by < 8 * sizeof(T) ? T(a >> by) : T(a < 0 ? -1 : 0);
    });
    operation<T, T, T, T>("sad." + type + " %z, %a, %b, %c;", [](T a, T b, T c) {
        const Wide difference = Wide(a) - Wide(b);
        return T((difference < 0 || a < b ? Wide(b) - Wide(a) : difference) + Wide(c));
    });
    if (std::is_signed_v<T>) {
        operation<T, T>("abs." + type + " %z, %a;", [](T a) { return a < 0 ? T(0 - U(a)) : a; });
        operation<T, T>("neg." + type + " %z, %a;", [](T a) { return T(0 - U(a)); });
    }
}

template <class T> void logic_family(const std::string &type) {
    operation<T, T, T>("and." + type + " %z, %a, %b;", [](T a, T b) { return T(a & b); });
    operation<T, T, T>("or." + type + " %z, %a, %b;", [](T a, T b) { return T(a | b); });
    operation<T, T, T>("xor." + type + " %z, %a, %b;", [](T a, T b) { return T(a ^ b); });
    operation<T, T>("not." + type + " %z, %a;", [](T a) { return T(~a); });
    operation<T, T>("cnot." + type + " %z, %a;", [](T a) { return T(a == 0); });
    operation<T, T, uint32_t>("shl." + type + " %z, %a, %b;", [](T a, uint32_t by) {
        return by < 8 * sizeof(T) ? T(uint64_t(a) << by) : T(0);
    });
}

template <class T> void count_family(const std::string &type) {
    constexpr int bits = 8 * sizeof(T);
    operation<uint32_t, T>("popc." + type + " %z, %a;", [](T a) {
        uint32_t n = 0;
        for (int i = 0; i < bits; i++)
            n += a >> i & 1;
        return n;
    });
    operation<uint32_t, T>("clz." + type + " %z, %a;", [](T a) {
        uint32_t n = 0;
        for (int i = bits - 1; i >= 0 && !(a >> i & 1); i--)
            n++;
        return n;
    });
    operation<T, T>("brev." + type + " %z, %a;", [](T a) {
        T r = 0;
        for (int i = 0; i < bits; i++, a >>= 1)
            r = static_cast<T>(r << 1 | (a & 1));
        return r;
    });
}

/* The documented loop of bfind: the highest bit that is not the sign. */
template <class T> uint32_t highest(T a) {
    const T flipped = a < 0 ? static_cast<T>(~a) : a;
    for (int i = 8 * sizeof(T) - 1; i >= 0; i--)
        if (static_cast<std::make_unsigned_t<T>>(flipped) >> i & 1)
            return static_cast<uint32_t>(i);
    return UINT32_MAX;
}

/* bfe bit by bit, as the PTX ISA tells it. */
template <class T> T field(T a, uint32_t at, uint32_t length) {
    constexpr uint32_t top = 8 * sizeof(T) - 1;
    at &= 255;
    length &= 255;
    using U = std::make_unsigned_t<T>;
    const bool sign = std::is_signed_v<T> && length != 0 &&
                      (static_cast<U>(a) >> std::min(at + length - 1, top) & 1);
    U result = 0;
    for (uint32_t i = 0; i <= top; i++) {
        const bool bit =
            i < length && at + i <= top ? (static_cast<U>(a) >> (at + i) & 1) != 0 : sign;
        result |= static_cast<U>(bit) << i;
    }
    return static_cast<T>(result);
}

template <class T> T inserted(T a, T b, uint32_t at, uint32_t length) {
    at &= 255;
    length &= 255;
    for (uint32_t i = 0; i < length && at + i < 8 * sizeof(T); i++) {
        b &= static_cast<T>(~(T(1) << (at + i)));
        b |= static_cast<T>((a >> i & 1) << (at + i));
    }
    return b;
}

std::tuple<uint32_t, uint32_t, uint32_t> three_words() {
    return any<uint32_t, uint32_t, uint32_t>();
}

/* What x, exact, becomes in a direction. */
float directed(__float128 x, char direction) {
    const auto nearest = static_cast<float>(x);
    const bool above = static_cast<__float128>(nearest) > x;
    const bool below = static_cast<__float128>(nearest) < x;
    if (direction == 'z')
        return x > 0 ? directed(x, 'm') : directed(x, 'p');
    if (direction == 'm' && above)
        return std::nextafter(nearest, -INFINITY);
    if (direction == 'p' && below)
        return std::nextafter(nearest, INFINITY);
    return nearest;
}

void directions() {
    for (const char direction : {'z', 'm', 'p'}) {
        const std::string r = std::string(".r") + direction + ".f32 ";
        using Q = __float128;
        moderate<float, float, float>("add" + r + "%z, %a, %b;", [=](float a, float b) {
            return directed(Q(a) + Q(b), direction);
        });
        moderate<float, float, float>("mul" + r + "%z, %a, %b;", [=](float a, float b) {
            return directed(Q(a) * Q(b), direction);
        });
        moderate<float, float, float, float>(
            "fma" + r + "%z, %a, %b, %c;",
            [=](float a, float b, float c) { return directed(Q(a) * Q(b) + Q(c), direction); });
        moderate<float, double>("cvt.r" + std::string(1, direction) + ".f32.f64 %z, %a;",
                                [=](double a) { return directed(Q(a), direction); });
    }
}

template <class T> void float_family(const std::string &type) {
    operation<T, T, T>("add." + type + " %z, %a, %b;", [](T a, T b) { return a + b; });
    operation<T, T, T>("sub.rn." + type + " %z, %a, %b;", [](T a, T b) { return a - b; });
    operation<T, T, T>("mul." + type + " %z, %a, %b;", [](T a, T b) { return a * b; });
    operation<T, T, T, T>("fma.rn." + type + " %z, %a, %b, %c;",
                          [](T a, T b, T c) { return std::fma(a, b, c); });
    operation<T, T, T>("div.rn." + type + " %z, %a, %b;", [](T a, T b) { return a / b; });
    operation<T, T>("sqrt.rn." + type + " %z, %a;", [](T a) { return std::sqrt(a); });
    operation<T, T>("rcp.rn." + type + " %z, %a;", [](T a) { return 1 / a; });
    operation<T, T>("neg." + type + " %z, %a;", [](T a) { return -a; });
    operation<T, T>("abs." + type + " %z, %a;", [](T a) { return std::fabs(a); });
    operation<T, T, T>("copysign." + type + " %z, %a, %b;",
                       [](T a, T b) { return std::copysign(b, a); });
    operation<T, T, T>("min." + type + " %z, %a, %b;", [](T a, T b) {
        if (a == 0 && b == 0)
            return std::signbit(a) || std::signbit(b) ? T(-0.0) : T(0);
        return std::isnan(a) || b < a ? b : a;
    });
    operation<T, T, T>("max." + type + " %z, %a, %b;", [](T a, T b) {
        if (a == 0 && b == 0)
            return std::signbit(a) && std::signbit(b) ? T(-0.0) : T(0);
        return std::isnan(a) || b > a ? b : a;
    });
}

float without_subnormal(float x) {
    return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x;
}

void float_modifiers() {
    operation<float, float, float>("add.sat.f32 %z, %a, %b;", [](float a, float b) {
        const float sum = a + b;
        return sum > 0 ? std::min(sum, 1.0f) : 0.0f;
    });
    operation<float, float, float>("mul.ftz.f32 %z, %a, %b;", [](float a, float b) {
        return without_subnormal(without_subnormal(a) * without_subnormal(b));
    });
    operation<float, float, float>("max.NaN.f32 %z, %a, %b;", [](float a, float b) {
        return std::isnan(a) || std::isnan(b) ? NAN
               : a == b                       ? (std::signbit(a) ? b : a)
                                              : std::max(a, b);
    });
}

template <class T, class F>
void comparison(const std::string &name, const std::string &type, F holds) {
    operation<uint32_t, T, T>("setp." + name + "." + type +
                                  " %p1, %a, %b;\nselp.b32 %z, 1, 0, %p1;",
                              [holds](T a, T b) { return holds(a, b) ? 1u : 0u; });
}

template <class T> void ordered_comparisons(const std::string &type) {
    comparison<T>("eq", type, [](T a, T b) { return a == b; });
    comparison<T>("ne", type, [](T a, T b) { return a < b || a > b; });
    comparison<T>("lt", type, [](T a, T b) { return a < b; });
    comparison<T>("le", type, [](T a, T b) { return a <= b; });
    comparison<T>("gt", type, [](T a, T b) { return a > b; });
    comparison<T>("ge", type, [](T a, T b) { return a >= b; });
}

template <class T> void unordered_comparisons(const std::string &type) {
    comparison<T>("equ", type, [](T a, T b) { return !(a < b || a > b); });
    comparison<T>("neu", type, [](T a, T b) { return !(a == b); });
    comparison<T>("ltu", type, [](T a, T b) { return !(a >= b); });
    comparison<T>("leu", type, [](T a, T b) { return !(a > b); });
    comparison<T>("gtu", type, [](T a, T b) { return !(a <= b); });
    comparison<T>("geu", type, [](T a, T b) { return !(a < b); });
    comparison<T>("num", type, [](T a, T b) { return !std::isnan(a) && !std::isnan(b); });
    comparison<T>("nan", type, [](T a, T b) { return std::isnan(a) || std::isnan(b); });
}

/* To an integer: rounded, what does not fit the nearest that does. */
template <class I> I to_integer(double x, double rounded, bool wide_nan) {
    if (std::isnan(x))
        return wide_nan ? static_cast<I>(uint64_t(1) << (8 * sizeof(I) - 1)) : 0;
    if (rounded >= std::ldexp(1.0, std::numeric_limits<I>::digits))
        return std::numeric_limits<I>::max();
    if (rounded <= static_cast<double>(std::numeric_limits<I>::min()))
        return std::numeric_limits<I>::min();
    return static_cast<I>(rounded);
}

template <class I> void float_to_integer(const std::string &type) {
    constexpr bool wide = sizeof(I) == 8;
    operation<I, float>("cvt.rzi." + type + ".f32 %z, %a;",
                        [](float a) { return to_integer<I>(a, std::trunc(a), wide); });
    operation<I, float>("cvt.rni." + type + ".f32 %z, %a;",
                        [](float a) { return to_integer<I>(a, std::rint(a), wide); });
    operation<I, double>("cvt.rmi." + type + ".f64 %z, %a;",
                         [](double a) { return to_integer<I>(a, std::floor(a), true); });
    operation<float, I>("cvt.rn.f32." + type + " %z, %a;",
                        [](I a) { return static_cast<float>(a); });
    operation<double, I>("cvt.rn.f64." + type + " %z, %a;",
                         [](I a) { return static_cast<double>(a); });
}

float half_value(uint16_t bits) {
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const float sign = bits >> 15 ? -1 : 1;
    if (exponent == 31)
        return mantissa ? NAN : sign * INFINITY;
    return sign * (exponent ? std::ldexp(1024.0f + mantissa, exponent - 25)
                            : std::ldexp(static_cast<float>(mantissa), -24));
}

float bf16_value(uint16_t bits) {
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* Every value, every midpoint between two, and what lies beside the midpoint. */
template <class H>
void halves(const char *name, uint16_t infinity, float (*value)(uint16_t), H (*fast)(float),
            H (*slow)(double, Rounding)) {
    bool good = true;
    const auto both = [&](float x, uint16_t expected) {
        return fast(x).bits == expected && slow(x, Rounding::Nearest).bits == expected;
    };
    for (uint32_t bits = 0; bits < infinity; bits++) {
        const auto low = static_cast<uint16_t>(bits), high = static_cast<uint16_t>(bits + 1);
        const float x = value(low);
        good &= to_float(H{low}) == x && both(x, low) && both(-x, low | 0x8000);
        const double above = high == infinity ? 2.0 * x - value(low - 1) : value(high);
        const auto middle = static_cast<float>((x + above) / 2);
        good &= both(middle, bits & 1 ? high : low);
        good &= both(std::nextafter(middle, 0.0f), low);
        good &= both(std::nextafter(middle, INFINITY), high);
        good &= slow(middle, Rounding::Zero).bits == low;
        good &= slow(middle, Rounding::Down).bits == low;
        good &= slow(middle, Rounding::Up).bits == high;
        good &= slow(-middle, Rounding::Down).bits == (high | 0x8000);
    }
    good &= both(INFINITY, infinity) && std::isnan(to_float(fast(NAN))) &&
            std::isnan(to_float(slow(NAN, Rounding::Nearest)));
    check(good, name);
}

} // namespace

void test_halves() {
    halves<F16>("rounding to f16", 0x7C00, half_value, nearest_f16, to_f16);
    halves<BF16>("rounding to bf16", 0x7F80, bf16_value, nearest_bf16, to_bf16);
}

void test_integers() {
    integer_family<int16_t>("s16");
    integer_family<uint16_t>("u16");
    integer_family<int32_t>("s32");
    integer_family<uint32_t>("u32");
    integer_family<int64_t>("s64");
    integer_family<uint64_t>("u64");
    operation<int64_t, int32_t, int32_t>("mul.wide.s32 %z, %a, %b;",
                                         [](int32_t a, int32_t b) { return int64_t(a) * b; });
    operation<uint32_t, uint16_t, uint16_t>("mul.wide.u16 %z, %a, %b;",
                                            [](uint16_t a, uint16_t b) { return uint32_t(a) * b; });
    operation<uint64_t, uint32_t, uint32_t, uint64_t>(
        "mad.wide.u32 %z, %a, %b, %c;",
        [](uint32_t a, uint32_t b, uint64_t c) { return uint64_t(a) * b + c; });
    operation<uint64_t, uint64_t, uint64_t>(
        "mov.b64 {%r1, %r2}, %a;\nmov.b64 {%r3, %r4}, %b;\nadd.cc.u32 %r1, %r1, %r3;\n"
        "addc.u32 %r2, %r2, %r4;\nmov.b64 %z, {%r1, %r2};",
        [](uint64_t a, uint64_t b) { return a + b; });
    operation<uint64_t, uint64_t, uint64_t>(
        "mov.b64 {%r1, %r2}, %a;\nmov.b64 {%r3, %r4}, %b;\nsub.cc.u32 %r1, %r1, %r3;\n"
        "subc.u32 %r2, %r2, %r4;\nmov.b64 %z, {%r1, %r2};",
        [](uint64_t a, uint64_t b) { return a - b; });
    operation<uint64_t, uint32_t, uint32_t, uint64_t>(
        "mov.b64 {%r1, %r2}, %c;\nmad.lo.cc.u32 %r3, %a, %b, %r1;\n"
        "madc.hi.u32 %r4, %a, %b, %r2;\nmov.b64 %z, {%r3, %r4};",
        [](uint32_t a, uint32_t b, uint64_t c) { return uint64_t(a) * b + c; });
}

void test_bits() {
    logic_family<uint16_t>("b16");
    logic_family<uint32_t>("b32");
    logic_family<uint64_t>("b64");
    count_family<uint32_t>("b32");
    count_family<uint64_t>("b64");
    operation<uint32_t, uint32_t>("bfind.u32 %z, %a;", highest<uint32_t>);
    operation<uint32_t, int32_t>("bfind.s32 %z, %a;", highest<int32_t>);
    operation<uint32_t, uint64_t>("bfind.u64 %z, %a;", highest<uint64_t>);
    operation<uint32_t, uint32_t>("bfind.shiftamt.u32 %z, %a;",
                                  [](uint32_t a) { return a ? 31 - highest(a) : UINT32_MAX; });
    operation<uint32_t, uint32_t, uint32_t, uint32_t>("bfe.u32 %z, %a, %b, %c;", field<uint32_t>);
    operation<int32_t, int32_t, uint32_t, uint32_t>("bfe.s32 %z, %a, %b, %c;", field<int32_t>);
    operation<int64_t, int64_t, uint32_t, uint32_t>("bfe.s64 %z, %a, %b, %c;", field<int64_t>);
    operation<uint32_t, uint32_t, uint32_t, uint32_t, uint32_t>("bfi.b32 %z, %a, %b, %c, %d;",
                                                                inserted<uint32_t>);
    operation<uint64_t, uint64_t, uint64_t, uint32_t, uint32_t>("bfi.b64 %z, %a, %b, %c, %d;",
                                                                inserted<uint64_t>);
    const auto shifted = [](uint32_t low, uint32_t high, uint32_t by, bool left) {
        const uint64_t both = uint64_t(high) << 32 | low;
        return static_cast<uint32_t>(left ? both << by >> 32 : both >> by);
    };
    compare<uint32_t, uint32_t, uint32_t, uint32_t>(
        "shf.l.wrap.b32 %z, %a, %b, %c;",
        [=](uint32_t a, uint32_t b, uint32_t c) { return shifted(a, b, c % 32, true); },
        three_words, alike<uint32_t>);
    compare<uint32_t, uint32_t, uint32_t, uint32_t>(
        "shf.r.clamp.b32 %z, %a, %b, %c;",
        [=](uint32_t a, uint32_t b, uint32_t c) { return shifted(a, b, std::min(c, 32u), false); },
        three_words, alike<uint32_t>);
    operation<uint32_t, uint32_t, uint32_t, uint32_t>(
        "prmt.b32 %z, %a, %b, %c;", [](uint32_t a, uint32_t b, uint32_t c) {
            uint32_t result = 0;
            for (int i = 3; i >= 0; i--) {
                const uint32_t nibble = c >> 4 * i & 15;
                const uint32_t word = nibble & 4 ? b : a;
                const auto byte = static_cast<uint8_t>(word >> 8 * (nibble & 3));
                result = result << 8 | (nibble & 8 ? (byte & 128 ? 255u : 0u) : byte);
            }
            return result;
        });
    operation<uint32_t, uint32_t, uint32_t, uint32_t>(
        "lop3.b32 %z, %a, %b, %c, 0xCA;",
        [](uint32_t a, uint32_t b, uint32_t c) { return (a & b) | (~a & c); });
    operation<uint32_t, uint32_t, uint32_t, uint32_t>(
        "lop3.b32 %z, %a, %b, %c, 0x96;",
        [](uint32_t a, uint32_t b, uint32_t c) { return a ^ b ^ c; });
}

void test_floats() {
    float_family<float>("f32");
    float_family<double>("f64");
    float_modifiers();
    directions();
    approximate("ex2.approx.f32 %z, %a;", [](float a) { return std::exp2(a); });
    approximate("lg2.approx.f32 %z, %a;", [](float a) { return std::log2(a); });
    approximate("rsqrt.approx.f32 %z, %a;", [](float a) { return 1 / std::sqrt(a); });
    approximate("rcp.approx.f32 %z, %a;", [](float a) { return 1 / a; });
    approximate("sqrt.approx.f32 %z, %a;", [](float a) { return std::sqrt(a); });
    approximate("tanh.approx.f32 %z, %a;", [](float a) { return std::tanh(a); });
    approximate("sin.approx.f32 %z, %a;", [](float a) { return std::sin(a); });
    approximate("cos.approx.f32 %z, %a;", [](float a) { return std::cos(a); });
}

void test_comparisons() {
    ordered_comparisons<int16_t>("s16");
    ordered_comparisons<int32_t>("s32");
    ordered_comparisons<uint32_t>("u32");
    ordered_comparisons<int64_t>("s64");
    ordered_comparisons<uint64_t>("u64");
    ordered_comparisons<float>("f32");
    ordered_comparisons<double>("f64");
    unordered_comparisons<float>("f32");
    unordered_comparisons<double>("f64");
    comparison<uint32_t>("hi", "u32", [](uint32_t a, uint32_t b) { return a > b; });
    comparison<uint32_t>("ls", "u32", [](uint32_t a, uint32_t b) { return a <= b; });
    operation<uint32_t, int32_t, int32_t, int32_t>(
        "setp.lt.s32 %p1, %a, %b;\nsetp.gt.and.s32 %p2|%p3, %b, %c, !%p1;\n"
        "selp.b32 %r1, 1, 0, %p2;\nselp.b32 %r2, 2, 0, %p3;\nor.b32 %z, %r1, %r2;",
        [](int32_t a, int32_t b, int32_t c) {
            return (!(a < b) && b > c ? 1u : 0u) | (!(a < b) && !(b > c) ? 2u : 0u);
        });
    operation<uint32_t, float>("testp.finite.f32 %p1, %a;\nselp.b32 %z, 1, 0, %p1;",
                               [](float a) { return std::isfinite(a) ? 1u : 0u; });
}

void test_conversions() {
    float_to_integer<int32_t>("s32");
    float_to_integer<uint32_t>("u32");
    float_to_integer<int64_t>("s64");
    float_to_integer<uint64_t>("u64");
    operation<int64_t, int32_t>("cvt.s64.s32 %z, %a;", [](int32_t a) { return int64_t(a); });
    operation<uint64_t, uint32_t>("cvt.u64.u32 %z, %a;", [](uint32_t a) { return uint64_t(a); });
    operation<uint32_t, uint64_t>("cvt.u32.u64 %z, %a;", [](uint64_t a) { return uint32_t(a); });
    operation<int32_t, uint32_t>("cvt.s32.s8 %z, %a;",
                                 [](uint32_t a) { return int32_t(int8_t(a)); });
    operation<uint16_t, uint32_t>("cvt.u16.u32 %z, %a;", [](uint32_t a) { return uint16_t(a); });
    operation<int64_t, uint16_t>("cvt.s64.s16 %z, %a;",
                                 [](uint16_t a) { return int64_t(int16_t(a)); });
    operation<int32_t, int64_t>("cvt.sat.s32.s64 %z, %a;", [](int64_t a) {
        return static_cast<int32_t>(std::clamp<int64_t>(a, INT32_MIN, INT32_MAX));
    });
    operation<uint32_t, int32_t>("cvt.sat.u8.s32 %z, %a;", [](int32_t a) {
        return static_cast<uint32_t>(std::clamp(a, 0, 255));
    });
    operation<float, double>("cvt.rn.f32.f64 %z, %a;", [](double a) { return float(a); });
    operation<double, float>("cvt.f64.f32 %z, %a;", [](float a) { return double(a); });
    operation<float, float>("cvt.rni.f32.f32 %z, %a;", [](float a) { return std::rint(a); });
    operation<float, float>("cvt.rmi.f32.f32 %z, %a;", [](float a) { return std::floor(a); });
    operation<float, float>("cvt.sat.f32.f32 %z, %a;",
                            [](float a) { return a > 0 ? std::min(a, 1.0f) : 0.0f; });
    operation<float, uint16_t>("cvt.f32.f16 %z, %a;", half_value);
    operation<float, uint16_t>("cvt.f32.bf16 %z, %a;", bf16_value);
    operation<uint16_t, float>("cvt.rn.f16.f32 %z, %a;",
                               [](float a) { return to_f16(a, Rounding::Nearest).bits; });
    operation<uint16_t, float>("cvt.rz.bf16.f32 %z, %a;",
                               [](float a) { return to_bf16(a, Rounding::Zero).bits; });
    operation<uint32_t, float, float>("cvt.rn.bf16x2.f32 %z, %a, %b;", [](float a, float b) {
        return uint32_t(to_bf16(a, Rounding::Nearest).bits) << 16 |
               to_bf16(b, Rounding::Nearest).bits;
    });
    operation<uint32_t, float, float>("cvt.rn.relu.f16x2.f32 %z, %a, %b;", [](float a, float b) {
        const auto half = [](float x) {
            return uint32_t(to_f16(x > 0 || std::isnan(x) ? x : 0.0f, Rounding::Nearest).bits);
        };
        return half(a) << 16 | half(b);
    });
}

void test_moves() {
    operation<uint32_t, uint32_t>("mov.b32 {%h1, %h2}, %a;\nmov.b32 %z, {%h2, %h1};",
                                  [](uint32_t a) { return a << 16 | a >> 16; });
    operation<uint64_t, uint64_t>("mov.b64 {%h1, %h2, %h3, %h4}, %a;\n"
                                  "mov.b64 %z, {%h4, %h3, %h2, %h1};",
                                  [](uint64_t a) {
                                      return a << 48 | (a << 16 & 0xFFFF00000000) |
                                             (a >> 16 & 0xFFFF0000) | a >> 48;
                                  });
    operation<uint32_t, uint64_t>("mov.b64 {_, %z}, %a;",
                                  [](uint64_t a) { return uint32_t(a >> 32); });
    operation<float, float>("add.f32 %z, %a, 0fBF800000;", [](float a) { return a - 1; });
    operation<double, double>("add.f64 %z, %a, 0d3FF8000000000000;",
                              [](double a) { return a + 1.5; });
    operation<uint32_t, uint32_t>("add.u32 %z, %a, -3;", [](uint32_t a) { return a - 3; });
    operation<uint32_t, uint32_t>("setp.eq.u32 %p1, %a, 0;\n@%p1 mov.u32 %z, 7;\n"
                                  "@!%p1 mov.u32 %z, 9;",
                                  [](uint32_t a) { return a == 0 ? 7u : 9u; });
}

} // namespace ptx
