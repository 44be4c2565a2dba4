/* grid.cpp - see grid.h. */
#include "grid.h"

#include "warp.h"

#include <algorithm>
#include <numeric>
#include <random>

namespace ptx {
namespace {

class Grid {
  public:
    Grid(const Program &p, const Launch &l, Surroundings &s)
        : program(p), launch(l), surroundings(s), random(s.seed) {
        check();
        block.program = &program;
        block.launch = &launch;
        block.surroundings = &surroundings;
        block.threads = static_cast<unsigned>(launch.block.count());
        block.branches_left = surroundings.branches;
        block.ranges.create(surroundings);
        block.shared.create(shared_bytes(), program.shadow_shift, surroundings.races);
        block.local.resize(program.local_bytes * ((block.threads + WARP - 1) / WARP * WARP));
        const auto *params = static_cast<const uint8_t *>(launch.params);
        block.params.assign(params, params + launch.params_bytes);
        warps.resize((block.threads + WARP - 1) / WARP);
        for (unsigned i = 0; i < warps.size(); i++)
            warps[i].create(&block, i);
    }

    Counts run() {
        for (const size_t at : ordered(launch.grid.count())) {
            const Dim &grid = launch.grid;
            block.index = {static_cast<unsigned>(at % grid.x),
                           static_cast<unsigned>(at / grid.x % grid.y),
                           static_cast<unsigned>(at / grid.x / grid.y)};
            run_block();
        }
        Counts total;
        for (const Warp &w : warps) {
            total.instructions += w.counts.instructions;
            total.steps += w.counts.steps;
        }
        return total;
    }

  private:
    const Program &program;
    const Launch &launch;
    Surroundings &surroundings;
    std::mt19937_64 random;
    Block block;
    std::vector<Warp> warps;

    /* Dynamic shared memory lies behind the static, aligned. */
    size_t shared_bytes() const {
        const size_t fixed = program.shared_bytes;
        return launch.shared ? (fixed + 15) / 16 * 16 + launch.shared : fixed;
    }

    void check() const {
        if (!program.error.empty())
            throw Stop(program.name + ": " + program.error);
        if (launch.params_bytes < program.param_bytes)
            throw Stop(program.name + ": launched with " + std::to_string(launch.params_bytes) +
                       " bytes of parameters, has " + std::to_string(program.param_bytes));
        const size_t threads = launch.block.count();
        const size_t limit = program.max_threads ? program.max_threads : 1024;
        if (threads == 0 || threads > limit)
            throw Stop(program.name + ": launched with " + std::to_string(threads) +
                       " threads a block, allows " + std::to_string(limit));
    }

    std::vector<size_t> ordered(size_t count) {
        std::vector<size_t> order(count);
        std::iota(order.begin(), order.end(), size_t{0});
        if (surroundings.order == Order::Reverse)
            std::reverse(order.begin(), order.end());
        else if (surroundings.order == Order::Shuffled)
            std::shuffle(order.begin(), order.end(), random);
        return order;
    }

    void run_block() {
        block.shared.begin();
        std::fill(block.local.begin(), block.local.end(), uint8_t{0xFF});
        for (Warp &w : warps)
            w.begin();
        for (bool left = true; left;) {
            for (const size_t i : ordered(warps.size()))
                if (!warps[i].done() && !warps[i].at_barrier)
                    warps[i].run();
            left = pass_barrier();
        }
    }

    /* Whether any warp was at it. */
    bool pass_barrier() {
        const Warp *first = nullptr;
        for (const Warp &w : warps) {
            if (!w.at_barrier)
                continue;
            if (!first)
                first = &w;
            else if (w.barrier().target != first->barrier().target)
                w.stop(w.barrier(), w.lanes_alive(), "waits at another barrier than other warps");
        }
        if (!first)
            return false;
        count_votes();
        for (Warp &w : warps)
            if (w.at_barrier)
                w.release();
        block.shared.next_epoch();
        return true;
    }

    /* Of bar.red: how many of the threads at the barrier have the predicate set. */
    void count_votes() {
        block.votes_set = block.votes = 0;
        for (Warp &w : warps) {
            if (!w.at_barrier || w.barrier().s[0] == NO_SLOT)
                continue;
            const uint32_t set = w.predicate(w.barrier().s[0]) & w.lanes_alive();
            block.votes_set += static_cast<uint32_t>(__builtin_popcount(set));
            block.votes += static_cast<uint32_t>(__builtin_popcount(w.lanes_alive()));
        }
    }
};

} // namespace

Counts run_grid(const Program &program, const Launch &launch, Surroundings &surroundings) {
    return Grid(program, launch, surroundings).run();
}

} // namespace ptx
