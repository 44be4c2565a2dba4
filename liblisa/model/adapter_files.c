/* An adapter from and to PEFT's directory. */
#include "core/dtype.h"
#include "core/io.h"
#include "formats/peft.h"
#include "formats/stage.h"
#include "formats/writer.h"
#include "model/adapter.h"
#include "model/fill.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Values that are read at once. */
enum { CHUNK = 1 << 16 };
#define CHUNK_BYTES (CHUNK * sizeof(double))

/* ---- opening ---- */

struct opening {
    lisa_model *model;
    const char *directory;
    lisa_adapter_options options;
    char *config; /* the text of adapter_config.json */
    uint64_t config_bytes;
    struct lisa__weights *file;
    struct lisa__tensor_desc *all; /* [n_all] of an adapter on every target */
    const struct lisa__st_tensor **sources;
    uint32_t n_all;
};

static struct lisa__peft_base base_of(const lisa_model *model) {
    return (struct lisa__peft_base){&model->config, model->directory};
}

static lisa_status read_config(struct opening *o) {
    char path[PATH_MAX];
    const struct lisa__peft_base base = base_of(o->model);
    LISA_TRY(lisa__path_join(path, o->directory, LISA__PEFT_CONFIG));
    LISA_TRY(lisa__io_slurp(&o->config, &o->config_bytes, path, LISA__PEFT_MAX_CONFIG));
    return lisa__peft_config_read(&o->options, o->model->context, &base, o->config, o->config_bytes,
                                  path);
}

/* Which tensors of all that there could be the file has. */
static lisa_status bind(struct opening *o) {
    const lisa_model *model = o->model;
    lisa_status status;
    o->options.targets = LISA_TARGET_ALL_LAYERS | (model->config.tied_head ? 0 : LISA_TARGET_HEAD);
    o->n_all = lisa__lora_count(&o->options, &model->config);
    o->all = lisa__alloc(model->context, LISA_MEM_HANDLES, o->n_all * sizeof *o->all, &status);
    if (o->all == NULL)
        return status;
    o->sources = lisa__alloc(model->context, LISA_MEM_HANDLES, o->n_all * sizeof(void *), &status);
    if (o->sources == NULL)
        return status;
    LISA_TRY(lisa__lora_list(&o->options, &model->config, LISA_DTYPE_F32, o->all));
    return lisa__peft_bind(&o->options.targets, o->sources, o->all, o->n_all, o->file,
                           o->directory);
}

static lisa_status check_finite(const struct opening *o, const struct lisa__st_tensor *s,
                                const void *values, uint64_t n, uint32_t held_dtype) {
    for (uint64_t i = 0; i < n; i++) {
        double held;
        lisa__store(&held, held_dtype, 0, lisa__load(values, s->dtype, i));
        if (!isfinite(lisa__load(&held, held_dtype, 0)))
            return lisa__fail(LISA_E_NONFINITE, "%s: tensor \"%s\": a value is not finite as %s",
                              lisa__weights_path(o->file, s), s->name, lisa_dtype_name(held_dtype));
    }
    return LISA_OK;
}

static lisa_status fill_tensor(const struct opening *o, const struct lisa__st_tensor *s,
                               lisa_adapter *adapter, uint32_t index, void *chunk) {
    const size_t from = lisa__dtype_size(s->dtype);
    for (uint64_t at = 0; at < s->n_elements; at += CHUNK) {
        const uint64_t n = s->n_elements - at < CHUNK ? s->n_elements - at : CHUNK;
        LISA_TRY(lisa__poll(o->model->context));
        LISA_TRY(lisa__weights_read(o->file, s, at * from, chunk, n * from));
        LISA_TRY(check_finite(o, s, chunk, n, adapter->own.descs[index].dtype));
        LISA_TRY(lisa__values_put(o->model, &adapter->own, index, at, n, chunk, s->dtype));
    }
    return LISA_OK;
}

/* The adapter's tensors are those of all that have a source, in the same order. */
static lisa_status fill(const struct opening *o, lisa_adapter *adapter) {
    lisa_context *context = o->model->context;
    lisa_status status;
    void *chunk = lisa__alloc(context, LISA_MEM_STAGING, CHUNK_BYTES, &status);
    for (uint32_t i = 0, own = 0; i < o->n_all && status == LISA_OK; i++)
        if (o->sources[i] != NULL)
            status = fill_tensor(o, o->sources[i], adapter, own++, chunk);
    lisa__release(context, LISA_MEM_STAGING, chunk, CHUNK_BYTES);
    return status;
}

static lisa_status keep_config(lisa_adapter *adapter, const struct opening *o) {
    lisa_status status;
    adapter->config = lisa__alloc(o->model->context, LISA_MEM_HANDLES, o->config_bytes, &status);
    if (adapter->config == NULL)
        return status;
    adapter->config_bytes = o->config_bytes;
    memcpy(adapter->config, o->config, o->config_bytes);
    return LISA_OK;
}

static lisa_status open_files(struct opening *o, lisa_adapter **out) {
    lisa_adapter *adapter;
    LISA_TRY(read_config(o));
    LISA_TRY(
        lisa__weights_open_file(&o->file, o->model->context, o->directory, LISA__PEFT_TENSORS));
    LISA_TRY(bind(o));
    LISA_TRY(lisa__adapter_make(&adapter, o->model, &o->options));
    lisa_status status = keep_config(adapter, o);
    if (status == LISA_OK)
        status = fill(o, adapter);
    if (status == LISA_OK)
        *out = adapter;
    else
        lisa__adapter_release(adapter);
    return status;
}

lisa_status lisa__adapter_open(lisa_adapter **out, lisa_model *model, const char *directory,
                               const lisa_adapter_options *options) {
    struct opening o = {.model = model, .directory = directory, .options = *options};
    if (directory[0] == '\0')
        return lisa__fail(LISA_E_INVAL, "directory: is empty, a path expected");
    const lisa_status status = open_files(&o, out);
    lisa__release(model->context, LISA_MEM_HANDLES, o.sources, o.n_all * sizeof(void *));
    lisa__release(model->context, LISA_MEM_HANDLES, o.all, o.n_all * sizeof *o.all);
    lisa__weights_close(o.file);
    free(o.config);
    return status;
}

/* ---- saving ---- */

static lisa_status deliver(void *user, uint32_t index, uint64_t begin, uint64_t n, void *dst) {
    const lisa_adapter *a = user;
    LISA_TRY(lisa__poll(a->model->context));
    LISA_TRY(
        lisa__typed_get(a->model, &a->own.tensors[index].value, begin, n, dst, LISA_DTYPE_F32));
    for (uint64_t i = 0; i < n; i++)
        if (!isfinite(((const float *)dst)[i]))
            return lisa__fail(LISA_E_NONFINITE, "tensor \"%s\": a value is not finite as f32",
                              a->own.descs[index].name);
    return LISA_OK;
}

static lisa_status save_tensors(lisa_adapter *adapter, const char *directory,
                                struct lisa__write_tensor *written, const char *config,
                                uint64_t config_bytes) {
    for (uint32_t i = 0; i < adapter->own.n; i++) {
        const struct lisa__tensor_desc *d = &adapter->own.descs[i];
        written[i] = (struct lisa__write_tensor){
            .name = d->name,
            .dtype = LISA_DTYPE_F32,
            .n_dims = d->n_dims,
            .shape = {d->shape[0], d->shape[1]},
            .n_elements = d->n_elements,
        };
    }
    const struct lisa__write_pair pair = {
        .tensors_name = LISA__PEFT_TENSORS,
        .tensors = written,
        .n_tensors = adapter->own.n,
        .source = deliver,
        .user = adapter,
        .text_name = LISA__PEFT_CONFIG,
        .text = config,
        .text_bytes = config_bytes,
    };
    return lisa__write_pair(adapter->model->context, directory, &pair);
}

lisa_status lisa__adapter_save(lisa_adapter *adapter, const char *directory) {
    lisa_context *context = adapter->model->context;
    const struct lisa__peft_base base = base_of(adapter->model);
    const uint64_t bytes = adapter->own.n * sizeof(struct lisa__write_tensor);
    char *config;
    uint64_t n;
    lisa_status status;
    LISA_TRY(lisa__parameters_check(&adapter->own));
    LISA_TRY(lisa__peft_config_text(&config, &n, &adapter->options, &base, adapter->config,
                                    adapter->config_bytes));
    struct lisa__write_tensor *written = lisa__alloc(context, LISA_MEM_HANDLES, bytes, &status);
    if (written != NULL)
        status = save_tensors(adapter, directory, written, config, n);
    lisa__release(context, LISA_MEM_HANDLES, written, bytes);
    free(config);
    return status;
}
