/* float.cpp - arithmetic of f32 and f64. What the hardware approximates is computed exactly and
 * rounded: its own error is not seen here. */
#include "decoder.h"
#include "rounding.h"

#include <cmath>

namespace ptx {
namespace {

/* A result that is not a number has these bits, whatever went in. */
inline float canonical(float x) {
    return x == x ? x : bits_of<float>(0x7FFFFFFFu);
}
inline double canonical(double x) {
    return x;
}

template <class T> T flushed(T x, bool flush) {
    const T least = sizeof(T) == 4 ? T(0x1p-126) : T(0);
    return flush && std::fabs(x) < least ? std::copysign(T(0), x) : x;
}

template <class T> T saturated(T x) {
    return x > T(0) ? std::min(x, T(1)) : T(0);
}

struct Add {
    template <class T> static T of(T a, T b) {
        return a + b;
    }
};
struct Sub {
    template <class T> static T of(T a, T b) {
        return a - b;
    }
};
struct Mul {
    template <class T> static T of(T a, T b) {
        return a * b;
    }
};
struct Div {
    template <class T> static T of(T a, T b) {
        return a / b;
    }
};
struct Fma {
    template <class T> static T of(T a, T b, T c) {
        return std::fma(a, b, c);
    }
};
struct Rcp {
    template <class T> static T of(T a) {
        return T(1) / a;
    }
};
struct Sqrt {
    template <class T> static T of(T a) {
        return std::sqrt(a);
    }
};

/* One operand that is not a number yields the other; -0 is less than +0. */
struct Min {
    template <class T> static T of(T a, T b) {
        if (a == b)
            return std::signbit(a) ? a : b;
        return !(b == b) || a < b ? a : b;
    }
};
struct Max {
    template <class T> static T of(T a, T b) {
        if (a == b)
            return std::signbit(a) ? b : a;
        return !(b == b) || a > b ? a : b;
    }
};
template <class Op> struct OrNan {
    template <class T> static T of(T a, T b) {
        return a == a && b == b ? Op::of(a, b) : T(NAN);
    }
};

/* ---- approximations: by way of double ------------------------------------------------------- */

template <double F(double)> struct ByDouble {
    static float of(float a) {
        return static_cast<float>(F(a));
    }
};
inline double reciprocal_root(double x) {
    return 1 / std::sqrt(x);
}
using Rsqrt = ByDouble<reciprocal_root>;
using Exp2 = ByDouble<std::exp2>;
using Log2 = ByDouble<std::log2>;
using Sine = ByDouble<std::sin>;
using Cosine = ByDouble<std::cos>;
using Tanh = ByDouble<std::tanh>;

/* Of f64 the upper half of the result's bits. */
template <class Op> struct UpperHalf {
    static double of(double a) {
        return bits_of<double>(bits_of<uint64_t>(Op::of(a)) & ~UINT64_C(0xFFFFFFFF));
    }
};
struct RsqrtDouble {
    static double of(double a) {
        return reciprocal_root(a);
    }
};

/* ---- handlers ------------------------------------------------------------------------------- */

template <class Op, class T, class... A> void directly(Warp &w, const Inst &in, uint32_t lanes) {
    map_lanes<T, A...>(w, in, lanes, [](A... a) { return canonical(Op::of(a...)); });
}

template <class Op, class T, class... A>
void with_modifiers(Warp &w, const Inst &in, uint32_t lanes) {
    const RoundingScope scope(in.rounding);
    const bool flush = in.flush, saturate = in.saturate;
    map_lanes<T, A...>(w, in, lanes, [flush, saturate](A... a) {
        const T result = flushed(canonical(Op::of(flushed(a, flush)...)), flush);
        return saturate ? saturated(result) : result;
    });
}

template <class Op, class T, class... A> Handler handler(const Inst &in) {
    const bool plain = in.rounding == Rounding::Nearest && !in.flush && !in.saturate;
    return plain ? directly<Op, T, A...> : with_modifiers<Op, T, A...>;
}

template <class Op> Handler unary(Type type, const Inst &in) {
    if (type == Type::F64)
        return handler<Op, double, double>(in);
    return type == Type::F32 ? handler<Op, float, float>(in) : nullptr;
}

template <class Op> Handler binary(Type type, const Inst &in) {
    if (type == Type::F64)
        return handler<Op, double, double, double>(in);
    return type == Type::F32 ? handler<Op, float, float, float>(in) : nullptr;
}

template <class Op> Handler ternary(Type type, const Inst &in) {
    if (type == Type::F64)
        return handler<Op, double, double, double, double>(in);
    return type == Type::F32 ? handler<Op, float, float, float, float>(in) : nullptr;
}

void take_modifiers(Opcode &op, Inst &in) {
    in.flush = op.take("ftz");
    in.saturate = op.take("sat");
}

bool decode_arithmetic(Decoder &d, Opcode &op, Inst &in) {
    const bool three = op.is("fma") || op.is("mad");
    if (!three && !op.is("add") && !op.is("sub") && !op.is("mul"))
        return false;
    in.rounding = op.take_rounding();
    take_modifiers(op, in);
    const Type type = op.take_type();
    if (three) {
        in.run = ternary<Fma>(type, in);
        d.plain(in, type, {type, type, type});
        return true;
    }
    if (op.is("add"))
        in.run = binary<Add>(type, in);
    else
        in.run = op.is("sub") ? binary<Sub>(type, in) : binary<Mul>(type, in);
    d.plain(in, type, {type, type});
    return true;
}

bool decode_division(Decoder &d, Opcode &op, Inst &in) {
    const bool two = op.is("div");
    if (!two && !op.is("rcp") && !op.is("sqrt"))
        return false;
    const bool approximate = op.take("approx") || op.take("full");
    if (!approximate)
        in.rounding = op.take_rounding();
    take_modifiers(op, in);
    const Type type = op.take_type();
    if (two)
        in.run = binary<Div>(type, in);
    else if (op.is("sqrt"))
        in.run = unary<Sqrt>(type, in);
    else if (approximate && type == Type::F64)
        in.run = handler<UpperHalf<Rcp>, double, double>(in);
    else
        in.run = unary<Rcp>(type, in);
    if (two)
        d.plain(in, type, {type, type});
    else
        d.plain(in, type, {type});
    return true;
}

bool decode_extreme(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("min") && !op.is("max"))
        return false;
    take_modifiers(op, in);
    const bool nan = op.take("NaN");
    const Type type = op.take_type();
    if (op.is("min"))
        in.run = nan ? binary<OrNan<Min>>(type, in) : binary<Min>(type, in);
    else
        in.run = nan ? binary<OrNan<Max>>(type, in) : binary<Max>(type, in);
    d.plain(in, type, {type, type});
    return true;
}

Handler approximation(const Opcode &op, const Inst &in) {
    if (op.is("ex2"))
        return handler<Exp2, float, float>(in);
    if (op.is("lg2"))
        return handler<Log2, float, float>(in);
    if (op.is("sin"))
        return handler<Sine, float, float>(in);
    if (op.is("cos"))
        return handler<Cosine, float, float>(in);
    if (op.is("tanh"))
        return handler<Tanh, float, float>(in);
    return handler<Rsqrt, float, float>(in);
}

bool decode_approximation(Decoder &d, Opcode &op, Inst &in) {
    const bool known = op.is("ex2") || op.is("lg2") || op.is("sin") || op.is("cos") ||
                       op.is("tanh") || op.is("rsqrt");
    if (!known)
        return false;
    if (!op.take("approx"))
        d.refuse("not an approximation");
    take_modifiers(op, in);
    const Type type = op.take_type();
    if (type == Type::F32)
        in.run = approximation(op, in);
    else if (type == Type::F64 && op.is("rsqrt"))
        in.run = handler<UpperHalf<RsqrtDouble>, double, double>(in);
    d.plain(in, type, {type});
    return true;
}

/* ---- signs: of bits, so that nothing happens to what is not a number ------------------------- */

template <class U, int WHAT> void change_sign(Warp &w, const Inst &in, uint32_t lanes) {
    constexpr U sign = static_cast<U>(U(1) << (8 * sizeof(U) - 1));
    map_lanes<U, U>(w, in, lanes, [](U x) {
        return static_cast<U>(WHAT ? x ^ sign : x & static_cast<U>(~sign));
    });
}

template <int WHAT> Handler sign_changer(Type type) {
    switch (type) {
    case Type::F64:
        return change_sign<uint64_t, WHAT>;
    case Type::F32:
        return change_sign<uint32_t, WHAT>;
    case Type::F16:
    case Type::BF16:
        return change_sign<uint16_t, WHAT>;
    default:
        return nullptr;
    }
}

template <class U> void copy_sign(Warp &w, const Inst &in, uint32_t lanes) {
    constexpr U sign = U(1) << (8 * sizeof(U) - 1);
    map_lanes<U, U, U>(w, in, lanes, [](U of, U to) { return (of & sign) | (to & ~sign); });
}

bool decode_sign(Decoder &d, Opcode &op, Inst &in) {
    const bool two = op.is("copysign");
    if (!two && !op.is("neg") && !op.is("abs"))
        return false;
    const bool flush = op.take("ftz");
    const Type type = op.take_type();
    if (flush)
        d.refuse("flushing is not modelled here");
    if (two) {
        in.run = type == Type::F64 ? copy_sign<uint64_t> : copy_sign<uint32_t>;
        d.plain(in, type, {type, type});
        return true;
    }
    in.run = op.is("neg") ? sign_changer<1>(type) : sign_changer<0>(type);
    d.plain(in, type, {type});
    return true;
}

} // namespace

bool decode_float(Decoder &d, Opcode &op, Inst &in) {
    if (!is_float(op.peek_type()))
        return false;
    return decode_arithmetic(d, op, in) || decode_division(d, op, in) ||
           decode_extreme(d, op, in) || decode_approximation(d, op, in) || decode_sign(d, op, in);
}

} // namespace ptx
