/* shared.cpp - shared memory of the block that runs. It does not live from one block to the next:
 * before each it is filled with bytes 0xff, a NaN. */
#include "block.h"

#include <vector>

namespace hostdevice {

static constexpr unsigned char red = 0xa5, spoilt = 0xff;
static std::vector<unsigned char> &buffer = *new std::vector<unsigned char>;

/* A module's static variables are those of all its kernels, more than is worth filling for every
 * block: what the launch's first blocks and a few later ones have written is filled. */
static constexpr size_t chunk = 256;
static constexpr size_t looked_at_first = 4, looked_at_every = 64;
static std::vector<bool> &used_chunks = *new std::vector<bool>;
static size_t blocks_done;

void *dynamic_shared() {
    return block.dynamic;
}

static size_t static_bytes() {
    return static_cast<size_t>(block.launch->static_shared_end - block.launch->static_shared);
}

bool is_shared_range(const void *p, size_t n) {
    auto *at = static_cast<const unsigned char *>(p);
    auto inside = [at, n](const unsigned char *base, size_t bytes) {
        return at >= base && at <= base + bytes && n <= static_cast<size_t>(base + bytes - at);
    };
    return inside(block.dynamic, block.dynamic_bytes) ||
           inside(block.launch->static_shared, static_bytes());
}

static void take_dynamic(size_t bytes) {
    buffer.resize(bytes + 2 * shared_red_zone + 128);
    const uintptr_t base = reinterpret_cast<uintptr_t>(buffer.data()) + shared_red_zone;
    block.dynamic = reinterpret_cast<unsigned char *>((base + 127) / 128 * 128);
    block.dynamic_bytes = bytes;
    memset(block.dynamic - shared_red_zone, red, shared_red_zone);
    memset(block.dynamic + bytes, red, shared_red_zone);
}

static size_t chunk_end(size_t number) {
    const size_t end = (number + 1) * chunk;
    return end < static_bytes() ? end : static_bytes();
}

static bool is_spoilt(size_t from, size_t end) {
    static unsigned char pattern[chunk];
    if (pattern[0] != spoilt)
        memset(pattern, spoilt, chunk);
    return memcmp(block.launch->static_shared + from, pattern, end - from) == 0;
}

static void look_for_used_chunks() {
    for (size_t i = 0; i < used_chunks.size(); i++)
        if (!used_chunks[i] && !is_spoilt(i * chunk, chunk_end(i)))
            used_chunks[i] = true;
}

void prepare_shared(const Launch &launch) {
    take_dynamic(launch.shared_bytes);
    if (static_bytes() != 0)
        memset(launch.static_shared, spoilt, static_bytes());
    used_chunks.assign((static_bytes() + chunk - 1) / chunk, false);
    blocks_done = 0;
}

void spoil_shared() {
    if (block.dynamic_bytes != 0)
        memset(block.dynamic, spoilt, block.dynamic_bytes);
    for (size_t i = 0; i < used_chunks.size(); i++)
        if (used_chunks[i])
            memset(block.launch->static_shared + i * chunk, spoilt, chunk_end(i) - i * chunk);
}

static bool is_red_zone_whole() {
    for (size_t i = 0; i < shared_red_zone; i++)
        if (block.dynamic[block.dynamic_bytes + i] != red || *(block.dynamic - 1 - i) != red)
            return false;
    return true;
}

void check_shared() {
    if (blocks_done < looked_at_first || blocks_done % looked_at_every == 0)
        look_for_used_chunks();
    blocks_done++;
    if (is_red_zone_whole())
        return;
    hostdevice_report("%s: a write outside the %zu bytes of dynamic shared memory",
                      block.launch->name, block.dynamic_bytes);
    take_dynamic(block.dynamic_bytes);
}

} // namespace hostdevice
