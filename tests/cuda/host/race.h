/* race.h - where the engine tells the race lane what happens; nothing in the other lanes. */
#ifndef HOSTDEVICE_RACE_H
#define HOSTDEVICE_RACE_H

#include "internal.h"

namespace hostdevice {

enum class Access { read, write, atomic };

#ifdef HOSTDEVICE_RACE
void race_launch();
void race_launch_end();
void race_block();
void race_block_end();
void race_block_barrier();
void race_warp_barrier(unsigned warp, unsigned mask);
/* What was reported may be reported again. */
void race_reset();
/* `code` is the address behind the access. */
void race_access(const void *p, size_t bytes, Access access, const void *code);
#else
inline void race_launch() {}
inline void race_launch_end() {}
inline void race_block() {}
inline void race_block_end() {}
inline void race_block_barrier() {}
inline void race_warp_barrier(unsigned, unsigned) {}
inline void race_reset() {}
inline void race_access(const void *, size_t, Access, const void *) {}
#endif

} // namespace hostdevice

#endif
