/* race_traffic.cpp - the nth access of each lane at a place in the code is taken for one request of
 * the warp. Global memory moves sectors of 32 bytes for it; shared memory takes a round for every
 * 128 bytes, and more where words of a round lie in one of its 32 banks. No cache is modelled, but
 * sectors are also counted once for each launch. */
#include "race_traffic.h"

#include "block.h"

#include <algorithm>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <vector>

namespace hostdevice {

constexpr uintptr_t sector_bytes = 32;

struct LaneAccess {
    unsigned lane;
    uintptr_t at;
};

struct WarpRequests {
    size_t bytes = 0; /* of one lane */
    unsigned n = 0;
    LaneAccess lanes[warp_lanes];
};

/* A place in the code, of which an asynchronous copy reads one memory and writes the other. */
struct Site {
    unsigned number;

    Site(unsigned site, Access access, bool shared)
        : number(4 * site + 2 * (access == Access::write) + shared) {}
    explicit Site(size_t number) : number(static_cast<unsigned>(number)) {}
    unsigned code() const {
        return number / 4;
    }
    bool writes() const {
        return (number & 2) != 0;
    }
    bool shared() const {
        return (number & 1) != 0;
    }
};

/* Of one place in the code, within a block. */
struct SiteRequests {
    bool used = false;
    size_t done[most_threads] = {}; /* accesses of each thread */
    std::vector<WarpRequests> warps[most_threads / warp_lanes];
};

struct SiteTotals {
    std::string kernel;
    size_t bytes = 0;
    uint64_t requests = 0, moved = 0, least = 0;
};

static bool measuring;
/* By a site's number. */
static auto &of_block = *new std::vector<std::unique_ptr<SiteRequests>>;
static auto &totals = *new std::map<unsigned, SiteTotals>;

static SiteRequests &requests_at(Site site) {
    if (site.number >= of_block.size())
        of_block.resize(site.number + 1);
    if (of_block[site.number] == nullptr)
        of_block[site.number] = std::make_unique<SiteRequests>();
    return *of_block[site.number];
}

void traffic_access(unsigned site, const char *p, size_t bytes, Access access, bool shared) {
    if (!measuring || access == Access::atomic)
        return;
    SiteRequests &requests = requests_at(Site(site, access, shared));
    requests.used = true;
    const unsigned thread = current_thread();
    std::vector<WarpRequests> &warp = requests.warps[thread / warp_lanes];
    const size_t nth = requests.done[thread]++;
    if (nth >= warp.size())
        warp.resize(nth + 1);
    WarpRequests &request = warp[nth];
    request.bytes = std::max(request.bytes, bytes);
    request.lanes[request.n++] = {thread % warp_lanes, reinterpret_cast<uintptr_t>(p)};
}

/* ---- sectors of a launch ---- */

static uint32_t launch_number;

/* For each sector of the device's memory, the last launch that read it or wrote it. */
static uint32_t *last_launches(bool writes) {
    static uint32_t *of[2];
    uint32_t *&last = of[writes];
    if (last != nullptr)
        return last;
    const size_t bytes = arena_range().second / sector_bytes * sizeof *last;
    void *map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        perror("hostdevice: memory for what was moved");
        abort();
    }
    return last = static_cast<uint32_t *>(map);
}

static void count_once(bool writes, const std::vector<uintptr_t> &sectors) {
    uint32_t *last = last_launches(writes);
    const uintptr_t first = reinterpret_cast<uintptr_t>(arena_range().first) / sector_bytes;
    for (uintptr_t sector : sectors) {
        block.counts->sectors_once += last[sector - first] != launch_number;
        last[sector - first] = launch_number;
    }
}

void traffic_launch() {
    launch_number++;
}

/* ---- what a request costs ---- */

struct Cost {
    uint64_t moved, least;
};

static void make_set(std::vector<uintptr_t> &x) {
    if (!std::is_sorted(x.begin(), x.end()))
        std::sort(x.begin(), x.end());
    x.erase(std::unique(x.begin(), x.end()), x.end());
}

static Cost global_cost(const WarpRequests &request, bool writes) {
    static auto &sectors = *new std::vector<uintptr_t>, &places = *new std::vector<uintptr_t>;
    sectors.clear();
    places.clear();
    for (unsigned i = 0; i < request.n; i++) {
        const uintptr_t at = request.lanes[i].at;
        places.push_back(at);
        for (uintptr_t s = at / sector_bytes; s <= (at + request.bytes - 1) / sector_bytes; s++)
            sectors.push_back(s);
    }
    make_set(sectors);
    make_set(places);
    count_once(writes, sectors);
    return {sectors.size(), (places.size() * request.bytes + sector_bytes - 1) / sector_bytes};
}

/* Lanes of one round: the most different words that one bank has to give. */
static uint64_t rounds_of(const WarpRequests &request, unsigned first, unsigned end) {
    std::set<uintptr_t> words[32];
    size_t most = 0;
    for (unsigned i = 0; i < request.n; i++) {
        const LaneAccess &lane = request.lanes[i];
        if (lane.lane < first || lane.lane >= end)
            continue;
        for (uintptr_t w = lane.at / 4; w <= (lane.at + request.bytes - 1) / 4; w++) {
            words[w % 32].insert(w);
            most = std::max(most, words[w % 32].size());
        }
    }
    return most;
}

static Cost shared_cost(const WarpRequests &request) {
    const unsigned lanes_a_round =
        std::min<unsigned>(warp_lanes, static_cast<unsigned>(128 / request.bytes));
    Cost cost = {0, 0};
    for (unsigned first = 0; first < warp_lanes; first += lanes_a_round) {
        const uint64_t rounds = rounds_of(request, first, first + lanes_a_round);
        cost.moved += rounds;
        cost.least += rounds != 0;
    }
    return cost;
}

static void add_to_kernel(bool shared, const Cost &cost) {
    (shared ? block.counts->rounds : block.counts->sectors) += cost.moved;
    (shared ? block.counts->least_rounds : block.counts->least_sectors) += cost.least;
}

static void add_request(Site site, SiteTotals &total, const WarpRequests &request) {
    if (request.n == 0 || request.bytes > 16)
        return;
    const Cost cost = site.shared() ? shared_cost(request) : global_cost(request, site.writes());
    total.requests++;
    total.moved += cost.moved;
    total.least += cost.least;
    total.bytes = request.bytes;
    add_to_kernel(site.shared(), cost);
}

static void add_site(Site site, SiteRequests &requests) {
    SiteTotals &total = totals[site.number];
    total.kernel = block.launch->name;
    for (auto &warp : requests.warps) {
        for (const WarpRequests &request : warp)
            add_request(site, total, request);
        warp.clear();
    }
    std::fill_n(requests.done, block.size, size_t{0});
    requests.used = false;
}

void traffic_block_end() {
    for (size_t i = 0; i < of_block.size(); i++)
        if (of_block[i] != nullptr && of_block[i]->used)
            add_site(Site(i), *of_block[i]);
}

} // namespace hostdevice

using namespace hostdevice;

void hostdevice_measure_traffic(int on) {
    measuring = on != 0;
}

void hostdevice_print_traffic(void) {
    std::vector<const void *> code;
    for (const auto &[number, total] : totals)
        code.push_back(site_code(Site(size_t{number}).code()));
    const std::map<const void *, std::string> places = places_of(code);
    fprintf(stderr, "%-28s %-28s %-6s %-5s %5s %12s %6s\n", "kernel", "place", "memory", "what",
            "bytes", "requests", "use");
    for (const auto &[number, total] : totals) {
        const Site site(size_t{number});
        fprintf(stderr, "%-28s %-28s %-6s %-5s %5zu %12llu %5.1f%%\n", total.kernel.c_str(),
                places.at(site_code(site.code())).c_str(), site.shared() ? "shared" : "global",
                site.writes() ? "write" : "read", total.bytes,
                static_cast<unsigned long long>(total.requests),
                100.0 * static_cast<double>(total.least) / static_cast<double>(total.moved));
    }
}
