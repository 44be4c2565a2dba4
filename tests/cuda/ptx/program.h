/* program.h - a kernel decoded: every instruction names its handler and its registers' slots.
 *
 * A warp's register file is an array of slots of 128 bytes: 32 lanes of 4 bytes, whatever a
 * register's width up to 32 bits; a 64-bit register has two slots, a predicate one word, a bit per
 * lane. Literals, addresses of variables and special registers are registers too, filled before the
 * kernel starts, so that handlers know one kind of operand. */
#ifndef LISA_TESTS_CUDA_PTX_PROGRAM_H
#define LISA_TESTS_CUDA_PTX_PROGRAM_H

#include "module.h"

#include <memory>

namespace ptx {

class Warp;
struct Inst;
using Handler = void (*)(Warp &, const Inst &, uint32_t lanes);

constexpr unsigned WARP = 32;
constexpr uint32_t ALL_LANES = 0xFFFFFFFFu;
constexpr size_t SLOT_BYTES = 4 * WARP;
constexpr uint32_t NO_SLOT = UINT32_MAX;

enum class Flow : uint8_t {
    Next,   /* the handler does all */
    Branch, /* to target */
    Table,  /* brx.idx */
    Exit,
    Sync,    /* the handler leaves lanes that wait for others in Warp::blocked */
    Barrier, /* of the block */
};

enum class Rounding : uint8_t { Nearest, Zero, Down, Up };

enum class Special : uint8_t {
    TidX,
    TidY,
    TidZ,
    NtidX,
    NtidY,
    NtidZ,
    CtaidX,
    CtaidY,
    CtaidZ,
    NctaidX,
    NctaidY,
    NctaidZ,
    Laneid,
    Warpid,
    Nwarpid,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    DynamicShared,
};

struct Inst {
    Handler run = nullptr;
    Flow flow = Flow::Next;
    Space space = Space::Generic;
    Rounding rounding = Rounding::Nearest;
    uint8_t count = 1;     /* elements of a vector */
    uint8_t mode = 0;      /* the family's own: comparison, table of lop3, ... */
    bool integral = false; /* cvt to an integer in a float's type */
    bool saturate = false; /* to [0, 1] */
    bool flush = false;    /* .ftz */
    bool guard_negated = false;
    bool wide_address = false; /* s[0] has 64 bits */
    bool relu = false;
    uint32_t guard = NO_SLOT;
    uint32_t target = 0;
    uint32_t line = 0;
    uint32_t d[4] = {NO_SLOT, NO_SLOT, NO_SLOT, NO_SLOT};
    uint32_t s[10] = {NO_SLOT, NO_SLOT, NO_SLOT, NO_SLOT, NO_SLOT,
                      NO_SLOT, NO_SLOT, NO_SLOT, NO_SLOT, NO_SLOT};
    int64_t offset = 0; /* of an address */
};

struct Program {
    struct Constant {
        uint32_t slot;
        bool wide;
        uint64_t bits;
    };
    struct SpecialSlot {
        uint32_t slot;
        Special what;
    };
    std::string name;
    std::string error; /* why it cannot run, or empty */
    std::vector<Inst> code;
    std::vector<std::vector<uint32_t>> tables; /* of brx.idx */
    std::vector<Constant> constants;
    std::vector<Constant> dynamic_shared; /* offsets into it */
    std::vector<SpecialSlot> specials;
    uint32_t slots = 0;
    size_t shared_bytes = 0; /* static */
    size_t local_bytes = 0;
    size_t param_bytes = 0;
    unsigned max_threads = 0;
    unsigned shadow_shift = 2; /* log2 of the smallest access to shared memory */
    std::shared_ptr<const std::vector<std::string>> lines;
};

/* Windows of generic addresses; none is an address that a device allocation can have. */
constexpr uint64_t SHARED_WINDOW = UINT64_C(1) << 56;
constexpr uint64_t LOCAL_WINDOW = UINT64_C(2) << 56;
constexpr uint64_t PARAM_WINDOW = UINT64_C(3) << 56;
constexpr uint64_t WINDOW_MASK = UINT64_C(0xFF) << 56;

} // namespace ptx

#endif
