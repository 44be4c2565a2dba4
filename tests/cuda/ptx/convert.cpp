/* convert.cpp - cvt. */
#include "decoder.h"
#include "rounding.h"

#include <cmath>
#include <limits>

namespace ptx {
namespace {

/* mode */
constexpr uint8_t SATURATE_INTEGER = 1;

template <class T> constexpr bool IS_INTEGER = std::is_integral_v<T>;

inline double widened(float x) {
    return x;
}
inline double widened(double x) {
    return x;
}
inline double widened(F16 x) {
    return to_float(x);
}
inline double widened(BF16 x) {
    return to_float(x);
}

double integral(double x, Rounding rounding) {
    switch (rounding) {
    case Rounding::Nearest:
        return std::nearbyint(x);
    case Rounding::Zero:
        return std::trunc(x);
    case Rounding::Down:
        return std::floor(x);
    default:
        return std::ceil(x);
    }
}

/* What an integer type cannot hold becomes its nearest; what is not a number 0 where both are
 * narrower than 64 bits, else the highest bit alone. */
template <class D, class S> D float_to_integer(S from, Rounding rounding) {
    using U = std::make_unsigned_t<D>;
    const double x = integral(widened(from), rounding);
    if (std::isnan(x))
        return sizeof(D) == 8 || sizeof(S) == 8 ? static_cast<D>(U(1) << (8 * sizeof(D) - 1))
                                                : D(0);
    /* One above the largest, a power of two. */
    const double above = std::ldexp(1.0, std::numeric_limits<D>::digits);
    if (x >= above)
        return std::numeric_limits<D>::max();
    if (x < static_cast<double>(std::numeric_limits<D>::min()))
        return std::numeric_limits<D>::min();
    return static_cast<D>(x);
}

template <class D, class S> D integer_to_integer(S x, bool saturate) {
    if (saturate) {
        const __int128 wide = x;
        if (wide > std::numeric_limits<D>::max())
            return std::numeric_limits<D>::max();
        if (wide < std::numeric_limits<D>::min())
            return std::numeric_limits<D>::min();
    }
    return static_cast<D>(x);
}

template <class D> D narrowed(double x, Rounding rounding) {
    if constexpr (std::is_same_v<D, F16>)
        return to_f16(x, rounding);
    else if constexpr (std::is_same_v<D, BF16>)
        return to_bf16(x, rounding);
    else
        return static_cast<D>(x); /* in the processor's direction */
}

inline double flushed_if(double x, bool flush) {
    return flush && std::fabs(x) < 0x1p-126 ? std::copysign(0.0, x) : x;
}

template <class D, class S> D float_to_float(S from, const Inst &in) {
    double x = flushed_if(widened(from), in.flush);
    if (in.integral)
        x = integral(x, in.rounding);
    if (in.saturate)
        x = x > 0 ? std::min(x, 1.0) : 0;
    if (in.relu)
        x = x > 0 || std::isnan(x) ? x : 0;
    return narrowed<D>(x, in.rounding);
}

template <class D, class S> D converted(S x, const Inst &in) {
    if constexpr (IS_INTEGER<D> && IS_INTEGER<S>)
        return integer_to_integer<D>(x, in.mode & SATURATE_INTEGER);
    else if constexpr (IS_INTEGER<D>)
        return float_to_integer<D>(x, in.rounding);
    else if constexpr (!IS_INTEGER<S>)
        return float_to_float<D>(x, in);
    else if constexpr (sizeof(D) == 2) /* integers up to 32 bits are exact as double */
        return narrowed<D>(static_cast<double>(x), in.rounding);
    else
        return static_cast<D>(x);
}

template <class D, class S> void convert(Warp &w, const Inst &in, uint32_t lanes) {
    const RoundingScope scope(in.rounding);
    map_lanes<D, S>(w, in, lanes, [&in](S x) { return converted<D>(x, in); });
}

/* The conversions that kernels are full of, without the general ones' questions. */
template <class D, class S> void convert_directly(Warp &w, const Inst &in, uint32_t lanes) {
    map_lanes<D, S>(w, in, lanes, [](S x) {
        if constexpr (std::is_same_v<S, F16> || std::is_same_v<S, BF16>)
            return to_float(x);
        else if constexpr (std::is_same_v<D, F16>)
            return nearest_f16(x);
        else if constexpr (std::is_same_v<D, BF16>)
            return nearest_bf16(x);
        else
            return static_cast<D>(x);
    });
}

template <class D, class S> Handler handler(const Inst &in) {
    const bool plain = in.rounding == Rounding::Nearest && !in.integral && !in.saturate &&
                       !in.flush && !in.relu && in.mode == 0;
    constexpr bool both_float = !IS_INTEGER<D> && !IS_INTEGER<S>;
    constexpr bool has_fast = (IS_INTEGER<D> && IS_INTEGER<S>) ||
                              (std::is_same_v<D, float> && both_float && sizeof(S) < 8) ||
                              (std::is_same_v<S, float> && both_float && sizeof(D) < 8);
    if constexpr (has_fast)
        if (plain)
            return convert_directly<D, S>;
    return convert<D, S>;
}

template <class F> Handler with_type(Type type, F f) {
    switch (type) {
    case Type::U8:
        return f(uint8_t());
    case Type::S8:
        return f(int8_t());
    case Type::F16:
        return f(F16());
    case Type::BF16:
        return f(BF16());
    case Type::F32:
        return f(float());
    case Type::F64:
        return f(double());
    default:
        return with_integer(type, f);
    }
}

/* d = {high: s[0], low: s[1]} */
template <class H> void convert_pair(Warp &w, const Inst &in, uint32_t lanes) {
    map_lanes<uint32_t, float, float>(w, in, lanes, [&in](float high, float low) {
        const uint32_t upper = float_to_float<H>(high, in).bits;
        return upper << 16 | float_to_float<H>(low, in).bits;
    });
}

void take_rounding(Opcode &op, Inst &in) {
    const int whole = op.take_one({"rni", "rzi", "rmi", "rpi"});
    in.integral = whole >= 0;
    in.rounding = whole >= 0 ? static_cast<Rounding>(whole) : op.take_rounding();
}

} // namespace

bool decode_convert(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("cvt"))
        return false;
    take_rounding(op, in);
    in.relu = op.take("relu");
    in.flush = op.take("ftz");
    const bool saturate = op.take("sat");
    const Type to = op.take_type(), from = op.take_type();
    if (to == Type::BF16x2 || to == Type::F16x2) {
        if (from != Type::F32)
            d.refuse("a pair that is not of f32");
        in.run = to == Type::F16x2 ? convert_pair<F16> : convert_pair<BF16>;
        in.d[0] = d.dest(d.operand(0), Type::B32);
        d.sources(in, 1, {from, from});
        return true;
    }
    in.saturate = saturate && is_float(to);
    in.mode = saturate && !is_float(to) ? SATURATE_INTEGER : 0;
    in.run = with_type(to, [&](auto a) {
        using D = decltype(a);
        return with_type(from, [&](auto b) { return handler<D, decltype(b)>(in); });
    });
    d.plain(in, to, {from});
    return true;
}

} // namespace ptx
