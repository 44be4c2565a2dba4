#include "formats/safetensors.h"

#include "core/io.h"
#include "core/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_HEADER 100000000u /* the format's own limit, in bytes */
#define MAX_ENTRY 4096u       /* the JSON text of one tensor's entry; real ones have about 100 */

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

struct shard {
    char *path;
    char *header; /* the JSON text, which the tensors' names lie in */
    void *map;    /* NULL: not mapped */
    struct timespec mtime;
    uint64_t path_bytes;
    uint64_t header_bytes;
    uint64_t size;
    int fd; /* -1: not open */
};

struct lisa__weights {
    lisa_context *context;
    struct shard *shards;
    struct lisa__st_tensor *tensors; /* by name, once all shards are read */
    uint32_t n_shards;
    uint32_t n_tensors;
    uint32_t capacity;
};

/* A line of the index's weight_map. */
struct mapping {
    const char *name;
    const char *file;
};

struct index {
    char *text; /* of the file, which names and files lie in */
    struct mapping *mappings;
    uint32_t n_mappings;
    uint32_t capacity;
};

static const struct {
    const char *name;
    uint32_t dtype;
    uint32_t bits;
} dtypes[] = {
    {"F32", LISA_DTYPE_F32, 32},
    {"F16", LISA_DTYPE_F16, 16},
    {"BF16", LISA_DTYPE_BF16, 16},
    {"F64", LISA_DTYPE_F64, 64},
    {"BOOL", 0, 8},
    {"U8", 0, 8},
    {"I8", 0, 8},
    {"F8_E5M2", 0, 8},
    {"F8_E4M3", 0, 8},
    {"F8_E8M0", 0, 8},
    {"F8_E4M3FNUZ", 0, 8},
    {"F8_E5M2FNUZ", 0, 8},
    {"I16", 0, 16},
    {"U16", 0, 16},
    {"I32", 0, 32},
    {"U32", 0, 32},
    {"I64", 0, 64},
    {"U64", 0, 64},
    {"C64", 0, 64},
    {"F4", 0, 4},
    {"F6_E2M3", 0, 6},
    {"F6_E3M2", 0, 6},
};

/* Headers can be looked at before there is a context. */
static void *hold(lisa_context *context, uint64_t bytes, lisa_status *status) {
    if (context != NULL)
        return lisa__alloc(context, LISA_MEM_HANDLES, bytes, status);
    void *ptr = malloc(bytes == 0 ? 1 : (size_t)bytes);
    *status = ptr != NULL ? LISA_OK
                          : lisa__fail(LISA_E_NOMEM, "out of memory: %llu bytes for tables",
                                       (unsigned long long)bytes);
    return ptr;
}

static void drop(lisa_context *context, void *ptr, uint64_t bytes) {
    if (context != NULL)
        lisa__release(context, LISA_MEM_HANDLES, ptr, bytes);
    else
        free(ptr);
}

/* Doubles a table that is full. */
static lisa_status grow(lisa_context *context, void **table, uint32_t *capacity, uint32_t used,
                        size_t item) {
    lisa_status status;
    if (used < *capacity)
        return LISA_OK;
    if (*capacity > UINT32_MAX / 2)
        return lisa__fail(LISA_E_UNSUPPORTED, "safetensors: more than 2^31 tensors");
    const uint32_t wanted = *capacity == 0 ? 64 : *capacity * 2;
    void *larger = hold(context, (uint64_t)wanted * item, &status);
    if (larger == NULL)
        return status;
    if (used > 0)
        memcpy(larger, *table, (size_t)used * item);
    drop(context, *table, (uint64_t)*capacity * item);
    *table = larger;
    *capacity = wanted;
    return LISA_OK;
}

/* ---- one tensor's entry ---- */

static lisa_status bad_entry(const struct shard *shard, const char *name, const char *wanted) {
    return lisa__fail(LISA_E_FORMAT, "%s: tensor \"%.200s\": %s expected", shard->path, name,
                      wanted);
}

static int read_count(const json_t *value, uint64_t *out) {
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return 0;
    *out = (uint64_t)json_integer_value(value);
    return 1;
}

static lisa_status read_shape(const struct shard *shard, struct lisa__st_tensor *tensor,
                              const json_t *shape) {
    if (!json_is_array(shape))
        return bad_entry(shard, tensor->name, "\"shape\" as an array");
    if (json_array_size(shape) > LISA__ST_MAX_DIMS)
        return lisa__fail(LISA_E_UNSUPPORTED,
                          "%s: tensor \"%.200s\" has %zu dimensions, at most %d "
                          "are implemented",
                          shard->path, tensor->name, json_array_size(shape), LISA__ST_MAX_DIMS);
    tensor->n_dims = (uint32_t)json_array_size(shape);
    tensor->n_elements = 1;
    for (uint32_t i = 0; i < tensor->n_dims; i++) {
        if (!read_count(json_array_get(shape, i), &tensor->shape[i]))
            return bad_entry(shard, tensor->name, "\"shape\" of integers from 0");
        if (__builtin_mul_overflow(tensor->n_elements, tensor->shape[i], &tensor->n_elements))
            return bad_entry(shard, tensor->name, "\"shape\" of less than 2^64 elements");
    }
    return LISA_OK;
}

/* Leaves the begin, relative to the data, in `offset`. */
static lisa_status read_range(const struct shard *shard, struct lisa__st_tensor *tensor,
                              const json_t *range) {
    uint64_t begin, end;
    if (json_array_size(range) != 2 || !read_count(json_array_get(range, 0), &begin) ||
        !read_count(json_array_get(range, 1), &end) || end < begin)
        return bad_entry(shard, tensor->name, "\"data_offsets\" as [begin, end], begin <= end,");
    tensor->offset = begin;
    tensor->bytes = end - begin;
    return LISA_OK;
}

/* The size of a type that nobody knows cannot be checked; such a tensor can only be passed over. */
static lisa_status read_dtype(const struct shard *shard, struct lisa__st_tensor *tensor,
                              const json_t *dtype) {
    if (!json_is_string(dtype))
        return bad_entry(shard, tensor->name, "\"dtype\" as a string");
    const char *name = json_string_value(dtype);
    snprintf(tensor->dtype_name, sizeof tensor->dtype_name, "%s", name);
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        uint64_t bits;
        if (strcmp(name, dtypes[i].name) != 0)
            continue;
        tensor->dtype = dtypes[i].dtype;
        if (__builtin_mul_overflow(tensor->n_elements, (uint64_t)dtypes[i].bits, &bits))
            return bad_entry(shard, tensor->name, "\"shape\" of less than 2^64 bits");
        if (bits % 8 != 0 || bits / 8 != tensor->bytes)
            return lisa__fail(LISA_E_FORMAT,
                              "%s: tensor \"%.200s\": %llu bytes by its data_offsets, %llu bits of "
                              "%s expected by its shape",
                              shard->path, tensor->name, (unsigned long long)tensor->bytes,
                              (unsigned long long)bits, name);
    }
    return LISA_OK;
}

static lisa_status read_entry(const struct shard *shard, struct lisa__st_tensor *tensor,
                              const json_t *entry) {
    LISA_TRY(read_shape(shard, tensor, json_object_get(entry, "shape")));
    LISA_TRY(read_range(shard, tensor, json_object_get(entry, "data_offsets")));
    return read_dtype(shard, tensor, json_object_get(entry, "dtype"));
}

/* ---- one header ---- */

static uint64_t hash_of(const char *text) {
    uint64_t hash = 0xCBF29CE484222325u; /* FNV-1a */
    for (; *text != '\0'; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001B3u;
    return hash;
}

static int by_value(const void *left, const void *right) {
    const uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static lisa_status find_repeated(const struct shard *shard, uint64_t *hashes, uint32_t n) {
    if (n > 1)
        qsort(hashes, n, sizeof *hashes, by_value);
    for (uint32_t i = 1; i < n; i++)
        if (hashes[i] == hashes[i - 1])
            return lisa__fail(LISA_E_FORMAT, "%s: \"__metadata__\" has a key twice", shard->path);
    return LISA_OK;
}

static lisa_status walk_metadata(lisa_context *context, struct lisa__json_walk *walk, void **hashes,
                                 uint32_t *capacity, uint32_t *n) {
    const char *key, *value;
    LISA_TRY(lisa__json_enter(walk));
    for (;;) {
        LISA_TRY(lisa__json_next(walk, &key));
        if (key == NULL)
            return LISA_OK;
        LISA_TRY(lisa__json_text(walk, key, &value));
        LISA_TRY(grow(context, hashes, capacity, *n, sizeof(uint64_t)));
        ((uint64_t *)*hashes)[(*n)++] = hash_of(key);
    }
}

/* The values mean nothing here; that they are strings under distinct keys is checked. */
static lisa_status read_metadata(lisa_context *context, const struct shard *shard,
                                 struct lisa__json_walk *walk) {
    void *hashes = NULL;
    uint32_t capacity = 0, n = 0;
    struct lisa__json_walk inner = *walk;
    lisa_status status = walk_metadata(context, &inner, &hashes, &capacity, &n);
    if (status == LISA_OK) {
        walk->at = inner.at;
        status = find_repeated(shard, hashes, n);
    }
    drop(context, hashes, (uint64_t)capacity * sizeof(uint64_t));
    return status;
}

static lisa_status read_tensor(struct lisa__weights *weights, uint32_t file, const char *name,
                               struct lisa__json_walk *walk) {
    void *table = weights->tensors;
    json_t *entry;
    LISA_TRY(grow(weights->context, &table, &weights->capacity, weights->n_tensors,
                  sizeof *weights->tensors));
    weights->tensors = table;
    struct lisa__st_tensor *tensor = weights->tensors + weights->n_tensors;
    *tensor = (struct lisa__st_tensor){.name = name, .file = file};
    LISA_TRY(lisa__json_value(walk, name, MAX_ENTRY, &entry));
    const lisa_status status = read_entry(weights->shards + file, tensor, entry);
    json_decref(entry);
    LISA_TRY(status);
    weights->n_tensors++;
    return LISA_OK;
}

static lisa_status read_members(struct lisa__weights *weights, uint32_t file,
                                struct lisa__json_walk *walk) {
    const char *name;
    int seen_metadata = 0;
    LISA_TRY(lisa__json_enter(walk));
    for (;;) {
        LISA_TRY(lisa__json_next(walk, &name));
        if (name == NULL)
            return lisa__json_finish(walk);
        if (strcmp(name, "__metadata__") != 0) {
            LISA_TRY(read_tensor(weights, file, name, walk));
            continue;
        }
        if (seen_metadata++)
            return lisa__fail(LISA_E_FORMAT, "%s: \"__metadata__\" is there twice",
                              weights->shards[file].path);
        LISA_TRY(read_metadata(weights->context, weights->shards + file, walk));
    }
}

static int by_range(const void *left, const void *right) {
    const struct lisa__st_tensor *a = left, *b = right;
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

/* Tensors must cover the data without hole or overlap; their offsets become the file's. */
static lisa_status check_ranges(struct lisa__weights *weights, uint32_t file, uint32_t first) {
    const struct shard *shard = weights->shards + file;
    const uint64_t data = 8 + shard->header_bytes;
    uint64_t end = 0;
    if (weights->n_tensors > first)
        qsort(weights->tensors + first, weights->n_tensors - first, sizeof *weights->tensors,
              by_range);
    for (uint32_t i = first; i < weights->n_tensors; i++) {
        struct lisa__st_tensor *tensor = weights->tensors + i;
        if (tensor->offset != end)
            return lisa__fail(
                LISA_E_FORMAT,
                "%s: tensor \"%.200s\" begins at byte %llu of the data, %llu expected "
                "(%s)",
                shard->path, tensor->name, (unsigned long long)tensor->offset,
                (unsigned long long)end, tensor->offset > end ? "a hole" : "an overlap");
        end += tensor->bytes;
        tensor->offset += data;
    }
    if (end != shard->size - data)
        return lisa__fail(
            LISA_E_FORMAT, "%s: the tensors end at byte %llu of the data, which has %llu bytes",
            shard->path, (unsigned long long)end, (unsigned long long)(shard->size - data));
    return LISA_OK;
}

static lisa_status read_header(struct lisa__weights *weights, struct shard *shard) {
    unsigned char prefix[8];
    uint64_t bytes = 0;
    lisa_status status;
    if (shard->size < sizeof prefix)
        return lisa__fail(LISA_E_FORMAT, "%s: %llu bytes, at least 8 expected", shard->path,
                          (unsigned long long)shard->size);
    LISA_TRY(lisa__io_read(shard->fd, prefix, sizeof prefix, 0, shard->path));
    for (int i = 7; i >= 0; i--)
        bytes = bytes << 8 | prefix[i];
    if (bytes > MAX_HEADER)
        return lisa__fail(LISA_E_FORMAT, "%s: a header of %llu bytes, at most %u expected",
                          shard->path, (unsigned long long)bytes, MAX_HEADER);
    if (bytes > shard->size - sizeof prefix)
        return lisa__fail(LISA_E_FORMAT, "%s: a header of %llu bytes, but the file ends after %llu",
                          shard->path, (unsigned long long)bytes, (unsigned long long)shard->size);
    shard->header = hold(weights->context, bytes, &status);
    if (shard->header == NULL)
        return status;
    shard->header_bytes = bytes;
    return lisa__io_read(shard->fd, shard->header, bytes, sizeof prefix, shard->path);
}

/* ---- files ---- */

static lisa_status make_path(lisa_context *context, char **out, uint64_t *bytes,
                             const char *directory, const char *name) {
    lisa_status status;
    const uint64_t size = (uint64_t)strlen(directory) + strlen(name) + 2;
    char *path = hold(context, size, &status);
    if (path == NULL)
        return status;
    snprintf(path, (size_t)size, "%s/%s", directory, name);
    *out = path;
    *bytes = size;
    return LISA_OK;
}

static lisa_status open_file(struct shard *shard) {
    struct stat info;
    /* O_NONBLOCK: a FIFO of that name must not hang the host. */
    shard->fd = lisa__io->open(shard->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    if (shard->fd < 0)
        return lisa__io_fail("open", shard->path);
    if (lisa__io->fstat(shard->fd, &info) != 0)
        return lisa__io_fail("read", shard->path);
    if (!S_ISREG(info.st_mode))
        return lisa__fail(LISA_E_FORMAT, "%s: is no regular file", shard->path);
    shard->size = (uint64_t)info.st_size;
    shard->mtime = info.st_mtim;
    return LISA_OK;
}

static lisa_status map_file(struct shard *shard) {
    void *map = lisa__io->mmap((size_t)shard->size, PROT_READ, MAP_SHARED, shard->fd);
    if (map == MAP_FAILED)
        return lisa__io_fail("map", shard->path);
    shard->map = map;
    return LISA_OK;
}

static lisa_status open_shard(struct lisa__weights *weights, uint32_t file, const char *directory,
                              const char *name, int map) {
    const uint32_t first = weights->n_tensors;
    struct shard *shard = weights->shards + file;
    LISA_TRY(make_path(weights->context, &shard->path, &shard->path_bytes, directory, name));
    LISA_TRY(open_file(shard));
    LISA_TRY(read_header(weights, shard));
    struct lisa__json_walk walk = {
        .text = shard->header, .end = shard->header_bytes, .file = shard->path};
    LISA_TRY(read_members(weights, file, &walk));
    LISA_TRY(check_ranges(weights, file, first));
    return map ? map_file(shard) : LISA_OK;
}

static lisa_status make_shards(struct lisa__weights *weights, uint32_t n) {
    lisa_status status;
    weights->shards = hold(weights->context, (uint64_t)n * sizeof *weights->shards, &status);
    if (weights->shards == NULL)
        return status;
    for (uint32_t i = 0; i < n; i++)
        weights->shards[i] = (struct shard){.fd = -1};
    weights->n_shards = n;
    return LISA_OK;
}

/* ---- the index of shards ---- */

static int by_mapping_name(const void *left, const void *right) {
    return strcmp(((const struct mapping *)left)->name, ((const struct mapping *)right)->name);
}

static int by_mapping_file(const void *left, const void *right) {
    return strcmp(((const struct mapping *)left)->file, ((const struct mapping *)right)->file);
}

static lisa_status check_file_name(const char *path, const struct mapping *mapping) {
    const char *file = mapping->file;
    if (file[0] == '\0' || strpbrk(file, "/\\") != NULL || strcmp(file, ".") == 0 ||
        strstr(file, "..") != NULL)
        return lisa__fail(
            LISA_E_FORMAT,
            "%s: tensor \"%.200s\" is mapped to \"%.200s\", a plain file name expected", path,
            mapping->name, file);
    return LISA_OK;
}

static lisa_status read_weight_map(lisa_context *context, struct index *index,
                                   struct lisa__json_walk *walk) {
    LISA_TRY(lisa__json_enter(walk));
    for (;;) {
        struct mapping mapping;
        void *table = index->mappings;
        LISA_TRY(lisa__json_next(walk, &mapping.name));
        if (mapping.name == NULL)
            return LISA_OK;
        LISA_TRY(lisa__json_text(walk, mapping.name, &mapping.file));
        LISA_TRY(check_file_name(walk->file, &mapping));
        LISA_TRY(grow(context, &table, &index->capacity, index->n_mappings, sizeof mapping));
        index->mappings = table;
        index->mappings[index->n_mappings++] = mapping;
    }
}

static lisa_status read_index_members(lisa_context *context, struct index *index,
                                      struct lisa__json_walk *walk) {
    const char *key;
    int seen_map = 0;
    LISA_TRY(lisa__json_enter(walk));
    for (;;) {
        json_t *passed_over;
        LISA_TRY(lisa__json_next(walk, &key));
        if (key == NULL)
            break;
        if (strcmp(key, "weight_map") != 0) {
            LISA_TRY(lisa__json_value(walk, key, 1 << 20, &passed_over));
            json_decref(passed_over);
            continue;
        }
        if (seen_map++)
            return lisa__fail(LISA_E_FORMAT, "%s: \"weight_map\" is there twice", walk->file);
        struct lisa__json_walk inner = *walk;
        LISA_TRY(read_weight_map(context, index, &inner));
        walk->at = inner.at;
    }
    if (index->n_mappings == 0)
        return lisa__fail(LISA_E_FORMAT, "%s: \"weight_map\" with at least one tensor expected",
                          walk->file);
    return lisa__json_finish(walk);
}

static lisa_status read_index(lisa_context *context, struct index *index, const char *path) {
    uint64_t bytes;
    LISA_TRY(lisa__io_slurp(&index->text, &bytes, path, MAX_HEADER));
    struct lisa__json_walk walk = {.text = index->text, .end = bytes, .file = path};
    LISA_TRY(read_index_members(context, index, &walk));
    qsort(index->mappings, index->n_mappings, sizeof *index->mappings, by_mapping_name);
    for (uint32_t i = 1; i < index->n_mappings; i++)
        if (by_mapping_name(index->mappings + i, index->mappings + i - 1) == 0)
            return lisa__fail(LISA_E_FORMAT, "%s: tensor \"%.200s\" is mapped twice", path,
                              index->mappings[i].name);
    qsort(index->mappings, index->n_mappings, sizeof *index->mappings, by_mapping_file);
    return LISA_OK;
}

/* Opens every file that the index names, in the order of names. */
static lisa_status open_shards(struct lisa__weights *weights, const struct index *index,
                               const char *directory, int map) {
    const struct mapping *m = index->mappings;
    uint32_t n = 1;
    for (uint32_t i = 1; i < index->n_mappings; i++)
        n += strcmp(m[i].file, m[i - 1].file) != 0;
    LISA_TRY(make_shards(weights, n));
    for (uint32_t i = 0, file = 0; i < index->n_mappings; i++)
        if (i == 0 || strcmp(m[i].file, m[i - 1].file) != 0)
            LISA_TRY(open_shard(weights, file++, directory, m[i].file, map));
    return LISA_OK;
}

static lisa_status check_index(const struct lisa__weights *weights, const struct index *index,
                               const char *path) {
    for (uint32_t i = 0; i < index->n_mappings; i++) {
        const struct mapping *m = index->mappings + i;
        const struct lisa__st_tensor *tensor = lisa__weights_find(weights, m->name);
        const char *where = tensor == NULL ? NULL : lisa__weights_path(weights, tensor);
        if (where == NULL || strcmp(strrchr(where, '/') + 1, m->file) != 0)
            return lisa__fail(LISA_E_FORMAT, "%s: tensor \"%.200s\" is not in its shard %s", path,
                              m->name, m->file);
    }
    if (weights->n_tensors > index->n_mappings)
        lisa__log(weights->context, LISA_LOG_INFO, "%s: %u tensors of the shards are not mapped",
                  path, weights->n_tensors - index->n_mappings);
    return LISA_OK;
}

/* ---- all tensors ---- */

static int by_name(const void *left, const void *right) {
    return strcmp(((const struct lisa__st_tensor *)left)->name,
                  ((const struct lisa__st_tensor *)right)->name);
}

static lisa_status sort_tensors(struct lisa__weights *weights) {
    struct lisa__st_tensor *t = weights->tensors;
    if (weights->n_tensors > 0)
        qsort(t, weights->n_tensors, sizeof *t, by_name);
    for (uint32_t i = 1; i < weights->n_tensors; i++) {
        if (by_name(t + i, t + i - 1) != 0)
            continue;
        if (t[i].file == t[i - 1].file)
            return lisa__fail(LISA_E_FORMAT, "%s: tensor \"%.200s\" is there twice",
                              lisa__weights_path(weights, t + i), t[i].name);
        return lisa__fail(LISA_E_FORMAT, "%s: tensor \"%.200s\" is also in %s",
                          lisa__weights_path(weights, t + i), t[i].name,
                          lisa__weights_path(weights, t + i - 1));
    }
    return LISA_OK;
}

static lisa_status open_single(struct lisa__weights *weights, const char *directory,
                               const char *name, int map) {
    LISA_TRY(make_shards(weights, 1));
    LISA_TRY(open_shard(weights, 0, directory, name, map));
    return sort_tensors(weights);
}

static lisa_status open_indexed(struct lisa__weights *weights, struct index *index,
                                const char *directory, const char *path, int map) {
    const lisa_status status = read_index(weights->context, index, path);
    if (status == LISA_E_NOTFOUND)
        return lisa__fail(LISA_E_NOTFOUND, "%s: neither %s nor %s is there", directory, single_name,
                          index_name);
    LISA_TRY(status);
    LISA_TRY(open_shards(weights, index, directory, map));
    LISA_TRY(sort_tensors(weights));
    return check_index(weights, index, path);
}

static lisa_status open_sharded(struct lisa__weights *weights, const char *directory, int map) {
    char *path;
    uint64_t bytes;
    struct index index = {0};
    LISA_TRY(make_path(weights->context, &path, &bytes, directory, index_name));
    const lisa_status status = open_indexed(weights, &index, directory, path, map);
    drop(weights->context, index.mappings, (uint64_t)index.capacity * sizeof *index.mappings);
    free(index.text);
    drop(weights->context, path, bytes);
    return status;
}

/* As transformers does, a single file goes before an index. */
static lisa_status has_single(lisa_context *context, const char *directory, int *out) {
    char *path = NULL;
    uint64_t bytes = 0;
    LISA_TRY(make_path(context, &path, &bytes, directory, single_name));
    const int fd = lisa__io->open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    const lisa_status status = fd < 0 && errno != ENOENT ? lisa__io_fail("open", path) : LISA_OK;
    if (fd >= 0)
        lisa__io->close(fd);
    drop(context, path, bytes);
    *out = fd >= 0;
    return status;
}

/* `name` is the one file, NULL: the shards of the index. */
static lisa_status open_weights(struct lisa__weights **out, lisa_context *context,
                                const char *directory, const char *name, int map) {
    lisa_status status;
    struct lisa__weights *weights = hold(context, sizeof *weights, &status);
    if (weights == NULL)
        return status;
    *weights = (struct lisa__weights){.context = context};
    status = name != NULL ? open_single(weights, directory, name, map)
                          : open_sharded(weights, directory, map);
    if (status != LISA_OK) {
        lisa__weights_close(weights);
        return status;
    }
    *out = weights;
    return LISA_OK;
}

lisa_status lisa__weights_open(struct lisa__weights **out, lisa_context *context,
                               const char *directory, int map) {
    int single;
    *out = NULL;
    LISA_TRY(has_single(context, directory, &single));
    return open_weights(out, context, directory, single ? single_name : NULL, map);
}

lisa_status lisa__weights_open_file(struct lisa__weights **out, lisa_context *context,
                                    const char *directory, const char *name) {
    *out = NULL;
    return open_weights(out, context, directory, name, 0);
}

static void close_shard(lisa_context *context, struct shard *shard) {
    if (shard->map != NULL)
        lisa__io->munmap(shard->map, (size_t)shard->size);
    if (shard->fd >= 0)
        lisa__io->close(shard->fd);
    drop(context, shard->header, shard->header_bytes);
    drop(context, shard->path, shard->path_bytes);
}

void lisa__weights_close(struct lisa__weights *weights) {
    if (weights == NULL)
        return;
    lisa_context *context = weights->context;
    for (uint32_t i = 0; i < weights->n_shards; i++)
        close_shard(context, weights->shards + i);
    drop(context, weights->shards, (uint64_t)weights->n_shards * sizeof *weights->shards);
    drop(context, weights->tensors, (uint64_t)weights->capacity * sizeof *weights->tensors);
    drop(context, weights, sizeof *weights);
}

uint32_t lisa__weights_count(const struct lisa__weights *weights) {
    return weights->n_tensors;
}

const struct lisa__st_tensor *lisa__weights_at(const struct lisa__weights *weights,
                                               uint32_t index) {
    return weights->tensors + index;
}

const struct lisa__st_tensor *lisa__weights_find(const struct lisa__weights *weights,
                                                 const char *name) {
    const struct lisa__st_tensor key = {.name = name};
    if (weights->n_tensors == 0)
        return NULL;
    return bsearch(&key, weights->tensors, weights->n_tensors, sizeof key, by_name);
}

const char *lisa__weights_path(const struct lisa__weights *weights,
                               const struct lisa__st_tensor *tensor) {
    return weights->shards[tensor->file].path;
}

const void *lisa__weights_data(const struct lisa__weights *weights,
                               const struct lisa__st_tensor *tensor) {
    const unsigned char *map = weights->shards[tensor->file].map;
    return map == NULL ? NULL : map + tensor->offset;
}

lisa_status lisa__weights_read(const struct lisa__weights *weights,
                               const struct lisa__st_tensor *tensor, uint64_t begin, void *dst,
                               uint64_t n) {
    const struct shard *shard = weights->shards + tensor->file;
    if (begin > tensor->bytes || n > tensor->bytes - begin)
        return lisa__fail(LISA_E_INTERNAL, "%s: tensor \"%.200s\" read beyond its end", shard->path,
                          tensor->name);
    return lisa__io_read(shard->fd, dst, n, tensor->offset + begin, shard->path);
}

lisa_status lisa__weights_check(const struct lisa__weights *weights) {
    for (uint32_t i = 0; i < weights->n_shards; i++) {
        const struct shard *shard = weights->shards + i;
        struct stat info;
        if (lisa__io->fstat(shard->fd, &info) != 0)
            return lisa__io_fail("check", shard->path);
        if ((uint64_t)info.st_size != shard->size || info.st_mtim.tv_sec != shard->mtime.tv_sec ||
            info.st_mtim.tv_nsec != shard->mtime.tv_nsec)
            return lisa__fail(LISA_E_IO, "%s: was changed since it was opened", shard->path);
    }
    return LISA_OK;
}

void lisa__weights_forget(const struct lisa__weights *weights,
                          const struct lisa__st_tensor *tensor) {
    const struct shard *shard = weights->shards + tensor->file;
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t begin = (tensor->offset + page - 1) / page * page;
    const uint64_t end = (tensor->offset + tensor->bytes) / page * page;
    /* Best effort: where the kernel declines, the pages stay, which is no error. */
    if (shard->map != NULL && begin < end)
        madvise((unsigned char *)shard->map + begin, (size_t)(end - begin), MADV_DONTNEED);
}
