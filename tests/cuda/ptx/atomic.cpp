/* atomic.cpp - atom and red: lane after lane. */
#include "decoder.h"

namespace ptx {
namespace {

template <class T> T sum(T a, T b) {
    if constexpr (std::is_integral_v<T>)
        return static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) +
                              static_cast<std::make_unsigned_t<T>>(b));
    else
        return a + b;
}

struct Add {
    template <class T> static T of(T old, T b, T) {
        return sum(old, b);
    }
};
struct Min {
    template <class T> static T of(T old, T b, T) {
        return b < old ? b : old;
    }
};
struct Max {
    template <class T> static T of(T old, T b, T) {
        return b > old ? b : old;
    }
};
struct Exchange {
    template <class T> static T of(T, T b, T) {
        return b;
    }
};
struct CompareAndSwap {
    template <class T> static T of(T old, T b, T c) {
        return old == b ? c : old;
    }
};
struct And {
    template <class T> static T of(T old, T b, T) {
        return old & b;
    }
};
struct Or {
    template <class T> static T of(T old, T b, T) {
        return old | b;
    }
};
struct Xor {
    template <class T> static T of(T old, T b, T) {
        return old ^ b;
    }
};
struct Increment {
    template <class T> static T of(T old, T b, T) {
        return old >= b ? T(0) : static_cast<T>(old + 1);
    }
};
struct Decrement {
    template <class T> static T of(T old, T b, T) {
        return old == 0 || old > b ? b : static_cast<T>(old - 1);
    }
};

template <class Op, class T> void modify(Warp &w, const Inst &in, uint32_t lanes) {
    for_lanes(lanes, [&](unsigned i) {
        uint8_t *at = w.reach(in, i, w.address_of(in, i), sizeof(T), Access::Atomic);
        T old;
        memcpy(&old, at, sizeof old);
        const T b = from_cell<T>(w.cells<T>(in.s[1])[i]);
        const T c = in.s[2] == NO_SLOT ? T() : from_cell<T>(w.cells<T>(in.s[2])[i]);
        const T next = Op::of(old, b, c);
        memcpy(at, &next, sizeof next);
        if (in.d[0] != NO_SLOT)
            w.cells<T>(in.d[0])[i] =
                to_cell<std::remove_reference_t<decltype(w.cells<T>(0)[0])>>(old);
    });
}

template <class Op> Handler of_integers(Type type) {
    return with_integer(type, [](auto t) -> Handler {
        if constexpr (sizeof(t) < 4)
            return nullptr;
        else
            return modify<Op, decltype(t)>;
    });
}

Handler adder(Type type) {
    if (type == Type::F32)
        return modify<Add, float>;
    return type == Type::F64 ? modify<Add, double> : of_integers<Add>(type);
}

Handler operation(Decoder &d, Opcode &op, Type type) {
    switch (op.take_one({"add", "min", "max", "exch", "cas", "and", "or", "xor", "inc", "dec"})) {
    case 0:
        return adder(type);
    case 1:
        return of_integers<Min>(type);
    case 2:
        return of_integers<Max>(type);
    case 3:
        return of_integers<Exchange>(type);
    case 4:
        return of_integers<CompareAndSwap>(type);
    case 5:
        return of_integers<And>(type);
    case 6:
        return of_integers<Or>(type);
    case 7:
        return of_integers<Xor>(type);
    case 8:
        return of_integers<Increment>(type);
    case 9:
        return of_integers<Decrement>(type);
    default:
        d.refuse("an operation that is not known");
    }
}

} // namespace

bool decode_atomic(Decoder &d, Opcode &op, Inst &in) {
    const bool returns = op.is("atom");
    if (!returns && !op.is("red"))
        return false;
    take_memory_hints(op);
    in.space = take_access_space(op);
    const Type type = op.peek_type();
    in.run = operation(d, op, type);
    op.take_type();
    const size_t first = returns ? 1 : 0;
    if (returns && d.operand(0).kind != Operand::Sink)
        in.d[0] = d.dest(d.operand(0), type);
    d.address(d.operand(first), in);
    in.s[1] = d.source(d.operand(first + 1), type);
    if (d.operands() == first + 3)
        in.s[2] = d.source(d.operand(first + 2), type);
    d.note_access(in.space, size_of(type));
    return true;
}

} // namespace ptx
