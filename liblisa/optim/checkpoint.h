/* checkpoint.h - an optimizer and what it trains, to a file and back. */
#ifndef LISA_OPTIM_CHECKPOINT_H
#define LISA_OPTIM_CHECKPOINT_H

#include "formats/checkpoint.h"
#include "optim/optimizer.h"

#define LISA__CHECKPOINT_ROWS "lisa.rows"

/* What goes beside the optimizer. */
struct lisa__checkpoint_extra {
    uint64_t step;
    const lisa_sampler_options *sampler; /* or NULL */
    const void *blob;
    uint64_t blob_bytes;
    uint32_t keep; /* files in the directory; 0: all */
};

lisa_status lisa__checkpoint_save(lisa_optimizer *o, const char *directory,
                                  const struct lisa__checkpoint_extra *extra);

/* Everything is checked before anything changes. Where reading fails all the same, what was being
 * restored is torn until a load succeeds. */
lisa_status lisa__checkpoint_load(lisa_optimizer *o, const struct lisa__checkpoint *c);

/* ---- for both ---- */

/* Which sections there are. */
struct lisa__content {
    lisa_optimizer *o;
    const struct lisa__checkpoint_group *groups;
    const uint8_t *changed; /* [tensors of the model] */
    uint32_t rows_used;
    uint32_t located; /* 1: groups are where `groups` says, and sections' places are known */
};

typedef lisa_status (*lisa__section_visitor)(void *user, struct lisa__section *section);

lisa_status lisa__content_visit(const struct lisa__content *content, lisa__section_visitor visit,
                                void *user);

#endif
