/* The description of a checkpoint: JSON from a record, and back. */
#include "core/json.h"
#include "formats/checkpoint.h"
#include "lisa/optimizer.h"
#include "lisa/version.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- writing ---- */

/* JSON's readers keep 53 bits. */
static json_t *number(uint64_t x) {
    char text[20];
    snprintf(text, sizeof text, "0x%016llx", (unsigned long long)x);
    return json_string(text);
}

static json_t *optimizer(const struct lisa__checkpoint_record *r) {
    return json_pack("{s:I, s:[I, I, I], s:I, s:I, s:o}", "state_policy", (json_int_t)r->policy,
                     "moments", (json_int_t)r->moments[0], (json_int_t)r->moments[1],
                     (json_int_t)r->moments[2], "embedding_rows", (json_int_t)r->rows, "rows_used",
                     (json_int_t)r->rows_used, "updates", number(r->updates));
}

static json_t *groups(const struct lisa__checkpoint_record *r) {
    json_t *list = json_array();
    for (uint32_t g = 0; g < r->n_groups && list != NULL; g++) {
        const struct lisa__checkpoint_group *group = &r->groups[g];
        json_t *one = json_pack("{s:I, s:I, s:I, s:o}", "active", (json_int_t)group->active,
                                "state", (json_int_t)group->has_state, "rounded",
                                (json_int_t)group->rounded, "steps", number(group->steps));
        if (json_array_append_new(list, one) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

static json_t *adapter(const struct lisa__checkpoint_record *r) {
    const lisa_adapter_options *a = &r->adapter;
    if (!r->adapted)
        return json_null();
    return json_pack("{s:I, s:f, s:I, s:I, s:f, s:o, s:o}", "rank", (json_int_t)a->rank, "alpha",
                     a->alpha, "targets", (json_int_t)a->targets, "use_rslora",
                     (json_int_t)a->use_rslora, "dropout", a->dropout, "seed", number(a->seed),
                     "draws", number(r->draws));
}

static json_t *sampler(const struct lisa__checkpoint_record *r) {
    const lisa_sampler_options *s = &r->sampler;
    if (!r->has_sampler)
        return json_null();
    json_t *weights = json_array(), *layers = json_array();
    int failed = weights == NULL || layers == NULL;
    for (uint32_t l = 0; l < s->n_layers && s->weights != NULL; l++)
        failed |= json_array_append_new(weights, json_real(s->weights[l]));
    for (uint32_t i = 0; i < s->n_active && s->layers != NULL; i++)
        failed |= json_array_append_new(layers, json_integer(s->layers[i]));
    json_t *out = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o}", "kind", (json_int_t)s->kind,
        "n_layers", (json_int_t)s->n_layers, "n_active", (json_int_t)s->n_active, "interval_steps",
        (json_int_t)s->interval_steps, "max_active", (json_int_t)s->max_active, "descending",
        (json_int_t)s->descending, "train_embedding", (json_int_t)s->train_embedding, "train_head",
        (json_int_t)s->train_head, "seed", number(s->seed), "first_step", number(s->first_step),
        "weights", weights, "layers", layers);
    if (!failed)
        return out;
    json_decref(out);
    return NULL;
}

static int set_sums(json_t *meta, const struct lisa__checkpoint_content *c) {
    json_t *sections = json_object(), *base = json_object();
    int failed = 0;
    for (uint32_t i = 0; i < c->n_sections; i++)
        failed |= json_object_set_new(sections, c->sections[i].name, number(c->sections[i].sum));
    for (uint32_t i = 0; i < c->n_base; i++)
        failed |= json_object_set_new(base, c->base[i].name, number(c->base_sums[i]));
    failed |= json_object_set_new(meta, "sections", sections);
    return failed | json_object_set_new(meta, "base", base);
}

lisa_status lisa__checkpoint_describe(char **out, uint64_t *n,
                                      const struct lisa__checkpoint_content *content,
                                      const char *path) {
    const struct lisa__checkpoint_record *r = content->record;
    json_t *meta = json_object();
    int failed = 0;
    failed |= json_object_set_new(meta, "format", json_integer(LISA__CHECKPOINT_FORMAT));
    failed |= json_object_set_new(meta, "written_by", json_string("liblisa " LISA_VERSION_STRING));
    failed |= json_object_set_new(meta, "step", number(r->step));
    failed |= json_object_set_new(meta, "optimizer", optimizer(r));
    failed |= json_object_set_new(meta, "groups", groups(r));
    failed |= json_object_set_new(meta, "adapter", adapter(r));
    failed |= json_object_set_new(meta, "sampler", sampler(r));
    failed |= set_sums(meta, content);
    const lisa_status status =
        failed ? lisa__fail(LISA_E_NOMEM, "%s: out of memory for its JSON", path)
               : lisa__json_dump(out, n, meta, path);
    json_decref(meta);
    return status;
}

/* ---- reading ---- */

lisa_status lisa__checkpoint_number(const json_t *object, const char *key, const char *path,
                                    uint64_t *out) {
    const char *text = json_string_value(json_object_get(object, key));
    if (text == NULL || strlen(text) != 18 || strncmp(text, "0x", 2) != 0 ||
        strspn(text + 2, "0123456789abcdef") != 16)
        return lisa__fail(LISA_E_FORMAT, "%s: \"%.200s\": 0x and 16 digits expected", path, key);
    *out = strtoull(text, NULL, 16);
    return LISA_OK;
}

static lisa_status read_u32(struct lisa__json_source source, const char *key, uint32_t high,
                            uint32_t *out) {
    LISA_TRY(lisa__json_require(source, key));
    return lisa__json_u32(source, key, 0, 0, high, out);
}

static lisa_status read_real(struct lisa__json_source source, const char *key, double *out) {
    LISA_TRY(lisa__json_require(source, key));
    return lisa__json_double(source, key, 0, 0, HUGE_VAL, out);
}

/* An object of the description, or NULL where it is null. */
static lisa_status enter(struct lisa__json_source *out, const json_t *meta, const char *key,
                         const char *path) {
    const json_t *object = json_object_get(meta, key);
    *out = (struct lisa__json_source){object, path, ""};
    if (json_is_null(object))
        out->object = NULL;
    else if (!json_is_object(object))
        return lisa__fail(LISA_E_FORMAT, "%s: \"%s\": an object expected", path, key);
    return LISA_OK;
}

static lisa_status read_optimizer(struct lisa__checkpoint_record *r, const json_t *meta,
                                  const char *path) {
    struct lisa__json_source source;
    LISA_TRY(enter(&source, meta, "optimizer", path));
    LISA_TRY(read_u32(source, "state_policy", LISA_STATE_OFFLOAD, &r->policy));
    LISA_TRY(read_u32(source, "embedding_rows", UINT32_MAX, &r->rows));
    LISA_TRY(read_u32(source, "rows_used", r->rows, &r->rows_used));
    LISA_TRY(lisa__checkpoint_number(source.object, "updates", path, &r->updates));
    if (r->updates >> 53 != 0)
        return lisa__fail(LISA_E_FORMAT, "%s: \"updates\": below 2^53 expected", path);
    const json_t *moments = json_object_get(source.object, "moments");
    for (size_t i = 0; i < 3; i++) {
        const json_int_t kind = json_integer_value(json_array_get(moments, i));
        if (kind < LISA_MOMENTS_F32 || kind > LISA_MOMENTS_8BIT)
            return lisa__fail(LISA_E_FORMAT, "%s: \"moments\": three kinds expected", path);
        r->moments[i] = (uint32_t)kind;
    }
    return LISA_OK;
}

static lisa_status read_group(struct lisa__checkpoint_group *g, const json_t *json,
                              const char *path) {
    const struct lisa__json_source source = {json, path, "groups."};
    if (!json_is_object(json))
        return lisa__fail(LISA_E_FORMAT, "%s: \"groups\": objects expected", path);
    LISA_TRY(read_u32(source, "active", 1, &g->active));
    LISA_TRY(read_u32(source, "state", 1, &g->has_state));
    LISA_TRY(read_u32(source, "rounded", UINT32_MAX, &g->rounded));
    LISA_TRY(lisa__checkpoint_number(json, "steps", path, &g->steps));
    if (g->active && !g->has_state)
        return lisa__fail(LISA_E_FORMAT, "%s: \"groups\": one trains that has no state", path);
    return LISA_OK;
}

static lisa_status read_groups(struct lisa__checkpoint_record *r, const json_t *meta,
                               const char *path) {
    const json_t *list = json_object_get(meta, "groups");
    const size_t n = json_array_size(list);
    if (n < 2 || n > LISA_SAMPLER_MAX_LAYERS + 2)
        return lisa__fail(LISA_E_FORMAT, "%s: \"groups\": %zu of them, 2 to %u expected", path, n,
                          LISA_SAMPLER_MAX_LAYERS + 2);
    r->groups = calloc(n, sizeof *r->groups);
    if (r->groups == NULL)
        return lisa__fail(LISA_E_NOMEM, "%s: out of memory for its groups", path);
    r->n_groups = (uint32_t)n;
    for (uint32_t g = 0; g < r->n_groups; g++) {
        LISA_TRY(read_group(&r->groups[g], json_array_get(list, g), path));
        if (r->groups[g].steps > r->updates)
            return lisa__fail(LISA_E_FORMAT, "%s: \"groups\": more steps than updates", path);
    }
    return LISA_OK;
}

static lisa_status read_adapter(struct lisa__checkpoint_record *r, const json_t *meta,
                                const char *path) {
    struct lisa__json_source source;
    lisa_adapter_options *a = &r->adapter;
    LISA_TRY(enter(&source, meta, "adapter", path));
    r->adapted = source.object != NULL;
    if (!r->adapted)
        return LISA_OK;
    LISA_TRY(read_u32(source, "rank", UINT32_MAX, &a->rank));
    LISA_TRY(read_u32(source, "targets", UINT32_MAX, &a->targets));
    LISA_TRY(read_u32(source, "use_rslora", 1, &a->use_rslora));
    LISA_TRY(read_real(source, "alpha", &a->alpha));
    LISA_TRY(read_real(source, "dropout", &a->dropout));
    LISA_TRY(lisa__checkpoint_number(source.object, "seed", path, &a->seed));
    return lisa__checkpoint_number(source.object, "draws", path, &r->draws);
}

static lisa_status read_sampler_numbers(lisa_sampler_options *s, struct lisa__json_source source) {
    LISA_TRY(read_u32(source, "kind", LISA_SAMPLER_FIXED, &s->kind));
    LISA_TRY(read_u32(source, "n_layers", LISA_SAMPLER_MAX_LAYERS, &s->n_layers));
    LISA_TRY(read_u32(source, "n_active", UINT32_MAX, &s->n_active));
    LISA_TRY(read_u32(source, "interval_steps", UINT32_MAX, &s->interval_steps));
    LISA_TRY(read_u32(source, "max_active", UINT32_MAX, &s->max_active));
    LISA_TRY(read_u32(source, "descending", 1, &s->descending));
    LISA_TRY(read_u32(source, "train_embedding", 1, &s->train_embedding));
    LISA_TRY(read_u32(source, "train_head", 1, &s->train_head));
    LISA_TRY(lisa__checkpoint_number(source.object, "seed", source.file, &s->seed));
    return lisa__checkpoint_number(source.object, "first_step", source.file, &s->first_step);
}

/* Elements of an array that is empty or has n. */
static lisa_status read_list(void **out, const json_t *object, const char *key, size_t n,
                             size_t size, const char *path) {
    const json_t *list = json_object_get(object, key);
    const size_t have = json_array_size(list);
    if (!json_is_array(list) || (have != 0 && have != n))
        return lisa__fail(LISA_E_FORMAT, "%s: \"sampler.%s\": an array of %zu expected", path, key,
                          n);
    *out = have == 0 ? NULL : calloc(have, size);
    return have == 0 || *out != NULL
               ? LISA_OK
               : lisa__fail(LISA_E_NOMEM, "%s: out of memory for its sampler", path);
}

static lisa_status read_weight(double *out, struct lisa__json_source source, size_t i) {
    const json_t *value = json_array_get(json_object_get(source.object, "weights"), i);
    *out = json_number_value(value);
    return json_is_number(value)
               ? LISA_OK
               : lisa__fail(LISA_E_FORMAT, "%s: \"sampler.weights\": numbers expected",
                            source.file);
}

static lisa_status read_layer(uint32_t *out, struct lisa__json_source source, size_t i) {
    const json_t *value = json_array_get(json_object_get(source.object, "layers"), i);
    const json_int_t layer = json_integer_value(value);
    *out = (uint32_t)layer;
    return json_is_integer(value) && layer >= 0 && layer < LISA_SAMPLER_MAX_LAYERS
               ? LISA_OK
               : lisa__fail(LISA_E_FORMAT, "%s: \"sampler.layers\": layers expected", source.file);
}

static lisa_status read_sampler(struct lisa__checkpoint_record *r, const json_t *meta,
                                const char *path) {
    struct lisa__json_source source;
    lisa_sampler_options *s = &r->sampler;
    void *weights = NULL, *layers = NULL;
    LISA_TRY(enter(&source, meta, "sampler", path));
    r->has_sampler = source.object != NULL;
    if (!r->has_sampler)
        return LISA_OK;
    LISA_TRY(read_sampler_numbers(s, source));
    LISA_TRY(read_list(&weights, source.object, "weights", s->n_layers, sizeof(double), path));
    s->weights = weights;
    LISA_TRY(read_list(&layers, source.object, "layers", s->n_active, sizeof(uint32_t), path));
    s->layers = layers;
    for (uint32_t l = 0; weights != NULL && l < s->n_layers; l++)
        LISA_TRY(read_weight((double *)weights + l, source, l));
    for (uint32_t i = 0; layers != NULL && i < s->n_active; i++)
        LISA_TRY(read_layer((uint32_t *)layers + i, source, i));
    return LISA_OK;
}

lisa_status lisa__checkpoint_read_record(struct lisa__checkpoint_record *out, const json_t *meta,
                                         const char *path) {
    const struct lisa__json_source source = {meta, path, ""};
    uint32_t format;
    memset(out, 0, sizeof *out);
    if (!json_is_object(meta))
        return lisa__fail(LISA_E_FORMAT, "%s: an object expected", path);
    LISA_TRY(read_u32(source, "format", UINT32_MAX, &format));
    if (format != LISA__CHECKPOINT_FORMAT)
        return lisa__fail(LISA_E_UNSUPPORTED, "%s: format %u, this library reads %u", path, format,
                          LISA__CHECKPOINT_FORMAT);
    LISA_TRY(lisa__checkpoint_number(meta, "step", path, &out->step));
    LISA_TRY(read_optimizer(out, meta, path));
    LISA_TRY(read_groups(out, meta, path));
    LISA_TRY(read_adapter(out, meta, path));
    return read_sampler(out, meta, path);
}

void lisa__checkpoint_forget_record(struct lisa__checkpoint_record *r) {
    free(r->groups);
    free((void *)(uintptr_t)r->sampler.weights);
    free((void *)(uintptr_t)r->sampler.layers);
    memset(r, 0, sizeof *r);
}
