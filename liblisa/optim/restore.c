/* Loading a checkpoint: what is checked first, and what is then put in place. */
#include "core/dtype.h"
#include "model/adapter.h"
#include "model/base.h"
#include "model/fill.h"
#include "optim/checkpoint.h"

#include <string.h>

_Static_assert(LISA__FILL_BYTES >= LISA__CHECKPOINT_CHUNK, "one staging memory serves both");

struct loading {
    lisa_optimizer *o;
    const struct lisa__checkpoint *c;
    const uint64_t *base_sums;
    uint8_t *changed;       /* [tensors of the model] */
    uint8_t *rows_seen;     /* [rows of the embedding], where some of them train */
    struct lisa__fill fill; /* taken before anything changes, as all memory is */
    uint32_t n_sections;
};

/* ---- checks ---- */

static lisa_status differs(const struct lisa__checkpoint *c, const char *what, double there,
                           double here) {
    return there == here ? LISA_OK
                         : lisa__fail(LISA_E_INVAL, "%s: made with %s %.17g, here it is %.17g",
                                      c->path, what, there, here);
}

static lisa_status check_options(const struct loading *l) {
    const struct lisa__checkpoint_record *r = &l->c->record;
    const struct lisa__state_shape *shape = &l->o->shape;
    static const char *const moments[LISA__PARTS] = {"moments_embedding", "moments_layers",
                                                     "moments_head"};
    LISA_TRY(differs(l->c, "state_policy", r->policy, shape->policy));
    LISA_TRY(differs(l->c, "embedding_rows", r->rows, shape->embedding_rows));
    for (uint32_t p = 0; p < LISA__PARTS; p++)
        LISA_TRY(differs(l->c, moments[p], r->moments[p], shape->moments[p]));
    return differs(l->c, "a number of groups of", r->n_groups, l->o->n_layers + 2);
}

static lisa_status check_adapter(const struct loading *l) {
    const struct lisa__checkpoint_record *r = &l->c->record;
    const lisa_adapter *a = l->o->adapter;
    if (r->adapted != (a != NULL))
        return lisa__fail(LISA_E_INVAL, "%s: is of an optimizer that trained %s", l->c->path,
                          r->adapted ? "an adapter" : "the model's own weights");
    if (a == NULL)
        return LISA_OK;
    LISA_TRY(differs(l->c, "rank", r->adapter.rank, a->options.rank));
    LISA_TRY(differs(l->c, "targets", r->adapter.targets, a->options.targets));
    LISA_TRY(differs(l->c, "use_rslora", r->adapter.use_rslora, a->options.use_rslora));
    LISA_TRY(differs(l->c, "alpha", r->adapter.alpha, a->options.alpha));
    return differs(l->c, "dropout", r->adapter.dropout, a->options.dropout);
}

/* Groups that have a state there must have room for one here. */
static lisa_status check_groups(const struct loading *l) {
    const lisa_optimizer *o = l->o;
    const struct lisa__checkpoint_group *groups = l->c->record.groups;
    const uint32_t head = o->n_layers + 1;
    uint32_t n_active = 0;
    if (l->c->record.rows_used != 0 && !groups[0].has_state)
        return lisa__fail(LISA_E_FORMAT, "%s: rows of the embedding train without a state",
                          l->c->path);
    if (groups[0].has_state && !o->options.train_embedding)
        return lisa__fail(LISA_E_INVAL, "%s: trains the embedding, train_embedding is 0 here",
                          l->c->path);
    if (groups[head].has_state && !o->options.train_head)
        return lisa__fail(LISA_E_INVAL, "%s: trains the head, train_head is 0 here", l->c->path);
    for (uint32_t g = 1; g < head; g++) {
        n_active += groups[g].active;
        if (groups[g].has_state && o->max_active == 0)
            return lisa__fail(LISA_E_INVAL,
                              "%s: holds states of layers, the optimizer has max_active_layers of "
                              "none",
                              l->c->path);
        if (groups[g].has_state && !groups[g].active && o->shape.policy == LISA_STATE_DROP)
            return lisa__fail(LISA_E_FORMAT, "%s: a frozen layer has a state under DROP",
                              l->c->path);
    }
    if (n_active > o->max_active)
        return lisa__fail(LISA_E_INVAL,
                          "%s: %u layers train there, the optimizer has max_active_layers = %u",
                          l->c->path, n_active, o->max_active);
    return LISA_OK;
}

static lisa_status check_section(void *user, struct lisa__section *section) {
    struct loading *l = user;
    const struct lisa__st_tensor *t = lisa__checkpoint_find(l->c, section->name);
    const char *dtype = section->dtype == 0 ? "U8" : lisa_dtype_name(section->dtype);
    l->n_sections++;
    if (t == NULL)
        return lisa__fail(LISA_E_FORMAT, "%s: section \"%s\" is not there", l->c->path,
                          section->name);
    if (t->dtype != section->dtype || t->bytes != section->bytes ||
        (section->dtype == 0 && strcmp(t->dtype_name, "U8") != 0))
        return lisa__fail(LISA_E_INVAL,
                          "%s: section \"%s\" has %llu bytes of %s, here it has %llu of %s",
                          l->c->path, section->name, (unsigned long long)t->bytes, t->dtype_name,
                          (unsigned long long)section->bytes, dtype);
    return LISA_OK;
}

static void find_changed(const struct loading *l) {
    const struct lisa__parameters *base = &l->o->model->base;
    for (uint32_t i = 0; i < base->n; i++) {
        char name[LISA__SECTION_NAME];
        snprintf(name, sizeof name, "weights/%s", base->descs[i].name);
        l->changed[i] = lisa__checkpoint_find(l->c, name) != NULL;
    }
}

static struct lisa__content content_of(const struct loading *l, uint32_t located) {
    return (struct lisa__content){l->o, l->c->record.groups, l->changed, l->c->record.rows_used,
                                  located};
}

/* All sections but the host's are the optimizer's. */
static lisa_status check_sections(struct loading *l) {
    const struct lisa__content content = content_of(l, 0);
    find_changed(l);
    l->n_sections = lisa__checkpoint_find(l->c, LISA__CHECKPOINT_BLOB) != NULL;
    LISA_TRY(lisa__content_visit(&content, check_section, l));
    if (l->n_sections != lisa__checkpoint_sections(l->c))
        return lisa__fail(LISA_E_FORMAT, "%s: has %u sections, %u expected", l->c->path,
                          lisa__checkpoint_sections(l->c), l->n_sections);
    return LISA_OK;
}

static lisa_status check_row(void *user, uint64_t at, uint64_t n, const void *bytes) {
    const struct loading *l = user;
    const uint32_t *rows = bytes;
    (void)at;
    for (uint64_t i = 0; i < n / sizeof *rows; i++) {
        if (rows[i] >= l->o->model->config.vocab_size || l->rows_seen[rows[i]])
            return lisa__fail(LISA_E_FORMAT,
                              "%s: \"" LISA__CHECKPOINT_ROWS "\" has a row twice, "
                              "or none of the embedding",
                              l->c->path);
        l->rows_seen[rows[i]] = 1;
    }
    return LISA_OK;
}

static lisa_status check_rows(struct loading *l) {
    const uint64_t n = l->o->model->config.vocab_size;
    lisa_status status;
    if (l->o->shape.embedding_rows == 0)
        return LISA_OK;
    l->rows_seen = lisa__alloc(l->o->model->context, LISA_MEM_HANDLES, n, &status);
    if (l->rows_seen == NULL)
        return status;
    memset(l->rows_seen, 0, n);
    status = lisa__checkpoint_read(l->c, LISA__CHECKPOINT_ROWS, l->fill.a, check_row, l);
    lisa__release(l->o->model->context, LISA_MEM_HANDLES, l->rows_seen, n);
    return status;
}

/* What will be written can be, and what is to come back is there. */
static lisa_status reserve(const struct loading *l) {
    lisa_model *model = l->o->model;
    for (uint32_t i = 0; i < model->base.n; i++) {
        if (!l->changed[i] && !model->base.tensors[i].changed)
            continue;
        LISA_TRY(lisa__reserve_group(model, model->base.descs[i].group));
        if (!l->changed[i])
            LISA_TRY(lisa__base_check(model, i));
    }
    return LISA_OK;
}

static lisa_status check(struct loading *l) {
    lisa_model *model = l->o->model;
    LISA_TRY(check_options(l));
    LISA_TRY(check_adapter(l));
    LISA_TRY(check_groups(l));
    LISA_TRY(lisa__optimizer_check_bound(l->o));
    LISA_TRY(lisa__model_check_files(model));
    LISA_TRY(lisa__checkpoint_check_base(l->c, model->base.descs, l->base_sums, model->base.n));
    LISA_TRY(check_sections(l));
    LISA_TRY(check_rows(l));
    LISA_TRY(lisa__checkpoint_verify(l->c));
    return reserve(l);
}

/* ---- putting in place ---- */

struct destination {
    lisa_backend *be;
    unsigned char *to;
    uint32_t on_host;
};

static lisa_status put_bytes(void *user, uint64_t at, uint64_t n, const void *bytes) {
    const struct destination *d = user;
    if (!d->on_host)
        return d->be->ops->upload(d->be, d->to + at, bytes, n);
    memcpy(d->to + at, bytes, n);
    return LISA_OK;
}

/* Verified again: a file may change between two readings. */
static lisa_status put_section(void *user, struct lisa__section *section) {
    const struct loading *l = user;
    struct destination d = {l->o->model->be, (unsigned char *)(uintptr_t)section->data,
                            section->on_host};
    return lisa__checkpoint_read(l->c, section->name, l->fill.a, put_bytes, &d);
}

/* As it was before the first mask. */
static lisa_status forget_all(lisa_optimizer *o) {
    lisa__optimizer_unlend(o);
    for (uint32_t g = 0; g < o->n_layers + 2; g++) {
        if (o->adapter == NULL)
            LISA_TRY(lisa__model_disown_group(o->model, g));
        memset(&o->groups[g], 0, sizeof o->groups[g]);
        o->groups[g].slot = -1;
    }
    memset(o->slot_taken, 0, o->memory.n_slots * sizeof *o->slot_taken);
    memset(&o->window, 0, sizeof o->window);
    o->rows_kept = o->rows_before = 0;
    lisa__optimizer_unclaim(o);
    return LISA_OK;
}

/* Weights that the checkpoint has may be written; all others are the base's. */
static lisa_status prepare_weights(const struct loading *l) {
    lisa_model *model = l->o->model;
    for (uint32_t i = 0; i < model->base.n; i++) {
        if (!l->changed[i] && !model->base.tensors[i].changed)
            continue;
        LISA_TRY(lisa__make_writable(model, model->base.descs[i].group));
        if (l->changed[i])
            model->base.tensors[i].changed = 1;
        else
            LISA_TRY(lisa__base_restore(model, i, &l->fill));
    }
    return LISA_OK;
}

static void set_groups(const struct loading *l) {
    lisa_optimizer *o = l->o;
    for (uint32_t g = 0; g < o->n_layers + 2; g++) {
        const struct lisa__checkpoint_group *from = &l->c->record.groups[g];
        struct lisa__group *to = &o->groups[g];
        to->steps = from->steps;
        to->active = from->active;
        to->has_state = from->has_state;
        to->rounded = from->rounded;
        if (g != 0 && g <= o->n_layers &&
            (to->active || (to->has_state && lisa__is_kept(&o->shape))))
            lisa__optimizer_take_slot(o, g);
    }
}

static lisa_status own_active(lisa_optimizer *o) {
    for (uint32_t g = 0; g < o->n_layers + 2; g++)
        if (o->groups[g].active && o->adapter == NULL)
            LISA_TRY(lisa__model_own_group(o->model, g));
    return LISA_OK;
}

static void set_counts(const struct loading *l) {
    const struct lisa__checkpoint_record *r = &l->c->record;
    lisa_optimizer *o = l->o;
    o->updates = r->updates;
    o->model->version++;
    if (o->adapter == NULL)
        return;
    o->adapter->draws = r->draws;
    o->adapter->options.seed = r->adapter.seed;
}

static lisa_status restore(struct loading *l) {
    lisa_optimizer *o = l->o;
    const struct lisa__content content = content_of(l, 1);
    LISA_TRY(lisa__wait_for_transfers(o->model));
    LISA_TRY(forget_all(o));
    LISA_TRY(lisa__optimizer_forget_updates(o));
    LISA_TRY(prepare_weights(l));
    set_groups(l);
    LISA_TRY(lisa__content_visit(&content, put_section, l));
    lisa__optimizer_set_rows(o, l->c->record.rows_used);
    LISA_TRY(own_active(o));
    set_counts(l);
    lisa__optimizer_lend(o);
    return o->model->be->ops->sync(o->model->be);
}

static lisa_status load(struct loading *l) {
    struct lisa__parameters *base = &l->o->model->base;
    LISA_TRY(check(l));
    const lisa_status settled = lisa__optimizer_settle(l->o, 1);
    if (settled != LISA_E_NONFINITE) /* an update that was not made is no loss now */
        LISA_TRY(settled);
    /* Over whatever was torn before: all of it is replaced. */
    base->torn = "a load of a checkpoint";
    if (l->o->adapter != NULL)
        l->o->trained->torn = base->torn;
    const lisa_status status = lisa__change_end(base, restore(l));
    return l->o->adapter != NULL ? lisa__change_end(l->o->trained, status) : status;
}

/* On a refusal the model holds what it held. */
static lisa_status load_reserved(struct loading *l) {
    lisa_model *model = l->o->model;
    uint32_t before[LISA__PARTS];
    memcpy(before, model->reserved, sizeof before);
    const lisa_status status = load(l);
    if (status != LISA_OK && model->base.torn == NULL)
        lisa__model_unreserve(model, before);
    return status;
}

lisa_status lisa__checkpoint_load(lisa_optimizer *o, const struct lisa__checkpoint *c) {
    lisa_context *context = o->model->context;
    struct loading l = {.o = o, .c = c};
    lisa_status status;
    /* They are read through staging memory of their own, which is planned once. */
    LISA_TRY(lisa__base_sums(o->model, &l.base_sums));
    l.changed = lisa__alloc(context, LISA_MEM_HANDLES, o->model->base.n, &status);
    if (l.changed == NULL)
        return status;
    status = lisa__fill_begin(&l.fill, context, 0);
    if (status == LISA_OK) {
        status = load_reserved(&l);
        lisa__fill_end(&l.fill);
    }
    lisa__release(context, LISA_MEM_HANDLES, l.changed, o->model->base.n);
    return status;
}
