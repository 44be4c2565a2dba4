/* base.h - what a model was before anything trained: named by checksums, and brought back. */
#ifndef LISA_MODEL_BASE_H
#define LISA_MODEL_BASE_H

#include "model/fill.h"

/* For each tensor of the model XXH3 of its bytes in the file, or of what it was drawn from. The
 * first call reads those that lie in a mapping; LISA_E_IO where they are not what was opened.
 * Borrowed from the model. */
lisa_status lisa__base_sums(lisa_model *model, const uint64_t **out);

/* LISA_E_STATE or LISA_E_IO where the next cannot be done. */
lisa_status lisa__base_check(const lisa_model *model, uint32_t index);

/* Gives a tensor, which may be written, the values back that the model was opened or drawn with.
 * After lisa__base_sums; LISA_E_IO where the files have others by now. */
lisa_status lisa__base_restore(lisa_model *model, uint32_t index, const struct lisa__fill *fill);

#endif
