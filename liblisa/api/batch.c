#include "model/pass.h"

#include "api/check.h"
#include "api/options.h"
#include "core/options.h"

lisa_status lisa_batch_options_init(lisa_batch_options *options, size_t struct_size) {
    return lisa__options_init(options, struct_size, sizeof *options, "lisa_batch_options");
}

lisa_status lisa__batch_options_read(lisa_batch_options *own, const lisa_batch_options *given) {
    LISA_TRY(lisa_batch_options_init(own, sizeof *own));
    if (given != NULL)
        LISA_TRY(lisa__options_read(own, sizeof *own, sizeof *own, given, "lisa_batch_options"));
    if (own->activations > LISA_ACTIVATIONS_RECOMPUTE)
        return lisa__fail(LISA_E_INVAL, "lisa_batch_options.activations: %u, expected 0 to %u",
                          own->activations, LISA_ACTIVATIONS_RECOMPUTE);
    return LISA_OK;
}

lisa_status lisa_batch_create(lisa_batch **out, lisa_model *model, uint32_t max_batch,
                              uint32_t max_tokens, const lisa_batch_options *options) {
    LISA_REQUIRE(out);
    *out = NULL;
    LISA_REQUIRE(model);
    lisa_batch_options own;
    LISA_TRY(lisa__batch_options_read(&own, options));
    return lisa__batch_create(out, model, max_batch, max_tokens, &own);
}

void lisa_batch_destroy(lisa_batch *batch) {
    lisa__batch_destroy(batch);
}

lisa_status lisa_batch_set(lisa_batch *batch, const int32_t *tokens, const int32_t *targets,
                           uint32_t n_batch, uint32_t n_tokens) {
    LISA_REQUIRE(batch);
    LISA_TRY(lisa__rows_set(&batch->rows, tokens, targets, n_batch, n_tokens));
    batch->forwarded = 0;
    return LISA_OK;
}

lisa_status lisa_batch_set_documents(lisa_batch *batch, const int32_t *documents) {
    LISA_REQUIRE(batch);
    LISA_TRY(lisa__rows_set_documents(&batch->rows, documents));
    batch->forwarded = 0;
    return LISA_OK;
}

lisa_status lisa_batch_set_weights(lisa_batch *batch, const float *weights) {
    LISA_REQUIRE(batch);
    LISA_TRY(lisa__rows_set_weights(&batch->rows, weights));
    batch->forwarded = 0;
    return LISA_OK;
}

uint64_t lisa_batch_n_targets(const lisa_batch *batch) {
    return batch == NULL ? 0 : batch->rows.n_scored;
}
