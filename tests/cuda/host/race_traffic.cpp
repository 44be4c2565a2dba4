/* race_traffic.cpp - the nth access of each lane at a place in the code is taken for one request of
 * the warp. Global memory moves sectors of 32 bytes for it; shared memory takes a round for every
 * 128 bytes, and more where words of a round lie in one of its 32 banks. No cache is modelled. */
#include "race_traffic.h"

#include "block.h"

#include <algorithm>
#include <set>
#include <stdio.h>
#include <vector>

namespace hostdevice {

struct LaneAccess {
    unsigned lane;
    uintptr_t at;
};

struct WarpRequests {
    size_t bytes = 0; /* of one lane */
    std::vector<LaneAccess> lanes;
};

/* Of one place in the code, within a block. */
struct SiteRequests {
    size_t done[most_threads] = {}; /* accesses of each thread */
    std::vector<WarpRequests> warps[most_threads / warp_lanes];
    Access access = Access::read;
    bool shared = false;
};

struct SiteTotals {
    std::string kernel;
    Access access = Access::read;
    bool shared = false;
    size_t bytes = 0;
    uint64_t requests = 0, moved = 0, least = 0;
};

static bool measuring;
static auto &of_block = *new std::map<unsigned, SiteRequests>;
static auto &totals = *new std::map<unsigned, SiteTotals>;

void traffic_access(unsigned site, const char *p, size_t bytes, Access access, bool shared) {
    if (!measuring || access == Access::atomic)
        return;
    SiteRequests &requests = of_block[site];
    requests.access = access;
    requests.shared = shared;
    const unsigned thread = current_thread();
    std::vector<WarpRequests> &warp = requests.warps[thread / warp_lanes];
    const size_t nth = requests.done[thread]++;
    if (nth >= warp.size())
        warp.resize(nth + 1);
    warp[nth].bytes = std::max(warp[nth].bytes, bytes);
    warp[nth].lanes.push_back({thread % warp_lanes, reinterpret_cast<uintptr_t>(p)});
}

struct Cost {
    uint64_t moved, least;
};

static Cost global_cost(const WarpRequests &request) {
    std::set<uintptr_t> sectors, places;
    for (const LaneAccess &lane : request.lanes) {
        places.insert(lane.at);
        for (uintptr_t s = lane.at / 32; s <= (lane.at + request.bytes - 1) / 32; s++)
            sectors.insert(s);
    }
    return {sectors.size(), (places.size() * request.bytes + 31) / 32};
}

/* Lanes of one round: the most different words that one bank has to give. */
static uint64_t rounds_of(const WarpRequests &request, unsigned first, unsigned end) {
    std::set<uintptr_t> words[32];
    size_t most = 0;
    for (const LaneAccess &lane : request.lanes) {
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

static void add_request(SiteTotals &total, const WarpRequests &request) {
    if (request.lanes.empty() || request.bytes > 16)
        return;
    const Cost cost = total.shared ? shared_cost(request) : global_cost(request);
    total.requests++;
    total.moved += cost.moved;
    total.least += cost.least;
    total.bytes = request.bytes;
    add_to_kernel(total.shared, cost);
}

void traffic_block_end() {
    for (const auto &[site, requests] : of_block) {
        SiteTotals &total = totals[site];
        total.kernel = block.launch->name;
        total.access = requests.access;
        total.shared = requests.shared;
        for (const auto &warp : requests.warps)
            for (const WarpRequests &request : warp)
                add_request(total, request);
    }
    of_block.clear();
}

} // namespace hostdevice

using namespace hostdevice;

void hostdevice_measure_traffic(int on) {
    measuring = on != 0;
}

void hostdevice_print_traffic(void) {
    std::vector<const void *> code;
    for (const auto &[site, total] : totals)
        code.push_back(site_code(site));
    const std::map<const void *, std::string> places = places_of(code);
    fprintf(stderr, "%-28s %-28s %-6s %-5s %5s %12s %6s\n", "kernel", "place", "memory", "what",
            "bytes", "requests", "use");
    for (const auto &[site, total] : totals)
        fprintf(stderr, "%-28s %-28s %-6s %-5s %5zu %12llu %5.1f%%\n", total.kernel.c_str(),
                places.at(site_code(site)).c_str(), total.shared ? "shared" : "global",
                total.access == Access::read ? "read" : "write", total.bytes,
                static_cast<unsigned long long>(total.requests),
                100.0 * static_cast<double>(total.least) / static_cast<double>(total.moved));
}
