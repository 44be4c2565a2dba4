#include "formats/checkpoint.h"

#include "core/json.h"
#include "formats/stage.h"
#include "formats/writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Of the description: real ones have a hundred bytes for each tensor. Its checksum follows it. */
#define MAX_META ((uint64_t)1 << 22)
enum { SUM_DIGITS = 16, CHUNK = LISA__CHECKPOINT_CHUNK };

static uint64_t sum_of(const void *data, uint64_t n) {
    return XXH3_64bits(data, n);
}

/* ---- writing ---- */

struct writing {
    const struct lisa__checkpoint_content *content;
    const char *meta; /* its checksum behind it */
    uint64_t meta_bytes;
    unsigned char *staging;
};

static lisa_status sum_section(const struct writing *w, struct lisa__section *section) {
    const struct lisa__checkpoint_content *c = w->content;
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (uint64_t at = 0; at < section->bytes; at += CHUNK) {
        const uint64_t n = section->bytes - at < CHUNK ? section->bytes - at : CHUNK;
        LISA_TRY(c->read(c->user, section, at, n, w->staging));
        XXH3_64bits_update(&state, w->staging, n);
    }
    section->sum = XXH3_64bits_digest(&state);
    return LISA_OK;
}

/* Section 0 of the file is the description. */
static lisa_status deliver(void *user, uint32_t index, uint64_t begin, uint64_t n, void *dst) {
    const struct writing *w = user;
    if (index == 0) {
        memcpy(dst, w->meta + begin, n);
        return LISA_OK;
    }
    const struct lisa__section *section = &w->content->sections[index - 1];
    const uint64_t size = section->n_elements == 0 ? 1 : section->bytes / section->n_elements;
    return w->content->read(w->content->user, section, begin * size, n * size, dst);
}

static void list_tensors(const struct writing *w, struct lisa__write_tensor *out) {
    out[0] = (struct lisa__write_tensor){.name = LISA__CHECKPOINT_META,
                                         .n_dims = 1,
                                         .shape = {w->meta_bytes, 1},
                                         .n_elements = w->meta_bytes};
    for (uint32_t i = 0; i < w->content->n_sections; i++) {
        const struct lisa__section *s = &w->content->sections[i];
        out[1 + i] = (struct lisa__write_tensor){.name = s->name,
                                                 .dtype = s->dtype,
                                                 .n_dims = s->n_dims,
                                                 .shape = {s->shape[0], s->shape[1]},
                                                 .n_elements = s->n_elements};
    }
}

static lisa_status write_described(lisa_context *context, const char *directory, const char *name,
                                   struct writing *w) {
    const uint32_t n = 1 + w->content->n_sections;
    lisa_status status;
    struct lisa__write_tensor *tensors =
        lisa__alloc(context, LISA_MEM_HANDLES, n * sizeof *tensors, &status);
    if (tensors == NULL)
        return status;
    list_tensors(w, tensors);
    status = lisa__write_tensors(context, directory, name, tensors, n, deliver, w);
    lisa__release(context, LISA_MEM_HANDLES, tensors, n * sizeof *tensors);
    return status;
}

/* The text, and its checksum behind the line's end. */
static lisa_status describe(struct writing *w, char **text, const char *name) {
    uint64_t n;
    LISA_TRY(lisa__checkpoint_describe(text, &n, w->content, name));
    char *grown = realloc(*text, n + SUM_DIGITS + 1);
    if (grown == NULL)
        return lisa__fail(LISA_E_NOMEM, "%s: out of memory for its JSON", name);
    *text = grown;
    snprintf(grown + n, SUM_DIGITS + 1, "%016llx", (unsigned long long)sum_of(grown, n));
    w->meta = grown;
    w->meta_bytes = n + SUM_DIGITS;
    return w->meta_bytes <= MAX_META
               ? LISA_OK
               : lisa__fail(LISA_E_UNSUPPORTED, "%s: a description of %llu bytes, at most %llu",
                            name, (unsigned long long)w->meta_bytes, (unsigned long long)MAX_META);
}

static lisa_status write(lisa_context *context, const char *directory, const char *name,
                         struct writing *w) {
    char *text = NULL;
    for (uint32_t i = 0; i < w->content->n_sections; i++)
        LISA_TRY(sum_section(w, &w->content->sections[i]));
    lisa_status status = describe(w, &text, name);
    if (status == LISA_OK)
        status = write_described(context, directory, name, w);
    free(text);
    return status;
}

lisa_status lisa__checkpoint_write(lisa_context *context, const char *directory, const char *name,
                                   const struct lisa__checkpoint_content *content) {
    struct writing w = {.content = content};
    lisa_status status;
    w.staging = lisa__alloc(context, LISA_MEM_STAGING, CHUNK, &status);
    if (w.staging == NULL)
        return status;
    status = write(context, directory, name, &w);
    lisa__release(context, LISA_MEM_STAGING, w.staging, CHUNK);
    return status;
}

/* ---- reading ---- */

const struct lisa__st_tensor *lisa__checkpoint_find(const struct lisa__checkpoint *c,
                                                    const char *name) {
    return lisa__weights_find(c->file, name);
}

uint32_t lisa__checkpoint_sections(const struct lisa__checkpoint *c) {
    return lisa__weights_count(c->file) - 1;
}

uint64_t lisa__checkpoint_bytes(const struct lisa__checkpoint *c) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < lisa__weights_count(c->file); i++)
        bytes += lisa__weights_at(c->file, i)->bytes;
    return bytes;
}

static lisa_status open_file(struct lisa__checkpoint *c) {
    char directory[PATH_MAX];
    const char *slash = strrchr(c->path, '/');
    const size_t n = slash == NULL ? 0 : (size_t)(slash - c->path);
    if (n >= sizeof directory)
        return lisa__fail(LISA_E_INVAL, "%.200s...: the path is too long", c->path);
    snprintf(directory, sizeof directory, "%.*s", (int)n, c->path);
    return lisa__weights_open_file(&c->file, c->context, slash == NULL ? "." : directory,
                                   slash == NULL ? c->path : slash + 1);
}

static lisa_status parse_meta(struct lisa__checkpoint *c, char *text, uint64_t bytes) {
    const uint64_t n = bytes - SUM_DIGITS;
    char sum[SUM_DIGITS + 1];
    snprintf(sum, sizeof sum, "%016llx", (unsigned long long)sum_of(text, n));
    if (memcmp(sum, text + n, SUM_DIGITS) != 0)
        return lisa__fail(LISA_E_FORMAT,
                          "%s: the checksum of \"" LISA__CHECKPOINT_META
                          "\" differs: the file is damaged",
                          c->path);
    return lisa__json_parse(&c->meta, text, n, c->path);
}

static lisa_status read_meta(struct lisa__checkpoint *c) {
    const struct lisa__st_tensor *t = lisa__checkpoint_find(c, LISA__CHECKPOINT_META);
    if (t == NULL || strcmp(t->dtype_name, "U8") != 0 || t->bytes < SUM_DIGITS ||
        t->bytes > MAX_META)
        return lisa__fail(LISA_E_FORMAT,
                          "%s: is no checkpoint: \"" LISA__CHECKPOINT_META "\" of bytes expected",
                          c->path);
    char *text = malloc(t->bytes);
    if (text == NULL)
        return lisa__fail(LISA_E_NOMEM, "%s: out of memory for its JSON", c->path);
    lisa_status status = lisa__weights_read(c->file, t, 0, text, t->bytes);
    if (status == LISA_OK)
        status = parse_meta(c, text, t->bytes);
    free(text);
    return status;
}

/* Every section is described, and nothing else is. */
static lisa_status check_sections(const struct lisa__checkpoint *c) {
    json_t *sections = json_object_get(c->meta, "sections");
    if (json_object_size(sections) != lisa__checkpoint_sections(c))
        return lisa__fail(LISA_E_FORMAT, "%s: %zu sections are described, %u are there", c->path,
                          json_object_size(sections), lisa__checkpoint_sections(c));
    for (void *i = json_object_iter(sections); i != NULL; i = json_object_iter_next(sections, i))
        if (lisa__checkpoint_find(c, json_object_iter_key(i)) == NULL ||
            strcmp(json_object_iter_key(i), LISA__CHECKPOINT_META) == 0)
            return lisa__fail(LISA_E_FORMAT, "%s: section \"%.200s\" is not there", c->path,
                              json_object_iter_key(i));
    return LISA_OK;
}

lisa_status lisa__checkpoint_open(struct lisa__checkpoint *out, lisa_context *context,
                                  const char *path) {
    memset(out, 0, sizeof *out);
    out->context = context;
    out->path = path;
    lisa_status status = open_file(out);
    if (status == LISA_OK)
        status = read_meta(out);
    if (status == LISA_OK)
        status = lisa__checkpoint_read_record(&out->record, out->meta, path);
    if (status == LISA_OK)
        status = check_sections(out);
    if (status != LISA_OK)
        lisa__checkpoint_close(out);
    return status;
}

void lisa__checkpoint_close(struct lisa__checkpoint *c) {
    lisa__checkpoint_forget_record(&c->record);
    json_decref(c->meta);
    lisa__weights_close(c->file);
    memset(c, 0, sizeof *c);
}

lisa_status lisa__checkpoint_read(const struct lisa__checkpoint *c, const char *name,
                                  unsigned char *staging, lisa__checkpoint_reader read,
                                  void *user) {
    const struct lisa__st_tensor *t = lisa__checkpoint_find(c, name);
    uint64_t wanted;
    XXH3_state_t state;
    LISA_TRY(lisa__checkpoint_number(json_object_get(c->meta, "sections"), name, c->path, &wanted));
    XXH3_64bits_reset(&state);
    for (uint64_t at = 0; at < t->bytes; at += CHUNK) {
        const uint64_t n = t->bytes - at < CHUNK ? t->bytes - at : CHUNK;
        LISA_TRY(lisa__weights_read(c->file, t, at, staging, n));
        XXH3_64bits_update(&state, staging, n);
        LISA_TRY(read(user, at, n, staging));
    }
    if (XXH3_64bits_digest(&state) != wanted)
        return lisa__fail(LISA_E_FORMAT,
                          "%s: the checksum of \"%.200s\" differs: the file is damaged", c->path,
                          name);
    return LISA_OK;
}

static lisa_status poll(void *user, uint64_t at, uint64_t n, const void *bytes) {
    (void)at;
    (void)n;
    (void)bytes;
    return user == NULL ? LISA_OK : lisa__poll(user);
}

lisa_status lisa__checkpoint_verify_section(const struct lisa__checkpoint *c, const char *name) {
    unsigned char *staging = malloc(CHUNK);
    if (staging == NULL)
        return lisa__fail(LISA_E_NOMEM, "%s: out of memory to read it", c->path);
    const lisa_status status = lisa__checkpoint_read(c, name, staging, poll, c->context);
    free(staging);
    return status;
}

lisa_status lisa__checkpoint_verify(const struct lisa__checkpoint *c) {
    json_t *sections = json_object_get(c->meta, "sections");
    for (void *i = json_object_iter(sections); i != NULL; i = json_object_iter_next(sections, i))
        LISA_TRY(lisa__checkpoint_verify_section(c, json_object_iter_key(i)));
    return LISA_OK;
}

lisa_status lisa__checkpoint_check_base(const struct lisa__checkpoint *c,
                                        const struct lisa__tensor_desc *base, const uint64_t *sums,
                                        uint32_t n) {
    const json_t *known = json_object_get(c->meta, "base");
    if (json_object_size(known) != n)
        return lisa__fail(LISA_E_INVAL, "%s: belongs to a model of %zu tensors, this one has %u",
                          c->path, json_object_size(known), n);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t sum;
        if (json_object_get(known, base[i].name) == NULL)
            return lisa__fail(LISA_E_INVAL, "%s: belongs to another model: it has no tensor \"%s\"",
                              c->path, base[i].name);
        LISA_TRY(lisa__checkpoint_number(known, base[i].name, c->path, &sum));
        if (sum != sums[i])
            return lisa__fail(LISA_E_INVAL,
                              "%s: belongs to another model: tensor \"%s\" began otherwise there",
                              c->path, base[i].name);
    }
    return LISA_OK;
}
