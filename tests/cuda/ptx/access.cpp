/* access.cpp - ld, st, and what orders them. */
#include "decoder.h"

namespace ptx {

void take_memory_hints(Opcode &op) {
    static const char *const hints[] = {"weak",
                                        "volatile",
                                        "relaxed",
                                        "acquire",
                                        "release",
                                        "acq_rel",
                                        "cta",
                                        "cluster",
                                        "gpu",
                                        "sys",
                                        "ca",
                                        "cg",
                                        "cs",
                                        "lu",
                                        "cv",
                                        "wb",
                                        "wt",
                                        "nc",
                                        "L1::evict_normal",
                                        "L1::evict_unchanged",
                                        "L1::evict_first",
                                        "L1::evict_last",
                                        "L1::no_allocate",
                                        "L2::64B",
                                        "L2::128B",
                                        "L2::256B"};
    for (const char *hint : hints)
        op.take(hint);
}

Space take_access_space(Opcode &op) {
    static const Space spaces[] = {Space::Global, Space::Shared, Space::Shared, Space::Local,
                                   Space::Param,  Space::Param,  Space::Const};
    const int found =
        op.take_one({"global", "shared", "shared::cta", "local", "param", "param::entry", "const"});
    return found < 0 ? Space::Generic : spaces[found];
}

namespace {

template <class T> void put(Warp &w, const Inst &in, unsigned lane, const uint8_t *from) {
    for (unsigned j = 0; j < in.count; j++) {
        T value;
        memcpy(&value, from + j * sizeof(T), sizeof(T));
        if (in.d[j] != NO_SLOT)
            w.cells<T>(in.d[j])[lane] =
                static_cast<std::remove_reference_t<decltype(*w.cells<T>(0))>>(value);
    }
}

template <class T> void load(Warp &w, const Inst &in, uint32_t lanes) {
    const auto bytes = static_cast<unsigned>(sizeof(T) * in.count);
    if (in.space == Space::Param && in.s[0] == NO_SLOT) { /* the same for all */
        const uint8_t *from = w.reach(in, static_cast<unsigned>(__builtin_ctz(lanes)),
                                      static_cast<uint64_t>(in.offset), bytes, Access::Read);
        for_lanes(lanes, [&](unsigned i) { put<T>(w, in, i, from); });
        return;
    }
    for_lanes(lanes, [&](unsigned i) {
        put<T>(w, in, i, w.reach(in, i, w.address_of(in, i), bytes, Access::Read));
    });
}

/* s[0] is the address, s[1] and on the values. */
template <class T> void store(Warp &w, const Inst &in, uint32_t lanes) {
    const auto bytes = static_cast<unsigned>(sizeof(T) * in.count);
    for_lanes(lanes, [&](unsigned i) {
        uint8_t *to = w.reach(in, i, w.address_of(in, i), bytes, Access::Write);
        for (unsigned j = 0; j < in.count; j++) {
            const T value = static_cast<T>(w.cells<T>(in.s[1 + j])[i]);
            memcpy(to + j * sizeof(T), &value, sizeof(T));
        }
    });
}

Handler loader(Type type) {
    switch (size_of(type)) {
    case 1:
        return is_signed(type) ? load<int8_t> : load<uint8_t>;
    case 2:
        return is_signed(type) ? load<int16_t> : load<uint16_t>;
    case 4:
        return load<uint32_t>;
    default:
        return load<uint64_t>;
    }
}

Handler storer(Type type) {
    switch (size_of(type)) {
    case 1:
        return store<uint8_t>;
    case 2:
        return store<uint16_t>;
    case 4:
        return store<uint32_t>;
    default:
        return store<uint64_t>;
    }
}

std::vector<Operand> items_of(const Operand &o) {
    return o.kind == Operand::Vector ? o.items : std::vector<Operand>{o};
}

void decode_access(Decoder &d, Opcode &op, Inst &in) {
    const bool is_load = !op.is("st");
    take_memory_hints(op);
    in.space = take_access_space(op);
    const int vector = op.take_one({"v2", "v4"});
    in.count = vector < 0 ? 1 : static_cast<uint8_t>(2 << vector);
    const Type type = op.take_type();
    d.address(d.operand(is_load ? 1 : 0), in);
    const std::vector<Operand> items = items_of(d.operand(is_load ? 0 : 1));
    if (items.size() != in.count || d.operands() != 2)
        d.refuse("unexpected operands");
    in.run = is_load ? loader(type) : storer(type);
    for (size_t i = 0; i < items.size(); i++) {
        if (!is_load)
            in.s[1 + i] = d.source(items[i], type);
        else if (items[i].kind != Operand::Sink)
            in.d[i] = d.dest(items[i], type);
    }
    d.note_access(in.space, size_of(type) * in.count);
}

void nothing(Warp &, const Inst &, uint32_t) {}

bool decode_fence(Opcode &op, Inst &in) {
    if (!op.is("fence") && !op.is("membar"))
        return false;
    take_memory_hints(op);
    op.take("sc");
    op.take("gl");
    in.run = nothing;
    return true;
}

} // namespace

bool decode_memory(Decoder &d, Opcode &op, Inst &in) {
    if (op.is("ld") || op.is("ldu") || op.is("st")) {
        decode_access(d, op, in);
        return true;
    }
    return decode_fence(op, in);
}

} // namespace ptx
