/* block.h - the threads of the block that runs, as the engine and the warp operations share them.
 */
#ifndef HOSTDEVICE_BLOCK_H
#define HOSTDEVICE_BLOCK_H

#include "fiber.h"
#include "internal.h"

namespace hostdevice {

constexpr unsigned most_threads = 1024;
constexpr unsigned warp_lanes = 32;
constexpr size_t shared_red_zone = 128; /* before and behind dynamic shared memory */

enum class State : uint8_t { fresh, running, ready, at_barrier, at_warp, done };

/* What a thread gives to a warp operation, and where its result goes. */
struct WarpRequest {
    WarpOperation operation;
    unsigned mask;
    int argument, width;
    uint64_t value; /* in, and the result */
    const void *in; /* of matrix operations */
    void *out;
};

struct ThreadState : Thread {
    unsigned number; /* in the block */
    State state;
    Vote vote;
    int predicate;
    Fiber *fiber;
    const char *file; /* where it waits */
    int line;
    WarpRequest request;
};

struct Block {
    const Launch *launch;
    hostdevice_kernel *counts;
    unsigned char *dynamic; /* shared memory */
    size_t dynamic_bytes;
    size_t number;       /* in the grid */
    unsigned size;       /* threads */
    unsigned started;    /* of `order` */
    unsigned done;       /* returned from the kernel */
    unsigned at_barrier; /* waiting there */
    int vote_result;
    unsigned order[most_threads];                /* in which threads start and are released */
    unsigned waiting[most_threads / warp_lanes]; /* lanes of a warp at a warp operation */
    ThreadState threads[most_threads];
};
extern Block block;

/* The thread that runs now. */
inline ThreadState *running() {
    return static_cast<ThreadState *>(current);
}

/* Whether two threads wait in one line of the source. */
inline bool is_same_place(const ThreadState *a, const ThreadState *b) {
    return a->line == b->line && (a->file == b->file || strcmp(a->file, b->file) == 0);
}

/* The running thread, whose state says for what, waits; others run. */
void wait_here();
/* A waiting thread may go on. */
void make_ready(ThreadState *thread);

/* shared.cpp: before a grid, before a block and after it. */
void prepare_shared(const Launch &launch);
void spoil_shared();
void check_shared();

/* warp.cpp: a lane of the warp has returned from the kernel. */
void warp_lane_done(ThreadState *thread);

/* What a lane gives to a product: its parts of A and B. */
struct Fragments {
    const uint32_t *a, *b;
};

/* matrix.cpp; lanes[i] is the request of lane i. */
void multiply_matrices(WarpRequest *const *lanes, bool is_bf16);
void load_matrices(WarpRequest *const *lanes, bool transposed);

} // namespace hostdevice

#endif
