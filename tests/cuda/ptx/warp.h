/* warp.h - a block and its warps while they run, and how handlers reach lanes of a register. */
#ifndef LISA_TESTS_CUDA_PTX_WARP_H
#define LISA_TESTS_CUDA_PTX_WARP_H

#include "grid.h"
#include "half.h"
#include "memory.h"

#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

namespace ptx {

struct Block {
    const Program *program = nullptr;
    const Launch *launch = nullptr;
    Surroundings *surroundings = nullptr;
    Dim index;
    GlobalRanges ranges;
    SharedMemory shared;
    std::vector<uint8_t> local; /* of all threads, one after the other */
    std::vector<uint8_t> params;
    uint64_t branches_left = 0;
    unsigned threads = 0;
    uint32_t votes = 0, votes_set = 0; /* of bar.red */
};

/* A copy to shared memory that has been asked for and not waited for. */
struct AsyncCopy {
    uint32_t to;
    uint8_t bytes, read;
    uint64_t from;
    uint32_t group; /* number of the commit that closes it */
};

class Warp {
  public:
    Block *block = nullptr;
    unsigned number = 0;
    uint32_t exited = 0;  /* and lanes that there are none of */
    uint32_t blocked = 0; /* see Flow::Sync */
    uint32_t carry = 0;   /* the condition code, a bit per lane */
    bool at_barrier = false;
    Counts counts;
    std::vector<AsyncCopy> copies[WARP];
    uint32_t commits[WARP] = {};

    void create(Block *of, unsigned at);
    void begin();                /* of a block */
    void run();                  /* until all lanes have exited or wait at the block's barrier */
    void release();              /* from the barrier */
    const Inst &barrier() const; /* that it waits at */
    bool done() const {
        return exited == ALL_LANES;
    }
    uint32_t lanes_alive() const {
        return ~exited;
    }

    template <class T> auto *cells(uint32_t slot) {
        using Cell = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
        return reinterpret_cast<Cell *>(registers.get() + slot * SLOT_BYTES);
    }
    uint32_t &predicate(uint32_t slot) {
        return *cells<uint32_t>(slot);
    }
    void set_predicate(uint32_t slot, uint32_t lanes, uint32_t bits) {
        uint32_t &p = predicate(slot);
        p = (p & ~lanes) | (bits & lanes);
    }

    /* Where `bytes` bytes at a lane's address are; Stop where they must not be touched. */
    uint8_t *reach(const Inst &in, Space space, unsigned lane, uint64_t address, unsigned bytes,
                   Access access);
    /* The same, quick where there is nothing to find; `bytes` is a power of 2. */
    uint8_t *reach(const Inst &in, unsigned lane, uint64_t address, unsigned bytes, Access access) {
        if ((address & (bytes - 1)) == 0) {
            if (in.space == Space::Global) {
                if (uint8_t *p = block->ranges.reach(address, bytes, access))
                    return p;
            } else if (in.space == Space::Shared && access == Access::Read) {
                if (block->shared.is_settled(address, bytes, number))
                    return block->shared.at(address);
            }
        }
        return reach(in, in.space, lane, address, bytes, access);
    }
    /* The address of a lane's operand s[0] + offset. */
    uint64_t address_of(const Inst &in, unsigned lane) {
        if (in.s[0] == NO_SLOT)
            return static_cast<uint64_t>(in.offset);
        if (in.wide_address)
            return cells<uint64_t>(in.s[0])[lane] + static_cast<uint64_t>(in.offset);
        return static_cast<uint32_t>(cells<uint32_t>(in.s[0])[lane] +
                                     static_cast<uint32_t>(in.offset));
    }

    [[noreturn]] void stop(const Inst &in, uint32_t lanes, const std::string &why) const;

  private:
    std::unique_ptr<uint8_t[]> registers;
    uint32_t pc[WARP] = {};
    uint32_t running = 0, waiting = 0, barrier_lanes = 0;

    void fill_constants();
    void fill_specials();
    uint32_t special(Special what, unsigned lane) const;
    void execute(uint32_t group, uint32_t at, uint32_t stop_at);
    uint32_t lowest(uint32_t lanes) const;
    uint32_t at_pc(uint32_t lanes, uint32_t where) const;
    void set_pc(uint32_t lanes, uint32_t where);
    bool branch(const Inst &in, uint32_t group, uint32_t taken, uint32_t *at);
    void branch_table(const Inst &in, uint32_t lanes);
    void all_blocked();
    std::string where(uint32_t lanes) const;
    uint8_t *reach_window(const Inst &in, unsigned lane, uint64_t address, unsigned bytes,
                          Access access);
};

/* ---- lanes ---------------------------------------------------------------------------------- */

template <class To, class From> inline To bits_of(From from) {
    static_assert(sizeof(To) <= sizeof(From), "narrower or equal");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

template <class T, class Cell> inline T from_cell(Cell cell) {
    return bits_of<T>(cell);
}

template <class Cell, class T> inline Cell to_cell(T value) {
    if constexpr (std::is_integral_v<T>) {
        return static_cast<Cell>(value);
    } else {
        Cell cell = 0;
        memcpy(&cell, &value, sizeof value);
        return cell;
    }
}

/* f(i) for every lane of `lanes`. */
template <class F> inline void for_lanes(uint32_t lanes, F f) {
    for (; lanes; lanes &= lanes - 1)
        f(static_cast<unsigned>(__builtin_ctz(lanes)));
}

template <class R, class... A, class F, size_t... I>
inline void map_lanes_at(Warp &w, const Inst &in, uint32_t lanes, F f, std::index_sequence<I...>) {
    auto *d = w.cells<R>(in.d[0]);
    using Cell = std::remove_reference_t<decltype(*d)>;
    const auto sources = std::make_tuple(w.cells<A>(in.s[I])...);
    const auto lane = [&](unsigned i) {
        d[i] = to_cell<Cell>(static_cast<R>(f(from_cell<A>(std::get<I>(sources)[i])...)));
    };
    if (lanes == ALL_LANES) {
#pragma clang loop vectorize(assume_safety)
        for (unsigned i = 0; i < WARP; i++)
            lane(i);
    } else {
        for_lanes(lanes, lane);
    }
}

/* d[0] = f(s[0], s[1], ...) lane by lane. A lane's result depends on its own operands alone, so
 * that one register may be source and destination. */
template <class R, class... A, class F>
inline void map_lanes(Warp &w, const Inst &in, uint32_t lanes, F f) {
    map_lanes_at<R, A...>(w, in, lanes, f, std::index_sequence_for<A...>());
}

} // namespace ptx

#endif
