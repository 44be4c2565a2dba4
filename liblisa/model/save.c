#include "core/dtype.h"
#include "formats/hf_config.h"
#include "formats/writer.h"
#include "model/model.h"

#include <math.h>

/* Hugging Face's own default. */
static const uint64_t DEFAULT_SHARD_BYTES = UINT64_C(5000000000);

struct source {
    lisa_model *model;
    const struct lisa__write_tensor *written;
};

/* A narrower type may not hold a weight: the file would have an infinity that the model has not. */
static lisa_status check_narrowed(const struct source *s, uint32_t index, const void *values,
                                  uint64_t n) {
    const uint32_t dtype = s->written[index].dtype;
    if (dtype == s->model->base.descs[index].dtype)
        return LISA_OK;
    for (uint64_t i = 0; i < n; i++)
        if (!isfinite(lisa__load(values, dtype, i)))
            return lisa__fail(LISA_E_NONFINITE, "tensor \"%s\": a value is not finite as %s",
                              s->written[index].name, lisa_dtype_name(dtype));
    return LISA_OK;
}

static lisa_status deliver(void *user, uint32_t index, uint64_t begin, uint64_t n, void *dst) {
    const struct source *s = user;
    LISA_TRY(lisa__poll(s->model->context));
    LISA_TRY(lisa__tensor_get(s->model, index, begin, n, dst, s->written[index].dtype));
    return check_narrowed(s, index, dst, n);
}

static lisa_status save_tensors(lisa_model *model, const char *directory,
                                const lisa_save_options *options,
                                struct lisa__write_tensor *written) {
    for (uint32_t i = 0; i < model->base.n; i++) {
        const struct lisa__tensor_desc *d = &model->base.descs[i];
        written[i] = (struct lisa__write_tensor){
            .name = d->name,
            .dtype = options->dtype != 0 ? options->dtype : model->base.tensors[i].file_dtype,
            .n_dims = d->n_dims,
            .shape = {d->shape[0], d->shape[1]},
            .n_elements = d->n_elements,
        };
    }
    const uint64_t shard =
        options->max_shard_bytes != 0 ? options->max_shard_bytes : DEFAULT_SHARD_BYTES;
    struct source s = {model, written};
    return lisa__write_weights(model->context, directory, written, model->base.n, shard, deliver,
                               &s);
}

lisa_status lisa__model_save(lisa_model *model, const char *directory,
                             const lisa_save_options *options) {
    lisa_status status;
    LISA_TRY(lisa__model_check(model));
    if (model->directory == NULL) /* what was opened was said */
        LISA_TRY(lisa__hf_config_check(&model->config));
    const uint64_t bytes = model->base.n * sizeof(struct lisa__write_tensor);
    struct lisa__write_tensor *written =
        lisa__alloc(model->context, LISA_MEM_HANDLES, bytes, &status);
    if (written == NULL)
        return status;
    status = save_tensors(model, directory, options, written);
    lisa__release(model->context, LISA_MEM_HANDLES, written, bytes);
    LISA_TRY(status);
    lisa_model_config config = model->config;
    if (options->dtype != 0)
        config.weights_dtype = options->dtype;
    if (model->directory != NULL)
        LISA_TRY(lisa__copy_small_files(model->context, model->directory, directory,
                                        (const char *const[]){"config.json", NULL}));
    return lisa__hf_config_write(model->context, &config, directory, model->directory);
}
