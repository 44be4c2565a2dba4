/* integer.cpp - integer arithmetic. */
#include "decoder.h"

namespace ptx {
namespace {

template <class T> using Unsigned = std::make_unsigned_t<T>;
template <class T> constexpr unsigned BITS = 8 * sizeof(T);

/* Twice as wide, with the sign of T. */
template <class T>
using Wide = std::conditional_t<
    sizeof(T) == 8, std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>,
    std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                       std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>>>;

/* Arithmetic wraps around: it is done unsigned, and 16 bits are not promoted to int. */
template <class T> T wrapped(uint64_t x) {
    return static_cast<T>(x);
}

struct Add {
    template <class T> static T of(T a, T b) {
        return wrapped<T>(static_cast<uint64_t>(Unsigned<T>(a)) + Unsigned<T>(b));
    }
};
struct Sub {
    template <class T> static T of(T a, T b) {
        return wrapped<T>(static_cast<uint64_t>(Unsigned<T>(a)) - Unsigned<T>(b));
    }
};
struct MulLo {
    template <class T> static T of(T a, T b) {
        return wrapped<T>(static_cast<uint64_t>(Unsigned<T>(a)) * Unsigned<T>(b));
    }
};
struct MulHi {
    template <class T> static T of(T a, T b) {
        return static_cast<T>(Wide<T>(a) * Wide<T>(b) >> BITS<T>);
    }
};
struct Div { /* by zero: all ones, as the hardware leaves it */
    template <class T> static T of(T a, T b) {
        if (b == 0)
            return static_cast<T>(-1);
        return static_cast<T>(Wide<T>(a) / Wide<T>(b));
    }
};
struct Rem {
    template <class T> static T of(T a, T b) {
        return b == 0 ? a : static_cast<T>(Wide<T>(a) % Wide<T>(b));
    }
};
struct Min {
    template <class T> static T of(T a, T b) {
        return a < b ? a : b;
    }
};
struct Max {
    template <class T> static T of(T a, T b) {
        return a > b ? a : b;
    }
};

template <class Op> Handler binary(Type type) {
    return with_integer(type, [](auto t) -> Handler {
        using T = decltype(t);
        return [](Warp &w, const Inst &in, uint32_t lanes) {
            map_lanes<T, T, T>(w, in, lanes, [](T a, T b) { return Op::of(a, b); });
        };
    });
}

Handler absolute(Type type) {
    return with_integer(type, [](auto t) -> Handler {
        using T = decltype(t);
        return [](Warp &w, const Inst &in, uint32_t lanes) {
            map_lanes<T, T>(w, in, lanes, [](T a) { return a < 0 ? Sub::of(T(0), a) : a; });
        };
    });
}

Handler negated(Type type) {
    return with_integer(type, [](auto t) -> Handler {
        using T = decltype(t);
        return [](Warp &w, const Inst &in, uint32_t lanes) {
            map_lanes<T, T>(w, in, lanes, [](T a) { return Sub::of(T(0), a); });
        };
    });
}

/* |a - b| + c */
Handler sum_of_difference(Type type) {
    return with_integer(type, [](auto t) -> Handler {
        using T = decltype(t);
        return [](Warp &w, const Inst &in, uint32_t lanes) {
            map_lanes<T, T, T, T>(w, in, lanes, [](T a, T b, T c) {
                return Add::of(c, a < b ? Sub::of(b, a) : Sub::of(a, b));
            });
        };
    });
}

template <class Product> Handler multiply_add(Type type) {
    return with_integer(type, [](auto t) -> Handler {
        using T = decltype(t);
        return [](Warp &w, const Inst &in, uint32_t lanes) {
            map_lanes<T, T, T, T>(w, in, lanes,
                                  [](T a, T b, T c) { return Add::of(Product::of(a, b), c); });
        };
    });
}

Handler multiply_wide(Type type, bool add) {
    return with_integer(type, [add](auto t) -> Handler {
        using T = decltype(t);
        if constexpr (sizeof(T) == 8) {
            return nullptr;
        } else {
            using W = Wide<T>;
            if (add)
                return [](Warp &w, const Inst &in, uint32_t lanes) {
                    map_lanes<W, T, T, W>(w, in, lanes, [](T a, T b, W c) {
                        return Add::of(MulLo::of(W(a), W(b)), c);
                    });
                };
            return [](Warp &w, const Inst &in, uint32_t lanes) {
                map_lanes<W, T, T>(w, in, lanes, [](T a, T b) { return MulLo::of(W(a), W(b)); });
            };
        }
    });
}

Type widened(Type type) {
    switch (type) {
    case Type::U16:
        return Type::U32;
    case Type::S16:
        return Type::S32;
    case Type::U32:
        return Type::U64;
    default:
        return Type::S64;
    }
}

/* ---- with the condition code ---------------------------------------------------------------- */

/* x + y + the carry where `with` says so; the new carry of the lane. */
template <class T> T add_carry(T x, T y, bool carry, bool *out) {
    const auto sum = static_cast<unsigned __int128>(x) + y + (carry ? 1 : 0);
    *out = sum >> BITS<T>;
    return static_cast<T>(sum);
}

struct CarryMode {
    static constexpr uint8_t USES = 1, SETS = 2;
};

template <class T, class Left>
void with_carry(Warp &w, const Inst &in, uint32_t lanes, bool subtract, unsigned last, Left left) {
    auto *d = w.cells<T>(in.d[0]);
    auto *y = w.cells<T>(in.s[last]);
    for_lanes(lanes, [&](unsigned i) {
        const bool carry = in.mode & CarryMode::USES && w.carry >> i & 1;
        const T b = static_cast<T>(y[i]);
        bool out;
        /* a - b = a + ~b + 1: the code is the borrow, the carry's opposite. */
        T result = subtract ? add_carry<T>(left(i), static_cast<T>(~b), !carry, &out)
                            : add_carry<T>(left(i), b, carry, &out);
        out ^= subtract;
        d[i] = result;
        if (in.mode & CarryMode::SETS)
            w.carry = (w.carry & ~(1u << i)) | (out ? 1u << i : 0);
    });
}

template <class T> void add_with_carry(Warp &w, const Inst &in, uint32_t lanes) {
    const auto *a = w.cells<T>(in.s[0]);
    with_carry<T>(w, in, lanes, false, 1, [&](unsigned i) { return static_cast<T>(a[i]); });
}

template <class T> void subtract_with_borrow(Warp &w, const Inst &in, uint32_t lanes) {
    const auto *a = w.cells<T>(in.s[0]);
    with_carry<T>(w, in, lanes, true, 1, [&](unsigned i) { return static_cast<T>(a[i]); });
}

template <class T, class Product> void multiply_add_carry(Warp &w, const Inst &in, uint32_t lanes) {
    const auto *a = w.cells<T>(in.s[0]);
    const auto *b = w.cells<T>(in.s[1]);
    with_carry<Unsigned<T>>(w, in, lanes, false, 2, [&](unsigned i) {
        return static_cast<Unsigned<T>>(Product::of(static_cast<T>(a[i]), static_cast<T>(b[i])));
    });
}

bool decode_carry(Decoder &d, Opcode &op, Inst &in) {
    const bool uses = op.is("addc") || op.is("subc") || op.is("madc");
    const bool sets = op.take("cc");
    if (!uses && !sets)
        return false;
    in.mode = (uses ? CarryMode::USES : 0) | (sets ? CarryMode::SETS : 0);
    const bool high = op.take("hi");
    op.take("lo");
    const Type type = op.take_type();
    const bool wide = size_of(type) == 8;
    if (op.is("mad") || op.is("madc")) {
        in.run = with_integer(type, [high](auto t) -> Handler {
            using T = decltype(t);
            return high ? multiply_add_carry<T, MulHi> : multiply_add_carry<T, MulLo>;
        });
        d.plain(in, type, {type, type, type});
        return true;
    }
    if (op.is("add") || op.is("addc"))
        in.run = wide ? add_with_carry<uint64_t> : add_with_carry<uint32_t>;
    else
        in.run = wide ? subtract_with_borrow<uint64_t> : subtract_with_borrow<uint32_t>;
    d.plain(in, type, {type, type});
    return true;
}

/* ---- decoding ------------------------------------------------------------------------------- */

bool decode_product(Decoder &d, Opcode &op, Inst &in) {
    const bool add = op.is("mad");
    if (!add && !op.is("mul"))
        return false;
    const int part = op.take_one({"lo", "hi", "wide"});
    const Type type = op.take_type();
    if (part == 2) {
        in.run = multiply_wide(type, add);
        const Type result = widened(type);
        if (add)
            d.plain(in, result, {type, type, result});
        else
            d.plain(in, result, {type, type});
    } else if (part >= 0) {
        if (add)
            in.run = part ? multiply_add<MulHi>(type) : multiply_add<MulLo>(type);
        else
            in.run = part ? binary<MulHi>(type) : binary<MulLo>(type);
        if (add)
            d.plain(in, type, {type, type, type});
        else
            d.plain(in, type, {type, type});
    }
    return true;
}

Handler binary_named(const Opcode &op, Type type) {
    if (op.is("add"))
        return binary<Add>(type);
    if (op.is("sub"))
        return binary<Sub>(type);
    if (op.is("div"))
        return binary<Div>(type);
    if (op.is("rem"))
        return binary<Rem>(type);
    if (op.is("min"))
        return binary<Min>(type);
    if (op.is("max"))
        return binary<Max>(type);
    return nullptr;
}

} // namespace

bool decode_integer(Decoder &d, Opcode &op, Inst &in) {
    if (is_float(op.peek_type()) || op.peek_type() == Type::Pred)
        return false;
    if (decode_carry(d, op, in) || decode_product(d, op, in))
        return true;
    const bool known = op.is("add") || op.is("sub") || op.is("div") || op.is("rem") ||
                       op.is("min") || op.is("max") || op.is("abs") || op.is("neg") || op.is("sad");
    if (!known)
        return false;
    const Type type = op.take_type();
    if (op.is("sad")) {
        in.run = sum_of_difference(type);
        d.plain(in, type, {type, type, type});
    } else if (op.is("abs") || op.is("neg")) {
        in.run = op.is("abs") ? absolute(type) : negated(type);
        d.plain(in, type, {type});
    } else {
        in.run = binary_named(op, type);
        d.plain(in, type, {type, type});
    }
    return true;
}

} // namespace ptx
