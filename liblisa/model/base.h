/* base.h - what a model was before anything trained: named by checksums, and brought back. */
#ifndef LISA_MODEL_BASE_H
#define LISA_MODEL_BASE_H

#include "model/model.h"

/* For each tensor of the model XXH3 of its bytes in the file, or of what it was drawn from. The
 * first call reads all of them. Borrowed from the model. */
lisa_status lisa__base_sums(lisa_model *model, const uint64_t **out);

/* Gives a tensor back the values that the model was opened or drawn with. */
lisa_status lisa__base_restore(lisa_model *model, uint32_t index);

#endif
