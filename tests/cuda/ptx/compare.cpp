/* compare.cpp - comparisons, and choices by a predicate. */
#include "decoder.h"

#include <cmath>

namespace ptx {
namespace {

enum Comparison { EQ, NE, LT, LE, GT, GE, EQU, NEU, LTU, LEU, GTU, GEU, NUM, NAN_, LO, LS, HI, HS };

Comparison comparison_of(Decoder &d, Opcode &op) {
    const int found = op.take_one({"eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu",
                                   "gtu", "geu", "num", "nan", "lo", "ls", "hi", "hs"});
    if (found < 0)
        d.refuse("no comparison");
    return static_cast<Comparison>(found);
}

template <int C, class T> bool ordered(T a, T b) {
    switch (C) {
    case EQ:
    case EQU:
        return a == b;
    case NE:
    case NEU:
        return a != b;
    case LT:
    case LTU:
        return a < b;
    case LE:
    case LEU:
        return a <= b;
    case GT:
    case GTU:
        return a > b;
    default:
        return a >= b;
    }
}

template <int C, class T> bool compared(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
        return ordered<C>(a, b);
    } else {
        const bool unordered = a != a || b != b;
        if (C == NUM || C == NAN_)
            return unordered == (C == NAN_);
        if (unordered)
            return C >= EQU;
        return ordered<C>(a, b);
    }
}

/* mode: how the comparison and a third predicate become one. */
enum Combine : uint8_t { ALONE, AND, OR, XOR };

uint32_t combined(uint8_t mode, uint32_t bits, uint32_t with) {
    switch (mode) {
    case AND:
        return bits & with;
    case OR:
        return bits | with;
    case XOR:
        return bits ^ with;
    default:
        return bits;
    }
}

template <class T> T flushed(T x) {
    if constexpr (std::is_same_v<T, float>)
        return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x;
    else
        return x;
}

template <int C, class T, bool FLUSH> uint32_t comparison(Warp &w, const Inst &in) {
    const auto *a = w.cells<T>(in.s[0]);
    const auto *b = w.cells<T>(in.s[1]);
    uint32_t bits = 0;
    for (unsigned i = 0; i < WARP; i++) {
        T x = from_cell<T>(a[i]), y = from_cell<T>(b[i]);
        if (FLUSH)
            x = flushed(x), y = flushed(y);
        bits |= static_cast<uint32_t>(compared<C>(x, y)) << i;
    }
    return bits;
}

template <int C, class T, bool FLUSH = false>
void set_predicate(Warp &w, const Inst &in, uint32_t lanes) {
    const uint32_t bits = comparison<C, T, FLUSH>(w, in);
    const uint32_t with = in.mode == ALONE ? 0 : w.predicate(in.s[2]);
    if (in.d[1] != NO_SLOT)
        w.set_predicate(in.d[1], lanes, combined(in.mode, ~bits, with));
    w.set_predicate(in.d[0], lanes, combined(in.mode, bits, with));
}

template <class T, bool FLUSH = false> Handler setter(int c) {
    static constexpr Handler handlers[] = {
        set_predicate<EQ, T, FLUSH>,  set_predicate<NE, T, FLUSH>,   set_predicate<LT, T, FLUSH>,
        set_predicate<LE, T, FLUSH>,  set_predicate<GT, T, FLUSH>,   set_predicate<GE, T, FLUSH>,
        set_predicate<EQU, T, FLUSH>, set_predicate<NEU, T, FLUSH>,  set_predicate<LTU, T, FLUSH>,
        set_predicate<LEU, T, FLUSH>, set_predicate<GTU, T, FLUSH>,  set_predicate<GEU, T, FLUSH>,
        set_predicate<NUM, T, FLUSH>, set_predicate<NAN_, T, FLUSH>,
    };
    return handlers[c];
}

Handler setter_of(Type type, int c, bool flush) {
    if (type == Type::F32)
        return flush ? setter<float, true>(c) : setter<float>(c);
    if (type == Type::F64)
        return setter<double>(c);
    if (c >= EQU)
        return nullptr;
    return with_integer(type, [c](auto t) { return setter<decltype(t)>(c); });
}

/* lo, ls, hi and hs are lt, le, gt and ge of unsigned numbers. */
Comparison plain_comparison(Comparison c) {
    return c >= LO ? static_cast<Comparison>(c - LO + LT) : c;
}

bool decode_setp(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("setp"))
        return false;
    const Comparison c = plain_comparison(comparison_of(d, op));
    in.mode = static_cast<uint8_t>(op.take_one({"and", "or", "xor"}) + 1);
    const bool flush = op.take("ftz");
    const Type type = op.take_type();
    in.run = setter_of(type, c, flush);
    in.d[0] = d.dest(d.operand(0), Type::Pred);
    in.d[1] = d.second_dest(d.operand(0));
    d.sources(in, 1, {type, type});
    if (in.mode != ALONE)
        in.s[2] = d.source(d.operand(3), Type::Pred);
    if (d.operands() != (in.mode == ALONE ? 3u : 4u))
        d.refuse("unexpected operands");
    return true;
}

/* ---- choices -------------------------------------------------------------------------------- */

template <class T> void select(Warp &w, const Inst &in, uint32_t lanes) {
    const uint32_t p = w.predicate(in.s[2]);
    auto *d = w.cells<T>(in.d[0]);
    const auto *a = w.cells<T>(in.s[0]);
    const auto *b = w.cells<T>(in.s[1]);
    for_lanes(lanes, [&](unsigned i) { d[i] = p >> i & 1 ? a[i] : b[i]; });
}

bool decode_selp(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("selp"))
        return false;
    const Type type = op.take_type();
    in.run = size_of(type) == 8 ? select<uint64_t> : select<uint32_t>;
    d.plain(in, type, {type, type, Type::Pred});
    return true;
}

template <class T> void test_property(Warp &w, const Inst &in, uint32_t lanes) {
    const auto *a = w.cells<T>(in.s[0]);
    uint32_t bits = 0;
    for (unsigned i = 0; i < WARP; i++) {
        const T x = from_cell<T>(a[i]);
        const bool is[] = {std::isfinite(x), std::isinf(x),    !std::isnan(x),
                           std::isnan(x),    std::isnormal(x), std::fpclassify(x) == FP_SUBNORMAL};
        bits |= static_cast<uint32_t>(is[in.mode]) << i;
    }
    w.set_predicate(in.d[0], lanes, bits);
}

bool decode_testp(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("testp"))
        return false;
    const int what =
        op.take_one({"finite", "infinite", "number", "notanumber", "normal", "subnormal"});
    if (what < 0)
        d.refuse("no test");
    in.mode = static_cast<uint8_t>(what);
    const Type type = op.take_type();
    in.run = type == Type::F64 ? test_property<double> : test_property<float>;
    d.plain(in, Type::Pred, {type});
    return true;
}

} // namespace

bool decode_compare(Decoder &d, Opcode &op, Inst &in) {
    return decode_setp(d, op, in) || decode_selp(d, op, in) || decode_testp(d, op, in);
}

} // namespace ptx
