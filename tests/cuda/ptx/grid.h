/* grid.h - a grid of a decoded kernel: blocks one after another, warps in turn. */
#ifndef LISA_TESTS_CUDA_PTX_GRID_H
#define LISA_TESTS_CUDA_PTX_GRID_H

#include "program.h"

#include <functional>

namespace ptx {

struct Dim {
    unsigned x = 1, y = 1, z = 1;
    size_t count() const {
        return static_cast<size_t>(x) * y * z;
    }
};

struct Range {
    uint64_t begin = 0, end = 0;
    bool writable = true;
    bool holds(uint64_t address, size_t bytes) const {
        return address >= begin && address < end && bytes <= end - address;
    }
};

/* The order in which warps of a block get their turns, and blocks of a grid theirs. */
enum class Order { Forward, Reverse, Shuffled };

struct Surroundings {
    /* Whether the bytes lie in one live device allocation, and then its bounds. */
    std::function<bool(uint64_t address, size_t bytes, Range *range)> find;
    std::vector<Range> variables; /* .global and .const of the module */
    Order order = Order::Forward;
    uint64_t seed = 0;
    bool races = true;                      /* look for races in shared memory */
    uint64_t branches = 1000 * 1000 * 1000; /* taken by warps of a grid: then it hangs */
};

struct Launch {
    Dim grid, block;
    size_t shared = 0;
    const void *params = nullptr;
    size_t params_bytes = 0;
};

struct Counts {
    uint64_t instructions = 0; /* of threads */
    uint64_t steps = 0;        /* of warps */
};

/* Throws Stop where the kernel cannot run or does what it must not. */
Counts run_grid(const Program &program, const Launch &launch, Surroundings &surroundings);

} // namespace ptx

#endif
