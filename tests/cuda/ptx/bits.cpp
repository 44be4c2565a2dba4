/* bits.cpp - logic, shifts, and instructions that pick bits or bytes. */
#include "decoder.h"

namespace ptx {
namespace {

template <class T> constexpr unsigned BITS = 8 * sizeof(T);

struct And {
    template <class T> static T of(T a, T b) {
        return a & b;
    }
};
struct Or {
    template <class T> static T of(T a, T b) {
        return a | b;
    }
};
struct Xor {
    template <class T> static T of(T a, T b) {
        return a ^ b;
    }
};

/* Shifts by the width or more leave nothing but copies of the sign. */
struct ShiftLeft {
    template <class T> static T of(T a, uint32_t by) {
        return by >= BITS<T> ? T(0) : static_cast<T>(static_cast<uint64_t>(a) << by);
    }
};
struct ShiftRight {
    template <class T> static T of(T a, uint32_t by) {
        if (by >= BITS<T>)
            return static_cast<T>(a < 0 ? -1 : 0);
        return static_cast<T>(a >> by);
    }
};

template <class Op> Handler logic(Type type) {
    return with_integer(type, [](auto t) -> Handler {
        using T = decltype(t);
        return [](Warp &w, const Inst &in, uint32_t lanes) {
            map_lanes<T, T, T>(w, in, lanes, [](T a, T b) { return Op::of(a, b); });
        };
    });
}

template <class Op> Handler shift(Type type) {
    return with_integer(type, [](auto t) -> Handler {
        using T = decltype(t);
        return [](Warp &w, const Inst &in, uint32_t lanes) {
            map_lanes<T, T, uint32_t>(w, in, lanes, [](T a, uint32_t by) { return Op::of(a, by); });
        };
    });
}

template <class Op> void logic_of_predicates(Warp &w, const Inst &in, uint32_t lanes) {
    w.set_predicate(in.d[0], lanes, Op::of(w.predicate(in.s[0]), w.predicate(in.s[1])));
}

template <class Op> Handler logic_any(Type type) {
    return type == Type::Pred ? logic_of_predicates<Op> : logic<Op>(type);
}

void not_of_predicate(Warp &w, const Inst &in, uint32_t lanes) {
    w.set_predicate(in.d[0], lanes, ~w.predicate(in.s[0]));
}

Handler inverted(Type type) {
    return with_integer(type, [](auto t) -> Handler {
        using T = decltype(t);
        return [](Warp &w, const Inst &in, uint32_t lanes) {
            map_lanes<T, T>(w, in, lanes, [](T a) { return static_cast<T>(~a); });
        };
    });
}

Handler is_zero(Type type) {
    return with_integer(type, [](auto t) -> Handler {
        using T = decltype(t);
        return [](Warp &w, const Inst &in, uint32_t lanes) {
            map_lanes<T, T>(w, in, lanes, [](T a) { return static_cast<T>(a == 0); });
        };
    });
}

bool decode_logic(Decoder &d, Opcode &op, Inst &in) {
    const bool one = op.is("not") || op.is("cnot");
    if (!one && !op.is("and") && !op.is("or") && !op.is("xor"))
        return false;
    const Type type = op.take_type();
    if (op.is("not"))
        in.run = type == Type::Pred ? not_of_predicate : inverted(type);
    else if (op.is("cnot"))
        in.run = is_zero(type);
    else if (op.is("and"))
        in.run = logic_any<And>(type);
    else
        in.run = op.is("or") ? logic_any<Or>(type) : logic_any<Xor>(type);
    if (one)
        d.plain(in, type, {type});
    else
        d.plain(in, type, {type, type});
    return true;
}

bool decode_shift(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("shl") && !op.is("shr"))
        return false;
    const Type type = op.take_type();
    in.run = op.is("shl") ? shift<ShiftLeft>(type) : shift<ShiftRight>(type);
    d.plain(in, type, {type, Type::U32});
    return true;
}

/* ---- funnel shift --------------------------------------------------------------------------- */

template <bool LEFT, bool WRAP> void funnel(Warp &w, const Inst &in, uint32_t lanes) {
    map_lanes<uint32_t, uint32_t, uint32_t, uint32_t>(
        w, in, lanes, [](uint32_t low, uint32_t high, uint32_t by) {
            by = WRAP ? by & 31 : (by > 32 ? 32 : by);
            const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
            return static_cast<uint32_t>(LEFT ? both << by >> 32 : both >> by);
        });
}

bool decode_funnel(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("shf"))
        return false;
    const bool left = op.take("l");
    if (!left && !op.take("r"))
        d.refuse("a direction is missing");
    const bool wrap = op.take("wrap");
    if (!wrap && !op.take("clamp"))
        d.refuse("a mode is missing");
    const Type type = op.take_type();
    if (left)
        in.run = wrap ? funnel<true, true> : funnel<true, false>;
    else
        in.run = wrap ? funnel<false, true> : funnel<false, false>;
    d.plain(in, type, {type, type, Type::U32});
    return true;
}

/* ---- counting ------------------------------------------------------------------------------- */

template <class T> uint32_t leading_zeros(T x) {
    if constexpr (sizeof(T) == 8)
        return x ? static_cast<uint32_t>(__builtin_clzll(x)) : 64;
    else
        return x ? static_cast<uint32_t>(__builtin_clz(x)) : 32;
}

template <class T> void count_set(Warp &w, const Inst &in, uint32_t lanes) {
    map_lanes<uint32_t, T>(w, in, lanes,
                           [](T x) { return static_cast<uint32_t>(__builtin_popcountll(x)); });
}

template <class T> void count_leading_zeros(Warp &w, const Inst &in, uint32_t lanes) {
    map_lanes<uint32_t, T>(w, in, lanes, leading_zeros<T>);
}

template <class T> void reversed(Warp &w, const Inst &in, uint32_t lanes) {
    map_lanes<T, T>(w, in, lanes, [](T x) {
        T r = 0;
        for (unsigned i = 0; i < BITS<T>; i++)
            r |= static_cast<T>((x >> i & 1) << (BITS<T> - 1 - i));
        return r;
    });
}

/* The highest bit that differs from the sign, or that many places from the top. */
template <class T, bool SHIFT> void find_highest(Warp &w, const Inst &in, uint32_t lanes) {
    map_lanes<uint32_t, T>(w, in, lanes, [](T x) {
        using U = std::make_unsigned_t<T>;
        const U bits = static_cast<U>(x < 0 ? ~x : x);
        const uint32_t zeros = leading_zeros<U>(bits);
        if (bits == 0)
            return UINT32_MAX;
        return SHIFT ? zeros : BITS<T> - 1 - zeros;
    });
}

bool decode_count(Decoder &d, Opcode &op, Inst &in) {
    const bool find = op.is("bfind");
    if (!find && !op.is("popc") && !op.is("clz") && !op.is("brev"))
        return false;
    const bool amount = find && op.take("shiftamt");
    const Type type = op.take_type();
    const bool wide = size_of(type) == 8;
    if (op.is("popc"))
        in.run = wide ? count_set<uint64_t> : count_set<uint32_t>;
    else if (op.is("clz"))
        in.run = wide ? count_leading_zeros<uint64_t> : count_leading_zeros<uint32_t>;
    else if (op.is("brev"))
        in.run = wide ? reversed<uint64_t> : reversed<uint32_t>;
    else
        in.run = with_integer(type, [amount](auto t) -> Handler {
            using T = decltype(t);
            if constexpr (sizeof(T) < 4)
                return nullptr;
            else
                return amount ? find_highest<T, true> : find_highest<T, false>;
        });
    d.plain(in, op.is("brev") ? type : Type::U32, {type});
    return true;
}

/* ---- fields --------------------------------------------------------------------------------- */

template <class T> void extract(Warp &w, const Inst &in, uint32_t lanes) {
    map_lanes<T, T, uint32_t, uint32_t>(w, in, lanes, [](T a, uint32_t at, uint32_t length) {
        using U = std::make_unsigned_t<T>;
        at &= 0xFF;
        length &= 0xFF;
        if (length == 0)
            return T(0);
        const unsigned last = std::min<unsigned>(at + length - 1, BITS<T> - 1);
        const bool negative = std::is_signed_v<T> && (static_cast<U>(a) >> last & 1);
        const U field = at < BITS<T> ? static_cast<U>(static_cast<U>(a) >> at) : U(0);
        const unsigned kept = at > last ? 0 : last - at + 1;
        const U mask = kept >= BITS<T> ? static_cast<U>(~U(0)) : static_cast<U>((U(1) << kept) - 1);
        return static_cast<T>((field & mask) | (negative ? ~mask : U(0)));
    });
}

template <class T> void insert(Warp &w, const Inst &in, uint32_t lanes) {
    map_lanes<T, T, T, uint32_t, uint32_t>(
        w, in, lanes, [](T a, T b, uint32_t at, uint32_t length) {
            at &= 0xFF;
            length &= 0xFF;
            if (at >= BITS<T> || length == 0)
                return b;
            const T ones = length >= BITS<T> ? ~T(0) : static_cast<T>((T(1) << length) - 1);
            const T mask = static_cast<T>(ones << at);
            return static_cast<T>((b & ~mask) | (a << at & mask));
        });
}

bool decode_field(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("bfe") && !op.is("bfi"))
        return false;
    const Type type = op.take_type();
    const bool wide = size_of(type) == 8;
    if (op.is("bfi")) {
        in.run = wide ? insert<uint64_t> : insert<uint32_t>;
        d.plain(in, type, {type, type, Type::U32, Type::U32});
        return true;
    }
    if (is_signed(type))
        in.run = wide ? extract<int64_t> : extract<int32_t>;
    else
        in.run = wide ? extract<uint64_t> : extract<uint32_t>;
    d.plain(in, type, {type, Type::U32, Type::U32});
    return true;
}

/* Byte i of the result: one of the 8 bytes of b:a, or its sign 8 times over. */
void permute(Warp &w, const Inst &in, uint32_t lanes) {
    map_lanes<uint32_t, uint32_t, uint32_t, uint32_t>(
        w, in, lanes, [](uint32_t a, uint32_t b, uint32_t selector) {
            const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
            uint32_t result = 0;
            for (unsigned i = 0; i < 4; i++) {
                const uint32_t pick = selector >> 4 * i & 0xF;
                uint32_t byte = bytes >> 8 * (pick & 7) & 0xFF;
                if (pick & 8)
                    byte = byte & 0x80 ? 0xFF : 0;
                result |= byte << 8 * i;
            }
            return result;
        });
}

void lookup(Warp &w, const Inst &in, uint32_t lanes) {
    const uint8_t table = in.mode;
    map_lanes<uint32_t, uint32_t, uint32_t, uint32_t>(
        w, in, lanes, [table](uint32_t a, uint32_t b, uint32_t c) {
            uint32_t result = 0;
            for (unsigned i = 0; i < 8; i++)
                if (table >> i & 1)
                    result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
            return result;
        });
}

bool decode_pick(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("prmt") && !op.is("lop3"))
        return false;
    const Type type = op.take_type();
    if (op.is("prmt")) {
        in.run = permute;
        d.plain(in, type, {type, type, Type::U32});
        return true;
    }
    in.run = lookup;
    in.d[0] = d.dest(d.operand(0), type);
    d.sources(in, 1, {type, type, type});
    if (d.operands() != 5 || d.operand(4).kind != Operand::Integer)
        d.refuse("expected a table of 8 bits");
    in.mode = static_cast<uint8_t>(d.operand(4).value);
    return true;
}

} // namespace

bool decode_bits(Decoder &d, Opcode &op, Inst &in) {
    return decode_logic(d, op, in) || decode_shift(d, op, in) || decode_funnel(d, op, in) ||
           decode_count(d, op, in) || decode_field(d, op, in) || decode_pick(d, op, in);
}

} // namespace ptx
