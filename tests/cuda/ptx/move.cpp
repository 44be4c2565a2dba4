/* move.cpp - mov, in whole and in parts, and addresses from one space to another. */
#include "decoder.h"

namespace ptx {
namespace {

template <class T> void copy(Warp &w, const Inst &in, uint32_t lanes) {
    map_lanes<T, T>(w, in, lanes, [](T x) { return x; });
}

void copy_predicate(Warp &w, const Inst &in, uint32_t lanes) {
    w.set_predicate(in.d[0], lanes, w.predicate(in.s[0]));
}

/* One register of `count` parts, the lowest first. */
template <class Whole, class Part> void pack(Warp &w, const Inst &in, uint32_t lanes) {
    auto *d = w.cells<Whole>(in.d[0]);
    for_lanes(lanes, [&](unsigned i) {
        Whole whole = 0;
        for (unsigned j = 0; j < in.count; j++) {
            const Part part = static_cast<Part>(w.cells<Part>(in.s[j])[i]);
            whole |= static_cast<Whole>(static_cast<Whole>(part) << 8 * sizeof(Part) * j);
        }
        d[i] = whole;
    });
}

template <class Whole, class Part> void unpack(Warp &w, const Inst &in, uint32_t lanes) {
    const auto *s = w.cells<Whole>(in.s[0]);
    for_lanes(lanes, [&](unsigned i) {
        const Whole whole = static_cast<Whole>(s[i]);
        for (unsigned j = 0; j < in.count; j++)
            if (in.d[j] != NO_SLOT)
                w.cells<Part>(in.d[j])[i] = static_cast<Part>(whole >> 8 * sizeof(Part) * j);
    });
}

struct Parts {
    Type type;
    Handler pack, unpack;
};

Parts parts_of(Decoder &d, Type whole, size_t count) {
    const unsigned bytes = size_of(whole), each = bytes / static_cast<unsigned>(count);
    if (bytes == 8 && each == 4)
        return {Type::B32, pack<uint64_t, uint32_t>, unpack<uint64_t, uint32_t>};
    if (bytes == 8 && each == 2)
        return {Type::B16, pack<uint64_t, uint16_t>, unpack<uint64_t, uint16_t>};
    if (bytes == 4 && each == 2)
        return {Type::B16, pack<uint32_t, uint16_t>, unpack<uint32_t, uint16_t>};
    d.refuse("parts that are not known");
}

void decode_parts(Decoder &d, Type type, Inst &in) {
    const Operand &to = d.operand(0), &from = d.operand(1);
    const bool is_pack = from.kind == Operand::Vector;
    const std::vector<Operand> &items = is_pack ? from.items : to.items;
    const Parts parts = parts_of(d, type, items.size());
    in.count = static_cast<uint8_t>(items.size());
    in.run = is_pack ? parts.pack : parts.unpack;
    if (is_pack)
        in.d[0] = d.dest(to, type);
    else
        in.s[0] = d.source(from, type);
    for (size_t i = 0; i < items.size(); i++) {
        if (is_pack)
            in.s[i] = d.source(items[i], parts.type);
        else if (items[i].kind != Operand::Sink)
            in.d[i] = d.dest(items[i], parts.type);
    }
}

bool decode_mov(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("mov"))
        return false;
    const Type type = op.take_type();
    if (d.operand(0).kind == Operand::Vector || d.operand(1).kind == Operand::Vector) {
        decode_parts(d, type, in);
        return true;
    }
    if (type == Type::Pred)
        in.run = copy_predicate;
    else
        in.run = size_of(type) == 8 ? copy<uint64_t> : copy<uint32_t>;
    d.plain(in, type, {type});
    return true;
}

/* ---- addresses ------------------------------------------------------------------------------ */

uint64_t window_of(Space space) {
    switch (space) {
    case Space::Shared:
        return SHARED_WINDOW;
    case Space::Local:
        return LOCAL_WINDOW;
    case Space::Param:
        return PARAM_WINDOW;
    default:
        return 0;
    }
}

void to_generic(Warp &w, const Inst &in, uint32_t lanes) {
    const auto window = static_cast<uint64_t>(in.offset);
    map_lanes<uint64_t, uint64_t>(w, in, lanes, [window](uint64_t a) { return a + window; });
}

void from_generic(Warp &w, const Inst &in, uint32_t lanes) {
    const auto window = static_cast<uint64_t>(in.offset);
    auto *d = w.cells<uint64_t>(in.d[0]);
    const auto *s = w.cells<uint64_t>(in.s[0]);
    for_lanes(lanes, [&](unsigned i) { d[i] = s[i] - window; });
}

void is_in_window(Warp &w, const Inst &in, uint32_t lanes) {
    const auto *s = w.cells<uint64_t>(in.s[0]);
    uint32_t bits = 0;
    for (unsigned i = 0; i < WARP; i++)
        bits |= (s[i] & WINDOW_MASK) == static_cast<uint64_t>(in.offset) ? 1u << i : 0;
    w.set_predicate(in.d[0], lanes, bits);
}

Space take_space(Decoder &d, Opcode &op) {
    static const Space spaces[] = {Space::Global, Space::Shared, Space::Shared, Space::Local,
                                   Space::Param,  Space::Const,  Space::Param};
    const int found =
        op.take_one({"global", "shared", "shared::cta", "local", "param", "const", "param::entry"});
    if (found < 0)
        d.refuse("no space");
    return spaces[found];
}

bool decode_address(Decoder &d, Opcode &op, Inst &in) {
    const bool is = op.is("isspacep");
    if (!is && !op.is("cvta"))
        return false;
    const bool to = op.take("to");
    in.offset = static_cast<int64_t>(window_of(take_space(d, op)));
    if (is) {
        in.run = is_in_window;
        d.plain(in, Type::Pred, {Type::U64});
        return true;
    }
    const Type type = op.take_type();
    if (size_of(type) != 8)
        d.refuse("an address of 32 bits");
    in.run = to ? from_generic : to_generic;
    d.plain(in, type, {type});
    return true;
}

} // namespace

bool decode_move(Decoder &d, Opcode &op, Inst &in) {
    return decode_mov(d, op, in) || decode_address(d, op, in);
}

} // namespace ptx
