/* memory.cpp - see memory.h. */
#include "memory.h"

#include <algorithm>

namespace ptx {

void GlobalRanges::create(Surroundings &surroundings) {
    around = &surroundings;
    known = surroundings.variables;
    last = Range();
}

uint8_t *GlobalRanges::search(uint64_t address, size_t bytes, Access access) {
    for (const Range &range : known)
        if (range.holds(address, bytes)) {
            last = range;
            return access != Access::Read && !range.writable ? nullptr
                                                             : reinterpret_cast<uint8_t *>(address);
        }
    Range range;
    if (!around->find || !around->find(address, bytes, &range))
        return nullptr;
    known.push_back(range);
    last = range;
    return reinterpret_cast<uint8_t *>(address);
}

void SharedMemory::create(size_t count, unsigned shadow_shift, bool races) {
    bytes.assign(count, 0xFF);
    shift = shadow_shift;
    shadow.assign(races ? (count >> shift) + 1 : 0, Unit());
}

void SharedMemory::begin() {
    std::fill(bytes.begin(), bytes.end(), 0xFF);
    next_epoch();
}

int SharedMemory::note_units(uint64_t offset, unsigned count, unsigned warp, Access access) {
    int other = -1;
    for (uint64_t i = offset >> shift; i <= (offset + count - 1) >> shift; i++) {
        const int found = access == Access::Read
                              ? note_read(shadow[i], warp)
                              : note_write(shadow[i], warp, access == Access::Atomic);
        other = std::max(other, found);
    }
    return other;
}

int SharedMemory::note_read(Unit &u, unsigned warp) const {
    u.many_readers = u.read == epoch && (u.many_readers || u.reader != warp);
    u.read = epoch;
    u.reader = static_cast<uint16_t>(warp);
    return u.written == epoch && u.writer != warp ? u.writer : -1;
}

int SharedMemory::note_write(Unit &u, unsigned warp, bool atomic) const {
    int other = -1;
    if (u.written == epoch && u.writer != warp && !(atomic && u.atomic))
        other = u.writer;
    if (u.read == epoch && (u.many_readers || u.reader != warp))
        other = u.reader;
    u.written = epoch;
    u.writer = static_cast<uint16_t>(warp);
    u.atomic = atomic;
    return other;
}

} // namespace ptx
