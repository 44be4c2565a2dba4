/* layout.h - one function lays memory out, once to measure it and once to carve it.
 *
 * Every owner of large memory (weights, batch, optimizer) writes its layout as a function that
 * takes pieces from a struct lisa__layout. Run on a fresh layout it only adds up bytes per class:
 * that is the plan. After lisa__layout_alloc the same function is run again and gets the pointers.
 * Planned and allocated bytes are equal because they are the same sum. */
#ifndef LISA_CORE_LAYOUT_H
#define LISA_CORE_LAYOUT_H

#include "core/context.h"

#define LISA__ALIGN 64u

/* The most of LISA_MEM_STAGING that a call other than generate holds: both sides of a conversion,
 * chunk by chunk. */
#define LISA__STAGING_BYTES (UINT64_C(4) << 20)

struct lisa__layout {
    unsigned char *base[LISA_MEM_CLASSES]; /* NULL while measuring */
    uint64_t size[LISA_MEM_CLASSES];       /* allocated bytes */
    uint64_t used[LISA_MEM_CLASSES];
    int carving;
    int overflow; /* a piece did not fit, or a size passed 2^63 */
};

/* A piece of count * size bytes of a class, aligned to 64; NULL while measuring or on overflow. */
void *lisa__take(struct lisa__layout *layout, uint32_t memory_class, uint64_t count, uint64_t size);

/* Allocates what was measured, through the backend, and starts carving. On failure nothing is held.
 */
lisa_status lisa__layout_alloc(struct lisa__layout *layout, lisa_context *context);

/* After carving: LISA_E_INTERNAL unless every allocated byte was taken. */
lisa_status lisa__layout_check(const struct lisa__layout *layout);

void lisa__layout_free(struct lisa__layout *layout, lisa_context *context);

#endif
