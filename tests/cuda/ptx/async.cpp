/* async.cpp - cp.async. A copy is carried out by the wait that it needs, no sooner: what is read
 * before that is what was there. */
#include "decoder.h"

#include <algorithm>

namespace ptx {
namespace {

void race_of_copy(Warp &w, const Inst &in, unsigned lane, const AsyncCopy &copy) {
    const int other = w.block->shared.note(copy.to, copy.bytes, w.number, Access::Write);
    if (other >= 0)
        w.stop(in, 1u << lane,
               "an asynchronous copy races in shared memory with warp " + std::to_string(other));
}

/* s[0] is from, s[1] to, s[2] how many bytes are read: the rest become 0. */
void begin_copy(Warp &w, const Inst &in, uint32_t lanes) {
    for_lanes(lanes, [&](unsigned i) {
        AsyncCopy copy;
        copy.bytes = in.count;
        copy.to = w.cells<uint32_t>(in.s[1])[i];
        copy.from = w.address_of(in, i);
        const uint32_t asked = in.s[2] == NO_SLOT ? in.count : w.cells<uint32_t>(in.s[2])[i];
        copy.read = static_cast<uint8_t>(std::min<uint32_t>(asked, in.count));
        copy.group = w.commits[i];
        w.reach(in, Space::Shared, i, copy.to, copy.bytes, Access::Write);
        if (copy.from % copy.bytes)
            w.stop(in, 1u << i, "misaligned address");
        if (copy.read && !w.block->ranges.reach(copy.from, copy.read, Access::Read))
            w.stop(in, 1u << i, "an asynchronous copy reads outside device memory");
        w.copies[i].push_back(copy);
    });
}

void finish_copy(Warp &w, const Inst &in, unsigned lane, const AsyncCopy &copy) {
    race_of_copy(w, in, lane, copy);
    uint8_t *to = w.block->shared.at(copy.to);
    memset(to, 0, copy.bytes);
    if (copy.read)
        memcpy(to, w.block->ranges.reach(copy.from, copy.read, Access::Read), copy.read);
}

void commit(Warp &w, const Inst &, uint32_t lanes) {
    for_lanes(lanes, [&](unsigned i) { w.commits[i]++; });
}

/* For all groups but the newest `target`; with a mode for copies of no group yet as well. */
void wait(Warp &w, const Inst &in, uint32_t lanes) {
    const bool all = in.mode;
    for_lanes(lanes, [&](unsigned i) {
        std::vector<AsyncCopy> &copies = w.copies[i];
        const auto under_way = [&](const AsyncCopy &c) {
            return !all && c.group + in.target >= w.commits[i];
        };
        for (const AsyncCopy &copy : copies)
            if (!under_way(copy))
                finish_copy(w, in, i, copy);
        copies.erase(std::remove_if(copies.begin(), copies.end(),
                                    [&](const AsyncCopy &c) { return !under_way(c); }),
                     copies.end());
    });
}

void decode_copy(Decoder &d, Opcode &op, Inst &in) {
    const bool global = op.take("cg");
    if (!global && !op.take("ca"))
        d.refuse("a cache operator is missing");
    op.take("L2::64B");
    op.take("L2::128B");
    op.take("L2::256B");
    if ((!op.take("shared") && !op.take("shared::cta")) || !op.take("global"))
        d.refuse("spaces that are not known");
    const Operand &size = d.operand(2);
    if (size.kind != Operand::Integer ||
        (size.value != 16 && (global || (size.value != 4 && size.value != 8))))
        d.refuse("a size that cannot be");
    in.run = begin_copy;
    in.count = static_cast<uint8_t>(size.value);
    in.space = Space::Global;
    in.s[1] = d.shared_address(d.operand(0));
    d.address(d.operand(1), in);
    if (d.operands() == 4)
        in.s[2] = d.source(d.operand(3), Type::U32);
    d.note_access(Space::Shared, in.count);
}

} // namespace

bool decode_async(Decoder &d, Opcode &op, Inst &in) {
    if (!op.is("cp"))
        return false;
    if (!op.take("async"))
        d.refuse("a copy that is not known");
    const int what = op.take_one({"commit_group", "wait_group", "wait_all"});
    if (what < 0) {
        decode_copy(d, op, in);
    } else if (what == 0) {
        in.run = commit;
    } else {
        in.run = wait;
        in.mode = what == 2;
        if (what == 1)
            in.target = static_cast<uint32_t>(d.operand(0).value);
    }
    return true;
}

} // namespace ptx
