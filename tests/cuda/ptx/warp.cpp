/* warp.cpp - lanes in groups that share a program counter. The group with the lowest one runs until
 * it reaches the next: lanes that parted meet again where their paths do, since code that both run
 * comes after what only one of them runs. */
#include "warp.h"

#include <algorithm>

namespace ptx {
namespace {

constexpr uint32_t NOWHERE = UINT32_MAX;

std::string triple(const Dim &d) {
    return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
}

std::string trimmed(const std::string &line) {
    const size_t first = line.find_first_not_of(" \t");
    const size_t last = line.find_last_not_of(" \t\r");
    return first == std::string::npos ? "" : line.substr(first, last - first + 1);
}

} // namespace

void Warp::create(Block *of, unsigned at) {
    block = of;
    number = at;
    const size_t bytes = block->program->slots * SLOT_BYTES;
    registers = std::make_unique<uint8_t[]>(bytes);
    memset(registers.get(), 0xFF, bytes);
    fill_constants();
}

void Warp::fill_constants() {
    const auto fill = [this](uint32_t slot, bool wide, uint64_t bits) {
        for (unsigned i = 0; i < WARP; i++)
            if (wide)
                cells<uint64_t>(slot)[i] = bits;
            else
                cells<uint32_t>(slot)[i] = static_cast<uint32_t>(bits);
    };
    for (const Program::Constant &c : block->program->constants)
        fill(c.slot, c.wide, c.bits);
    for (const Program::Constant &c : block->program->dynamic_shared)
        fill(c.slot, c.wide, (block->program->shared_bytes + 15) / 16 * 16 + c.bits);
}

uint32_t Warp::special(Special what, unsigned lane) const {
    const Dim &size = block->launch->block, &grid = block->launch->grid;
    const unsigned thread = number * WARP + lane;
    switch (what) {
    case Special::TidX:
        return thread % size.x;
    case Special::TidY:
        return thread / size.x % size.y;
    case Special::TidZ:
        return thread / size.x / size.y;
    case Special::NtidX:
        return size.x;
    case Special::NtidY:
        return size.y;
    case Special::NtidZ:
        return size.z;
    case Special::CtaidX:
        return block->index.x;
    case Special::CtaidY:
        return block->index.y;
    case Special::CtaidZ:
        return block->index.z;
    case Special::NctaidX:
        return grid.x;
    case Special::NctaidY:
        return grid.y;
    case Special::NctaidZ:
        return grid.z;
    case Special::Laneid:
        return lane;
    case Special::Warpid:
        return number;
    case Special::Nwarpid:
        return (block->threads + WARP - 1) / WARP;
    case Special::LanemaskEq:
        return 1u << lane;
    case Special::LanemaskLt:
        return (1u << lane) - 1;
    case Special::LanemaskLe:
        return (2u << lane) - 1;
    case Special::LanemaskGe:
        return ~((1u << lane) - 1);
    case Special::LanemaskGt:
        return ~((2u << lane) - 1);
    default:
        return static_cast<uint32_t>(block->launch->shared);
    }
}

void Warp::fill_specials() {
    for (const Program::SpecialSlot &s : block->program->specials)
        for (unsigned i = 0; i < WARP; i++)
            cells<uint32_t>(s.slot)[i] = special(s.what, i);
}

void Warp::begin() {
    const unsigned first = number * WARP;
    const unsigned lanes = std::min(block->threads - first, WARP);
    exited = lanes == WARP ? 0 : ~((1u << lanes) - 1);
    running = ~exited;
    waiting = barrier_lanes = blocked = 0;
    at_barrier = false;
    std::fill(std::begin(pc), std::end(pc), 0);
    for (unsigned i = 0; i < WARP; i++) {
        copies[i].clear();
        commits[i] = 0;
    }
    fill_specials();
}

uint32_t Warp::lowest(uint32_t lanes) const {
    uint32_t least = NOWHERE;
    for_lanes(lanes, [&](unsigned i) { least = std::min(least, pc[i]); });
    return least;
}

uint32_t Warp::at_pc(uint32_t lanes, uint32_t where) const {
    uint32_t there = 0;
    for_lanes(lanes, [&](unsigned i) { there |= pc[i] == where ? 1u << i : 0; });
    return there;
}

void Warp::set_pc(uint32_t lanes, uint32_t where) {
    for_lanes(lanes, [&](unsigned i) { pc[i] = where; });
}

void Warp::run() {
    while (running) {
        const uint32_t at = lowest(running);
        const uint32_t joining = at_pc(waiting, at);
        waiting &= ~joining;
        running |= joining;
        const uint32_t group = at_pc(running, at);
        execute(group, at, lowest(running & ~group));
    }
    all_blocked();
}

/* The lanes of `group` from `at` on, until they part, block, or come to where others are. */
void Warp::execute(uint32_t group, uint32_t at, uint32_t stop_at) {
    const Inst *code = block->program->code.data();
    const unsigned lanes = static_cast<unsigned>(__builtin_popcount(group));
    uint64_t steps = 0;
    while (at < stop_at) {
        const Inst &in = code[at];
        uint32_t active = group;
        if (in.guard != NO_SLOT)
            active &= in.guard_negated ? ~predicate(in.guard) : predicate(in.guard);
        steps++;
        if (in.flow == Flow::Next) {
            if (active)
                in.run(*this, in, active);
            at++;
            continue;
        }
        if (in.flow == Flow::Branch) {
            if (branch(in, group, active, &at))
                continue;
            break;
        }
        set_pc(group, at + 1);
        set_pc(active, at);
        if (in.flow == Flow::Table) {
            branch_table(in, active);
        } else if (in.flow == Flow::Exit) {
            exited |= active;
            running &= ~active;
        } else if (in.flow == Flow::Barrier) {
            barrier_lanes |= active;
            running &= ~active;
        } else {
            blocked = 0;
            if (active)
                in.run(*this, in, active);
            set_pc(active & ~blocked, at + 1);
            waiting |= blocked;
            running &= ~blocked;
            if (!blocked) {
                at++;
                continue;
            }
        }
        at = NOWHERE;
        break;
    }
    if (at != NOWHERE && at >= stop_at)
        set_pc(group, at);
    counts.steps += steps;
    counts.instructions += steps * lanes;
}

/* Whether the group stays together; its lanes' counters are set where it does not. */
bool Warp::branch(const Inst &in, uint32_t group, uint32_t taken, uint32_t *at) {
    if (taken && block->branches_left-- == 0)
        stop(in, taken, "does not end");
    if (taken == group) {
        *at = in.target;
        return true;
    }
    if (!taken) {
        ++*at;
        return true;
    }
    set_pc(group & ~taken, *at + 1);
    set_pc(taken, in.target);
    *at = NOWHERE;
    return false;
}

void Warp::branch_table(const Inst &in, uint32_t lanes) {
    const std::vector<uint32_t> &table = block->program->tables[in.target];
    for_lanes(lanes, [&](unsigned i) {
        const uint32_t index = cells<uint32_t>(in.s[0])[i];
        if (index >= table.size())
            stop(in, 1u << i, "jumps past its table");
        pc[i] = table[index];
    });
}

/* Nothing runs: all have exited, or all that are left are at one barrier. */
void Warp::all_blocked() {
    const std::vector<Inst> &code = block->program->code;
    if (waiting)
        stop(code[lowest(waiting)], waiting, "waits for lanes that never come");
    if (!barrier_lanes)
        return;
    const uint32_t first = lowest(barrier_lanes);
    if (at_pc(barrier_lanes, first) != barrier_lanes)
        stop(code[first], barrier_lanes, "lanes of one warp wait at different barriers");
    at_barrier = true;
}

const Inst &Warp::barrier() const {
    return block->program->code[lowest(barrier_lanes)];
}

void Warp::release() {
    const Inst &in = barrier();
    if (in.run)
        in.run(*this, in, barrier_lanes);
    set_pc(barrier_lanes, lowest(barrier_lanes) + 1);
    running = barrier_lanes;
    barrier_lanes = 0;
    at_barrier = false;
}

/* ---- memory --------------------------------------------------------------------------------- */

uint8_t *Warp::reach(const Inst &in, Space space, unsigned lane, uint64_t address, unsigned bytes,
                     Access access) {
    if (space == Space::Generic)
        return reach_window(in, lane, address, bytes, access);
    if (address & (bytes - 1))
        stop(in, 1u << lane, "misaligned address");
    const auto within = [&](size_t size, const char *what) {
        if (address > size || bytes > size - address)
            stop(in, 1u << lane,
                 std::string(access == Access::Read ? "reads" : "writes") + " past " + what +
                     ": bytes from " + std::to_string(address) + " of " + std::to_string(size));
    };
    if (space == Space::Shared) {
        within(block->shared.size(), "shared memory");
        const int other = block->shared.note(address, bytes, number, access);
        if (other >= 0)
            stop(in, 1u << lane,
                 "races in shared memory with warp " + std::to_string(other) +
                     ", no barrier between");
        return block->shared.at(address);
    }
    if (space == Space::Local) {
        const size_t size = block->program->local_bytes;
        within(size, "local memory");
        return block->local.data() + (number * WARP + lane) * size + address;
    }
    if (space == Space::Param) {
        within(block->params.size(), "the parameters");
        if (access != Access::Read)
            stop(in, 1u << lane, "writes a parameter");
        return block->params.data() + address;
    }
    uint8_t *p = block->ranges.reach(address, bytes, access);
    if (!p) {
        char text[32];
        snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(address));
        stop(in, 1u << lane,
             std::string(access == Access::Read ? "reads " : "writes ") + std::to_string(bytes) +
                 " bytes at " + text + ", outside device memory");
    }
    return p;
}

uint8_t *Warp::reach_window(const Inst &in, unsigned lane, uint64_t address, unsigned bytes,
                            Access access) {
    const uint64_t inside = address & ~WINDOW_MASK;
    switch (address & WINDOW_MASK) {
    case SHARED_WINDOW:
        return reach(in, Space::Shared, lane, inside, bytes, access);
    case LOCAL_WINDOW:
        return reach(in, Space::Local, lane, inside, bytes, access);
    case PARAM_WINDOW:
        return reach(in, Space::Param, lane, inside, bytes, access);
    default:
        return reach(in, Space::Global, lane, address, bytes, access);
    }
}

/* ---- reports -------------------------------------------------------------------------------- */

std::string Warp::where(uint32_t lanes) const {
    const unsigned first = static_cast<unsigned>(__builtin_ctz(lanes));
    std::string text =
        "block " + triple(block->index) + ", thread " + std::to_string(number * WARP + first);
    if (lanes & (lanes - 1))
        text += " and " + std::to_string(__builtin_popcount(lanes) - 1) + " more of its warp";
    return text;
}

void Warp::stop(const Inst &in, uint32_t lanes, const std::string &why) const {
    const std::vector<std::string> &lines = *block->program->lines;
    const std::string text = in.line && in.line <= lines.size() ? trimmed(lines[in.line - 1]) : "";
    throw Stop(block->program->name + ": " + where(lanes) + ": " + why + ": '" + text + "' (line " +
               std::to_string(in.line) + ")");
}

} // namespace ptx
