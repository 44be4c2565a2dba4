#include "optim/optimizer.h"

#include "api/check.h"
#include "api/options.h"
#include "api/tensors.h"
#include "core/dtype.h"
#include "core/options.h"
#include "model/fill.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* The options' size in 0.1.0. */
#define FIRST_SIZE offsetof(lisa_optimizer_options, moments_embedding)

lisa_status lisa_optimizer_options_init(lisa_optimizer_options *options, size_t struct_size) {
    LISA_TRY(lisa__options_init(options, struct_size, FIRST_SIZE, "lisa_optimizer_options"));
    options->lr = 1e-5;
    options->beta1 = 0.9;
    options->beta2 = 0.999;
    options->eps = 1e-8;
    options->state_policy = LISA_STATE_DROP;
    options->train_embedding = 1;
    options->train_head = 1;
    return LISA_OK;
}

lisa_status lisa__optimizer_options_read(lisa_optimizer_options *own,
                                         const lisa_optimizer_options *given) {
    LISA_TRY(lisa_optimizer_options_init(own, sizeof *own));
    if (given != NULL)
        LISA_TRY(lisa__options_read(own, sizeof *own, FIRST_SIZE, given, "lisa_optimizer_options"));
    return LISA_OK;
}

lisa_status lisa_optimizer_create(lisa_optimizer **out, lisa_model *model,
                                  const lisa_optimizer_options *options) {
    LISA_REQUIRE(out);
    *out = NULL;
    LISA_REQUIRE(model);
    lisa_optimizer_options own;
    LISA_TRY(lisa__optimizer_options_read(&own, options));
    return lisa__optimizer_create(out, model, &own);
}

void lisa_optimizer_destroy(lisa_optimizer *optimizer) {
    lisa__optimizer_destroy(optimizer);
}

lisa_status lisa_optimizer_set_lr(lisa_optimizer *optimizer, double lr) {
    LISA_REQUIRE(optimizer);
    if (!(lr >= 0 && isfinite(lr)))
        return lisa__fail(LISA_E_INVAL, "lisa_optimizer_set_lr: %g, expected finite and >= 0", lr);
    optimizer->options.lr = lr;
    return LISA_OK;
}

lisa_status lisa_optimizer_apply_mask(lisa_optimizer *optimizer, const uint8_t *mask,
                                      uint32_t n_groups) {
    LISA_REQUIRE(optimizer);
    LISA_REQUIRE(mask);
    return lisa__optimizer_apply_mask(optimizer, mask, n_groups, NULL);
}

lisa_status lisa_optimizer_get_mask(const lisa_optimizer *optimizer, uint8_t *mask,
                                    uint32_t n_groups) {
    LISA_REQUIRE(optimizer);
    LISA_REQUIRE(mask);
    if (n_groups != optimizer->n_layers + 2)
        return lisa__fail(LISA_E_INVAL, "mask: %u groups, expected n_layers + 2 = %u", n_groups,
                          optimizer->n_layers + 2);
    for (uint32_t g = 0; g < n_groups; g++)
        mask[g] = (uint8_t)optimizer->groups[g].active;
    return LISA_OK;
}

lisa_status lisa_optimizer_step(lisa_optimizer *optimizer, lisa_step_stats *stats) {
    LISA_REQUIRE(optimizer);
    lisa_step_stats own;
    if (stats != NULL) /* refused before anything is updated */
        LISA_TRY(lisa__options_read(&own, sizeof own, sizeof own, stats, "lisa_step_stats"));
    LISA_TRY(lisa__optimizer_step(optimizer, stats != NULL ? &own : NULL));
    return stats == NULL
               ? LISA_OK
               : lisa__options_write(stats, sizeof own, &own, sizeof own, "lisa_step_stats");
}

lisa_status lisa_optimizer_discard(lisa_optimizer *optimizer) {
    LISA_REQUIRE(optimizer);
    if (optimizer->options.update_in_backward && optimizer->window.n_backward != 0)
        return lisa__fail(LISA_E_STATE, "lisa_optimizer_discard: update_in_backward: the window's "
                                        "update has been made");
    lisa__optimizer_void(optimizer);
    return LISA_OK;
}

lisa_status lisa_optimizer_gradients(lisa_optimizer *optimizer, void **data, uint64_t *n_elements,
                                     uint32_t *dtype) {
    LISA_REQUIRE(optimizer);
    LISA_REQUIRE(data);
    LISA_REQUIRE(n_elements);
    LISA_REQUIRE(dtype);
    LISA_TRY(lisa__optimizer_check_gradients(optimizer));
    if (optimizer->rows.n_slots != 0)
        return lisa__fail(LISA_E_STATE, "embedding_rows: another process's gradients would be of "
                                        "other rows");
    *data = optimizer->memory.gradients;
    *n_elements = optimizer->gradient_elements;
    *dtype = optimizer->model->be->ops->real_dtype;
    return LISA_OK;
}

/* Rows without a gradient are zeros. */
static lisa_status read_sparse(const lisa_optimizer *o, const void *gradient, uint64_t n_elements,
                               void *data, uint32_t dtype) {
    const uint64_t width = o->model->config.d_model;
    const size_t size = lisa__dtype_size(dtype);
    memset(data, 0, n_elements * size);
    for (uint32_t slot = 0; slot < o->rows.n_used; slot++) {
        const unsigned char *from =
            (const unsigned char *)gradient + slot * width * o->model->real_size;
        LISA_TRY(lisa__download_real(o->model, from, width,
                                     (unsigned char *)data + o->rows.row_of[slot] * width * size,
                                     dtype));
    }
    return LISA_OK;
}

static void unscale(void *data, uint32_t dtype, uint64_t n, double scale) {
    for (uint64_t i = 0; scale != 1 && i < n; i++)
        lisa__store(data, dtype, i, lisa__load(data, dtype, i) / scale);
}

lisa_status lisa_optimizer_gradient_read(lisa_optimizer *optimizer, uint32_t tensor, void *data,
                                         uint32_t dtype, uint64_t n_elements) {
    LISA_REQUIRE(optimizer);
    LISA_REQUIRE(data);
    LISA_TRY(lisa__optimizer_check_gradients(optimizer));
    const struct lisa__parameters *trained = optimizer->trained;
    LISA_TRY(lisa__transfer_check(trained, tensor, dtype, n_elements));
    const void *gradient = trained->tensors[tensor].gradient;
    if (gradient == NULL)
        return lisa__fail(LISA_E_STATE, "tensor \"%s\" is frozen: it has no gradient",
                          trained->descs[tensor].name);
    if (lisa__is_sparse(&optimizer->shape, tensor))
        LISA_TRY(read_sparse(optimizer, gradient, n_elements, data, dtype));
    else
        LISA_TRY(lisa__download_real(optimizer->model, gradient, n_elements, data, dtype));
    unscale(data, dtype, n_elements, optimizer->model->loss_scale);
    return LISA_OK;
}

lisa_status lisa_optimizer_gradient_norm(lisa_optimizer *optimizer, uint32_t group, double *norm) {
    LISA_REQUIRE(optimizer);
    LISA_REQUIRE(norm);
    LISA_TRY(lisa__group_check(optimizer->n_layers, group));
    LISA_TRY(lisa__optimizer_check_gradients(optimizer));
    const struct lisa__parameters *trained = optimizer->trained;
    double total = 0;
    for (uint32_t i = 0; i < trained->n; i++) {
        double part = 0;
        const lisa_typed gradient = {trained->tensors[i].gradient, optimizer->model->kinds.real};
        if (trained->descs[i].group != group || gradient.data == NULL)
            continue;
        LISA_TRY(lisa__sum_squares(optimizer->model, gradient, lisa__gradient_in_use(optimizer, i),
                                   &part));
        total += part;
    }
    *norm = sqrt(total) / optimizer->model->loss_scale;
    return LISA_OK;
}

lisa_status lisa_optimizer_group_steps(const lisa_optimizer *optimizer, uint32_t group,
                                       uint64_t *steps) {
    LISA_REQUIRE(optimizer);
    LISA_REQUIRE(steps);
    LISA_TRY(lisa__group_check(optimizer->n_layers, group));
    /* What the steps are is known when their outcome is. */
    LISA_TRY(lisa__optimizer_settle((lisa_optimizer *)(uintptr_t)optimizer, 1));
    *steps = optimizer->groups[group].steps;
    return LISA_OK;
}
