#include "lisa/train.h"

#include "api/check.h"
#include "core/options.h"
#include "model/adapter.h"
#include "model/pass.h"
#include "optim/optimizer.h"

lisa_status lisa_forward(lisa_model *model, lisa_batch *batch, double *loss) {
    LISA_REQUIRE(model);
    LISA_REQUIRE(batch);
    if (model->optimizer != NULL)
        LISA_TRY(lisa__optimizer_settle(model->optimizer, 0));
    return lisa__forward(model, batch, loss);
}

lisa_status lisa_backward(lisa_model *model, lisa_batch *batch) {
    LISA_REQUIRE(model);
    LISA_REQUIRE(batch);
    lisa_optimizer *optimizer = model->optimizer;
    if (optimizer == NULL)
        return lisa__fail(LISA_E_STATE, "lisa_backward: the model has no optimizer");
    LISA_TRY(lisa__optimizer_check_bound(optimizer));
    LISA_TRY(lisa__backward_check(model, batch));
    LISA_TRY(lisa__optimizer_begin_backward(optimizer, &batch->rows));
    lisa_status status = lisa__backward(model, batch);
    if (status == LISA_OK)
        status = lisa__optimizer_count(optimizer, batch->activations.loss, &batch->rows);
    if (status != LISA_OK)
        lisa__optimizer_void(optimizer);
    return status;
}

static lisa_status apply_sampler(const lisa_sampler *sampler, lisa_optimizer *optimizer,
                                 uint64_t step, uint32_t *swapped) {
    const uint32_t n_groups = lisa_sampler_n_groups(sampler);
    uint8_t mask[LISA_SAMPLER_MAX_LAYERS + 2];
    LISA_TRY(lisa_sampler_mask(sampler, step, mask, n_groups));
    return lisa__optimizer_apply_mask(optimizer, mask, n_groups, swapped);
}

/* A step that was cancelled keeps its window, for the host to try again; a train_step that is tried
 * again has a window of its own. */
static lisa_status step_or_void(lisa_optimizer *optimizer, lisa_step_stats *stats) {
    const lisa_status status = lisa__optimizer_step(optimizer, stats);
    if (status == LISA_OK)
        return LISA_OK;
    lisa__optimizer_void(optimizer);
    if (optimizer->adapter != NULL)
        optimizer->adapter->draws--; /* the same dropout, when it is tried again */
    return status;
}

lisa_status lisa_train_step(lisa_model *model, const lisa_sampler *sampler,
                            lisa_optimizer *optimizer, lisa_batch *batch, uint64_t step,
                            lisa_step_stats *stats) {
    LISA_REQUIRE(model);
    LISA_REQUIRE(optimizer);
    LISA_REQUIRE(batch);
    if (optimizer->model != model)
        return lisa__fail(LISA_E_INVAL, "lisa_train_step: the optimizer belongs to another model");
    lisa_step_stats own;
    uint32_t swapped = 0;
    if (stats != NULL)
        LISA_TRY(lisa__options_read(&own, sizeof own, sizeof own, stats, "lisa_step_stats"));
    /* Refused before a mask comes into force. */
    LISA_TRY(lisa__optimizer_check_bound(optimizer));
    LISA_TRY(lisa__forward_check(model, batch));
    if (sampler != NULL)
        LISA_TRY(apply_sampler(sampler, optimizer, step, &swapped));
    LISA_TRY(lisa_forward(model, batch, NULL));
    LISA_TRY(lisa_backward(model, batch));
    LISA_TRY(step_or_void(optimizer, stats != NULL ? &own : NULL));
    if (stats == NULL)
        return LISA_OK;
    own.swapped = swapped;
    return lisa__options_write(stats, sizeof own, &own, sizeof own, "lisa_step_stats");
}
