#include "model/model.h"

#include "core/dtype.h"
#include "formats/hf_config.h"
#include "model/adapter.h"
#include "model/fill.h"
#include "model/stream.h"
#include "plan/state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t held_bytes(const struct lisa__tensor_desc *d) {
    return d->n_elements * lisa__dtype_size(d->dtype);
}

static lisa_status copy_string(char **out, lisa_context *context, const char *text) {
    *out = NULL;
    if (text == NULL)
        return LISA_OK;
    lisa_status status;
    *out = lisa__alloc(context, LISA_MEM_HANDLES, strlen(text) + 1, &status);
    if (*out == NULL)
        return status;
    memcpy(*out, text, strlen(text) + 1);
    return LISA_OK;
}

/* Absolute where the system says so: the host may change its directory before it saves. */
static lisa_status copy_path(char **out, lisa_context *context, const char *path) {
    char *absolute = path == NULL ? NULL : realpath(path, NULL);
    const lisa_status status = copy_string(out, context, absolute != NULL ? absolute : path);
    free(absolute);
    return status;
}

static void release_string(lisa_context *context, char *text) {
    if (text != NULL)
        lisa__release(context, LISA_MEM_HANDLES, text, strlen(text) + 1);
}

/* A model with its tensors described, none of them there yet. */
static lisa_status model_begin(lisa_model **out, lisa_context *context,
                               const lisa_model_config *config, const lisa_model_options *options,
                               const char *directory) {
    lisa_status status;
    lisa_model *model = lisa__alloc(context, LISA_MEM_HANDLES, sizeof *model, &status);
    if (model == NULL)
        return status;
    memset(model, 0, sizeof *model);
    *out = model;
    model->references = 1;
    model->context = lisa__context_retain(context);
    model->be = context->be;
    model->real_size = lisa__dtype_size(context->be->ops->real_dtype);
    model->config = *config;
    model->family = lisa__family_find(config->family);
    model->base.n = lisa__tensor_count(config);
    LISA_TRY(copy_path(&model->directory, context, directory));
    LISA_TRY(copy_string(&model->scratch_dir, context, options->scratch_dir));
    model->base.descs =
        lisa__alloc(context, LISA_MEM_HANDLES, model->base.n * sizeof *model->base.descs, &status);
    if (model->base.descs == NULL)
        return status;
    lisa__tensor_list(config, model->base.descs);
    model->base.tensors = lisa__alloc(context, LISA_MEM_HANDLES,
                                      model->base.n * sizeof *model->base.tensors, &status);
    if (model->base.tensors == NULL)
        return status;
    memset(model->base.tensors, 0, model->base.n * sizeof *model->base.tensors);
    return LISA_OK;
}

static int is_layer(const lisa_model *model, uint32_t group) {
    return group != 0 && group != model->config.n_layers + 1;
}

/* Memory for every tensor that is not in place already. */
static void layout_loaded(struct lisa__layout *layout, lisa_model *model) {
    for (uint32_t i = 0; i < model->base.n; i++) {
        struct lisa__tensor_desc *d = &model->base.descs[i];
        const int streamed = model->stream.is_on && is_layer(model, d->group);
        if (d->mapped || streamed)
            continue;
        model->base.tensors[i].value = (lisa_typed){
            .data = lisa__take(layout, LISA_MEM_WEIGHTS_PRIVATE, d->n_elements,
                               lisa__dtype_size(d->dtype)),
            .dtype = d->dtype,
        };
    }
    model->number = lisa__take_number(layout);
}

static lisa_status alloc_loaded(lisa_model *model) {
    layout_loaded(&model->loaded, model);
    LISA_TRY(lisa__layout_alloc(&model->loaded, model->context));
    layout_loaded(&model->loaded, model);
    return lisa__layout_check(&model->loaded);
}

/* The tensor's entry in the files. A file that leaves the family's prefix out keeps to that. */
static const struct lisa__st_tensor *find_source(const lisa_model *model,
                                                 struct lisa__tensor_desc *d) {
    const struct lisa__st_tensor *found = lisa__weights_find(model->files, d->name);
    const char *other = lisa__family_unprefixed(model->family, d->name);
    if (found != NULL || other == NULL)
        return found;
    found = lisa__weights_find(model->files, other);
    if (found != NULL)
        memmove(d->name, other, strlen(other) + 1);
    return found;
}

static lisa_status check_source(const lisa_model *model, const struct lisa__tensor_desc *d,
                                const struct lisa__st_tensor *s) {
    if (s == NULL)
        return lisa__fail(LISA_E_FORMAT, "%s: no tensor \"%s\", which model_type %s needs",
                          model->directory, d->name, model->config.family);
    const char *path = lisa__weights_path(model->files, s);
    if (s->dtype == 0)
        return lisa__fail(LISA_E_UNSUPPORTED,
                          "%s: tensor \"%s\" has dtype %s, expected F32, BF16, F16 or F64", path,
                          s->name, s->dtype_name);
    const int same = s->n_dims == d->n_dims && s->shape[0] == d->shape[0] &&
                     (d->n_dims == 1 || s->shape[1] == d->shape[1]);
    if (!same)
        return lisa__fail(LISA_E_FORMAT,
                          "%s: tensor \"%s\" has %u dimensions, first %llu x %llu, config.json "
                          "wants %u: %llu x %llu",
                          path, s->name, s->n_dims,
                          (unsigned long long)(s->n_dims > 0 ? s->shape[0] : 1),
                          (unsigned long long)(s->n_dims > 1 ? s->shape[1] : 1), d->n_dims,
                          (unsigned long long)d->shape[0], (unsigned long long)d->shape[1]);
    return LISA_OK;
}

/* A weight may be used where it lies in the mapping: host memory, right type, aligned. */
static int usable_in_place(const lisa_model *model, const struct lisa__st_tensor *s,
                           uint32_t dtype) {
    const void *data = lisa__weights_data(model->files, s);
    return data != NULL && (model->be->ops->flags & LISA_BACKEND_HOST_MEMORY) != 0 &&
           dtype == s->dtype && (uintptr_t)data % lisa__dtype_size(dtype) == 0;
}

static lisa_status bind_sources(lisa_model *model) {
    for (uint32_t i = 0; i < model->base.n; i++) {
        struct lisa__tensor_desc *d = &model->base.descs[i];
        struct lisa__tensor *t = &model->base.tensors[i];
        const struct lisa__st_tensor *s = find_source(model, d);
        LISA_TRY(check_source(model, d, s));
        t->source = s;
        t->file_dtype = s->dtype;
        d->dtype = lisa__held_dtype(model->be->ops, s->dtype);
        d->mapped = usable_in_place(model, s, d->dtype);
        if (!d->mapped)
            continue;
        lisa__account(model->context, LISA_MEM_WEIGHTS_MAPPED, held_bytes(d));
        /* Mapped read-only: nothing writes through this pointer before the tensor has moved. */
        t->value = (lisa_typed){(void *)(uintptr_t)lisa__weights_data(model->files, s), d->dtype};
    }
    return LISA_OK;
}

/* transformers, too, takes the embedding where config.json says that the head is tied. */
static const char *reason_of(const lisa_model *model, const char *name) {
    const int is_head = strcmp(name, model->family->names[LISA__HEAD_W]) == 0;
    return is_head && model->config.tied_head ? ": tie_word_embeddings puts the embedding there"
                                              : "";
}

static void report_unused(const lisa_model *model) {
    for (uint32_t i = 0; i < lisa__weights_count(model->files); i++) {
        const struct lisa__st_tensor *s = lisa__weights_at(model->files, i);
        uint32_t users = 0;
        for (uint32_t k = 0; k < model->base.n && users == 0; k++)
            users += model->base.tensors[k].source == s;
        if (users == 0 && !lisa__family_ignores(model->family, s->name))
            lisa__log(model->context, LISA_LOG_WARN, "%s: tensor \"%s\" is not used%s",
                      lisa__weights_path(model->files, s), s->name, reason_of(model, s->name));
    }
}

/* What products of one model read is of one type. */
static lisa_status check_kinds(const lisa_model *model) {
    for (uint32_t i = 0; i < model->base.n; i++) {
        const struct lisa__tensor_desc *d = &model->base.descs[i];
        const int enters_product = d->n_dims == 2 && d->role != LISA__POSITION_W &&
                                   (d->role != LISA__EMBED_W || model->config.tied_head);
        if (enters_product && d->dtype != model->kinds.operand &&
            model->kinds.operand != model->kinds.real)
            return lisa__fail(LISA_E_UNSUPPORTED,
                              "tensor \"%s\" is %s, others are %s: backend %s takes one type for "
                              "all matrices",
                              d->name, lisa_dtype_name(d->dtype),
                              lisa_dtype_name(model->kinds.operand), model->be->ops->name);
    }
    return LISA_OK;
}

/* Loss gradients of one token are below 1; times this, what f16 would lose of small ones is seldom
 * needed, and sums over thousands of tokens stay below its 65504. */
static const double F16_LOSS_SCALE = 32;

/* From here on tensors have the types that they are held in. */
static lisa_status set_kinds(lisa_model *model) {
    model->kinds = lisa__kinds_of(model->be->ops, model->base.descs[0].dtype);
    model->loss_scale = model->kinds.operand == LISA_DTYPE_F16 ? F16_LOSS_SCALE : 1;
    return check_kinds(model);
}

/* The tensor no longer lies in the mapping. */
static void unmap(const lisa_model *model, struct lisa__tensor_desc *d) {
    if (d->mapped)
        lisa__unaccount(model->context, LISA_MEM_WEIGHTS_MAPPED, held_bytes(d));
    d->mapped = 0;
}

static lisa_status begin_stream(lisa_model *model, const lisa_model_options *options) {
    const uint64_t limit = model->context->options.memory_limit;
    if (!lisa__is_streamed(options, model->be->ops, model->base.descs, model->base.n, limit))
        return LISA_OK;
    for (uint32_t i = 0; i < model->base.n; i++)
        if (is_layer(model, model->base.descs[i].group))
            unmap(model, &model->base.descs[i]);
    return lisa__stream_begin(model);
}

static lisa_status fill_tensor(lisa_model *model, uint32_t index, uint64_t seed) {
    struct lisa__fill fill;
    if (model->base.descs[index].mapped)
        return LISA_OK;
    LISA_TRY(lisa__fill_begin(&fill, model->context, 0));
    const lisa_status status = model->files == NULL ? lisa__fill_random(model, index, seed, &fill)
                                                    : lisa__fill_from_file(model, index, &fill);
    lisa__fill_end(&fill);
    return status;
}

/* From the files, what is not mapped there; without files by chance. */
static lisa_status fill_all(lisa_model *model, uint64_t seed) {
    for (uint32_t i = 0; i < model->base.n; i++)
        LISA_TRY(fill_tensor(model, i, seed));
    return LISA_OK;
}

static lisa_status open_into(lisa_model *model, const lisa_model_options *options) {
    LISA_TRY(lisa__weights_open(&model->files, model->context, model->directory,
                                options->load != LISA_LOAD_COPY));
    LISA_TRY(bind_sources(model));
    LISA_TRY(set_kinds(model));
    report_unused(model);
    LISA_TRY(begin_stream(model, options));
    LISA_TRY(alloc_loaded(model));
    LISA_TRY(fill_all(model, 0));
    model->config.weights_dtype = model->base.tensors[0].file_dtype;
    if (options->load == LISA_LOAD_COPY) {
        lisa__weights_close(model->files);
        model->files = NULL;
        for (uint32_t i = 0; i < model->base.n; i++)
            model->base.tensors[i].source = NULL;
    }
    return LISA_OK;
}

lisa_status lisa__model_open(lisa_model **out, lisa_context *context, const char *directory,
                             const lisa_model_options *options) {
    lisa_model_config config;
    LISA_TRY(lisa__hf_config_read(&config, context, directory));
    LISA_TRY(lisa__config_check(&config));
    lisa_model *model = NULL;
    lisa_status status = model_begin(&model, context, &config, options, directory);
    if (status == LISA_OK)
        status = open_into(model, options);
    if (status != LISA_OK) {
        lisa__model_release(model);
        return status;
    }
    *out = model;
    return LISA_OK;
}

static lisa_status create_into(lisa_model *model, const lisa_model_options *options) {
    model->seed = options->seed;
    for (uint32_t i = 0; i < model->base.n; i++) {
        model->base.tensors[i].file_dtype = model->config.weights_dtype;
        model->base.descs[i].dtype = lisa__held_dtype(model->be->ops, model->config.weights_dtype);
    }
    LISA_TRY(set_kinds(model));
    LISA_TRY(begin_stream(model, options));
    LISA_TRY(alloc_loaded(model));
    LISA_TRY(fill_all(model, options->seed));
    return LISA_OK;
}

lisa_status lisa__model_create(lisa_model **out, lisa_context *context,
                               const lisa_model_config *given, const lisa_model_options *options) {
    lisa_model_config config = *given;
    LISA_TRY(lisa__config_check(&config));
    lisa_model *model = NULL;
    lisa_status status = model_begin(&model, context, &config, options, NULL);
    if (status == LISA_OK)
        status = create_into(model, options);
    if (status != LISA_OK) {
        lisa__model_release(model);
        return status;
    }
    *out = model;
    return LISA_OK;
}

lisa_model *lisa__model_retain(lisa_model *model) {
    model->references++;
    return model;
}

void lisa__model_release(lisa_model *model) {
    if (model == NULL || --model->references != 0)
        return;
    lisa_context *context = model->context;
    for (uint32_t p = 0; p < LISA__PARTS; p++)
        lisa__layout_free(&model->homes[p], context);
    lisa__scratch_destroy(&model->scratch, context);
    if (model->stream.is_on)
        lisa__stream_end(model);
    lisa__layout_free(&model->loaded, context);
    for (uint32_t i = 0; model->base.descs != NULL && i < model->base.n; i++)
        unmap(model, &model->base.descs[i]);
    if (model->files != NULL)
        lisa__weights_close(model->files);
    lisa__release(context, LISA_MEM_HANDLES, model->base.tensors,
                  model->base.n * sizeof *model->base.tensors);
    lisa__release(context, LISA_MEM_HANDLES, model->base.descs,
                  model->base.n * sizeof *model->base.descs);
    if (model->base_sums != NULL)
        lisa__release(context, LISA_MEM_HANDLES, model->base_sums,
                      model->base.n * sizeof *model->base_sums);
    release_string(context, model->scratch_dir);
    release_string(context, model->directory);
    lisa__release(context, LISA_MEM_HANDLES, model, sizeof *model);
    lisa__context_release(context);
}

lisa_status lisa__change_begin(struct lisa__parameters *p, const char *what) {
    LISA_TRY(lisa__parameters_check(p));
    p->torn = what;
    return LISA_OK;
}

lisa_status lisa__change_end(struct lisa__parameters *p, lisa_status status) {
    if (status == LISA_OK)
        p->torn = NULL;
    return status;
}

lisa_status lisa__parameters_check(const struct lisa__parameters *p) {
    if (p->torn == NULL)
        return LISA_OK;
    return lisa__fail(LISA_E_STATE,
                      "a failure in the middle of %s left weights that are of no step: open them "
                      "again, or load a checkpoint",
                      p->torn);
}

lisa_status lisa__model_check(const lisa_model *model) {
    LISA_TRY(lisa__parameters_check(&model->base));
    if (model->adapter != NULL)
        LISA_TRY(lisa__parameters_check(&model->adapter->own));
    return lisa__model_check_files(model);
}

lisa_status lisa__model_check_files(const lisa_model *model) {
    for (uint32_t i = 0; i < model->base.n; i++)
        if (model->base.descs[i].mapped)
            return lisa__weights_check(model->files);
    return LISA_OK;
}

static void layout_homes(struct lisa__layout *layout, lisa_model *model, void **homes,
                         uint32_t part) {
    uint32_t first, last;
    lisa__part_groups(&model->config, part, &first, &last);
    lisa__homes_layout(layout, homes, model->base.descs, model->base.n, first, last);
}

/* Private memory for a part, from the scratch file if the host asked for one. */
static lisa_status alloc_homes(lisa_model *model, uint32_t part) {
    struct lisa__layout *layout = &model->homes[part];
    if (part != LISA__PART_LAYERS || model->scratch_dir == NULL)
        return lisa__layout_alloc(layout, model->context);
    const uint64_t bytes = layout->used[LISA_MEM_WEIGHTS_PRIVATE];
    LISA_TRY(lisa__scratch_create(&model->scratch, model->context, model->scratch_dir, bytes));
    return LISA_OK;
}

/* The layout to carve from: the part's own, or one that stands for the scratch file. */
static struct lisa__layout carving_of(const lisa_model *model, uint32_t part) {
    struct lisa__layout layout = model->homes[part];
    if (part == LISA__PART_LAYERS && model->scratch.base != NULL) {
        memset(&layout, 0, sizeof layout);
        layout.base[LISA_MEM_WEIGHTS_PRIVATE] = model->scratch.base;
        layout.size[LISA_MEM_WEIGHTS_PRIVATE] = model->scratch.size;
        layout.carving = 1;
    }
    return layout;
}

lisa_status lisa__model_reserve(lisa_model *model, uint32_t part) {
    if (model->reserved[part])
        return LISA_OK;
    lisa_status status;
    const uint64_t bytes = model->base.n * sizeof(void *);
    void **homes = lisa__alloc(model->context, LISA_MEM_HANDLES, bytes, &status);
    if (homes == NULL)
        return status;
    memset(homes, 0, bytes);
    layout_homes(&model->homes[part], model, NULL, part);
    status = alloc_homes(model, part);
    if (status == LISA_OK) {
        struct lisa__layout carving = carving_of(model, part);
        layout_homes(&carving, model, homes, part);
        status = lisa__layout_check(&carving);
        for (uint32_t i = 0; i < model->base.n && status == LISA_OK; i++)
            if (homes[i] != NULL)
                model->base.tensors[i].home = homes[i];
        model->reserved[part] = status == LISA_OK;
    } else {
        memset(&model->homes[part], 0, sizeof model->homes[part]);
    }
    lisa__release(model->context, LISA_MEM_HANDLES, homes, bytes);
    return status;
}

static void unreserve(lisa_model *model, uint32_t part) {
    uint32_t first, last;
    lisa__part_groups(&model->config, part, &first, &last);
    for (uint32_t i = 0; i < model->base.n; i++)
        if (model->base.descs[i].group >= first && model->base.descs[i].group <= last &&
            model->base.tensors[i].home != NULL && !model->base.descs[i].mapped)
            return;
    for (uint32_t i = 0; i < model->base.n; i++)
        if (model->base.descs[i].group >= first && model->base.descs[i].group <= last)
            model->base.tensors[i].home = NULL;
    lisa__layout_free(&model->homes[part], model->context);
    if (part == LISA__PART_LAYERS)
        lisa__scratch_destroy(&model->scratch, model->context);
    model->reserved[part] = 0;
}

void lisa__model_unreserve(lisa_model *model, const uint32_t before[LISA__PARTS]) {
    for (uint32_t part = 0; part < LISA__PARTS; part++)
        if (model->reserved[part] && !before[part])
            unreserve(model, part);
}

static lisa_status own(lisa_model *model, uint32_t index) {
    struct lisa__tensor *t = &model->base.tensors[index];
    struct lisa__tensor_desc *d = &model->base.descs[index];
    if (!d->mapped)
        return LISA_OK;
    if (t->home == NULL)
        return lisa__fail(LISA_E_INTERNAL, "tensor \"%s\" trains without reserved memory", d->name);
    LISA_TRY(model->be->ops->copy(model->be, t->home, t->value.data, held_bytes(d)));
    t->value.data = t->home;
    unmap(model, d);
    lisa__weights_forget(model->files, t->source);
    return LISA_OK;
}

lisa_status lisa__model_reserve_layers(lisa_model *model, uint32_t n_active) {
    return model->stream.is_on ? lisa__stream_reserve(model, n_active)
                               : lisa__model_reserve(model, LISA__PART_LAYERS);
}

lisa_status lisa__model_disown_group(lisa_model *model, uint32_t group) {
    return is_layer(model, group) ? lisa__stream_disown(model, group - 1) : LISA_OK;
}

lisa_status lisa__model_own_group(lisa_model *model, uint32_t group) {
    if (model->stream.is_on && is_layer(model, group))
        return lisa__stream_own(model, group - 1);
    for (uint32_t i = 0; i < model->base.n; i++)
        if (model->base.descs[i].group == group)
            LISA_TRY(own(model, i));
    return LISA_OK;
}

struct lisa__tensor *lisa__model_tensor(const lisa_model *model, uint32_t layer, uint32_t role) {
    for (uint32_t i = 0; i < model->base.n; i++) {
        const struct lisa__tensor_desc *d = &model->base.descs[i];
        if (d->role == role && (role >= LISA__BLOCK_ROLES || d->group == 1 + layer))
            return &model->base.tensors[i];
    }
    return NULL;
}

static int any_trains(const struct lisa__parameters *p, uint32_t group) {
    for (uint32_t i = 0; i < p->n; i++)
        if (p->descs[i].group == group && p->tensors[i].gradient != NULL)
            return 1;
    return 0;
}

lisa_typed lisa__values_from(const lisa_typed *value, uint64_t element) {
    const size_t size = lisa__dtype_size(value->dtype);
    return (lisa_typed){(unsigned char *)value->data + element * size, value->dtype};
}

lisa_status lisa__gradients_whole(const lisa_model *model, uint32_t layer, uint32_t role) {
    const struct lisa__gradient_sink *sink = &model->sink;
    for (uint32_t r = role; sink->take != NULL && r < role + 2; r++) {
        const struct lisa__tensor *t = lisa__model_tensor(model, layer, r);
        if (t != NULL && t->gradient != NULL)
            LISA_TRY(sink->take(sink->self, (uint32_t)(t - model->base.tensors)));
    }
    return LISA_OK;
}

int lisa__group_trains(const lisa_model *model, uint32_t group) {
    return any_trains(&model->base, group) ||
           (model->adapter != NULL && any_trains(&model->adapter->own, group));
}

lisa_status lisa__sum_squares(const lisa_model *model, lisa_typed x, uint64_t n, double *out) {
    lisa_backend *be = model->be;
    LISA_TRY(be->ops->sum_squares(be, x, n, model->number));
    return be->ops->download(be, out, model->number, sizeof *out);
}

lisa_status lisa__group_sum_squares(const lisa_model *model, const struct lisa__parameters *p,
                                    uint32_t group, double *out) {
    double total = 0;
    for (uint32_t i = 0; i < p->n; i++) {
        double part = 0;
        if (p->descs[i].group != group)
            continue;
        LISA_TRY(lisa__sum_squares(model, p->tensors[i].value, p->descs[i].n_elements, &part));
        total += part;
    }
    *out = total;
    return LISA_OK;
}

static lisa_status blame(const lisa_model *model, const struct lisa__parameters *p,
                         const char *what) {
    for (uint32_t i = 0; i < p->n; i++) {
        double sum = 0;
        LISA_TRY(lisa__sum_squares(model, p->tensors[i].value, p->descs[i].n_elements, &sum));
        if (!isfinite(sum))
            return lisa__fail(LISA_E_NONFINITE, "%s is not finite: tensor \"%s\" has NaN or Inf",
                              what, p->descs[i].name);
    }
    return LISA_OK;
}

lisa_status lisa__blame_weights(lisa_model *model, const char *what) {
    LISA_TRY(blame(model, &model->base, what));
    if (model->adapter != NULL)
        LISA_TRY(blame(model, &model->adapter->own, what));
    return lisa__fail(LISA_E_NONFINITE, "%s is not finite, though every weight is", what);
}
