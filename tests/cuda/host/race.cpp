/* race.cpp - whether the accesses of a kernel are ordered, and whether they go where they may.
 *
 * Kernels of this lane are compiled for ThreadSanitizer but linked with our own hooks: the order
 * that CUDA gives is known exactly here, where a block's threads are fibers. Two accesses to a
 * byte, one of them a write, are a race where they come from
 * - different blocks of a launch, or
 * - threads of a block with no barrier between them, unless both lanes of a warp met at a
 *   __syncwarp in between;
 * atomic accesses do not race with each other. */
#include "race.h"

#include "block.h"
#include "race_traffic.h"

#include <algorithm>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unordered_map>
#include <vector>

namespace hostdevice {

/* How far apart were the threads that read a byte without an order among them? */
enum Spread : unsigned { one_thread, one_warp, one_block, several_blocks };

struct Stamp {
    uint32_t phase;      /* of the engine; 0: never */
    uint32_t who;        /* block and thread */
    uint32_t clock;      /* of the thread within its warp */
    unsigned site : 28;  /* index of the code */
    unsigned spread : 2; /* of reads */
    unsigned atomic : 1;
    unsigned
        split : 1; /* of the write in a word's first byte: the bytes have stamps of their own */
};

/* The last write and the last read of a byte; that of a word's first byte stands for all four
 * until one of them is accessed alone. */
struct Cell {
    Stamp write, read;
};

static bool in_kernel, searching = true;
static uint32_t phase; /* grows at every launch, block and barrier */
static uint32_t launch_phase, block_phase;

/* ---- order within a warp ---- */

static uint32_t tick; /* grows at every block and warp barrier, so that older clocks are smaller */
static uint32_t clock_of[most_threads];
/* The clock of a warp's lane up to which another has met it. */
static uint32_t known[most_threads][warp_lanes];

void race_warp_barrier(unsigned warp, unsigned mask) {
    uint32_t met[warp_lanes] = {};
    const unsigned first = warp * warp_lanes;
    for (unsigned i = 0; i < warp_lanes; i++) {
        if ((mask >> i & 1) == 0)
            continue;
        for (unsigned j = 0; j < warp_lanes; j++)
            met[j] = std::max(met[j], known[first + i][j]);
        met[i] = std::max(met[i], clock_of[first + i]);
    }
    tick++;
    for (unsigned i = 0; i < warp_lanes; i++) {
        if ((mask >> i & 1) == 0)
            continue;
        memcpy(known[first + i], met, sizeof met);
        clock_of[first + i] = tick;
    }
}

/* ---- code ---- */

static std::vector<const void *> &sites = *new std::vector<const void *>;
static auto &site_numbers = *new std::unordered_map<const void *, unsigned>;
static auto &reported = *new std::set<std::pair<unsigned, unsigned>>;

/* Most lookups are of the same few places. */
static constexpr size_t remembered = 4096;
static struct {
    const void *code;
    unsigned site;
} recent[remembered];

static unsigned site_of(const void *code) {
    auto &entry = recent[reinterpret_cast<uintptr_t>(code) % remembered];
    if (entry.code == code)
        return entry.site;
    auto [found, is_new] = site_numbers.emplace(code, static_cast<unsigned>(sites.size()));
    if (is_new)
        sites.push_back(code);
    entry = {code, found->second};
    return found->second;
}

static std::string place_of(unsigned site) {
    return places_of({sites[site]})[sites[site]];
}

/* ---- what is asked of every access ---- */

struct Request {
    Access access;
    unsigned site;
    uint32_t who;
    bool shared;
};

static bool is_ordered(const Stamp &earlier, const Request &now) {
    if (earlier.phase < (now.shared ? block_phase : launch_phase))
        return true;
    if (earlier.who >> 10 != now.who >> 10)
        return false;
    if (earlier.phase != phase || earlier.who == now.who)
        return true;
    const unsigned then = earlier.who % most_threads, me = now.who % most_threads;
    return then / warp_lanes == me / warp_lanes && known[me][then % warp_lanes] >= earlier.clock;
}

/* Reads of several threads: the last one's stamp, and how far the others were. */
static bool are_reads_ordered(const Stamp &reads, const Request &now) {
    if (!is_ordered(reads, now))
        return false;
    if (reads.phase < (now.shared ? block_phase : launch_phase))
        return true;
    if (reads.spread == several_blocks)
        return false;
    if (reads.phase != phase || reads.spread == one_thread)
        return true;
    return reads.spread == one_warp && clock_of[now.who % most_threads] != reads.clock;
}

static void report_race(const void *p, const char *kind, const Stamp &earlier, const Request &now) {
    if (!reported.insert(std::minmax(earlier.site, now.site)).second)
        return;
    hostdevice_report("%s: race (%s) on %s memory %s: block %u thread %u at %s, then block %u "
                      "thread %u at %s",
                      block.launch->name, kind, now.shared ? "shared" : "global",
                      describe_address(p).c_str(), earlier.who >> 10, earlier.who % most_threads,
                      place_of(earlier.site).c_str(), now.who >> 10, now.who % most_threads,
                      place_of(now.site).c_str());
}

static unsigned spread_of(const Stamp &old, const Request &now) {
    if (old.phase < (now.shared ? block_phase : launch_phase))
        return one_thread;
    if (old.spread == several_blocks || old.who >> 10 != now.who >> 10)
        return several_blocks;
    if (old.phase != phase)
        return one_thread;
    if (old.spread == one_block)
        return one_block;
    if (is_ordered(old, now) && (old.spread == one_thread || old.who != now.who))
        return one_thread;
    return old.who % most_threads / warp_lanes == now.who % most_threads / warp_lanes ? one_warp
                                                                                      : one_block;
}

static Stamp stamp_of(const Request &now, unsigned spread, bool split) {
    Stamp stamp = {phase, now.who, clock_of[now.who % most_threads], now.site, 0, 0, 0};
    stamp.spread = spread & 3;
    stamp.atomic = now.access == Access::atomic;
    stamp.split = split;
    return stamp;
}

static void visit(Cell *cell, const void *p, const Request &now) {
    const bool both_atomic = now.access == Access::atomic && cell->write.atomic != 0;
    if (!both_atomic && !is_ordered(cell->write, now))
        report_race(p, now.access == Access::read ? "write, read" : "write, write", cell->write,
                    now);
    if (now.access == Access::read) {
        cell->read = stamp_of(now, spread_of(cell->read, now), false);
        return;
    }
    if (!are_reads_ordered(cell->read, now))
        report_race(p, "read, write", cell->read, now);
    cell->write = stamp_of(now, one_thread, cell->write.split != 0);
}

static void split_word(Cell *word) {
    if (word->write.split != 0)
        return;
    word->write.split = 1;
    for (int i = 1; i < 4; i++)
        word[i] = word[0];
}

/* `cells` are those of the memory that p lies in, whose first byte is aligned to a word. */
static void visit_range(Cell *cells, size_t at, size_t bytes, const char *p, const Request &now) {
    for (size_t i = 0; i < bytes;) {
        Cell *word = cells + (at + i) / 4 * 4;
        const size_t offset = (at + i) % 4, n = std::min(bytes - i, 4 - offset);
        if (n < 4)
            split_word(word);
        const size_t visited = word->write.split != 0 ? n : 1;
        for (size_t byte = 0; byte < visited; byte++)
            visit(word + offset + byte, p + i + byte, now);
        i += n;
    }
}

/* ---- where an access goes ---- */

static Cell *global_cells;
static std::vector<Cell> &dynamic_cells = *new std::vector<Cell>;
static std::vector<Cell> &static_cells = *new std::vector<Cell>;
static std::pair<const char *, const char *> engine_module, kernel_module;

static void make_global_cells() {
    const size_t bytes = arena_range().second * sizeof(Cell);
    if (!searching || global_cells != nullptr || arena_range().first == nullptr)
        return;
    void *map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        perror("hostdevice: memory for what was accessed");
        abort();
    }
    global_cells = static_cast<Cell *>(map);
}

static bool is_inside(const char *p, const void *base, size_t bytes) {
    return p >= static_cast<const char *>(base) && p < static_cast<const char *>(base) + bytes;
}

/* What a kernel touches without its author's doing, and constants. */
static bool is_own_memory(const char *p, Access access) {
    if (is_inside(p, block.launch->call.get(), block.launch->call_bytes) ||
        (p >= engine_module.first && p < engine_module.second))
        return true;
    return access == Access::read && p >= kernel_module.first && p < kernel_module.second;
}

static void report_place(const char *p, size_t bytes, const Request &now, const char *what) {
    if (!reported.insert({now.site, now.site | 1u << 31}).second)
        return;
    hostdevice_report("%s: block %u thread %u %s %zu bytes at %s, %s, at %s", block.launch->name,
                      now.who >> 10, now.who % most_threads,
                      now.access == Access::read ? "reads" : "writes", bytes,
                      describe_address(p).c_str(), what, place_of(now.site).c_str());
}

static void count_bytes(size_t bytes, Access access) {
    if (access != Access::write)
        block.counts->read_bytes += bytes;
    if (access != Access::read)
        block.counts->written_bytes += bytes;
}

static Request request_of(Access access, const void *code, bool shared) {
    const uint32_t who = static_cast<uint32_t>(block.number) << 10 | running()->number;
    return {access, site_of(code), who, shared};
}

static void visit_global(const char *p, size_t bytes, const Request &now) {
    if (hostdevice_is_device_range(p, bytes) == 0) {
        report_place(p, bytes, now, "outside every allocation");
        return;
    }
    count_bytes(bytes, now.access);
    traffic_access(now.site, p, bytes, now.access, false);
    if (searching)
        visit_range(global_cells, static_cast<size_t>(p - arena_range().first), bytes, p, now);
}

static void visit_shared(std::vector<Cell> &cells, size_t at, const char *p, size_t bytes,
                         const Request &now) {
    traffic_access(now.site, p, bytes, now.access, true);
    if (searching)
        visit_range(cells.data(), at, bytes, p, now);
}

static void visit_elsewhere(const char *p, size_t bytes, Access access, const void *code) {
    if (is_own_memory(p, access) || hostdevice_is_pinned_range(p, bytes) != 0)
        return;
    const char *zone = reinterpret_cast<const char *>(block.dynamic) - shared_red_zone;
    const bool near = is_inside(p, zone, block.dynamic_bytes + 2 * shared_red_zone);
    report_place(p, bytes, request_of(access, code, false),
                 near ? "outside the dynamic shared memory" : "which is the host's memory");
}

/* Where p lies in a range of which all the bytes are; npos where not. */
static constexpr size_t npos = SIZE_MAX;
static size_t place_in(const void *base, size_t size, const void *p, size_t bytes) {
    const size_t at = reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(base);
    return at < size && bytes <= size - at ? at : npos;
}

static void access_in_kernel(const char *p, size_t bytes, Access access, const void *code) {
    const Fiber *fiber = running()->fiber;
    if (place_in(fiber->stack_base, fiber->stack_bytes, p, bytes) != npos)
        return;
    const Launch *launch = block.launch;
    if (is_device_address(p)) {
        visit_global(p, bytes, request_of(access, code, false));
        return;
    }
    const size_t statics = static_cast<size_t>(launch->static_shared_end - launch->static_shared);
    const size_t in_static = place_in(launch->static_shared, statics, p, bytes);
    const size_t in_dynamic = place_in(block.dynamic, block.dynamic_bytes, p, bytes);
    if (in_dynamic != npos)
        visit_shared(dynamic_cells, in_dynamic, p, bytes, request_of(access, code, true));
    else if (in_static != npos)
        visit_shared(static_cells, in_static, p, bytes, request_of(access, code, true));
    else
        visit_elsewhere(p, bytes, access, code);
}

void race_access(const void *p, size_t bytes, Access access, const void *code) {
    if (in_kernel && bytes != 0)
        access_in_kernel(static_cast<const char *>(p), bytes, access, code);
}

/* ---- what the engine tells ---- */

void race_launch() {
    make_global_cells();
    engine_module = module_of(&block);
    kernel_module = module_of(block.launch->kernel);
    const Launch *launch = block.launch;
    dynamic_cells.resize(block.dynamic_bytes + 8);
    static_cells.resize(static_cast<size_t>(launch->static_shared_end - launch->static_shared) + 8);
    launch_phase = ++phase;
    traffic_launch();
    in_kernel = true;
}

void race_launch_end() {
    in_kernel = false;
}

void race_block() {
    block_phase = ++phase;
    tick++;
    for (unsigned i = 0; i < block.size; i++)
        clock_of[i] = tick;
}

void race_block_end() {
    traffic_block_end();
}

void race_block_barrier() {
    phase++;
}

void race_reset() {
    reported.clear();
    searching = true;
}

const void *site_code(unsigned site) {
    return sites[site];
}

} // namespace hostdevice

int hostdevice_has_race_lane(void) {
    return 1;
}

void hostdevice_search_races(int on) {
    hostdevice::searching = on != 0;
}
