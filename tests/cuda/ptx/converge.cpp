/* converge.cpp - what lanes of a warp do together: shuffles, votes, barriers. */
#include "decoder.h"

namespace ptx {
namespace {

/* perform(lanes, mask) for the lanes that give the same mask of members, once all its members are
 * there; those of other masks wait. */
template <class F>
void meet(Warp &w, const Inst &in, uint32_t lanes, uint32_t mask_slot, F perform) {
    const uint32_t *masks = w.cells<uint32_t>(mask_slot);
    while (lanes) {
        const unsigned first = static_cast<unsigned>(__builtin_ctz(lanes));
        const uint32_t mask = masks[first];
        uint32_t group = 0;
        for_lanes(lanes, [&](unsigned i) { group |= masks[i] == mask ? 1u << i : 0; });
        if (group & ~mask)
            w.stop(in, group & ~mask, "a lane that its own mask does not name");
        if ((mask & w.lanes_alive()) == group)
            perform(group);
        else
            w.blocked |= group;
        lanes &= ~group;
    }
}

/* ---- shuffles ------------------------------------------------------------------------------- */

enum ShuffleMode : uint8_t { UP, DOWN, BUTTERFLY, INDEX };

/* The lane that `lane` reads from, or itself where that is outside its segment (*inside false). */
unsigned shuffle_source(uint8_t mode, unsigned lane, uint32_t b, uint32_t c, bool *inside) {
    const int at = static_cast<int>(lane), by = static_cast<int>(b & 31);
    const uint32_t segment = c >> 8 & 31, clamp = c & 31;
    const int last = static_cast<int>((lane & segment) | (clamp & ~segment));
    const int first = static_cast<int>(lane & segment);
    int from;
    switch (mode) {
    case UP:
        from = at - by;
        break;
    case DOWN:
        from = at + by;
        break;
    case BUTTERFLY:
        from = at ^ by;
        break;
    default:
        from = first | (by & ~static_cast<int>(segment));
    }
    *inside = mode == UP ? from >= last : from <= last;
    return *inside ? static_cast<unsigned>(from) : lane;
}

void shuffle(Warp &w, const Inst &in, uint32_t lanes) {
    const uint32_t *a = w.cells<uint32_t>(in.s[0]), *b = w.cells<uint32_t>(in.s[1]);
    const uint32_t *c = w.cells<uint32_t>(in.s[2]);
    uint32_t *d = w.cells<uint32_t>(in.d[0]);
    meet(w, in, lanes, in.s[3], [&](uint32_t group) {
        uint32_t results[WARP], inside_lanes = 0;
        for_lanes(group, [&](unsigned i) {
            bool inside;
            const unsigned from = shuffle_source(in.mode, i, b[i], c[i], &inside);
            if (!(group >> from & 1))
                w.stop(in, 1u << i, "reads lane " + std::to_string(from) + ", which is not there");
            results[i] = a[from];
            inside_lanes |= inside ? 1u << i : 0;
        });
        for_lanes(group, [&](unsigned i) { d[i] = results[i]; });
        if (in.d[1] != NO_SLOT)
            w.set_predicate(in.d[1], group, inside_lanes);
    });
}

bool decode_shuffle(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("shfl"))
        return false;
    if (!op.take("sync"))
        d.refuse("without sync");
    const int mode = op.take_one({"up", "down", "bfly", "idx"});
    if (mode < 0)
        d.refuse("no mode");
    in.mode = static_cast<uint8_t>(mode);
    in.flow = Flow::Sync;
    in.run = shuffle;
    const Type type = op.take_type();
    d.plain(in, type, {type, Type::U32, Type::U32, Type::B32});
    in.d[1] = d.second_dest(d.operand(0));
    return true;
}

/* ---- votes ---------------------------------------------------------------------------------- */

enum VoteMode : uint8_t { ALL, ANY, UNIFORM, BALLOT };

void vote(Warp &w, const Inst &in, uint32_t lanes) {
    const uint32_t p = w.predicate(in.s[0]);
    meet(w, in, lanes, in.s[1], [&](uint32_t group) {
        const uint32_t set = p & group;
        if (in.mode == BALLOT) {
            for_lanes(group, [&](unsigned i) { w.cells<uint32_t>(in.d[0])[i] = set; });
            return;
        }
        bool result = set != 0;
        if (in.mode == ALL)
            result = set == group;
        else if (in.mode == UNIFORM)
            result = set == 0 || set == group;
        w.set_predicate(in.d[0], group, result ? group : 0);
    });
}

bool decode_vote(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("vote"))
        return false;
    if (!op.take("sync"))
        d.refuse("without sync");
    const int mode = op.take_one({"all", "any", "uni", "ballot"});
    if (mode < 0)
        d.refuse("no mode");
    in.mode = static_cast<uint8_t>(mode);
    in.flow = Flow::Sync;
    in.run = vote;
    d.plain(in, op.take_type(), {Type::Pred, Type::B32});
    return true;
}

void active_mask(Warp &w, const Inst &in, uint32_t lanes) {
    for_lanes(lanes, [&](unsigned i) { w.cells<uint32_t>(in.d[0])[i] = lanes; });
}

bool decode_active_mask(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("activemask"))
        return false;
    in.run = active_mask;
    d.plain(in, op.take_type(), {});
    return true;
}

/* ---- reductions ----------------------------------------------------------------------------- */

enum ReduceMode : uint8_t { ADD, MIN, MAX, AND, OR, XOR };

template <class T> T reduced(uint8_t mode, T a, T b) {
    switch (mode) {
    case ADD:
        return static_cast<T>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
    case MIN:
        return a < b ? a : b;
    case MAX:
        return a > b ? a : b;
    case AND:
        return a & b;
    case OR:
        return a | b;
    default:
        return a ^ b;
    }
}

template <class T> void reduce(Warp &w, const Inst &in, uint32_t lanes) {
    const uint32_t *a = w.cells<uint32_t>(in.s[0]);
    meet(w, in, lanes, in.s[1], [&](uint32_t group) {
        const unsigned first = static_cast<unsigned>(__builtin_ctz(group));
        T result = static_cast<T>(a[first]);
        for_lanes(group & (group - 1),
                  [&](unsigned i) { result = reduced(in.mode, result, static_cast<T>(a[i])); });
        for_lanes(group, [&](unsigned i) {
            w.cells<uint32_t>(in.d[0])[i] = static_cast<uint32_t>(result);
        });
    });
}

bool decode_reduction(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("redux") || !op.take("sync"))
        return false;
    const int mode = op.take_one({"add", "min", "max", "and", "or", "xor"});
    if (mode < 0)
        d.refuse("an operation that is not known");
    in.mode = static_cast<uint8_t>(mode);
    in.flow = Flow::Sync;
    const Type type = op.take_type();
    in.run = is_signed(type) ? reduce<int32_t> : reduce<uint32_t>;
    d.plain(in, type, {type, Type::B32});
    return true;
}

/* ---- barriers ------------------------------------------------------------------------------- */

void meet_only(Warp &w, const Inst &in, uint32_t lanes) {
    meet(w, in, lanes, in.s[0], [](uint32_t) {});
}

void count_at_barrier(Warp &w, const Inst &in, uint32_t lanes) {
    for_lanes(lanes, [&](unsigned i) { w.cells<uint32_t>(in.d[0])[i] = w.block->votes_set; });
}

void all_at_barrier(Warp &w, const Inst &in, uint32_t lanes) {
    w.set_predicate(in.d[0], lanes, w.block->votes_set == w.block->votes ? ALL_LANES : 0);
}

void any_at_barrier(Warp &w, const Inst &in, uint32_t lanes) {
    w.set_predicate(in.d[0], lanes, w.block->votes_set ? ALL_LANES : 0);
}

uint32_t barrier_number(Decoder &d, const Operand &o) {
    if (o.kind != Operand::Integer)
        d.refuse("a barrier that is not a constant");
    return static_cast<uint32_t>(o.value);
}

/* target is the barrier's number. */
void decode_block_barrier(Decoder &d, Opcode &op, Inst &in) {
    in.flow = Flow::Barrier;
    op.take("cta");
    op.take("aligned");
    if (op.take("sync")) {
        in.target = barrier_number(d, d.operand(0));
        if (d.operands() != 1)
            d.refuse("a barrier of some threads");
        return;
    }
    if (!op.take("red"))
        d.refuse("a barrier that is not known");
    const int what = op.take_one({"popc", "and", "or"});
    if (what < 0)
        d.refuse("an operation that is not known");
    const Handler handlers[] = {count_at_barrier, all_at_barrier, any_at_barrier};
    in.run = handlers[what];
    in.d[0] = d.dest(d.operand(0), op.take_type());
    in.target = barrier_number(d, d.operand(1));
    in.s[0] = d.source(d.operand(2), Type::Pred);
}

bool decode_barrier(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("bar") && !op.is("barrier"))
        return false;
    if (!op.take("warp")) {
        decode_block_barrier(d, op, in);
        return true;
    }
    if (!op.take("sync"))
        d.refuse("a barrier that is not known");
    in.flow = Flow::Sync;
    in.run = meet_only;
    in.s[0] = d.source(d.operand(0), Type::B32);
    return true;
}

} // namespace

bool decode_warp(Decoder &d, Opcode &op, Inst &in) {
    return decode_shuffle(d, op, in) || decode_vote(d, op, in) || decode_active_mask(d, op, in) ||
           decode_reduction(d, op, in) || decode_barrier(d, op, in);
}

} // namespace ptx
