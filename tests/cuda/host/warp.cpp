/* warp.cpp - operations in which the lanes of a warp meet. The last lane to come performs the
 * operation for all and goes on; the others are made ready. */
#include "block.h"
#include "race.h"

namespace hostdevice {

using Lanes = WarpRequest *[warp_lanes];

static const char *kernel_name() {
    return block.launch->name;
}

/* ---- what the operations do ---- */

static unsigned source_lane(const WarpRequest &request, unsigned lane) {
    const int width = request.width, base = static_cast<int>(lane) & ~(width - 1);
    const int own = static_cast<int>(lane);
    int source = own;
    switch (request.operation) {
    case WarpOperation::shuffle_index:
        source = base + (request.argument & (width - 1));
        break;
    case WarpOperation::shuffle_up:
        source = own - request.argument;
        break;
    case WarpOperation::shuffle_down:
        source = own + request.argument;
        break;
    default:
        source = own ^ request.argument;
        break;
    }
    const bool inside = source < base + width &&
                        (request.operation == WarpOperation::shuffle_xor || source >= base);
    return static_cast<unsigned>(inside ? source : own);
}

static void shuffle(const Lanes &lanes, const ThreadState *at) {
    uint64_t given[warp_lanes];
    for (unsigned i = 0; i < warp_lanes; i++)
        given[i] = lanes[i] != nullptr ? lanes[i]->value : ~uint64_t{0};
    for (unsigned i = 0; i < warp_lanes; i++) {
        if (lanes[i] == nullptr)
            continue;
        const unsigned source = source_lane(*lanes[i], i);
        if (lanes[source] == nullptr)
            hostdevice_report(
                "%s: %s:%d: lane %u shuffles from lane %u, which is outside mask %08x",
                kernel_name(), at->file, at->line, i, source, lanes[i]->mask);
        lanes[i]->value = given[source];
    }
}

static uint64_t combined(WarpOperation operation, uint64_t x, uint64_t y) {
    const unsigned a = static_cast<unsigned>(x), b = static_cast<unsigned>(y);
    const int s = static_cast<int>(a), t = static_cast<int>(b);
    switch (operation) {
    case WarpOperation::reduce_add:
        return a + b;
    case WarpOperation::reduce_min:
        return a < b ? a : b;
    case WarpOperation::reduce_max:
        return a > b ? a : b;
    case WarpOperation::reduce_min_signed:
        return s < t ? a : b;
    case WarpOperation::reduce_max_signed:
        return s > t ? a : b;
    case WarpOperation::reduce_and:
        return a & b;
    case WarpOperation::reduce_or:
        return a | b;
    default:
        return a ^ b;
    }
}

static void give_all(const Lanes &lanes, uint64_t value) {
    for (WarpRequest *lane : lanes)
        if (lane != nullptr)
            lane->value = value;
}

static void reduce(const Lanes &lanes, WarpOperation operation) {
    uint64_t sum = 0;
    bool any = false;
    for (const WarpRequest *lane : lanes) {
        if (lane == nullptr)
            continue;
        sum = any ? combined(operation, sum, lane->value) : lane->value;
        any = true;
    }
    give_all(lanes, sum);
}

static void ballot(const Lanes &lanes) {
    uint64_t votes = 0;
    for (unsigned i = 0; i < warp_lanes; i++)
        if (lanes[i] != nullptr)
            votes |= (lanes[i]->value & 1) << i;
    give_all(lanes, votes);
}

static void perform(const Lanes &lanes, const ThreadState *at, unsigned warp, unsigned mask) {
    switch (at->request.operation) {
    case WarpOperation::sync:
        race_warp_barrier(warp, mask);
        break;
    case WarpOperation::shuffle_index:
    case WarpOperation::shuffle_up:
    case WarpOperation::shuffle_down:
    case WarpOperation::shuffle_xor:
        shuffle(lanes, at);
        break;
    case WarpOperation::ballot:
        ballot(lanes);
        break;
    case WarpOperation::mma_bf16:
    case WarpOperation::mma_f16:
        multiply_matrices(lanes, at->request.operation == WarpOperation::mma_bf16);
        block.counts->flops += 2 * 16 * 8 * 16;
        break;
    case WarpOperation::ldmatrix:
    case WarpOperation::ldmatrix_transposed:
        load_matrices(lanes, at->request.operation == WarpOperation::ldmatrix_transposed);
        break;
    default:
        reduce(lanes, at->request.operation);
        break;
    }
}

/* ---- how lanes meet ---- */

static bool is_same_meeting(const ThreadState *a, const ThreadState *b) {
    return a->request.operation == b->request.operation && a->request.mask == b->request.mask &&
           is_same_place(a, b);
}

static unsigned lanes_that_live(unsigned warp) {
    unsigned live = 0;
    for (unsigned i = 0; i < warp_lanes && warp * warp_lanes + i < block.size; i++)
        live |= static_cast<unsigned>(block.threads[warp * warp_lanes + i].state != State::done)
                << i;
    return live;
}

/* Lanes that take part: of the mask, those that have not returned. A mask that names others is
 * reported once for each meeting. */
static unsigned lanes_expected(const ThreadState *at, unsigned warp) {
    const unsigned mask = at->request.mask, live = lanes_that_live(warp);
    if ((mask & ~live) != 0)
        hostdevice_report(
            "%s: %s:%d: mask %08x names lanes %08x, which have returned or never were",
            kernel_name(), at->file, at->line, mask, mask & ~live);
    return mask & live;
}

/* Whether all that are expected wait at the meeting of `at`. */
static bool all_came(const ThreadState *at, unsigned warp, unsigned expected) {
    if ((block.waiting[warp] & expected) != expected)
        return false;
    for (unsigned left = expected; left != 0; left &= left - 1) {
        const unsigned lane = static_cast<unsigned>(__builtin_ctz(left));
        if (!is_same_meeting(at, &block.threads[warp * warp_lanes + lane]))
            return false;
    }
    return true;
}

static void meet(const ThreadState *at, unsigned warp, unsigned expected) {
    Lanes lanes = {};
    for (unsigned i = 0; i < warp_lanes; i++)
        if ((expected >> i & 1) != 0)
            lanes[i] = &block.threads[warp * warp_lanes + i].request;
    perform(lanes, at, warp, expected);
    block.waiting[warp] &= ~expected;
}

/* All but the one that runs on. */
static void release(unsigned warp, unsigned lanes, const ThreadState *but) {
    for (unsigned i = 0; i < warp_lanes; i++) {
        const bool backwards = settings.order == HOSTDEVICE_REVERSE;
        const unsigned lane = backwards ? warp_lanes - 1 - i : i;
        ThreadState *thread = &block.threads[warp * warp_lanes + lane];
        if ((lanes >> lane & 1) != 0 && thread != but)
            make_ready(thread);
    }
}

/* Cheap where nobody has returned: then the expected are those of the mask. */
static unsigned expected_lanes(const ThreadState *at, unsigned warp) {
    if (block.done == 0 && (warp + 1) * warp_lanes <= block.size)
        return at->request.mask;
    return lanes_expected(at, warp);
}

static void come_to(ThreadState *self) {
    const unsigned warp = self->number / warp_lanes, lane = self->number % warp_lanes;
    if ((self->request.mask >> lane & 1) == 0) {
        hostdevice_report("%s: %s:%d: lane %u is not in its own mask %08x", kernel_name(),
                          self->file, self->line, lane, self->request.mask);
        self->request.mask |= 1u << lane;
    }
    self->state = State::at_warp;
    block.waiting[warp] |= 1u << lane;
    const unsigned expected = expected_lanes(self, warp);
    if (!all_came(self, warp, expected)) {
        wait_here();
        return;
    }
    meet(self, warp, expected);
    release(warp, expected, self);
    self->state = State::running;
}

/* Those who wait for a lane that has returned wait in vain: they meet without it. */
void warp_lane_done(ThreadState *thread) {
    const unsigned warp = thread->number / warp_lanes, lane = thread->number % warp_lanes;
    for (unsigned left = block.waiting[warp]; left != 0; left &= left - 1) {
        const unsigned other = static_cast<unsigned>(__builtin_ctz(left));
        const ThreadState *at = &block.threads[warp * warp_lanes + other];
        if ((at->request.mask >> lane & 1) == 0 || (block.waiting[warp] >> other & 1) == 0)
            continue;
        const unsigned expected = at->request.mask & lanes_that_live(warp);
        if (!all_came(at, warp, expected))
            continue;
        lanes_expected(at, warp);
        meet(at, warp, expected);
        release(warp, expected, nullptr);
    }
}

uint64_t warp_value(WarpOperation operation, unsigned mask, uint64_t value, int argument, int width,
                    const char *file, int line) {
    ThreadState *self = running();
    self->file = file;
    self->line = line;
    self->request = {operation, mask, argument, width, value, nullptr, nullptr};
    come_to(self);
    return self->request.value;
}

static void warp_matrices(WarpOperation operation, const void *in, void *out, const char *file,
                          int line) {
    ThreadState *self = running();
    self->file = file;
    self->line = line;
    self->request = {operation, 0xffffffffu, 0, 32, 0, in, out};
    come_to(self);
}

void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char *file,
              int line) {
    const Fragments in = {a, b};
    warp_matrices(WarpOperation::mma_bf16, &in, c, file, line);
}

void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char *file,
             int line) {
    const Fragments in = {a, b};
    warp_matrices(WarpOperation::mma_f16, &in, c, file, line);
}

void ldmatrix4(uint32_t (&out)[4], const void *row, int transposed, const char *file, int line) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0 || !is_shared_range(row, 16))
        hostdevice_report("%s: ldmatrix of %p: no 16 aligned bytes of shared memory",
                          current_place(file, line).c_str(), row);
    race_access(row, 16, Access::read, __builtin_return_address(0));
    const WarpOperation operation =
        transposed != 0 ? WarpOperation::ldmatrix_transposed : WarpOperation::ldmatrix;
    warp_matrices(operation, row, out, file, line);
}

unsigned active_mask() {
    return lanes_that_live(running()->number / warp_lanes);
}

} // namespace hostdevice
