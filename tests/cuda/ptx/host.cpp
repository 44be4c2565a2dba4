/* host.cpp - see host.h. */
#include "host.h"

#include "../host/hostdevice.h"
#include "../host/ptx.h"
#include "library.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace {

struct Ran {
    uint64_t grids = 0, instructions = 0;
    double seconds = 0;
};

struct Host {
    ptx::Library library;
    std::unordered_map<std::string, std::string> names; /* as a C++ compiler has them, to PTX's */
    std::map<std::string, Ran> ran;                     /* by PTX's name */
};

Host &host() {
    static Host &it = *new Host; /* outlives every destructor that launches a kernel */
    return it;
}

/* nvcc gives the anonymous namespace a name of the file's own, others call it _GLOBAL__N_1. */
std::string plain_name(const std::string &mangled) {
    static const char anonymous[] = "_GLOBAL__N__";
    const size_t at = mangled.find(anonymous);
    if (at == std::string::npos)
        return mangled;
    size_t digits = at;
    while (digits > 0 && isdigit(static_cast<unsigned char>(mangled[digits - 1])))
        digits--;
    const size_t length = strtoul(mangled.c_str() + digits, nullptr, 10);
    return mangled.substr(0, digits) + "12_GLOBAL__N_1" + plain_name(mangled.substr(at + length));
}

/* The most bytes for which is_live holds, which does for 0 and for fewer: steps grow, then halve.
 */
template <class IsLive> uint64_t most_live(IsLive is_live) {
    uint64_t live = 0, step = 1;
    for (; is_live(live + step); step *= 2)
        live += step;
    for (; step; step /= 2)
        if (is_live(live + step))
            live += step;
    return live;
}

const void *pointer_to(uint64_t address) {
    return reinterpret_cast<const void *>(address);
}

/* The bounds of the allocation around an address. */
uint64_t last_of_allocation(uint64_t address) {
    return address + most_live([=](uint64_t bytes) {
               return hostdevice_is_device_range(pointer_to(address), bytes) != 0;
           });
}

uint64_t first_of_allocation(uint64_t address) {
    return address - most_live([=](uint64_t before) {
               return before <= address &&
                      hostdevice_is_device_range(pointer_to(address - before), before + 1) != 0;
           });
}

bool find_allocation(uint64_t address, size_t bytes, ptx::Range *range) {
    if (!hostdevice_is_device_range(pointer_to(address), bytes))
        return false;
    *range = {first_of_allocation(address), last_of_allocation(address), true};
    return true;
}

int has(const char *) {
    return 1; /* one that is not there must not run as C++ unseen */
}

ptx::Dim dim_of(dim3 d) {
    return {d.x, d.y, d.z};
}

int run(const char *mangled, dim3 grid, dim3 block, size_t shared_bytes, const void *params,
        size_t params_bytes) {
    Host &h = host();
    const auto name = h.names.find(mangled);
    if (name == h.names.end()) {
        hostdevice_report("ptx: no PTX of kernel %s", mangled);
        return -1;
    }
    const uint64_t before = h.library.counts.instructions;
    const auto start = std::chrono::steady_clock::now();
    try {
        h.library.run(name->second,
                      {dim_of(grid), dim_of(block), shared_bytes, params, params_bytes});
    } catch (const ptx::Stop &stop) {
        hostdevice_report("ptx: %s", stop.what());
        return -1;
    }
    Ran &ran = h.ran[name->second];
    ran.grids++;
    ran.instructions += h.library.counts.instructions - before;
    ran.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return 0;
}

void set_order() {
    const char *order = getenv("HOSTDEVICE_ORDER");
    if (!order)
        return;
    ptx::Surroundings &around = host().library.surroundings;
    if (strcmp(order, "reverse") == 0)
        around.order = ptx::Order::Reverse;
    if (strncmp(order, "shuffled", 8) == 0) {
        around.order = ptx::Order::Shuffled;
        around.seed = order[8] == ':' ? strtoull(order + 9, nullptr, 0) : 0;
    }
}

/* A process of a test suite that forks has a share of the work: lines are added. */
void append_counts() {
    FILE *file = fopen(getenv("PTX_COUNTS"), "a");
    if (!file)
        return;
    for (const auto &[name, ran] : host().ran)
        fprintf(file, "%llu %llu %.6f %s\n", static_cast<unsigned long long>(ran.grids),
                static_cast<unsigned long long>(ran.instructions), ran.seconds, name.c_str());
    fclose(file);
}

__attribute__((constructor)) void load_directory() {
    const char *directory = getenv("PTX_DIRECTORY");
    if (!directory)
        return;
    std::error_code error;
    for (const auto &entry : std::filesystem::directory_iterator(directory, error))
        if (entry.path().extension() == ".ptx")
            ptx_load(entry.path().c_str());
    if (host().names.empty())
        hostdevice_report("ptx: no kernels in %s", directory);
    if (getenv("PTX_COUNTS"))
        atexit(append_counts);
}

} // namespace

int ptx_load(const char *path) {
    Host &h = host();
    try {
        h.library.load(path);
    } catch (const ptx::Stop &stop) {
        hostdevice_report("ptx: %s", stop.what());
        return -1;
    }
    for (const auto &kernel : h.library.kernels()) {
        const auto added = h.names.emplace(plain_name(kernel.first), kernel.first);
        if (!added.second && added.first->second != kernel.first) {
            hostdevice_report("ptx: %s and %s cannot be told apart", kernel.first.c_str(),
                              added.first->second.c_str());
            return -1;
        }
    }
    h.library.surroundings.find = find_allocation;
    set_order();
    hostdevice_set_ptx(has, run);
    return 0;
}
