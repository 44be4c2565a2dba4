#include "model/base.h"

#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { CHUNK = 1 << 20 };

static lisa_status sum_of_file(const lisa_model *model, const struct lisa__st_tensor *source,
                               void *staging, uint64_t *out) {
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (uint64_t at = 0; at < source->bytes; at += CHUNK) {
        const uint64_t n = source->bytes - at < CHUNK ? source->bytes - at : CHUNK;
        LISA_TRY(lisa__poll(model->context));
        LISA_TRY(lisa__weights_read(model->files, source, at, staging, n));
        XXH3_64bits_update(&state, staging, n);
    }
    *out = XXH3_64bits_digest(&state);
    return LISA_OK;
}

/* Random weights are a function of these. */
static uint64_t sum_of_drawn(const lisa_model *model, uint32_t index) {
    char text[256];
    const struct lisa__tensor_desc *d = &model->base.descs[index];
    uint64_t std; /* its bits: text of a double is the locale's */
    memcpy(&std, &model->config.init_std, sizeof std);
    const int n =
        snprintf(text, sizeof text, "seed %llu std %016llx dtype %u tensor %u role %u %llux%llu",
                 (unsigned long long)model->seed, (unsigned long long)std,
                 model->base.tensors[index].file_dtype, index, d->role,
                 (unsigned long long)d->shape[0], (unsigned long long)d->shape[1]);
    return XXH3_64bits(text, (size_t)n);
}

static lisa_status sum_all(const lisa_model *model, void *staging, uint64_t *sums) {
    for (uint32_t i = 0; i < model->base.n; i++) {
        const struct lisa__tensor *t = &model->base.tensors[i];
        if (t->is_summed)
            sums[i] = t->file_sum;
        else if (t->source != NULL)
            LISA_TRY(sum_of_file(model, t->source, staging, &sums[i]));
        else
            sums[i] = sum_of_drawn(model, i);
    }
    return LISA_OK;
}

static lisa_status make_sums(const lisa_model *model, uint64_t *sums) {
    lisa_status status;
    void *staging = lisa__alloc(model->context, LISA_MEM_STAGING, CHUNK, &status);
    if (staging == NULL)
        return status;
    status = sum_all(model, staging, sums);
    lisa__release(model->context, LISA_MEM_STAGING, staging, CHUNK);
    /* A file that was written over is not the base any more, mapped or not. */
    return status == LISA_OK && model->files != NULL ? lisa__weights_check(model->files) : status;
}

lisa_status lisa__base_sums(lisa_model *model, const uint64_t **out) {
    const uint64_t bytes = model->base.n * sizeof *model->base_sums;
    lisa_status status = LISA_OK;
    if (model->base_sums == NULL) {
        uint64_t *sums = lisa__alloc(model->context, LISA_MEM_HANDLES, bytes, &status);
        if (sums == NULL)
            return status;
        status = make_sums(model, sums);
        if (status == LISA_OK)
            model->base_sums = sums;
        else
            lisa__release(model->context, LISA_MEM_HANDLES, sums, bytes);
    }
    *out = model->base_sums;
    return status;
}

lisa_status lisa__base_check(const lisa_model *model, uint32_t index) {
    if (model->base.tensors[index].source != NULL)
        return lisa__weights_check(model->files);
    if (model->directory == NULL)
        return LISA_OK;
    return lisa__fail(
        LISA_E_STATE,
        "tensor \"%s\" has changed since the model was copied from %s (LISA_LOAD_COPY): "
        "open it again",
        model->base.descs[index].name, model->directory);
}

lisa_status lisa__base_restore(lisa_model *model, uint32_t index, const struct lisa__fill *fill) {
    struct lisa__tensor *t = &model->base.tensors[index];
    if (t->source == NULL)
        LISA_TRY(lisa__fill_random(model, index, model->seed, fill));
    else
        LISA_TRY(lisa__fill_from_file(model, index, fill));
    if (t->source != NULL && t->file_sum != model->base_sums[index])
        return lisa__fail(LISA_E_IO, "%s: tensor \"%s\" was changed since it was opened",
                          lisa__weights_path(model->files, t->source), t->source->name);
    t->changed = 0;
    return LISA_OK;
}
