/* fixture.c - see fixture.h. */
#include "fixture.h"

#include <check.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fixture {
    json_t *header;
    unsigned char *data; /* the whole file, from malloc: aligned for every type */
    size_t bytes;
};

const char *fixture_path(const char *name) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", LISA_TEST_DATA, name);
    return path;
}

static unsigned char *read_whole(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        ck_abort_msg("%s cannot be opened", path);
    ck_assert_int_eq(fseek(file, 0, SEEK_END), 0);
    long end = ftell(file);
    ck_assert_int_gt(end, 8);
    rewind(file);
    unsigned char *bytes = malloc((size_t)end);
    ck_assert_ptr_nonnull(bytes);
    *size = fread(bytes, 1, (size_t)end, file);
    ck_assert_uint_eq(*size, (size_t)end);
    fclose(file);
    return bytes;
}

fixture *fixture_open(const char *name) {
    size_t size;
    unsigned char *file = read_whole(fixture_path(name), &size);
    uint64_t header_bytes;
    memcpy(&header_bytes, file, sizeof header_bytes);
    ck_assert_uint_le(header_bytes, size - 8);
    fixture *f = malloc(sizeof *f);
    ck_assert_ptr_nonnull(f);
    json_error_t error;
    f->header = json_loadb((const char *)file + 8, (size_t)header_bytes, 0, &error);
    ck_assert_msg(f->header != NULL, "%s: %s", name, error.text);
    f->bytes = size - 8 - (size_t)header_bytes;
    memmove(file, file + 8 + header_bytes, f->bytes);
    f->data = file;
    return f;
}

void fixture_close(fixture *f) {
    json_decref(f->header);
    free(f->data);
    free(f);
}

static const void *tensor(const fixture *f, const char *name, const char *dtype, size_t element,
                          size_t *n) {
    const char *stored = NULL;
    json_int_t begin, end;
    json_t *entry = json_object_get(f->header, name);
    ck_assert_msg(entry != NULL, "the fixture has no tensor '%s'", name);
    ck_assert_int_eq(
        json_unpack(entry, "{s:s,s:[I,I]}", "dtype", &stored, "data_offsets", &begin, &end), 0);
    ck_assert_msg(strcmp(stored, dtype) == 0, "'%s' is %s, not %s", name, stored, dtype);
    ck_assert(begin >= 0 && begin <= end && (size_t)end <= f->bytes);
    ck_assert_uint_eq((size_t)begin % element, 0);
    if (n != NULL)
        *n = (size_t)(end - begin) / element;
    return f->data + begin;
}

const double *fixture_f64(const fixture *f, const char *name, size_t *n) {
    return tensor(f, name, "F64", sizeof(double), n);
}

const float *fixture_f32(const fixture *f, const char *name, size_t *n) {
    return tensor(f, name, "F32", sizeof(float), n);
}

const int32_t *fixture_i32(const fixture *f, const char *name, size_t *n) {
    return tensor(f, name, "I32", sizeof(int32_t), n);
}

const uint8_t *fixture_u8(const fixture *f, const char *name, size_t *n) {
    return tensor(f, name, "U8", 1, n);
}

size_t fixture_dim(const fixture *f, const char *name, size_t dim) {
    json_t *shape = json_object_get(json_object_get(f->header, name), "shape");
    ck_assert_msg(dim < json_array_size(shape), "'%s' has no dimension %zu", name, dim);
    return (size_t)json_integer_value(json_array_get(shape, dim));
}

size_t fixture_count(const fixture *f, const char *prefix) {
    size_t count = 0;
    const char *name;
    json_t *entry;
    json_object_foreach(f->header, name, entry) {
        if (strncmp(name, prefix, strlen(prefix)) == 0)
            count++;
    }
    return count;
}
