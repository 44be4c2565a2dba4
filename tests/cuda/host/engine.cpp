/* engine.cpp - runs the blocks of a grid one after the other, and the threads of a block as fibers.
 *
 * A fiber starts thread after thread until one has to wait: a kernel without barriers costs a call
 * for each thread and no switch. A thread that waits goes straight to the next that can run. */
#include "block.h"
#include "race.h"

#include <algorithm>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

namespace hostdevice {

Thread *current;
uint3 block_index;
dim3 block_size, grid_size;
Block block;

static Fiber scheduler; /* the stack that run_grid was called on */
static Fiber *running_fiber;
static std::vector<Fiber *> &idle_fibers = *new std::vector<Fiber *>;

/* Threads that may go on, a ring in the order in which they became so. */
static ThreadState *ready[most_threads];
static unsigned ready_first, ready_count;

/* ---- who runs next ---- */

static void run_threads();

void make_ready(ThreadState *thread) {
    thread->state = State::ready;
    ready[(ready_first + ready_count++) % most_threads] = thread;
}

static ThreadState *take_ready() {
    if (settings.order == HOSTDEVICE_SHUFFLED) {
        const unsigned pick = (ready_first + order_random.below(ready_count)) % most_threads;
        std::swap(ready[ready_first], ready[pick]);
    }
    ThreadState *thread = ready[ready_first];
    ready_first = (ready_first + 1) % most_threads;
    ready_count--;
    return thread;
}

static Fiber *take_fiber() {
    if (idle_fibers.empty())
        return fiber_new(run_threads);
    Fiber *fiber = idle_fibers.back();
    idle_fibers.pop_back();
    return fiber;
}

/* In shuffled order a fresh thread may also come before one that can go on. */
static bool starts_fresh() {
    if (block.started == block.size)
        return false;
    return ready_count == 0 ||
           (settings.order == HOSTDEVICE_SHUFFLED && order_random.below(2) == 0);
}

/* The scheduler where nobody can run. */
static Fiber *choose_next() {
    if (starts_fresh())
        return take_fiber();
    if (ready_count == 0)
        return &scheduler;
    ThreadState *thread = take_ready();
    thread->state = State::running;
    current = thread;
    return thread->fiber;
}

static void switch_to(Fiber *to) {
    Fiber *from = running_fiber;
    if (from == to)
        return;
    counts.switches++;
    running_fiber = to;
    fiber_switch(from, to);
}

/* A thread's fiber may be chosen at once: the last to wait may be the first to go on. */
void wait_here() {
    switch_to(choose_next());
}

/* ---- barriers ---- */

static const char *name() {
    return block.launch->name;
}

/* All that still live are here: do they mean the same barrier? */
static void compare_places() {
    const ThreadState *first = nullptr;
    for (unsigned i = 0; i < block.size; i++) {
        const ThreadState *t = &block.threads[i];
        if (t->state != State::at_barrier)
            continue;
        if (first == nullptr)
            first = t;
        if (is_same_place(t, first))
            continue;
        hostdevice_report("%s: divergent barrier: thread %u is at %s:%d, thread %u at %s:%d",
                          name(), first->number, first->file, first->line, t->number, t->file,
                          t->line);
        return;
    }
}

static int count_votes(Vote vote) {
    int yes = 0;
    for (unsigned i = 0; i < block.size; i++)
        if (block.threads[i].state == State::at_barrier)
            yes += block.threads[i].predicate != 0;
    if (vote == Vote::any)
        return yes != 0;
    return vote == Vote::all ? static_cast<unsigned>(yes) == block.at_barrier : yes;
}

static void open_barrier_if_all_came() {
    if (block.at_barrier == 0 || block.at_barrier + block.done != block.size)
        return;
    if (block.done != 0)
        hostdevice_report("%s: %u of %u threads had returned when the others came to a barrier",
                          name(), block.done, block.size);
    compare_places();
    race_block_barrier();
    bool counted = false;
    for (unsigned i = 0; i < block.size; i++) {
        ThreadState *t = &block.threads[block.order[i]];
        if (t->state != State::at_barrier)
            continue;
        if (!counted)
            block.vote_result = count_votes(t->vote);
        counted = true;
        make_ready(t);
    }
    block.at_barrier = 0;
}

int block_barrier(Vote vote, int predicate, const char *file, int line) {
    ThreadState *self = running();
    self->state = State::at_barrier;
    self->file = file;
    self->line = line;
    self->vote = vote;
    self->predicate = predicate;
    block.at_barrier++;
    open_barrier_if_all_came();
    wait_here();
    return block.vote_result;
}

/* ---- threads ---- */

static void run_one(ThreadState *thread) {
    thread->state = State::running;
    thread->fiber = running_fiber;
    current = thread;
    block.launch->run(block.launch->call.get());
    thread = running();
    thread->state = State::done;
    block.done++;
    counts.threads++;
    warp_lane_done(thread);
    open_barrier_if_all_came();
}

/* What every fiber does for ever. It is idle only once it is no longer the one that runs: another
 * may take it up as soon as it stands in the list, but none runs before the switch. */
static void run_threads() {
    fiber_entered();
    for (;;) {
        while (block.started < block.size && ready_count == 0)
            run_one(&block.threads[block.order[block.started++]]);
        Fiber *next = choose_next();
        idle_fibers.push_back(running_fiber);
        switch_to(next);
    }
}

/* Nobody can run and not all are done. */
static void report_stall() {
    const ThreadState *at = nullptr;
    unsigned at_warp = 0;
    for (unsigned i = 0; i < block.size; i++) {
        const ThreadState *t = &block.threads[i];
        at_warp += t->state == State::at_warp;
        if (t->state == State::at_warp || (t->state == State::at_barrier && at == nullptr))
            at = t;
    }
    hostdevice_report("%s: block %u,%u,%u stands still: %u threads returned, %u at a barrier, %u "
                      "at a warp operation; thread %u waits at %s:%d with mask %08x",
                      name(), block_index.x, block_index.y, block_index.z, block.done,
                      block.at_barrier, at_warp, at->number, at->file, at->line,
                      at->state == State::at_warp ? at->request.mask : 0);
}

/* Fibers of threads that will never go on serve others. */
static void abandon_block() {
    for (unsigned i = 0; i < block.size; i++) {
        ThreadState *t = &block.threads[i];
        if (t->state == State::fresh || t->state == State::done)
            continue;
        fiber_rewind(t->fiber, run_threads);
        idle_fibers.push_back(t->fiber);
    }
}

static void run_block() {
    block.started = block.done = block.at_barrier = 0;
    ready_first = ready_count = 0;
    memset(block.waiting, 0, sizeof block.waiting);
    for (unsigned i = 0; i < block.size; i++)
        block.threads[i].state = State::fresh;
    forget_async_copies(block.size);
    running_fiber = &scheduler;
    wait_here();
    if (block.done == block.size)
        return;
    if (lost_error() == cudaSuccess)
        report_stall();
    abandon_block();
    lose_device(cudaErrorLaunchTimeout);
}

/* ---- grids ---- */

static void shuffle(std::vector<size_t> &numbers) {
    for (size_t i = numbers.size(); i > 1; i--)
        std::swap(numbers[i - 1], numbers[order_random.below(static_cast<uint32_t>(i))]);
}

/* 0 .. n-1 in the order that the test asked for. */
static std::vector<size_t> numbers_in_order(size_t n) {
    std::vector<size_t> numbers(n);
    for (size_t i = 0; i < n; i++)
        numbers[i] = settings.order == HOSTDEVICE_REVERSE ? n - 1 - i : i;
    if (settings.order == HOSTDEVICE_SHUFFLED)
        shuffle(numbers);
    return numbers;
}

static void order_threads() {
    const std::vector<size_t> numbers = numbers_in_order(block.size);
    for (unsigned i = 0; i < block.size; i++)
        block.order[i] = static_cast<unsigned>(numbers[i]);
}

static void set_up_threads(const Launch &launch) {
    const dim3 size = launch.block;
    block.size = size.x * size.y * size.z;
    for (unsigned i = 0; i < block.size; i++) {
        block.threads[i].number = i;
        block.threads[i].index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    }
    order_threads();
}

/* Room for a signal's handler where a thread has used up its own stack. */
static void give_signals_a_stack() {
    static thread_local bool done;
    stack_t old;
    if (done || sigaltstack(nullptr, &old) != 0)
        return;
    done = true;
    if ((old.ss_flags & SS_DISABLE) == 0)
        return;
    stack_t own = {};
    own.ss_size = 64 << 10;
    own.ss_sp = malloc(own.ss_size);
    sigaltstack(&own, nullptr);
}

static void run_block_number(const Launch &launch, size_t number) {
    const size_t x = launch.grid.x, y = launch.grid.y;
    block.number = number;
    block_index = {static_cast<unsigned>(number % x), static_cast<unsigned>(number / x % y),
                   static_cast<unsigned>(number / (x * y))};
    if (settings.order == HOSTDEVICE_SHUFFLED)
        order_threads();
    spoil_shared();
    race_block();
    run_block();
    race_block_end();
    check_shared();
}

static void run_blocks(const Launch &launch, size_t blocks) {
    set_up_threads(launch);
    prepare_shared(launch);
    block.counts->threads = blocks * block.size;
    race_launch();
    for (size_t number : numbers_in_order(blocks)) {
        run_block_number(launch, number);
        if (lost_error() != cudaSuccess)
            break;
    }
    race_launch_end();
    check_red_zones(launch.name);
}

void run_grid(const Launch &launch) {
    give_signals_a_stack();
    hostdevice_kernel counted = {};
    counted.name = launch.name;
    counted.launches = 1;
    block.launch = &launch;
    block.counts = &counted;
    block_size = launch.block;
    grid_size = launch.grid;
    if (is_run(launch.name))
        run_blocks(launch, size_t{launch.grid.x} * launch.grid.y * launch.grid.z);
    count_launch(counted);
}

unsigned current_thread() {
    return running()->number;
}

/* For reports: the kernel, its block and thread, and the place in the source. */
std::string current_place(const char *file, int line) {
    char text[512];
    snprintf(text, sizeof text, "%s: block %u,%u,%u thread %u at %s:%d", name(), block_index.x,
             block_index.y, block_index.z, running()->number, file, line);
    return text;
}

void trap(const char *file, int line) {
    hostdevice_report("%s: __trap", current_place(file, line).c_str());
    lose_device(cudaErrorLaunchFailure);
    switch_to(&scheduler);
    abort();
}

} // namespace hostdevice
