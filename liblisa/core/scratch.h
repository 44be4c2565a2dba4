/* scratch.h - memory that lies in an unlinked file instead of RAM. */
#ifndef LISA_CORE_SCRATCH_H
#define LISA_CORE_SCRATCH_H

#include "core/context.h"

struct lisa__scratch {
    void *base;
    uint64_t size;
};

/* Maps `size` bytes of a new unlinked file in `directory`, all of its blocks reserved, counted as
 * LISA_MEM_DISK. A tmpfs is refused: it would be RAM again. Nothing can fail afterwards but the
 * disk itself. */
lisa_status lisa__scratch_create(struct lisa__scratch *scratch, lisa_context *context,
                                 const char *directory, uint64_t size);
void lisa__scratch_destroy(struct lisa__scratch *scratch, lisa_context *context);

#endif
