#include "optim/checkpoint.h"

#include "core/dtype.h"
#include "model/adapter.h"
#include "model/base.h"
#include "model/fill.h"

#include <stdio.h>
#include <string.h>

/* ---- which sections there are ---- */

static void name_section(struct lisa__section *s, const char *prefix, const char *name) {
    snprintf(s->name, sizeof s->name, "%s%s", prefix, name);
}

static void set_bytes(struct lisa__section *s, const void *data, uint64_t bytes) {
    s->n_dims = 1;
    s->shape[0] = s->n_elements = s->bytes = bytes;
    s->shape[1] = 1;
    s->data = data;
}

static lisa_status visit_rows(const struct lisa__content *c, lisa__section_visitor visit,
                              void *user) {
    struct lisa__section s = {.on_host = 1};
    if (c->o->shape.embedding_rows == 0)
        return LISA_OK;
    name_section(&s, LISA__CHECKPOINT_ROWS, "");
    set_bytes(&s, c->located ? c->o->rows.row_of : NULL, c->rows_used * sizeof(uint32_t));
    return visit(user, &s);
}

static lisa_status visit_values(const struct lisa__parameters *p, uint32_t index,
                                const char *prefix, lisa__section_visitor visit, void *user) {
    const struct lisa__tensor_desc *d = &p->descs[index];
    const lisa_typed *value = &p->tensors[index].value;
    struct lisa__section s = {
        .dtype = value->dtype,
        .n_dims = d->n_dims,
        .shape = {d->shape[0], d->shape[1]},
        .n_elements = d->n_elements,
        .bytes = d->n_elements * lisa__dtype_size(value->dtype),
        .data = value->data,
    };
    name_section(&s, prefix, d->name);
    return visit(user, &s);
}

static lisa_status visit_state(const struct lisa__content *c, uint32_t index,
                               lisa__section_visitor visit, void *user) {
    const lisa_optimizer *o = c->o;
    const struct lisa__tensor_desc *d = &o->trained->descs[index];
    const struct lisa__extent place = lisa__tensor_place(&o->shape, index);
    const struct lisa__extent extent = lisa__tensor_extent(&o->shape, index, c->rows_used);
    struct lisa__state state = {NULL, NULL, NULL};
    if (c->located)
        state = lisa__optimizer_held(o, d->group);
    const struct {
        const char *prefix;
        const void *base;
        uint64_t offset, bytes;
    } parts[] = {
        {"m/", state.m, place.moment, extent.moment},
        {"v/", state.v, place.moment, extent.moment},
        {"low/", state.low, place.low, extent.low},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        struct lisa__section s = {.dtype = 0};
        if (parts[i].bytes == 0)
            continue;
        name_section(&s, parts[i].prefix, d->name);
        set_bytes(&s, c->located ? (const unsigned char *)parts[i].base + parts[i].offset : NULL,
                  parts[i].bytes);
        LISA_TRY(visit(user, &s));
    }
    return LISA_OK;
}

lisa_status lisa__content_visit(const struct lisa__content *c, lisa__section_visitor visit,
                                void *user) {
    const lisa_model *model = c->o->model;
    const struct lisa__parameters *trained = c->o->trained;
    LISA_TRY(visit_rows(c, visit, user));
    for (uint32_t i = 0; i < model->base.n; i++)
        if (c->changed[i])
            LISA_TRY(visit_values(&model->base, i, "weights/", visit, user));
    for (uint32_t i = 0; c->o->adapter != NULL && i < trained->n; i++)
        LISA_TRY(visit_values(trained, i, "adapter/", visit, user));
    for (uint32_t i = 0; i < trained->n; i++)
        if (c->groups[trained->descs[i].group].has_state)
            LISA_TRY(visit_state(c, i, visit, user));
    return LISA_OK;
}

/* ---- saving ---- */

struct saving {
    lisa_optimizer *o;
    const struct lisa__checkpoint_extra *extra;
    struct lisa__checkpoint_group *groups; /* [L + 2] */
    uint8_t *changed;                      /* [tensors of the model] */
    struct lisa__section *sections;
    uint64_t sections_bytes;
    uint32_t n_sections;
};

static lisa_status count_section(void *user, struct lisa__section *section) {
    struct saving *s = user;
    (void)section;
    s->n_sections++;
    return LISA_OK;
}

static lisa_status add_section(void *user, struct lisa__section *section) {
    struct saving *s = user;
    s->sections[s->n_sections++] = *section;
    return LISA_OK;
}

static void fill_tables(struct saving *s) {
    const lisa_optimizer *o = s->o;
    for (uint32_t g = 0; g < o->n_layers + 2; g++)
        s->groups[g] = (struct lisa__checkpoint_group){
            .steps = o->groups[g].steps,
            .active = o->groups[g].active != 0,
            .has_state = o->groups[g].has_state != 0,
            .rounded = o->groups[g].rounded,
        };
    for (uint32_t i = 0; i < o->model->base.n; i++)
        s->changed[i] = o->model->base.tensors[i].changed != 0;
}

static lisa_status list_sections(struct saving *s, const struct lisa__content *content) {
    lisa_status status;
    struct lisa__section blob = {.name = LISA__CHECKPOINT_BLOB, .on_host = 1};
    LISA_TRY(lisa__content_visit(content, count_section, s));
    s->sections_bytes = (s->n_sections + 1) * sizeof *s->sections;
    s->sections = lisa__alloc(s->o->model->context, LISA_MEM_HANDLES, s->sections_bytes, &status);
    if (s->sections == NULL)
        return status;
    s->n_sections = 0;
    set_bytes(&blob, s->extra->blob, s->extra->blob_bytes);
    add_section(s, &blob);
    return lisa__content_visit(content, add_section, s);
}

static lisa_status read_section(void *user, const struct lisa__section *section, uint64_t begin,
                                uint64_t n, void *dst) {
    const struct saving *s = user;
    lisa_backend *be = s->o->model->be;
    const unsigned char *from = (const unsigned char *)section->data + begin;
    LISA_TRY(lisa__poll(s->o->model->context));
    if (!section->on_host)
        return be->ops->download(be, dst, from, n);
    memcpy(dst, from, n);
    return LISA_OK;
}

static struct lisa__checkpoint_record record_of(const struct saving *s) {
    const lisa_optimizer *o = s->o;
    struct lisa__checkpoint_record r = {
        .step = s->extra->step,
        .updates = o->updates,
        .policy = o->shape.policy,
        .rows = o->shape.embedding_rows,
        .rows_used = o->rows.n_used,
        .n_groups = o->n_layers + 2,
        .groups = s->groups,
        .adapted = o->adapter != NULL,
        .has_sampler = s->extra->sampler != NULL,
    };
    memcpy(r.moments, o->shape.moments, sizeof r.moments);
    if (o->adapter != NULL) {
        r.adapter = o->adapter->options;
        r.draws = o->adapter->draws;
    }
    if (s->extra->sampler != NULL)
        r.sampler = *s->extra->sampler;
    return r;
}

static lisa_status write_to(struct saving *s, const char *directory) {
    lisa_optimizer *o = s->o;
    lisa_model *model = o->model;
    char name[NAME_MAX + 1];
    const struct lisa__content content = {o, s->groups, s->changed, o->rows.n_used, 1};
    fill_tables(s);
    LISA_TRY(lisa__wait_for_transfers(model));
    LISA_TRY(list_sections(s, &content));
    const struct lisa__checkpoint_record record = record_of(s);
    struct lisa__checkpoint_content all = {
        .record = &record,
        .sections = s->sections,
        .n_sections = s->n_sections,
        .base = model->base.descs,
        .n_base = model->base.n,
        .read = read_section,
        .user = s,
    };
    LISA_TRY(lisa__base_sums(model, &all.base_sums));
    lisa__checkpoint_name(name, s->extra->step);
    return lisa__checkpoint_write(model->context, directory, name, &all);
}

/* The save stands by now: what cannot be removed is no reason to fail. */
static void remove_old(const lisa_optimizer *o, const char *directory,
                       const struct lisa__checkpoint_extra *extra) {
    struct lisa__error_kept kept;
    if (extra->keep == 0)
        return;
    lisa__error_keep(&kept);
    if (lisa__checkpoint_prune(directory, extra->step, extra->keep) == LISA_OK)
        return;
    lisa__error_restore(&kept);
    lisa__log(o->model->context, LISA_LOG_WARN, "%s: old checkpoints could not be removed",
              directory);
}

static lisa_status check_saved(lisa_optimizer *o) {
    if (o->window.n_backward != 0)
        return lisa__fail(LISA_E_STATE,
                          "lisa_checkpoint_save: inside an accumulation window of %u backward "
                          "passes",
                          o->window.n_backward);
    LISA_TRY(lisa__optimizer_settle(o, 1));
    LISA_TRY(lisa__optimizer_check_bound(o));
    return lisa__model_check(o->model);
}

lisa_status lisa__checkpoint_save(lisa_optimizer *o, const char *directory,
                                  const struct lisa__checkpoint_extra *extra) {
    lisa_context *context = o->model->context;
    const uint64_t n_groups = o->n_layers + 2, n_base = o->model->base.n;
    struct saving s = {.o = o, .extra = extra};
    lisa_status status;
    LISA_TRY(check_saved(o));
    s.groups = lisa__alloc(context, LISA_MEM_HANDLES, n_groups * sizeof *s.groups, &status);
    if (status == LISA_OK)
        s.changed = lisa__alloc(context, LISA_MEM_HANDLES, n_base, &status);
    if (status == LISA_OK)
        status = write_to(&s, directory);
    lisa__release(context, LISA_MEM_HANDLES, s.sections, s.sections_bytes);
    lisa__release(context, LISA_MEM_HANDLES, s.changed, n_base);
    lisa__release(context, LISA_MEM_HANDLES, s.groups, n_groups * sizeof *s.groups);
    if (status == LISA_OK)
        remove_old(o, directory, extra);
    return status;
}
