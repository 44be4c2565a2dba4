#include "formats/writer.h"

#include "core/dtype.h"
#include "core/io.h"
#include "formats/stage.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_SHARD ((uint64_t)5000000000u)
#define MAX_HEADER 100000000u

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

/* Shards of a second save of as many go beside the first's, under names of another generation. */
static void shard_name(char *out, size_t size, uint32_t generation, uint32_t i, uint32_t n) {
    if (generation == 0)
        snprintf(out, size, "model-%05u-of-%05u.safetensors", i + 1, n);
    else
        snprintf(out, size, "model-g%u-%05u-of-%05u.safetensors", generation, i + 1, n);
}

static int parse_shard_name(const char *name, uint32_t *generation, uint32_t *n) {
    char again[NAME_MAX + 1];
    unsigned i = 0, count = 0, g = 0;
    if (sscanf(name, "model-%5u-of-%5u.safetensors", &i, &count) != 2 &&
        sscanf(name, "model-g%9u-%5u-of-%5u.safetensors", &g, &i, &count) != 3)
        return 0;
    shard_name(again, sizeof again, g, i - 1, count);
    *generation = g;
    *n = count;
    return strcmp(again, name) == 0;
}

/* What lies in the directory before a save. */
struct before {
    uint32_t n_shards; /* of the save */
    uint64_t taken;    /* bits of the generations that lie there with as many shards */
    int has_single;
};

static lisa_status look_at(void *arg, const char *name) {
    struct before *before = arg;
    uint32_t generation, n;
    if (strcmp(name, single_name) == 0)
        before->has_single = 1;
    if (parse_shard_name(name, &generation, &n) && n == before->n_shards && generation < 64)
        before->taken |= (uint64_t)1 << generation;
    return LISA_OK;
}

struct removal {
    const struct lisa__stage *stage;
    uint32_t n_failed;
};

static lisa_status remove_stale(void *arg, const char *name) {
    struct removal *removal = arg;
    const struct lisa__stage *stage = removal->stage;
    char path[PATH_MAX];
    uint32_t generation, n;
    if (strcmp(name, index_name) != 0 && !parse_shard_name(name, &generation, &n))
        return LISA_OK;
    for (uint32_t i = 0; i < stage->n_items; i++)
        if (strcmp(stage->items[i].name, name) == 0)
            return LISA_OK;
    LISA_TRY(lisa__path_join(path, stage->directory, name));
    removal->n_failed += lisa__io->unlink(path) != 0 && errno != ENOENT;
    return LISA_OK;
}

/* The save stands by now: what cannot be removed is in nobody's way, and no reason to fail. */
static void remove_old_weights(const struct lisa__stage *stage) {
    struct removal removal = {.stage = stage};
    struct lisa__error_kept kept;
    lisa__error_keep(&kept);
    const lisa_status status = lisa__list_directory(stage->directory, &removal, remove_stale);
    lisa__error_restore(&kept);
    if (status != LISA_OK || removal.n_failed > 0)
        lisa__log(stage->context, LISA_LOG_WARN,
                  "%s: files of an earlier save could not be removed", stage->directory);
}

/* ---- safetensors ---- */

struct piece {
    const struct lisa__write_tensor *tensor;
    uint64_t bytes;
    uint32_t index; /* for the source */
    uint32_t shard;
};

struct weights {
    lisa_context *context;
    struct piece *pieces; /* by shard, and in the order of the file */
    uint32_t n_pieces;
    uint32_t n_shards;
    uint64_t total;
    unsigned char *staging;
    lisa__tensor_source source;
    void *user;
};

/* One file of them. */
struct part {
    struct weights *weights;
    const struct piece *pieces;
    uint32_t n_pieces;
};

static lisa_status no_memory(const char *path) {
    return lisa__fail(LISA_E_NOMEM, "%s: out of memory for its JSON", path);
}

/* The order of the format's own writer: by alignment, then by its numbers of types. */
static uint32_t rank_of(uint32_t dtype) {
    switch (dtype) {
    case LISA_DTYPE_F64:
        return 0;
    case LISA_DTYPE_F32:
        return 1;
    case LISA_DTYPE_BF16:
        return 2;
    case LISA_DTYPE_F16:
        return 3;
    default:
        return 4;
    }
}

static const char *name_of(uint32_t dtype) {
    static const char *const names[] = {"F64", "F32", "BF16", "F16", "U8"};
    return names[rank_of(dtype)];
}

static uint64_t size_of(const struct lisa__write_tensor *tensor) {
    return tensor->dtype == 0 ? 1 : lisa__dtype_size(tensor->dtype);
}

static int in_file_order(const void *left, const void *right) {
    const struct piece *a = left, *b = right;
    const uint32_t rank_a = rank_of(a->tensor->dtype), rank_b = rank_of(b->tensor->dtype);
    if (a->shard != b->shard)
        return a->shard < b->shard ? -1 : 1;
    if (rank_a != rank_b)
        return rank_a < rank_b ? -1 : 1;
    return strcmp(a->tensor->name, b->tensor->name);
}

/* Fills shards in the tensors' order, so that layers stay together. */
static void cut_into_shards(struct weights *weights, const struct lisa__write_tensor *tensors,
                            uint64_t max_shard_bytes) {
    uint64_t filled = 0;
    uint32_t shard = 0;
    for (uint32_t i = 0; i < weights->n_pieces; i++) {
        const uint64_t bytes = tensors[i].n_elements * size_of(tensors + i);
        if (filled > 0 && (bytes > max_shard_bytes || filled > max_shard_bytes - bytes)) {
            shard++;
            filled = 0;
        }
        filled += bytes;
        weights->total += bytes;
        weights->pieces[i] = (struct piece){tensors + i, bytes, i, shard};
    }
    weights->n_shards = shard + 1;
    if (weights->n_pieces > 1)
        qsort(weights->pieces, weights->n_pieces, sizeof *weights->pieces, in_file_order);
}

static lisa_status add_entry(json_t *header, const struct piece *piece, uint64_t begin,
                             const char *path) {
    const struct lisa__write_tensor *tensor = piece->tensor;
    json_t *shape = json_array();
    int failed = shape == NULL;
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        failed |= json_array_append_new(shape, json_integer((json_int_t)tensor->shape[i]));
    json_t *entry =
        json_pack("{s:s, s:o, s:[I, I]}", "dtype", name_of(tensor->dtype), "shape", shape,
                  "data_offsets", (json_int_t)begin, (json_int_t)(begin + piece->bytes));
    if (json_object_get(header, tensor->name) != NULL) {
        json_decref(entry);
        return lisa__fail(LISA_E_INTERNAL, "%s: tensor \"%s\" is there twice", path, tensor->name);
    }
    failed |= json_object_set_new(header, tensor->name, entry);
    return failed ? no_memory(path) : LISA_OK;
}

static lisa_status make_header(json_t **out, const struct part *part, const char *path) {
    uint64_t begin = 0;
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    *out = header;
    if (header == NULL)
        return no_memory(path);
    for (uint32_t i = 0; i < part->n_pieces; i++) {
        LISA_TRY(add_entry(header, part->pieces + i, begin, path));
        begin += part->pieces[i].bytes;
    }
    return LISA_OK;
}

/* Length, text, and spaces up to a multiple of 8. */
static lisa_status write_header_text(int fd, const char *text, const char *path) {
    static const char spaces[] = "       ";
    unsigned char prefix[8];
    const uint64_t length = strlen(text), padding = (8 - length % 8) % 8;
    if (length + padding > MAX_HEADER)
        return lisa__fail(LISA_E_UNSUPPORTED, "%s: a header of %llu bytes, at most %u are allowed",
                          path, (unsigned long long)length, MAX_HEADER);
    for (uint32_t i = 0; i < 8; i++)
        prefix[i] = (unsigned char)((length + padding) >> (8 * i));
    LISA_TRY(lisa__io_write(fd, prefix, sizeof prefix, path));
    LISA_TRY(lisa__io_write(fd, text, length, path));
    return lisa__io_write(fd, spaces, padding, path);
}

static lisa_status write_header(const struct part *part, int fd, const char *path) {
    json_t *header;
    char *text = NULL;
    lisa_status status = make_header(&header, part, path);
    if (status == LISA_OK) {
        text = json_dumps(header, JSON_COMPACT);
        status = text == NULL ? no_memory(path) : write_header_text(fd, text, path);
    }
    free(text);
    json_decref(header);
    return status;
}

static lisa_status write_tensor(const struct weights *weights, const struct piece *piece, int fd,
                                const char *path) {
    const uint64_t size = size_of(piece->tensor);
    const uint64_t all = piece->tensor->n_elements, most = LISA__WRITE_STAGING / size;
    LISA_TRY(lisa__poll(weights->context));
    for (uint64_t begin = 0; begin < all;) {
        const uint64_t n = all - begin < most ? all - begin : most;
        LISA_TRY(weights->source(weights->user, piece->index, begin, n, weights->staging));
        LISA_TRY(lisa__io_write(fd, weights->staging, n * size, path));
        begin += n;
    }
    return LISA_OK;
}

static lisa_status fill_part(void *arg, int fd, const char *path) {
    const struct part *part = arg;
    LISA_TRY(write_header(part, fd, path));
    for (uint32_t i = 0; i < part->n_pieces; i++)
        LISA_TRY(write_tensor(part->weights, part->pieces + i, fd, path));
    return LISA_OK;
}

/* ---- the index ---- */

struct index {
    const struct weights *weights;
    const struct lisa__stage *stage; /* its i-th item is the i-th shard */
};

static lisa_status fill_map(json_t *map, const struct index *index, const char *path) {
    const struct weights *weights = index->weights;
    for (uint32_t i = 0; i < weights->n_pieces; i++) {
        const struct piece *piece = weights->pieces + i;
        const char *file = index->stage->items[piece->shard].name;
        if (json_object_get(map, piece->tensor->name) != NULL)
            return lisa__fail(LISA_E_INTERNAL, "%s: tensor \"%s\" is there twice", path,
                              piece->tensor->name);
        if (json_object_set_new(map, piece->tensor->name, json_string(file)) != 0)
            return no_memory(path);
    }
    return LISA_OK;
}

static lisa_status fill_index(void *arg, int fd, const char *path) {
    const struct index *index = arg;
    char *text = NULL;
    json_t *map = json_object();
    json_t *root = json_pack("{s:{s:I}, s:O}", "metadata", "total_size",
                             (json_int_t)index->weights->total, "weight_map", map);
    lisa_status status = root == NULL ? no_memory(path) : fill_map(map, index, path);
    if (status == LISA_OK) {
        text = json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS);
        status = text == NULL ? no_memory(path) : lisa__io_write(fd, text, strlen(text), path);
        if (status == LISA_OK)
            status = lisa__io_write(fd, "\n", 1, path);
    }
    free(text);
    json_decref(root);
    json_decref(map);
    return status;
}

/* ---- publishing ---- */

/* One rename replaces whatever weights there were: readers take model.safetensors before an index.
 */
static lisa_status publish_single(struct lisa__stage *stage) {
    LISA_TRY(lisa__stage_rename(stage, stage->items));
    return lisa__sync_directory(stage->directory);
}

/* The shards' names are new, so until the index is renamed nobody reads them; an old
 * model.safetensors hides the new index until it is removed. Either is the one step that replaces
 * the old weights by the new. */
static lisa_status publish_shards(struct lisa__stage *stage, int has_single) {
    const uint32_t n_shards = stage->n_items - 1;
    struct lisa__staged *index = stage->items + n_shards;
    char single[PATH_MAX];
    for (uint32_t i = 0; i < n_shards; i++) {
        LISA_TRY(lisa__stage_rename(stage, stage->items + i));
        stage->items[i].fresh = 1;
    }
    LISA_TRY(lisa__sync_directory(stage->directory));
    LISA_TRY(lisa__stage_rename(stage, index));
    if (has_single) {
        index->fresh = 1;
        LISA_TRY(lisa__sync_directory(stage->directory));
        LISA_TRY(lisa__path_join(single, stage->directory, single_name));
        if (lisa__io->unlink(single) != 0 && errno != ENOENT)
            return lisa__io_fail("remove", single);
    }
    for (uint32_t i = 0; i < stage->n_items; i++)
        stage->items[i].fresh = 0;
    return lisa__sync_directory(stage->directory);
}

static lisa_status stage_parts(struct weights *weights, struct lisa__stage *stage,
                               uint32_t generation) {
    struct part part = {weights, weights->pieces, 0};
    const struct piece *end = weights->pieces + weights->n_pieces;
    for (uint32_t i = 0; i < weights->n_shards; i++) {
        char name[NAME_MAX + 1];
        shard_name(name, sizeof name, generation, i, weights->n_shards);
        part.pieces += part.n_pieces;
        part.n_pieces = 0;
        while (part.pieces + part.n_pieces < end && part.pieces[part.n_pieces].shard == i)
            part.n_pieces++;
        LISA_TRY(
            lisa__stage_file(stage, weights->n_shards == 1 ? single_name : name, fill_part, &part));
    }
    return LISA_OK;
}

static lisa_status write_files(struct weights *weights, struct lisa__stage *stage) {
    struct before before = {.n_shards = weights->n_shards};
    struct index index = {weights, stage};
    const int is_single = weights->n_shards == 1;
    LISA_TRY(lisa__list_directory(stage->directory, &before, look_at));
    if (before.taken == UINT64_MAX)
        return lisa__fail(LISA_E_IO, "%s: holds the shards of 64 unfinished saves already",
                          stage->directory);
    LISA_TRY(stage_parts(weights, stage, (uint32_t)__builtin_ctzll(~before.taken)));
    if (!is_single)
        LISA_TRY(lisa__stage_file(stage, index_name, fill_index, &index));
    LISA_TRY(is_single ? publish_single(stage) : publish_shards(stage, before.has_single));
    remove_old_weights(stage);
    return LISA_OK;
}

static lisa_status check_tensors(const struct lisa__write_tensor *tensors, uint32_t n_tensors) {
    for (uint32_t i = 0; i < n_tensors; i++)
        if (size_of(tensors + i) == 0 || tensors[i].n_dims > 2 ||
            tensors[i].n_elements > (uint64_t)INT64_MAX / 64)
            return lisa__fail(LISA_E_INTERNAL, "tensor \"%s\" cannot be written", tensors[i].name);
    return LISA_OK;
}

static lisa_status write_staged(struct weights *weights, const char *directory) {
    struct lisa__stage stage;
    LISA_TRY(lisa__make_directory(directory));
    LISA_TRY(lisa__stage_open(&stage, weights->context, directory, weights->n_shards + 1));
    const lisa_status status = write_files(weights, &stage);
    lisa__stage_close(&stage);
    return status;
}

static void end(struct weights *weights) {
    lisa__release(weights->context, LISA_MEM_STAGING, weights->staging, LISA__WRITE_STAGING);
    lisa__release(weights->context, LISA_MEM_HANDLES, weights->pieces,
                  weights->n_pieces * sizeof *weights->pieces);
}

/* Cuts the tensors into pieces. end() is owed whatever came of it. */
static lisa_status begin(struct weights *weights, const struct lisa__write_tensor *tensors,
                         uint64_t max_shard_bytes) {
    lisa_status status;
    LISA_TRY(check_tensors(tensors, weights->n_pieces));
    weights->pieces = lisa__alloc(weights->context, LISA_MEM_HANDLES,
                                  weights->n_pieces * sizeof *weights->pieces, &status);
    if (weights->pieces == NULL)
        return status;
    weights->staging =
        lisa__alloc(weights->context, LISA_MEM_STAGING, LISA__WRITE_STAGING, &status);
    if (weights->staging != NULL)
        cut_into_shards(weights, tensors, max_shard_bytes);
    return status;
}

lisa_status lisa__write_weights(lisa_context *context, const char *directory,
                                const struct lisa__write_tensor *tensors, uint32_t n_tensors,
                                uint64_t max_shard_bytes, lisa__tensor_source source, void *user) {
    struct weights weights = {
        .context = context, .n_pieces = n_tensors, .source = source, .user = user};
    lisa_status status =
        begin(&weights, tensors, max_shard_bytes != 0 ? max_shard_bytes : DEFAULT_SHARD);
    if (status == LISA_OK)
        status = write_staged(&weights, directory);
    end(&weights);
    return status;
}

static lisa_status write_one(struct weights *weights, const char *directory, const char *name) {
    struct lisa__stage stage;
    struct part part = {weights, weights->pieces, weights->n_pieces};
    LISA_TRY(lisa__make_directory(directory));
    LISA_TRY(lisa__stage_open(&stage, weights->context, directory, 1));
    lisa_status status = lisa__stage_file(&stage, name, fill_part, &part);
    if (status == LISA_OK)
        status = lisa__stage_rename_all(&stage);
    lisa__stage_close(&stage);
    return status;
}

lisa_status lisa__write_tensors(lisa_context *context, const char *directory, const char *name,
                                const struct lisa__write_tensor *tensors, uint32_t n_tensors,
                                lisa__tensor_source source, void *user) {
    struct weights weights = {
        .context = context, .n_pieces = n_tensors, .source = source, .user = user};
    lisa_status status = begin(&weights, tensors, UINT64_MAX);
    if (status == LISA_OK)
        status = write_one(&weights, directory, name);
    end(&weights);
    return status;
}

/* ---- texts ---- */

struct text {
    const void *data;
    uint64_t bytes;
};

static lisa_status fill_text(void *arg, int fd, const char *path) {
    const struct text *text = arg;
    return lisa__io_write(fd, text->data, text->bytes, path);
}

/* ---- a file of tensors and its text ---- */

/* The items of its stage. */
enum { PAIR_TENSORS, PAIR_TEXT, PAIR_OLD_TEXT, PAIR_ITEMS };

#define MAX_OLD_TEXT ((uint64_t)1 << 24)

/* A copy of the text that is there, should it have to come back. */
static lisa_status stage_old_text(struct lisa__stage *stage, const char *name) {
    char path[PATH_MAX], *old;
    uint64_t n;
    struct lisa__error_kept kept;
    lisa__error_keep(&kept);
    LISA_TRY(lisa__path_join(path, stage->directory, name));
    lisa_status status = lisa__io_slurp(&old, &n, path, MAX_OLD_TEXT);
    if (status == LISA_E_NOTFOUND) {
        lisa__error_restore(&kept);
        return LISA_OK;
    }
    LISA_TRY(status);
    struct text arg = {old, n};
    status = lisa__stage_file(stage, name, fill_text, &arg);
    free(old);
    return status;
}

static lisa_status stage_pair(struct lisa__stage *stage, struct weights *weights,
                              const struct lisa__write_pair *pair) {
    struct part part = {weights, weights->pieces, weights->n_pieces};
    struct text text = {pair->text, pair->text_bytes};
    LISA_TRY(lisa__stage_file(stage, pair->tensors_name, fill_part, &part));
    LISA_TRY(lisa__stage_file(stage, pair->text_name, fill_text, &text));
    return stage_old_text(stage, pair->text_name);
}

static lisa_status publish_pair(struct lisa__stage *stage) {
    struct lisa__staged *items = stage->items;
    struct lisa__error_kept kept;
    LISA_TRY(lisa__stage_rename(stage, items + PAIR_TEXT));
    items[PAIR_TEXT].fresh = stage->n_items <= PAIR_OLD_TEXT;
    const lisa_status status = lisa__stage_rename(stage, items + PAIR_TENSORS);
    if (status == LISA_OK) {
        items[PAIR_TEXT].fresh = 0;
        return lisa__sync_directory(stage->directory);
    }
    lisa__error_keep(&kept);
    if (stage->n_items > PAIR_OLD_TEXT)
        lisa__stage_rename(stage, items + PAIR_OLD_TEXT);
    lisa__error_restore(&kept);
    return status;
}

static lisa_status write_pair_staged(struct weights *weights, const char *directory,
                                     const struct lisa__write_pair *pair) {
    struct lisa__stage stage;
    LISA_TRY(lisa__make_directory(directory));
    LISA_TRY(lisa__stage_open(&stage, weights->context, directory, PAIR_ITEMS));
    lisa_status status = stage_pair(&stage, weights, pair);
    if (status == LISA_OK)
        status = publish_pair(&stage);
    lisa__stage_close(&stage);
    return status;
}

lisa_status lisa__write_pair(lisa_context *context, const char *directory,
                             const struct lisa__write_pair *pair) {
    struct weights weights = {.context = context,
                              .n_pieces = pair->n_tensors,
                              .source = pair->source,
                              .user = pair->user};
    lisa_status status = begin(&weights, pair->tensors, UINT64_MAX);
    if (status == LISA_OK)
        status = write_pair_staged(&weights, directory, pair);
    end(&weights);
    return status;
}

/* ---- single files ---- */

lisa_status lisa__write_file(lisa_context *context, const char *directory, const char *name,
                             const void *text, uint64_t bytes) {
    struct lisa__stage stage;
    struct text arg = {text, bytes};
    LISA_TRY(lisa__make_directory(directory));
    LISA_TRY(lisa__stage_open(&stage, context, directory, 1));
    lisa_status status = lisa__stage_file(&stage, name, fill_text, &arg);
    if (status == LISA_OK)
        status = lisa__stage_rename_all(&stage);
    lisa__stage_close(&stage);
    return status;
}
