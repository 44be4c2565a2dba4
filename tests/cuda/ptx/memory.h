/* memory.h - which memory a kernel may touch: ranges of global memory, and a block's shared memory
 * with a memory of who touched it. */
#ifndef LISA_TESTS_CUDA_PTX_MEMORY_H
#define LISA_TESTS_CUDA_PTX_MEMORY_H

#include "grid.h"

namespace ptx {

enum class Access : uint8_t { Read, Write, Atomic };

/* The allocations that a grid has met: nothing is allocated or freed while it runs. */
class GlobalRanges {
  public:
    void create(Surroundings &surroundings);
    /* NULL where the bytes are not one allocation's, or may not be written. */
    uint8_t *reach(uint64_t address, size_t bytes, Access access) {
        if (!last.holds(address, bytes) || (access != Access::Read && !last.writable))
            return search(address, bytes, access);
        return reinterpret_cast<uint8_t *>(address);
    }

  private:
    Surroundings *around = nullptr;
    std::vector<Range> known;
    Range last;

    uint8_t *search(uint64_t address, size_t bytes, Access access);
};

/* Shared memory is all ones (NaNs, and indices out of everywhere) when a block begins. Between two
 * barriers of the block, what one warp writes no other may touch, unless both are atomic. */
class SharedMemory {
  public:
    void create(size_t bytes, unsigned shadow_shift, bool races);
    void begin();
    void next_epoch() {
        epoch++;
    }
    size_t size() const {
        return bytes.size();
    }
    uint8_t *at(uint64_t offset) {
        return bytes.data() + offset;
    }
    /* The warp that an access of `warp` races with, or -1. */
    int note(uint64_t offset, unsigned count, unsigned warp, Access access) {
        return shadow.empty() ? -1 : note_units(offset, count, warp, access);
    }

    /* Whether the bytes are there and `warp` has read them since the last barrier, or written them:
     * then nothing new is to be noted. */
    bool is_settled(uint64_t offset, unsigned count, unsigned warp) const {
        if (offset > bytes.size() || count > bytes.size() - offset)
            return false;
        if (shadow.empty())
            return true;
        for (uint64_t i = offset >> shift; i <= (offset + count - 1) >> shift; i++) {
            const Unit &u = shadow[i];
            if (u.read != epoch || u.reader != warp || (u.written == epoch && u.writer != warp))
                return false;
        }
        return true;
    }

  private:
    struct Unit {
        uint32_t written = 0, read = 0; /* epoch of the last access */
        uint16_t writer = 0, reader = 0;
        bool atomic = false;       /* the last write was */
        bool many_readers = false; /* `reader` is one of them */
    };
    std::vector<uint8_t> bytes;
    std::vector<Unit> shadow;
    unsigned shift = 2;
    uint32_t epoch = 1;

    int note_units(uint64_t offset, unsigned count, unsigned warp, Access access);
    int note_read(Unit &u, unsigned warp) const;
    int note_write(Unit &u, unsigned warp, bool atomic) const;
};

} // namespace ptx

#endif
